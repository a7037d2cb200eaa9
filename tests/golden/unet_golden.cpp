#include "golden/network_checks.h"
#include "models/checkpoint_names.h"
#include "models/unet.h"
#include "pipelines/schedules/model_sampling.h"

namespace sinter::golden {
namespace {

constexpr double kTolerance = 2e-5;
/// Down to one pixel in 32 groups of one channel each, every normalised value is the bias: rounding decides the rest.
constexpr double kOnePixelTolerance = 1e-3;

/// True where some level has but one value in each group of a norm.
bool is_ill_conditioned(const UnetConfig& c, const Tensor& x) {
  int64_t height = x.dim(2), width = x.dim(3);
  for (const auto& level : c.levels) {
    if (height * width == 1 && level.channels == 32) return true;
    height = (height + 1) / 2, width = (width + 1) / 2;
  }
  return false;
}

}  // namespace

namespace {

/// A network of a checkpoint, ready to run at any size.
struct UnetRun {
  explicit UnetRun(const ForwardCheck& check, const std::string& checkpoint)
      : weights(open_model(check.directory + "/checkpoints/" + checkpoint).weights(Component::Denoiser)),
        config(detect_unet(weights)),
        run(check.run_denoiser) {
    auto size = [](const char* name) { return Dim::symbol(name); };
    build_unet(graph, config, {size("batch"), size("height"), size("width"), size("context_tokens")}, check.arithmetic.options());
    check_weights(weights_of(graph), weights);
  }
  Tensor operator()(const std::map<std::string, Tensor>& inputs) const {
    return run(graph, inputs, loader(graph, weights)).at(0).to(DType::f32);
  }

  Weights weights;
  UnetConfig config;
  Graph graph;
  const GraphRunner& run;
};

/// `function` of each sample of x and its noise level.
template <class Function>
Tensor by_sample(const Tensor& x, std::span<const float> sigmas, Function&& function) {
  std::vector<float> values;
  for (int64_t i = 0; i < x.dim(0); ++i) {
    Tensor one = function(i, x.rows(i, i + 1), sigmas[size_t(i)]);
    values.insert(values.end(), one.f32().begin(), one.f32().end());
  }
  return Tensor::of(x.shape(), values);
}

}  // namespace

void check_unet(const ForwardCheck& check, const std::string& checkpoint) {
  UnetRun unet(check, checkpoint);
  for (const std::string& prefix : check.cases("unet"))
    guarded(prefix + "out", check.report, [&] {
      check.know_block_trace(prefix);
      std::map<std::string, Tensor> inputs;
      for (const char* name : {"x", "timesteps", "context", "y"})
        if (check.file.has(prefix + name)) inputs[name] = check.get(prefix + name);
      bool loose = is_ill_conditioned(unet.config, inputs.at("x"));
      check.compare(prefix + "out", unet(inputs), Part::Denoiser, loose ? kOnePixelTolerance : kTolerance);
    });
}

void check_denoise(const ForwardCheck& check, const std::string& checkpoint) {
  UnetRun unet(check, checkpoint);
  const Tensor &x = check.get("denoise/x"), &context = check.get("denoise/context");
  auto sigmas = check.get("denoise/sigma").f32();
  ModelSampling epsilon = ModelSampling::stable_diffusion(Prediction::Epsilon);
  ModelSampling velocity = ModelSampling::stable_diffusion(Prediction::Velocity);

  Tensor input = by_sample(x, sigmas, [&](int64_t, const Tensor& one, float sigma) { return epsilon.network_input(one, sigma); });
  std::vector<float> times;
  for (float sigma : sigmas) times.push_back(epsilon.timestep(sigma));
  Tensor timesteps = Tensor::of({x.dim(0)}, times);
  check.report.compare("denoise/model_input", relative_error(input, check.get("denoise/model_input")), 1e-6);
  check.report.compare("denoise/model_timestep", relative_error(timesteps, check.get("denoise/model_timestep")), 0);

  Tensor out = unet({{"x", input}, {"timesteps", timesteps}, {"context", context}});
  auto compare = [&](const std::string& name, const ModelSampling& model) {
    Tensor denoised = by_sample(
        x, sigmas, [&](int64_t i, const Tensor& one, float sigma) { return model.denoised(one, out.rows(i, i + 1), sigma); });
    check.compare(name, denoised, Part::Denoiser, kTolerance);
  };
  compare("denoise/denoised_eps", epsilon);
  compare("denoise/denoised_v", velocity);
}

}  // namespace sinter::golden
