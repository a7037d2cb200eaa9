#include <algorithm>
#include <cmath>
#include <limits>

#include "golden/golden_reader.h"
#include "pipelines/sample.h"

namespace sinter::golden {

/// "flow3" -> flow with shift 3; "flux115" -> FLUX with shift 1.15.
ModelSampling model_of_kind(const std::string& kind) {
  if (kind == "eps") return ModelSampling::stable_diffusion(Prediction::Epsilon);
  if (kind == "v_zsnr") return ModelSampling::stable_diffusion(Prediction::Velocity, true);
  if (kind.starts_with("flux")) return ModelSampling::flux(std::stod(kind.substr(4)) / 100);
  if (kind.starts_with("flow")) return ModelSampling::discrete_flow(std::stod(kind.substr(4)));
  sinter::fail(Code::NotFound, "no model sampling is known as {}", kind);
}

namespace {

constexpr double kTolerance = 1e-6;

/// The largest relative difference of single values: one wrong entry must not hide behind large ones.
double worst_difference(std::span<const float> ours, std::span<const float> theirs) {
  if (ours.size() != theirs.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    double difference = std::abs(double(ours[i]) - theirs[i]);
    worst = std::max(worst, difference == 0 ? 0 : difference / std::abs(double(theirs[i])));
  }
  return worst;
}

bool picks_table_entries(const std::string& scheduler) {
  return scheduler == "simple" || scheduler == "ddim_uniform" || scheduler == "beta";
}

template <class Function>
std::vector<float> mapped(std::span<const float> values, Function&& function) {
  std::vector<float> out;
  for (float value : values) out.push_back(float(function(value)));
  return out;
}

void check_case(GoldenFile& file, const std::string& name, GoldenReport& report) {
  auto parts = path_parts(name);
  if (parts.size() < 2) return;
  const std::string &what = parts[0], &kind = parts[1];
  ModelSampling model = model_of_kind(kind);
  std::string prefix = what + "/" + kind + "/";
  auto compare = [&](std::span<const float> ours, double tolerance = kTolerance) {
    report.compare(name, worst_difference(ours, file.get(name).f32()), tolerance);
  };
  if (what == "table") {
    size_t stride = model.sigmas().size() / size_t(file.get(name).count());  // a long table is given in part
    std::vector<float> ours;
    for (size_t i = 0; i < model.sigmas().size(); i += std::max<size_t>(stride, 1)) ours.push_back(model.sigmas()[i]);
    compare(ours);
  } else if (what == "sigma_min_max") {
    compare(std::vector{model.sigma_min(), model.sigma_max()});
  } else if (what == "timestep_of_sigma" && parts.back() == "timestep") {
    compare(mapped(file.get(prefix + "sigma").f32(), [&](float s) { return model.timestep(s); }),
            model.is_flow() ? kTolerance : 0);
  } else if (what == "sigma_of_timestep" && parts.back() == "sigma") {
    compare(mapped(file.get(prefix + "timestep").f32(), [&](float t) { return model.sigma(t); }));
  } else if (what == "sigma_of_percent" && parts.back() == "sigma") {
    compare(mapped(file.get(prefix + "percent").f32(), [&](float p) { return model.percent_to_sigma(p); }));
  } else if (what == "schedule" && parts.size() == 4) {
    auto ours = scheduler_sigmas(find_scheduler(parts[2]), model, std::stoi(parts[3]));
    // Another entry of the table differs by far more than this; the table itself is compared above.
    compare(ours, picks_table_entries(parts[2]) ? 2e-7 : kTolerance);
  } else if (what == "ksampler" && parts.size() == 6) {
    compare(ksampler_sigmas(model, find_sampler(parts[2]), find_scheduler(parts[3]), std::stoi(parts[4]), std::stod(parts[5])));
  }
}

}  // namespace

void check_sigmas(const std::string& directory, GoldenReport& report) {
  GoldenFile file(directory + "/sigmas.safetensors");
  for (auto& [name, tensor] : file.tensors()) guarded(name, report, [&] { check_case(file, name, report); });
  file.report_unused(report);
}

}  // namespace sinter::golden
