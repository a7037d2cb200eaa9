#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "pipelines/guidance/guidance.h"
#include "pipelines/samplers/sampler.h"
#include "pipelines/schedules/model_sampling.h"
#include "pipelines/schedules/scheduler.h"
#include "tensor/tensor.h"

namespace sinter {

/// The network, as sampling sees it.
class Denoiser {
 public:
  virtual ~Denoiser() = default;
  /// The network's output for `input` under each of these conditionings, in their order. One call, so that all of them can run as
  /// one batch. `timestep` is ModelSampling::timestep of the noise level.
  virtual std::vector<Tensor> eval(const Tensor& input, float timestep, std::span<const int> conditionings) = 0;
};

struct SampleProgress {
  int step, steps;  ///< 0-based; dpm_adaptive may go beyond `steps`
  float sigma;
  const Tensor &x, &denoised;
};

/// One run of KSampler's core. Latents are in the model's units (latent format applied by the caller).
struct SampleRequest {
  const ModelSampling& model;
  const SamplerDef& sampler;
  std::vector<float> sigmas;  ///< from ksampler_sigmas; none or one: the latent is returned as it is
  Guidance guidance;
  Tensor latent;  ///< where to start; zeros for nothing
  Tensor noise;   ///< of the latent's shape; see prepare_noise
  Tensor mask;    ///< 1 where to paint anew, 0 where to keep the latent; sizes as the latent's or 1; no data: paint everywhere
  uint64_t seed = 0;  ///< of the noise that the sampler draws; the reference uses the start noise's seed again
  std::function<bool(const SampleProgress&)> progress;  ///< may be empty; false cancels
};

/// Code::Cancelled where `progress` said so.
Tensor sample(const SampleRequest& request, Denoiser& denoiser);

/// What sample() will ask its denoiser about. A sampler that chooses its steps by the answers may ask about other timesteps.
struct Questions {
  std::vector<float> timesteps;  ///< each once
  std::vector<int> conditionings;
};
Questions rehearse(const SampleRequest& request);

/// The noise levels of a KSampler run. Below 1, `denoise` keeps only the last part of a longer schedule: steps+1 values out of
/// one for steps/denoise steps; 0 and less gives none. Also leaves out the last but one level for samplers that ask for it.
std::vector<float> ksampler_sigmas(const ModelSampling& model, const SamplerDef& sampler, const SchedulerDef& scheduler,
                                   int steps, double denoise = 1);

/// The part of a schedule that KSamplerAdvanced runs, from `start_step` to `end_step`; empty where nothing is left. `to_the_end`
/// lets a run that is cut short go to 0 in its last step.
std::vector<float> sigmas_between(std::vector<float> sigmas, int start_step, int end_step, bool to_the_end);

}  // namespace sinter
