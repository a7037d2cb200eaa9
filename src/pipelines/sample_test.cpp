#include "pipelines/sample.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "pipelines/latent_math.h"
#include "tensor/random.h"

using namespace sinter;

namespace {

const std::vector<int64_t> kShape{2, 4, 5, 3};

/// A network whose picture is always its conditioning's number, written as the noise that this leaves in the input.
class FlatPictures final : public Denoiser {
 public:
  explicit FlatPictures(const ModelSampling& model) : model_(model) {}

  std::vector<Tensor> eval(const Tensor& input, float timestep, std::span<const int> conditionings) override {
    float sigma = model_.is_flow() ? timestep : model_.sigma(timestep);  // FLUX is told sigma itself
    Tensor x = model_.is_flow() ? input : input * std::sqrt(sigma * sigma + 1);
    std::vector<Tensor> outputs;
    for (int id : conditionings) outputs.push_back((x - flat(float(id))) / sigma);
    asked.assign(conditionings.begin(), conditionings.end());
    ++calls;
    return outputs;
  }
  static Tensor flat(float value) {
    Tensor out(DType::f32, kShape);
    std::ranges::fill(out.f32(), value);
    return out;
  }

  std::vector<int> asked;
  int calls = 0;

 private:
  const ModelSampling& model_;
};

SampleRequest request_for(const ModelSampling& model, const char* sampler, int steps = 5, double denoise = 1) {
  const SamplerDef& def = find_sampler(sampler);
  return {.model = model,
          .sampler = def,
          .sigmas = ksampler_sigmas(model, def, find_scheduler("normal"), steps, denoise),
          .guidance = {.positive = {{.id = 3}}, .negative = {{.id = 1}}, .cfg = 2},
          .latent = Tensor(DType::f32, kShape),
          .noise = prepare_noise(kShape, 8),
          .seed = 8};
}

}  // namespace

TEST_CASE("guidance goes beyond the prompt's picture by cfg, in one call for both") {
  for (const ModelSampling& model : {ModelSampling::stable_diffusion(Prediction::Epsilon), ModelSampling::flux()}) {
    FlatPictures network(model);
    Tensor out = sample(request_for(model, "euler"), network);
    CHECK(relative_error(out, FlatPictures::flat(1 + 2 * (3 - 1))) < 1e-4);
    CHECK(network.asked == std::vector<int>{3, 1});
    CHECK(network.calls == 5);
  }
}

TEST_CASE("with cfg 1 the negative prompt is asked only by samplers that need it") {
  ModelSampling model = ModelSampling::stable_diffusion(Prediction::Epsilon);
  for (auto [sampler, asked] : {std::pair{"euler", std::vector{3}}, {"euler_cfg_pp", std::vector{3, 1}}}) {
    FlatPictures network(model);
    auto request = request_for(model, sampler);
    request.guidance.cfg = 1;
    CHECK(relative_error(sample(request, network), FlatPictures::flat(3)) < 1e-4);
    CHECK(network.asked == asked);
  }
}

TEST_CASE("several conditionings are averaged by strength") {
  ModelSampling model = ModelSampling::stable_diffusion(Prediction::Epsilon);
  FlatPictures network(model);
  auto request = request_for(model, "euler");
  request.guidance = {.positive = {{.id = 3, .strength = 1}, {.id = 9, .strength = 0.5f}}, .cfg = 1};
  CHECK(relative_error(sample(request, network), FlatPictures::flat(5)) < 1e-4);
}

TEST_CASE("outside the mask the latent stays, inside it is painted") {
  ModelSampling model = ModelSampling::stable_diffusion(Prediction::Epsilon);
  for (const char* sampler : {"euler", "ddim", "dpmpp_2m", "uni_pc"}) {
    FlatPictures network(model);
    auto request = request_for(model, sampler);
    request.latent = FlatPictures::flat(-2);
    request.mask = Tensor(DType::f32, {1, 1, 5, 3});
    for (size_t i = 0; i < 6; ++i) request.mask.f32()[i] = 1;  // the upper two rows
    Tensor out = sample(request, network);
    for (int64_t i = 0; i < out.count(); ++i) CHECK(out.f32()[size_t(i)] == doctest::Approx(i % 15 < 6 ? 5 : -2).epsilon(2e-3));
  }
}

