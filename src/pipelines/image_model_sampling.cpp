#include <algorithm>
#include <numeric>

#include "pipelines/image_model_parts.h"
#include "tensor/random.h"

namespace sinter {
using namespace image_model;
namespace {

/// Rows of several tensors of one row shape, one behind the other.
Tensor stack(const std::vector<Tensor>& parts) {
  std::vector<int64_t> shape = parts[0].shape();
  shape[0] = 0;
  for (const Tensor& part : parts) shape[0] += part.dim(0);
  Tensor out(parts[0].dtype(), shape);
  int64_t row = 0;
  for (const Tensor& part : parts) {
    std::copy_n(part.data(), part.bytes(), out.rows(row, row + part.dim(0)).data());
    row += part.dim(0);
  }
  return out;
}

/// [1, ...] repeated to [n, ...].
Tensor repeat(const Tensor& one, int64_t n) { return stack(std::vector<Tensor>(size_t(n), one)); }

/// [1, tokens, width] with the tokens repeated to a multiple of their number: softmax attention does not see the difference.
Tensor repeat_tokens(const Tensor& context, int64_t tokens) {
  Tensor rows = context.reshaped({context.dim(1), context.dim(2)});
  return stack(std::vector<Tensor>(size_t(tokens / context.dim(1)), rows)).reshaped({1, tokens, context.dim(2)});
}

}  // namespace

/// All conditionings of one step as one batch.
class ImageModel::BatchedDenoiser : public Denoiser {
 public:
  /// Of a picture of `height` x `width` pixels.
  BatchedDenoiser(ImageModel& model, const SamplingJob& job, std::vector<const EncodedPrompt*> prompts, int64_t height,
                  int64_t width)
      : model_(model), job_(job), prompts_(std::move(prompts)) {
    SizeConditioning sizes = job.sizes.value_or(SizeConditioning{height, width, 0, 0, height, width});
    for (const EncodedPrompt* prompt : prompts_)
      vectors_.push_back(is_sdxl(model.family()) ? sdxl_vector(prompt->pooled, sizes) : prompt->pooled);
  }

  std::vector<Tensor> eval(const Tensor& input, float timestep, std::span<const int> conditionings) override {
    int64_t batch = input.dim(0), total = batch * int64_t(conditionings.size());
    int64_t tokens = 1;
    for (int c : conditionings) tokens = std::lcm(tokens, prompts_[size_t(c)]->context.dim(1));
    // Where lengths differ so much that repeating costs more than it saves, each goes by itself; the reference draws the line
    // here.
    constexpr int64_t kMostRepeats = 4;
    for (int c : conditionings)
      if (tokens / prompts_[size_t(c)]->context.dim(1) > kMostRepeats) return eval_apart(input, timestep, conditionings);
    std::vector<Tensor> inputs, contexts, vectors;
    for (int c : conditionings) {
      inputs.push_back(input);
      contexts.push_back(repeat(repeat_tokens(prompts_[size_t(c)]->context, tokens), batch));
      if (!vectors_[size_t(c)].empty()) vectors.push_back(repeat(vectors_[size_t(c)], batch));
    }
    std::map<std::string, Tensor> in{{"x", stack(inputs)}, {"context", stack(contexts)}};
    bool flux = is_flux(model_.family());
    Tensor times(DType::f32, {total});
    std::fill(times.f32().begin(), times.f32().end(), timestep);
    in[flux ? "timestep" : "timesteps"] = times;
    if (flux || is_sdxl(model_.family())) in["y"] = stack(vectors);
    if (model_.family().defaults.guidance > 0) {
      Tensor guidance(DType::f32, {total});
      std::fill(guidance.f32().begin(), guidance.f32().end(), float(job_.guidance));
      in["guidance"] = guidance;
    }
    Tensor out = model_.denoiser_->run(in).at(0);
    std::vector<Tensor> parts;
    for (size_t i = 0; i < conditionings.size(); ++i) parts.push_back(out.rows(int64_t(i) * batch, int64_t(i + 1) * batch));
    return parts;
  }

 private:
  std::vector<Tensor> eval_apart(const Tensor& input, float timestep, std::span<const int> conditionings) {
    std::vector<Tensor> parts;
    for (const int& c : conditionings) parts.push_back(eval(input, timestep, {&c, 1}).at(0));
    return parts;
  }

  ImageModel& model_;
  const SamplingJob& job_;
  std::vector<const EncodedPrompt*> prompts_;
  std::vector<Tensor> vectors_;
};

Tensor ImageModel::sample(const SamplingJob& job) {
  const SamplerDef& sampler = find_sampler(job.sampler);
  const SchedulerDef& scheduler = find_scheduler(job.scheduler);
  std::vector<const EncodedPrompt*> prompts;
  SampleRequest request{.model = sampling_, .sampler = sampler};
  auto add = [&](const std::vector<WeightedPrompt>& list, std::vector<Conditioning>& to) {
    for (const WeightedPrompt& p : list) {
      to.push_back({int(prompts.size()), p.strength});
      prompts.push_back(&p.prompt);
    }
  };
  add(job.positive, request.guidance.positive);
  add(job.negative, request.guidance.negative);
  request.guidance.cfg = float(job.cfg);
  request.sigmas = ksampler_sigmas(sampling_, sampler, scheduler, job.steps, job.denoise);
  // An empty latent has nothing to shift.
  const LatentFormat& format = family().latent;
  request.latent = job.latent.clone();
  auto values = request.latent.f32();
  if (std::any_of(values.begin(), values.end(), [](float v) { return v != 0; }))
    for (float& v : values) v = (v - float(format.shift)) * float(format.scale);
  request.noise = job.noise ? *job.noise : prepare_noise(job.latent.shape(), job.seed);
  request.mask = job.mask;
  request.seed = job.seed;
  request.progress = job.progress;
  BatchedDenoiser denoiser(*this, job, prompts, job.latent.dim(2) * scale(), job.latent.dim(3) * scale());
  Tensor out = sinter::sample(request, denoiser).clone();
  for (float& v : out.f32()) v = v / float(format.scale) + float(format.shift);
  return out;
}

}  // namespace sinter
