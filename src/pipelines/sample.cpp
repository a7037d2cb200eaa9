#include "pipelines/sample.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "pipelines/latent_math.h"
#include "pipelines/samplers/noise_source.h"
#include "tensor/random.h"

namespace sinter {
namespace {

/// Asks the network about x and guides the answers; for masked runs also keeps the latent outside the mask.
class GuidedModel {
 public:
  GuidedModel(const SampleRequest& request, Denoiser& denoiser) : request_(request), denoiser_(denoiser) {
    const Guidance& guidance = request.guidance;
    if (guidance.positive.empty()) fail(Code::InvalidArgument, "sampling needs at least one positive conditioning");
    bool guided = std::abs(guidance.cfg - 1) > 1e-9f;
    if ((guided || request.sampler.needs_unconditional) && !guidance.negative.empty()) negatives_ = guidance.negative;
    for (const Conditioning& c : guidance.positive) ids_.push_back(c.id);
    for (const Conditioning& c : negatives_) ids_.push_back(c.id);
    if (!request.mask.empty())
      mask_noise_ =
          request.sampler.masks_with_other_noise ? prepare_noise(request.noise.shape(), request.seed + 1) : request.noise;
  }

  Guided operator()(const Tensor& x, float sigma) {
    if (request_.mask.empty()) return guide(x, sigma);
    Tensor kept = request_.model.add_noise(sigma, mask_noise_, request_.latent);
    Guided guided = guide(mix_by_mask(request_.mask, x, kept), sigma);
    guided.denoised = mix_by_mask(request_.mask, guided.denoised, request_.latent);
    return guided;
  }

 private:
  Guided guide(const Tensor& x, float sigma) {
    const ModelSampling& model = request_.model;
    auto outputs = denoiser_.eval(model.network_input(x, sigma), model.timestep(sigma), ids_);
    if (outputs.size() != ids_.size())
      fail(Code::Internal, "the denoiser gave {} outputs for {} conditionings", outputs.size(), ids_.size());
    for (Tensor& output : outputs) output = model.denoised(x, output, sigma);
    const auto& positives = request_.guidance.positive;
    auto all = std::span(outputs);
    Tensor conditional = average_by_strength(all.first(positives.size()), positives);
    if (negatives_.empty()) return {conditional, conditional};
    Tensor unconditional = average_by_strength(all.subspan(positives.size()), negatives_);
    return {classifier_free_guidance(conditional, unconditional, request_.guidance.cfg), unconditional};
  }

