#include "pipelines/samplers/sampler.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "pipelines/samplers/noise_source.h"
#include "pipelines/schedules/scheduler.h"
#include "tensor/random.h"

using namespace sinter;

namespace {

/// Data that are normal with this mean and deviation: the best denoiser and the exact solution are known in closed form.
struct NormalData {
  float mean = 0.8f, deviation = 0.5f;

  float signal(const ModelSampling& model, float sigma) const { return model.is_flow() ? 1 - sigma : 1; }
  float spread(const ModelSampling& model, float sigma) const {
    float a = signal(model, sigma) * deviation;
    return std::sqrt(a * a + sigma * sigma);
  }
  Tensor denoised(const ModelSampling& model, const Tensor& x, float sigma) const {
    Tensor out(DType::f32, x.shape());
    float a = signal(model, sigma), spread2 = spread(model, sigma) * spread(model, sigma);
    for (size_t i = 0; i < out.f32().size(); ++i)
      out.f32()[i] = mean + a * deviation * deviation / spread2 * (x.f32()[i] - a * mean);
    return out;
  }
  /// Where the probability flow takes x from sigma to 0.
  Tensor exact(const ModelSampling& model, const Tensor& x, float sigma) const {
    Tensor out(DType::f32, x.shape());
    float a = signal(model, sigma);
    for (size_t i = 0; i < out.f32().size(); ++i)
      out.f32()[i] = mean + deviation * (x.f32()[i] - a * mean) / spread(model, sigma);
    return out;
  }
};

struct Ran {
  Tensor x, start;
  float sigma;
};

Ran run_on_normal_data(const SamplerDef& sampler, const ModelSampling& model, int steps, const std::vector<int64_t>& shape) {
  NormalData data;
  auto sigmas = scheduler_sigmas(karras_scheduler, model, steps);
  Tensor noise = prepare_noise(shape, 5), zeros(DType::f32, shape);
  Tensor start = model.add_noise(sigmas[0], noise, zeros, true);
  SamplerRun run{
      .model = model,
      .sigmas = sigmas,
      .guided =
          [&](const Tensor& x, float sigma) {
            Tensor denoised = data.denoised(model, x, sigma);
            return Guided{denoised, denoised};
          },
      .noise = make_noise_source(sampler.noise, shape, sigmas, 77),
      .on_step = [](int, const Tensor&, const Tensor&, float) {},
  };
  Tensor x = sampler.run(run, start);
  return {model.remove_noise_scale(run.sigmas.back(), x), start, sigmas[0]};
}

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::ranges::find(names, name) != names.end();
}

bool is_stochastic(std::string_view name) {
  return name.find("ancestral") != name.npos || name.find("sde") != name.npos || name.starts_with("seeds") ||
         name.starts_with("sa_solver") || is_one_of(name, {"ddpm", "lcm"});
}

}  // namespace

TEST_CASE("samplers are sorted by name and found by it") {
  auto all = samplers();
  CHECK(std::ranges::is_sorted(all, {}, [](auto* s) { return s->name; }));
  for (auto* sampler : all) CHECK(&find_sampler(sampler->name) == sampler);
  CHECK_THROWS_AS(find_sampler("euler2"), Error);
}

TEST_CASE("deterministic samplers follow the probability flow of normal data") {
  for (const ModelSampling& model : {ModelSampling::stable_diffusion(Prediction::Epsilon), ModelSampling::discrete_flow(3)})
    for (auto* sampler : samplers()) {
      if (is_stochastic(sampler->name)) continue;
      // These take steps in other units than a flow model's, in the reference as well.
      if (model.is_flow() && sampler->needs_unconditional && sampler->name != "euler_cfg_pp") continue;
      Ran ran = run_on_normal_data(*sampler, model, 120, {1, 4, 16, 16});
      double error = relative_error(ran.x, NormalData{}.exact(model, ran.start, ran.sigma));
      CAPTURE(sampler->name);
      CAPTURE(model.is_flow());
      CHECK(error < 0.02);
    }
}

TEST_CASE("stochastic samplers end with the mean and deviation of the data") {
  ModelSampling model = ModelSampling::stable_diffusion(Prediction::Epsilon);
  for (auto* sampler : samplers()) {
    // lcm ends with a mean of pictures when the model is no consistency model; dpmpp_2s_ancestral_cfg_pp takes the difference of
    // pictures at two levels, as the reference does, which is not 0 where guidance is.
    if (!is_stochastic(sampler->name) || is_one_of(sampler->name, {"lcm", "dpmpp_2s_ancestral_cfg_pp"})) continue;
    Ran ran = run_on_normal_data(*sampler, model, 60, {1, 4, 32, 32});
    double sum = 0, squares = 0;
    for (float value : ran.x.f32()) {
      sum += value;
      squares += double(value) * value;
    }
    double mean = sum / double(ran.x.count()), deviation = std::sqrt(squares / double(ran.x.count()) - mean * mean);
    CAPTURE(sampler->name);
    CHECK(mean == doctest::Approx(0.8).epsilon(0.03));
    CHECK(deviation == doctest::Approx(0.5).epsilon(0.05));
  }
}

TEST_CASE("every sampler survives one, two and three steps on every kind of model") {
  for (const ModelSampling& model :
       {ModelSampling::stable_diffusion(Prediction::Epsilon), ModelSampling::stable_diffusion(Prediction::Velocity, true),
        ModelSampling::discrete_flow(8), ModelSampling::flux()})
    for (auto* sampler : samplers())
      for (int steps : {1, 2, 3}) {
        Ran ran = run_on_normal_data(*sampler, model, steps, {1, 2, 3, 3});
        CAPTURE(sampler->name);
        CAPTURE(model.sigma_max());
        CAPTURE(steps);
        CHECK(std::ranges::all_of(ran.x.f32(), [](float value) { return std::isfinite(value); }));
      }
}
