#include "pipelines/schedules/scheduler.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "pipelines/latent_math.h"
#include "tensor/random.h"

using namespace sinter;

namespace {

std::vector<ModelSampling> every_model() {
  return {ModelSampling::stable_diffusion(Prediction::Epsilon),
          ModelSampling::stable_diffusion(Prediction::Velocity),
          ModelSampling::stable_diffusion(Prediction::Velocity, true),
          ModelSampling::discrete_flow(1),
          ModelSampling::discrete_flow(5),
          ModelSampling::flux()};
}

}  // namespace

TEST_CASE("schedulers are sorted by name and found by it") {
  CHECK(std::ranges::is_sorted(schedulers(), {}, [](auto* s) { return s->name; }));
  for (auto* scheduler : schedulers()) CHECK(&find_scheduler(scheduler->name) == scheduler);
  CHECK_THROWS_WITH_AS(find_scheduler("carras"),
                       "there is no scheduler carras; choose one of beta, ddim_uniform, exponential, karras, kl_optimal, "
                       "linear_quadratic, normal, sgm_uniform, simple",
                       Error);
}

TEST_CASE("every schedule falls from the model's range to 0") {
  for (const ModelSampling& model : every_model())
    for (auto* scheduler : schedulers())
      for (int steps : {1, 2, 3, 7, 30, 500}) {
        auto sigmas = scheduler_sigmas(*scheduler, model, steps);
        CAPTURE(scheduler->name);
        CAPTURE(steps);
        CHECK(std::ranges::is_sorted(sigmas, std::greater<float>{}));
        CHECK(std::isfinite(sigmas.front()));
        CHECK(sigmas.front() <= model.sigma_max() * 1.00001f);
        CHECK(sigmas.back() == 0);
        CHECK(std::ranges::count(sigmas, 0) == 1);
        bool counts_differ = scheduler->name == "ddim_uniform" || scheduler->name == "beta";
        CHECK((counts_differ || sigmas.size() == size_t(steps) + 1));
      }
}

TEST_CASE("a schedule without steps is refused") {
  ModelSampling model = ModelSampling::flux();
  CHECK_THROWS_WITH_AS(scheduler_sigmas(karras_scheduler, model, 0),
                       "scheduler karras: the number of steps should be 1 to 10000, not 0", Error);
}

TEST_CASE("denoised gives back the latent when the network is right") {
  Tensor latent = prepare_noise({1, 4, 6, 6}, 1), noise = prepare_noise({1, 4, 6, 6}, 2);
  float sigma = 0.7f;
  auto recovered = [&](const ModelSampling& model, const Tensor& output) {
    return relative_error(model.denoised(model.add_noise(sigma, noise, latent), output, sigma), latent);
  };
  CHECK(recovered(ModelSampling::stable_diffusion(Prediction::Epsilon), noise) < 1e-6);
  // x/scale = cos*latent + sin*noise has the velocity cos*noise - sin*latent.
  Tensor velocity = (noise - latent * sigma) / std::sqrt(sigma * sigma + 1);
  CHECK(recovered(ModelSampling::stable_diffusion(Prediction::Velocity), velocity) < 1e-6);
  CHECK(recovered(ModelSampling::discrete_flow(3), noise - latent) < 1e-6);
}

TEST_CASE("the table's levels are told to the network by their index") {
  for (bool zero_terminal_snr : {false, true}) {
    ModelSampling model = ModelSampling::stable_diffusion(Prediction::Velocity, zero_terminal_snr);
    for (size_t i = 0; i < 1000; ++i) {
      CHECK(model.timestep(model.sigmas()[i]) == float(i));
      CHECK(model.sigma(float(i)) == doctest::Approx(model.sigmas()[i]).epsilon(1e-5));
    }
  }
}

TEST_CASE("zero terminal SNR leaves no signal at the last level and the first level as it was") {
  ModelSampling plain = ModelSampling::stable_diffusion(Prediction::Velocity);
  ModelSampling moved = ModelSampling::stable_diffusion(Prediction::Velocity, true);
  CHECK(moved.sigma_min() == doctest::Approx(plain.sigma_min()));
  CHECK(moved.sigma_max() > 4000);
}
