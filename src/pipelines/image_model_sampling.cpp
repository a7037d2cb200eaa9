#include <algorithm>

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

  /// Computes what depends on prompts and timesteps alone.
  void prepare(const Questions& questions) {
    std::span<const int> all = questions.conditionings;
    if (all.empty()) return;
    std::vector<NamedTensors> inputs;
    size_t step = fit_together(all) ? all.size() : 1;
    for (size_t i = 0; i < all.size(); i += step)
      inputs.push_back({{"context", with_prompts(all.subspan(i, step), 1).at("context")}});
    // All timesteps, where they are not too many, for each conditioning.
    NamedTensors& in = inputs.emplace_back();
    std::vector<Tensor> times, vectors;
    int64_t count = std::min<int64_t>(int64_t(questions.timesteps.size()), kMostTimesteps);
    for (int c : all) {
      times.push_back(Tensor::of({count}, std::span(questions.timesteps).first(size_t(count))));
      if (!vectors_[size_t(c)].empty()) vectors.push_back(repeat(vectors_[size_t(c)], count));
    }
    in[time_name()] = stack(times);
    if (!vectors.empty()) in["y"] = stack(vectors);
    in["guidance"] = numbers(count * int64_t(all.size()), float(job_.guidance));
    model_.denoiser_->prepare(inputs);
  }

  std::vector<Tensor> eval(const Tensor& input, float timestep, std::span<const int> conditionings) override {
    if (conditionings.size() > 1 && !fit_together(conditionings)) return eval_apart(input, timestep, conditionings);
    int64_t batch = input.dim(0), total = batch * int64_t(conditionings.size());
    NamedTensors in = with_prompts(conditionings, batch);
    in["x"] = stack(std::vector<Tensor>(conditionings.size(), input));
    in[time_name()] = numbers(total, timestep);
    Tensor out = model_.denoiser_->run(in).at(0);
    std::vector<Tensor> parts;
    for (size_t i = 0; i < conditionings.size(); ++i) parts.push_back(out.rows(int64_t(i) * batch, int64_t(i + 1) * batch));
    return parts;
  }

 private:
  const char* time_name() const { return is_flux(model_.family()) ? "timestep" : "timesteps"; }

  static Tensor numbers(int64_t count, float value) {
    Tensor all(DType::f32, {count});
    std::fill(all.f32().begin(), all.f32().end(), value);
    return all;
  }

  /// See tokens_together().
  int64_t common_tokens(std::span<const int> conditionings) const {
    std::vector<int64_t> lengths;
    for (int c : conditionings) lengths.push_back(prompts_[size_t(c)]->context.dim(1));
    return tokens_together(lengths);
  }
  bool fit_together(std::span<const int> conditionings) const { return common_tokens(conditionings) > 0; }

  /// The inputs that stay for the run, in the same tensors each time.
  const NamedTensors& with_prompts(std::span<const int> conditionings, int64_t batch) {
    auto [at, fresh] = inputs_.try_emplace({{conditionings.begin(), conditionings.end()}, batch});
    auto& in = at->second;
    if (!fresh) return in;
    int64_t tokens = common_tokens(conditionings);
    std::vector<Tensor> contexts, vectors;
    for (int c : conditionings) {
      contexts.push_back(repeat(repeat_tokens(prompts_[size_t(c)]->context, tokens), batch));
      if (!vectors_[size_t(c)].empty()) vectors.push_back(repeat(vectors_[size_t(c)], batch));
    }
    in["context"] = stack(contexts);
    if (is_flux(model_.family()) || is_sdxl(model_.family())) in["y"] = stack(vectors);
    if (model_.family().defaults.guidance > 0)
      in["guidance"] = numbers(batch * int64_t(conditionings.size()), float(job_.guidance));
    return in;
  }

  std::vector<Tensor> eval_apart(const Tensor& input, float timestep, std::span<const int> conditionings) {
    std::vector<Tensor> parts;
    for (const int& c : conditionings) parts.push_back(eval(input, timestep, {&c, 1}).at(0));
    return parts;
  }

  ImageModel& model_;
  const SamplingJob& job_;
  std::vector<const EncodedPrompt*> prompts_;
  std::vector<Tensor> vectors_;
  std::map<std::pair<std::vector<int>, int64_t>, NamedTensors> inputs_;  // see with_prompts()
};

/// All of a job but its latent; and its prompts, as conditionings number them.
SampleRequest ImageModel::request_for(const SamplingJob& job, std::vector<const EncodedPrompt*>& prompts) const {
  const SamplerDef& sampler = find_sampler(job.sampler);
  const SchedulerDef& scheduler = find_scheduler(job.scheduler);
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
  request.seed = job.seed;
  return request;
}

void ImageModel::prepare(const SamplingJob& job) {
  std::vector<const EncodedPrompt*> prompts;
  SampleRequest request = request_for(job, prompts);
  BatchedDenoiser denoiser(*this, job, prompts, job.latent.dim(2) * scale(), job.latent.dim(3) * scale());
  denoiser.prepare(rehearse(request));
  denoiser_->step().load_weights();
  // Reading one weight maps pages of its neighbours, which may have been read and dropped for the other part.
  for (const WeightUse& use : weights_of(denoiser_->graph())) parts_.weights(Component::Denoiser).drop(use.name);
}

Tensor ImageModel::sample(const SamplingJob& job) {
  prepare(job);
  std::vector<const EncodedPrompt*> prompts;
  SampleRequest request = request_for(job, prompts);
  // An empty latent has nothing to shift.
  const LatentFormat& format = family().latent;
  request.latent = job.latent.clone();
  auto values = request.latent.f32();
  if (std::any_of(values.begin(), values.end(), [](float v) { return v != 0; }))
    for (float& v : values) v = (v - float(format.shift)) * float(format.scale);
  request.noise = job.noise ? *job.noise : prepare_noise(job.latent.shape(), job.seed);
  request.mask = job.mask;
  request.progress = job.progress;
  BatchedDenoiser denoiser(*this, job, prompts, job.latent.dim(2) * scale(), job.latent.dim(3) * scale());
  Tensor out = sinter::sample(request, denoiser).clone();
  for (float& v : out.f32()) v = v / float(format.scale) + float(format.shift);
  return out;
}

}  // namespace sinter
