#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "golden/golden_reader.h"
#include "pipelines/guidance/guidance.h"
#include "pipelines/samplers/noise_source.h"
#include "pipelines/samplers/sampler.h"

namespace sinter::golden {

ModelSampling model_of_kind(const std::string& kind);  // sigmas_golden.cpp

namespace {

struct Settings {
  uint64_t seed = 0;
  float cfg = 1;
};

/// The settings of each case "<kind>/<sampler>" from the manifest.
std::map<std::string, Settings> read_settings(const std::string& directory) {
  std::map<std::string, Settings> settings;
  auto note = [&](const nlohmann::json& entry) {
    if (entry.is_object() && entry.value("file", "") == "samplers.safetensors" && entry.contains("sampler"))
      settings[entry.at("case")] = {entry.at("seed").get<uint64_t>(), entry.at("cfg").get<float>()};
  };
  nlohmann::json manifest = nlohmann::json::parse(read_file(directory + "/manifest.json"));
  if (manifest.is_object())
    for (auto& [key, value] : manifest.items())
      if (value.is_array())
        for (auto& entry : value) note(entry);
  if (manifest.is_array())
    for (auto& entry : manifest) note(entry);
  return settings;
}

double tolerance_of(const std::string& sampler) {
  for (const char* loose : {"uni_pc", "deis", "lms", "dpm_adaptive", "er_sde", "seeds", "sa_solver"})
    if (sampler.starts_with(loose)) return 1e-4;
  return 1e-5;
}

/// a*x/(1+s^2) + m/(1+s), with a one value for each channel and m the same for the whole batch.
Tensor analytic_denoiser(const Tensor& a, const Tensor& m, const Tensor& x, float sigma) {
  Tensor out(DType::f32, x.shape());
  int64_t channels = x.dim(1), plane = x.count() / (x.dim(0) * channels);
  for (int64_t i = 0; i < x.count(); ++i) {
    int64_t channel = i / plane % channels, within = i % (plane * channels);
    out.f32()[size_t(i)] =
        a.f32()[size_t(channel)] * x.f32()[size_t(i)] / (1 + sigma * sigma) + m.f32()[size_t(within)] / (1 + sigma);
  }
  return out;
}

/// What a run leaves behind, to compare with the recorded run.
struct Trace {
  std::vector<Tensor> x, denoised, noises;
  std::vector<float> noise_sigmas;
  Tensor out;
};

Trace run_case(GoldenFile& file, const std::string& kind, const SamplerDef& sampler, const Settings& settings) {
  ModelSampling model = model_of_kind(kind);
  auto sigmas = file.get(kind + "/" + std::string(sampler.name) + "/sigmas").f32();
  const Tensor& start = file.get("noise");
  Trace trace;
  auto draw = make_noise_source(sampler.noise, start.shape(), sigmas, settings.seed);
  auto denoised = [&](const char* which, const Tensor& x, float sigma) {
    return analytic_denoiser(file.get(std::string("denoiser/a_") + which), file.get(std::string("denoiser/m_") + which), x,
                             sigma);
  };
  SamplerRun run{
      .model = model,
      .sigmas = {sigmas.begin(), sigmas.end()},
      .guided =
          [&](const Tensor& x, float sigma) {
            Tensor conditional = denoised("cond", x, sigma), unconditional = denoised("uncond", x, sigma);
            return Guided{classifier_free_guidance(conditional, unconditional, settings.cfg), unconditional};
          },
      .noise =
          [&](float sigma, float next) {
            trace.noises.push_back(draw(sigma, next));
            trace.noise_sigmas.insert(trace.noise_sigmas.end(), {sigma, next});
            return trace.noises.back();
          },
      .on_step =
          [&](int, const Tensor& x, const Tensor& denoised, float) {
            trace.x.push_back(x.clone());
            trace.denoised.push_back(denoised.clone());
          },
  };
  Tensor zeros(DType::f32, start.shape());
  Tensor out = sampler.run(run, model.add_noise(sigmas[0], start, zeros, true));
  trace.out = model.remove_noise_scale(run.sigmas.back(), out);
  return trace;
}

Tensor stacked(const std::vector<Tensor>& parts, const std::vector<int64_t>& shape) {
  std::vector<float> values;
  for (const Tensor& part : parts) values.insert(values.end(), part.f32().begin(), part.f32().end());
  if (int64_t(values.size()) != element_count(std::span<const int64_t>(shape))) return Tensor(DType::f32, {0});
  return Tensor::of(shape, values);
}

/// "x_5" -> 5; -1 for another name.
int step_number(const std::string& key, const std::string& prefix) {
  if (!key.starts_with(prefix) || key.find_first_not_of("0123456789", prefix.size()) != std::string::npos) return -1;
  return std::stoi(key.substr(prefix.size()));
}

void compare_trace(GoldenFile& file, const std::string& prefix, const std::string& sampler, const Trace& trace,
                   GoldenReport& report) {
  double tolerance = tolerance_of(sampler);
  for (auto at = file.tensors().lower_bound(prefix); at != file.tensors().end() && at->first.starts_with(prefix); ++at) {
    const std::string &name = at->first, key = name.substr(prefix.size());
    auto compare = [&](const Tensor& ours, double allowed) {
      report.compare(name, relative_error(ours, file.get(name)), allowed);
    };
    auto compare_step = [&](const std::vector<Tensor>& steps, int step) {
      file.get(name);
      if (size_t(step) >= steps.size()) return report.fail(name, fmt::format("the run had only {} steps", steps.size()));
      compare(steps[size_t(step)], tolerance);
    };
    int step = step_number(key, "x_"), denoised_step = step_number(key, "denoised_");
    if (key == "out") compare(trace.out, tolerance);
    if (key == "noises")
      compare(stacked(trace.noises, at->second.shape()), sampler.find("sde") == std::string::npos ? 2e-6 : 2e-5);
    if (key == "noise_sigmas") compare(Tensor::of({int64_t(trace.noise_sigmas.size()) / 2, 2}, trace.noise_sigmas), 1e-5);
    if (step >= 0) compare_step(trace.x, step);
    if (denoised_step >= 0) compare_step(trace.denoised, denoised_step);
  }
}

}  // namespace

void check_samplers(const std::string& directory, GoldenReport& report) {
  GoldenFile file(directory + "/samplers.safetensors");
  auto settings = read_settings(directory);
  for (auto& [name, tensor] : file.tensors()) {
    auto parts = path_parts(name);
    if (parts.size() != 3 || parts[2] != "sigmas") continue;
    std::string which = parts[0] + "/" + parts[1];
    guarded(which, report, [&] {
      if (!settings.contains(which)) sinter::fail(Code::NotFound, "manifest.json has no settings for {}", which);
      const SamplerDef& sampler = find_sampler(parts[1]);
      compare_trace(file, which + "/", parts[1], run_case(file, parts[0], sampler, settings.at(which)), report);
    });
  }
  file.report_unused(report);
}

}  // namespace sinter::golden
