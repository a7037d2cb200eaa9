#include "golden/golden_reader.h"
#include "tensor/brownian.h"
#include "tensor/random.h"

namespace sinter::golden {
namespace {

constexpr double kNormalTolerance = 2e-6;

double integer_mismatches(const Tensor& ours, const Tensor& theirs) {
  if (ours.shape() != theirs.shape()) return double(theirs.count());
  double different = 0;
  for (size_t i = 0; i < theirs.i64().size(); ++i) different += ours.i64()[i] != theirs.i64()[i];
  return different;
}

/// "batch3" is a plain batch; "batch_index_0_2_5" names the wanted indices.
std::vector<int64_t> batch_indices(const std::string& text) {
  const std::string prefix = "batch_index_";
  std::vector<int64_t> indices;
  if (!text.starts_with(prefix)) return indices;
  for (size_t at = prefix.size(); at <= text.size();) {
    size_t end = std::min(text.find('_', at), text.size());
    indices.push_back(std::stoll(text.substr(at, end - at)));
    at = end + 1;
  }
  return indices;
}

void check_sequence(GoldenFile& file, const std::string& prefix, uint64_t seed, GoldenReport& report) {
  RandomGenerator generator(seed);
  for (int call = 0;; ++call) {
    std::string start = prefix + std::to_string(call) + "_n";
    auto found = file.tensors().lower_bound(start);
    if (found == file.tensors().end() || !found->first.starts_with(start)) return;
    const Tensor& want = file.get(found->first);
    report.compare(found->first, relative_error(generator.randn(want.shape()), want), kNormalTolerance);
  }
}

void check_brownian(GoldenFile& file, const std::string& prefix, uint64_t seed, GoldenReport& report) {
  const Tensor& want = file.get(prefix + "noises");
  auto sigmas = file.get(prefix + "sigmas").f32();
  auto shape = want.shape();
  shape.erase(shape.begin());
  // The range is that of the Stable Diffusion table, not that of the sigmas asked for.
  BrownianNoise noise(shape, 0.0292f, 14.6146f, seed);
  Tensor ours(DType::f32, want.shape());
  for (int64_t i = 0; i < want.dim(0); ++i) {
    Tensor draw = noise(sigmas[size_t(i)], sigmas[size_t(i) + 1]);
    std::ranges::copy(draw.f32(), ours.rows(i, i + 1).f32().begin());
  }
  report.compare(prefix + "noises", relative_error(ours, want), kNormalTolerance);
}

void check_case(GoldenFile& file, const std::string& name, GoldenReport& report) {
  auto parts = path_parts(name);
  const std::string& kind = parts[0];
  if (kind == "prepare_noise") {
    const Tensor& want = file.get(name);
    auto ours = prepare_noise(want.shape(), std::stoull(parts.at(1).substr(4)), batch_indices(parts.at(2)));
    return report.compare(name, relative_error(ours, want), kNormalTolerance);
  }
  if (parts.size() < 2 || parts[1].find_first_not_of("0123456789") != std::string::npos) return;
  uint64_t seed = std::stoull(parts[1]);
  std::string prefix = parts[0] + "/" + parts[1] + "/";
  RandomGenerator generator(seed);
  if (kind == "randn") {
    const Tensor& want = file.get(name);
    report.compare(name, relative_error(generator.randn(want.shape()), want), kNormalTolerance);
  } else if (kind == "randn_f16") {
    const Tensor& want = file.get(name);
    report.compare(name, relative_error(generator.randn(want.shape(), DType::f16), want), kNormalTolerance);
  } else if (kind == "rand") {
    const Tensor& want = file.get(name);
    report.compare(name, relative_error(generator.rand(want.shape()), want), 0);
  } else if (kind.starts_with("randint_")) {
    const Tensor& want = file.get(name);
    size_t middle = kind.find('_', 8);
    Tensor ours(DType::i64, want.shape());
    generator.randint(std::stoll(kind.substr(8)), std::stoll(kind.substr(middle + 1)),
                      {reinterpret_cast<int64_t*>(ours.data()), size_t(ours.count())});
    report.compare(name, integer_mismatches(ours, want), 0);
  } else if (kind == "sequence" && name.starts_with(prefix + "0_")) {
    check_sequence(file, prefix, seed, report);
  } else if (kind == "brownian" && parts.back() == "noises") {
    check_brownian(file, prefix, seed, report);
  }
}

}  // namespace

void check_random(const std::string& directory, GoldenReport& report) {
  GoldenFile file(directory + "/torch_rng.safetensors");
  for (auto& [name, tensor] : file.tensors()) guarded(name, report, [&] { check_case(file, name, report); });
  file.report_unused(report);
}

}  // namespace sinter::golden
