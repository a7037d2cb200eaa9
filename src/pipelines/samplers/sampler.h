#pragma once
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "pipelines/latent_math.h"
#include "pipelines/schedules/model_sampling.h"
#include "tensor/tensor.h"

namespace sinter {

/// What the model makes of a noisy latent.
struct Guided {
  Tensor denoised;       ///< with guidance: where sampling is heading
  Tensor unconditional;  ///< without the prompt; given only to samplers that ask for it
};

/// One run of a sampler: everything that it sees of the world.
struct SamplerRun {
  const ModelSampling& model;
  /// Falling noise levels; the run goes from the first to the last, which is 0 unless the run is to stop early. At least two. A
  /// sampler that ends at another level than asked for writes that level into the last one.
  std::vector<float> sigmas;
  std::function<Guided(const Tensor& x, float sigma)> guided;
  /// Standard normal noise for the way from one level to the next. A seeded stream: the order of the calls matters.
  std::function<Tensor(float sigma, float next)> noise;
  /// Told at every step, before it changes x unless the sampler says otherwise; throws to stop the run.
  std::function<void(int step, const Tensor& x, const Tensor& denoised, float sigma)> on_step;

  Tensor denoise(const Tensor& x, float sigma) const { return guided(x, sigma).denoised; }
  int steps() const { return int(sigmas.size()) - 1; }
};

enum class NoiseSource {
  Normal,    ///< one draw after another
  Brownian,  ///< increments of one path over sigma
};

struct SamplerDef {
  std::string_view name;
  std::string_view summary;
  Tensor (*run)(SamplerRun& run, Tensor x);
  NoiseSource noise = NoiseSource::Normal;
  bool needs_unconditional = false;      ///< reads Guided::unconditional, also where guidance alone would not need it
  bool drops_penultimate_sigma = false;  ///< its schedule has one more step, of which the last but one level is left out
  bool masks_with_other_noise = false;   ///< masked sampling hides the kept part under the noise of seed+1
};

/// All samplers, sorted by name.
std::span<const SamplerDef* const> samplers();
/// Code::NotFound for a name that is not in the list.
const SamplerDef& find_sampler(std::string_view name);

#define SINTER_SAMPLER(name) extern const SamplerDef name##_sampler;
#include "pipelines/samplers/samplers.list"
#undef SINTER_SAMPLER

}  // namespace sinter