  const SampleRequest& request_;
  Denoiser& denoiser_;
  std::vector<Conditioning> negatives_;
  std::vector<int> ids_;
  Tensor mask_noise_;
};

void check(const SampleRequest& request) {
  if (request.latent.shape() != request.noise.shape())
    fail(Code::InvalidArgument, "sampling: the latent is {} but the noise {}; their shapes must be equal",
         shape_text(request.latent.shape()), shape_text(request.noise.shape()));
  const auto& sigmas = request.sigmas;
  for (size_t i = 0; i < sigmas.size(); ++i) {
    bool falls = i == 0 || sigmas[i] <= sigmas[i - 1];
    if (!std::isfinite(sigmas[i]) || sigmas[i] < 0 || !falls || (sigmas[i] == 0 && i + 1 < sigmas.size()))
      fail(Code::InvalidArgument, "sampling: noise level {} of {} is {}; levels must be finite, fall, and be 0 only at the end",
           i, sigmas.size(), sigmas[i]);
  }
}

/// Whether a run starts where the model's table ends, so that nothing of a latent would be left.
bool starts_from_pure_noise(const ModelSampling& model, float sigma) {
  float top = model.sigma_max();
  return sigma > top || std::abs(sigma - top) <= 1e-5f * std::max(sigma, top);
}

}  // namespace

Tensor sample(const SampleRequest& request, Denoiser& denoiser) {
  check(request);
  if (request.sigmas.size() < 2) return request.latent;
  const ModelSampling& model = request.model;
  float first = request.sigmas.front();
  GuidedModel guided(request, denoiser);
  SamplerRun run{
      .model = model,
      .sigmas = request.sigmas,
      .guided = [&](const Tensor& x, float sigma) { return guided(x, sigma); },
      .noise = make_noise_source(request.sampler.noise, request.noise.shape(), request.sigmas, request.seed),
      .on_step =
          [&](int step, const Tensor& x, const Tensor& denoised, float sigma) {
            int steps = int(request.sigmas.size()) - 1;
            if (request.progress && !request.progress({step, steps, sigma, x, denoised}))
              fail(Code::Cancelled, "sampling was cancelled at step {} of {}", step + 1, steps);
          },
  };
  Tensor x = model.add_noise(first, request.noise, request.latent, starts_from_pure_noise(model, first));
  x = request.sampler.run(run, x);
  return model.remove_noise_scale(run.sigmas.back(), x);
}

namespace {
/// Notes what it is asked, and gives an answer of no meaning.
class NotingDenoiser : public Denoiser {
 public:
  NotingDenoiser(Questions& questions, size_t most) : questions_(questions), most_(most) {}
  std::vector<Tensor> eval(const Tensor& input, float timestep, std::span<const int> conditionings) override {
    if (++asked_ > most_) fail(Code::Cancelled, "asked {} times", most_);
    auto& times = questions_.timesteps;
    if (std::find(times.begin(), times.end(), timestep) == times.end()) times.push_back(timestep);
    questions_.conditionings.assign(conditionings.begin(), conditionings.end());
    return std::vector<Tensor>(conditionings.size(), input.clone());
  }

 private:
  Questions& questions_;
  size_t most_, asked_ = 0;
};
}  // namespace

Questions rehearse(const SampleRequest& request) {
  SampleRequest small = request;
  small.latent = Tensor(DType::f32, {1, 1, 1, 1});
  small.noise = prepare_noise({1, 1, 1, 1}, request.seed);
  small.mask = {};
  small.progress = {};
  Questions questions;
  // More than any sampler asks that keeps to the schedule.
  NotingDenoiser noting(questions, 8 * request.sigmas.size());
  try {
    sample(small, noting);
  } catch (const Error& e) {
    if (e.code() != Code::Cancelled) throw;
  }
  return questions;
}

std::vector<float> ksampler_sigmas(const ModelSampling& model, const SamplerDef& sampler, const SchedulerDef& scheduler,
                                   int steps, double denoise) {
  auto schedule = [&](int count) {
    if (!sampler.drops_penultimate_sigma) return scheduler_sigmas(scheduler, model, count);
    auto sigmas = scheduler_sigmas(scheduler, model, count + 1);
    sigmas.erase(sigmas.end() - 2);
    return sigmas;
  };
  if (denoise > 0.9999) return schedule(steps);
  if (!(denoise > 0)) return {};
  if (steps < 1) fail(Code::InvalidArgument, "the number of steps should be 1 or more, not {}", steps);
  auto sigmas = schedule(int(std::min(steps / denoise, 1e9)));
  size_t wanted = std::min(size_t(steps) + 1, sigmas.size());
  return {sigmas.end() - std::ptrdiff_t(wanted), sigmas.end()};
}

std::vector<float> sigmas_between(std::vector<float> sigmas, int start_step, int end_step, bool to_the_end) {
  if (start_step < 0 || end_step < 0)
    fail(Code::InvalidArgument, "the first and the last step should be 0 or more, not {} and {}", start_step, end_step);
  if (size_t(end_step) + 1 < sigmas.size()) {
    sigmas.resize(size_t(end_step) + 1);
    if (to_the_end) sigmas.back() = 0;
  }
  if (size_t(start_step) + 1 >= sigmas.size()) return {};
  sigmas.erase(sigmas.begin(), sigmas.begin() + start_step);
  return sigmas;
}

}  // namespace sinter