TEST_CASE("a mask of another size is refused") {
  ModelSampling model = ModelSampling::flux();
  FlatPictures network(model);
  auto request = request_for(model, "euler");
  request.mask = Tensor(DType::f32, {1, 1, 5, 4});
  CHECK_THROWS_WITH_AS(sample(request, network),
                       "the noise mask [1, 1, 5, 4] does not fit the latent [2, 4, 5, 3]: each size must be equal or 1", Error);
}

TEST_CASE("progress sees every step and can cancel") {
  ModelSampling model = ModelSampling::flux();
  FlatPictures network(model);
  auto request = request_for(model, "euler");
  int seen = 0;
  request.progress = [&](const SampleProgress& p) {
    CHECK(p.step == seen);
    CHECK(p.steps == 5);
    return ++seen < 3;
  };
  CHECK_THROWS_WITH_AS(sample(request, network), "sampling was cancelled at step 3 of 5", Error);
  CHECK(network.calls == 3);
}

TEST_CASE("without noise levels the latent comes back") {
  ModelSampling model = ModelSampling::flux();
  FlatPictures network(model);
  auto request = request_for(model, "euler", 5, 0);
  request.latent = FlatPictures::flat(4);
  CHECK(request.sigmas.empty());
  CHECK(relative_error(sample(request, network), request.latent) == 0);
  CHECK(network.calls == 0);
}

TEST_CASE("denoise below 1 keeps the end of a longer schedule") {
  ModelSampling model = ModelSampling::stable_diffusion(Prediction::Epsilon);
  const auto& normal = find_scheduler("normal");
  auto longer = ksampler_sigmas(model, find_sampler("euler"), normal, 10),
       part = ksampler_sigmas(model, find_sampler("euler"), normal, 5, 0.5);
  CHECK(part == std::vector<float>(longer.end() - 6, longer.end()));
}

TEST_CASE("two halves of a schedule are the whole") {
  std::vector<float> sigmas{9, 7, 5, 3, 0};
  CHECK(sigmas_between(sigmas, 0, 2, false) == std::vector<float>{9, 7, 5});
  CHECK(sigmas_between(sigmas, 2, 10000, false) == std::vector<float>{5, 3, 0});
  CHECK(sigmas_between(sigmas, 1, 2, true) == std::vector<float>{7, 0});
  CHECK(sigmas_between(sigmas, 4, 10000, false).empty());
  CHECK_THROWS_AS(sigmas_between(sigmas, -1, 4, false), Error);
}

TEST_CASE("noise levels that rise or are not numbers are refused") {
  ModelSampling model = ModelSampling::flux();
  FlatPictures network(model);
  for (std::vector<float> sigmas : {std::vector<float>{0.5f, 0.8f, 0}, {NAN, 0}, {1, 0, 0}}) {
    auto request = request_for(model, "euler");
    request.sigmas = sigmas;
    CHECK_THROWS_AS(sample(request, network), Error);
  }
}

TEST_CASE("a rehearsal names every timestep and conditioning that the run asks about, whatever the sampler") {
  class Checking final : public Denoiser {
   public:
    Checking(Denoiser& inner, const Questions& foreseen) : inner_(inner), foreseen_(foreseen) {}
    std::vector<Tensor> eval(const Tensor& input, float timestep, std::span<const int> conditionings) override {
      unforeseen += std::ranges::find(foreseen_.timesteps, timestep) == foreseen_.timesteps.end();
      CHECK(std::ranges::equal(conditionings, foreseen_.conditionings));
      return inner_.eval(input, timestep, conditionings);
    }
    int unforeseen = 0;

   private:
    Denoiser& inner_;
    const Questions& foreseen_;
  };
  ModelSampling model = ModelSampling::stable_diffusion(Prediction::Epsilon);
  for (const char* sampler : {"euler", "heun", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpm_fast", "dpmpp_2m"}) {
    CAPTURE(sampler);
    SampleRequest request = request_for(model, sampler, 6);
    Questions questions = rehearse(request);
    CHECK(questions.timesteps.size() >= 6);
    FlatPictures pictures(model);
    Checking network(pictures, questions);
    sample(request, network);
    CHECK(network.unforeseen == 0);
  }
  // This one chooses its steps by the answers, and may take any number of them.
  CHECK(rehearse(request_for(model, "dpm_adaptive", 6)).timesteps.size() <= 8 * 7);
}
