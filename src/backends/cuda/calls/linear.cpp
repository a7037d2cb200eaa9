#include "backends/cuda/calls/linear.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "backends/cuda/calls/contest.h"
#include "backends/cuda/calls/cublaslt_product.h"
#include "backends/cuda/calls/own_call.h"
#include "backends/cuda/calls/tuning.h"
#include "backends/cuda/kernels/split_product.h"
#include "backends/cuda/kernels/tile_product.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

/// Of the library's: its best of five are within 0.15 % of its best of eight (bench/NOTES.md), and each takes 4 ms to load. The
/// other where one of them was among the best for about as many rows.
constexpr int kCandidates = 5, kFurtherCandidates = 2;
/// How far behind the best a candidate may be to be timed for about as many rows too.
constexpr double kPromising = 1.05;

std::string_view name_of(LinearEpilogue epilogue) {
  switch (epilogue) {
    case LinearEpilogue::None:
      return "none";
    case LinearEpilogue::Bias:
      return "bias";
    case LinearEpilogue::BiasGelu:
      return "bias_gelu";
  }
  return "";
}

void need_address(DevicePtr address, int alignment, const char* what) {
  if (address == 0) fail(Code::InvalidArgument, "linear: no address for {}", what);
  if (address % uint64_t(alignment))
    fail(Code::InvalidArgument, "linear: the address of {} ends in {:#x}; the plan is for multiples of {}", what, address % 256,
         alignment);
}

void check_buffers(const LinearShape& s, const LinearBuffers& b) {
  need_address(b.a, s.alignment, "a");
  need_address(b.weights, s.alignment, "the weights");
  need_address(b.out, s.alignment, "out");
  if (s.epilogue != LinearEpilogue::None) need_address(b.bias, int(std::min<int64_t>(s.alignment, 16)), "the bias");
  if (s.residual) need_address(b.residual, s.alignment, "the residual");
  if (s.is_fp8()) {
    need_address(b.a_scale, 16, "the scales of a");
    need_address(b.weights_scale, 16, "the scales of the weights");
  }
}

/// Part of what tile products are stored under: raise it when their kernels change.
constexpr std::string_view kTileProducts = "4";
/// From which tile_share() on a tile product is taken untimed. Measured on an H200 against cuBLASLt's best of eight: GEGLU 1.24
/// to 1.71 times as fast at shares of 0.97, 0.67 at 0.48; with a residual 0.98 to 1.28 times at 0.97, 0.5 to 0.8 at 0.48. Without
/// either it is 0.9 to 1.1, which only timing decides.
constexpr double kGatedShare = 0.75, kResidualShare = 0.9;
/// From which k on a product that can be split is, untimed: 1.1 to 1.2 times as fast on an H100 from 2560 on, its weights coming
/// from memory.
constexpr int64_t kLongSums = 2048;

/// The tile product of a shape.
TileProductCall tile_call(const LinearShape& s, const LinearBuffers& b) {
  TileProductCall call{.m = s.m, .n = s.n, .k = s.k, .type = s.a};
  call.a = b.a, call.weights = b.weights, call.out = b.out;
  call.a_stride = s.a_stride, call.weights_stride = s.weights_stride, call.out_stride = s.out_stride;
  if (s.epilogue != LinearEpilogue::None) call.bias = b.bias;
  if (s.residual) call.residual = b.residual, call.residual_stride = s.residual_stride;
  call.gelu = s.epilogue == LinearEpilogue::BiasGelu, call.gated = s.gated, call.scale = b.scale;
  call.early_weights = b.early_weights;
  return call;
}

/// The split product that should be fastest, where one should be faster than the library's.
std::optional<int> expected_split(const LinearShape& s, const DeviceInfo& device) {
  const std::vector<int> forms = split_candidates(tile_call(s, {}), device);
  if (forms.empty() || s.k < kLongSums) return {};
  return kFirstSplitForm + forms.front();
}

/// The kernels of ours that may be worth their time.
std::vector<int> own_forms(const LinearShape& s, const DeviceInfo& device) {
  std::vector<int> forms;
  for (int form = 0; form < int(tile_forms().size()); ++form)
    if (tile_forms()[size_t(form)].gated == s.gated) forms.push_back(form);
  for (int form : split_candidates(tile_call(s, {}), device)) forms.push_back(kFirstSplitForm + form);
  return forms;
}

}  // namespace

std::string_view name_of(LinearCompute compute) {
  switch (compute) {
    case LinearCompute::F32:
      return "f32";
    case LinearCompute::TF32:
      return "tf32";
    case LinearCompute::F16Accumulate:
      return "f16_sums";
    case LinearCompute::FP8Tensor:
      return "fp8";
    case LinearCompute::FP8Vector:
      return "fp8_vectors";
  }
  return "";
}

DType LinearShape::bias() const { return is_fp8() && out == DType::f32 ? DType::bf16 : out; }

std::string LinearShape::text() const {
  std::string t = fmt::format("{}x{}x{} {}*{}->{} strides {} {} {}", m, n, k, name(a), name(weights), name(out), a_stride,
                              weights_stride, out_stride);
  if (weights_are_kn) t += " kn";
  if (epilogue != LinearEpilogue::None) t += fmt::format(" {}", name_of(epilogue));
  if (gated) t += " gated";
  if (residual) t += fmt::format(" residual {}", residual_stride);
  t += fmt::format(" sums {}", name_of(compute));
  if (is_fp8() && fast_accumulate) t += " fast";
  if (batch != 1) t += fmt::format(" batch {} by {} {} {} {}", batch, a_batch, weights_batch, out_batch, residual_batch);
  return t + fmt::format(" align {}", alignment);
}

LinearShape normalised(LinearShape s) {
  if (s.m < 1 || s.n < 1 || s.k < 1 || s.batch < 1)
    fail(Code::InvalidArgument, "linear: sizes must be positive, m {} n {} k {} batch {}", s.m, s.n, s.k, s.batch);
  int64_t weights_row = s.weights_are_kn ? s.n : s.k;
  if (!s.a_stride) s.a_stride = s.k;
  if (!s.weights_stride) s.weights_stride = weights_row;
  if (!s.out_stride) s.out_stride = s.n;
  if (!s.residual) s.residual_stride = s.residual_batch = 0;
  if (s.residual && !s.residual_stride) s.residual_stride = s.n;
  if (s.m > 1 && (s.a_stride < s.k || s.out_stride < s.n || (s.residual && s.residual_stride < s.n)))
    fail(Code::InvalidArgument, "linear: rows overlap, strides {} {} {} for k {} n {}", s.a_stride, s.out_stride,
         s.residual_stride, s.k, s.n);
  if (s.weights_stride < weights_row)
    fail(Code::InvalidArgument, "linear: rows of the weights overlap, stride {} for {}", s.weights_stride, weights_row);
  if (s.batch == 1) s.a_batch = s.weights_batch = s.out_batch = s.residual_batch = 0;
  // One matrix of rows may have any stride; the library wants one that is at least a row.
  if (s.m == 1 && s.batch == 1) s.a_stride = std::max(s.a_stride, s.k), s.out_stride = std::max(s.out_stride, s.n);
  bool rows_go_on = s.a_batch == s.m * s.a_stride && s.out_batch == s.m * s.out_stride &&
                    (!s.residual || s.residual_batch == s.m * s.residual_stride);
  if (s.batch > 1 && s.weights_batch == 0 && rows_go_on) {
    s.m *= s.batch;
    s.batch = 1;
    s.a_batch = s.out_batch = s.residual_batch = 0;
  }
  return s;
}

std::string why_no_tile_product(const LinearShape& shape, const DeviceInfo& device) {
  const LinearShape s = normalised(shape);
  if (s.a != s.weights || s.a != s.out || s.compute != LinearCompute::F32 || s.weights_are_kn || s.batch != 1)
    return fmt::format("there is no tile product for {}", s.text());
  if (s.alignment % 16 != 0) return "tile products need addresses at multiples of 16 bytes";
  return why_no_tile_product(tile_call(s, {}), device);
}

std::vector<std::string> tile_kernels(DType type, bool gated, bool residual, bool timed, const DeviceInfo& device) {
  const LinearShape shape{.m = 1, .n = 8, .k = 8, .a = type, .weights = type, .out = type, .gated = gated, .residual = residual};
  if (!(gated || residual || timed) || !why_no_tile_product(shape, device).empty()) return {};
  std::vector<std::string> kernels;
  for (int form = 0; form < int(tile_forms().size()); ++form)
    if (tile_forms()[size_t(form)].gated == gated) kernels.push_back(tile_kernel(form, type));
  return kernels;
}

bool tile_product_should_win(const LinearShape& shape, const DeviceInfo& device) {
  if (!why_no_tile_product(shape, device).empty()) return false;
  const LinearShape s = normalised(shape);
  if (expected_split(s, device)) return true;
  const TileProductCall call = tile_call(s, {});
  const double share = tile_share(call, best_tile_form(call, device.multiprocessors), device.multiprocessors);
  return (s.gated && share >= kGatedShare) || (s.residual && share >= kResidualShare);
}

LinearPlan::LinearPlan(Vendor& vendor, const LinearShape& shape) : vendor_(vendor), shape_(shape) {}

std::unique_ptr<BoundCall> LinearPlan::bind(const LinearBuffers& buffers, const Workspace& workspace) const {
  check_buffers(shape_, buffers);
  if (is_own()) {
    Kernels& kernels = *vendor_.kernels();
    const TileProductCall call = tile_call(shape_, buffers);
    if (is_split(tile_form_))
      return std::make_unique<OwnCall<SplitProduct>>(kernels, split_product(call, tile_form_ - kFirstSplitForm));
    const int multiprocessors = vendor_.context().device().multiprocessors;
    return std::make_unique<OwnCall<TileProduct>>(kernels, tile_product(call, tile_form_, multiprocessors));
  }
  return library_->bind({algorithm_, workspace_bytes_}, buffers, workspace);
}

class LinearPlanner {
 public:
  LinearPlanner(Vendor& vendor, const LinearShape& shape)
      : vendor_(vendor),
        shape_(shape),
        why_no_library_(vendor.cublaslt() ? why_no_cublaslt_product(shape, vendor.context().device()) : vendor.why_no_cublaslt()),
        why_no_own_(vendor.kernels() ? why_no_tile_product(shape, vendor.context().device()) : "tile products are not asked for"),
        contest_(vendor, "linear", shape.text(), linear_facts(vendor), family(shape)) {}

  Planned<LinearPlan> plan(const TuneOn<LinearBuffers>* tune) {
    if (!has_library() && !has_own()) return {nullptr, shape_.gated ? why_no_own_ : why_no_library_};
    if (auto stored = find()) {
      contest_.note_good(stored->tile_form_);
      return {stored, {}};
    }
    if (!tune && has_own() && tile_product_should_win(shape_, device())) return {make_own(expected_form()), {}};
    int64_t most = tune ? std::min(tune->workspace.bytes, vendor_.limits().workspace_bytes) : vendor_.limits().workspace_bytes;
    auto start = std::chrono::steady_clock::now();
    std::vector<std::shared_ptr<LinearPlan>> plans = tune ? candidates(most) : first(most);
    if (plans.empty())
      return {nullptr, fmt::format("cuBLASLt {} has no kernel for {}", vendor_.cublaslt()->version_text(), shape_.text())};
    return tune ? tuned(plans, *tune, start) : Planned<LinearPlan>{plans.front(), {}};
  }

 private:
  bool has_library() const { return why_no_library_.empty(); }
  bool has_own() const { return why_no_own_.empty(); }

  /// What there is to choose from untimed.
  std::vector<std::shared_ptr<LinearPlan>> first(int64_t most_workspace) {
    std::vector<std::shared_ptr<LinearPlan>> plans;
    if (has_library())
      for (const CublasLtAlgorithm& a : library().algorithms(1, most_workspace)) plans.push_back(make(a));
    if (plans.empty() && has_own()) plans.push_back(make_own(expected_form()));
    return plans;
  }

  /// What is timed: everything, or where about as many rows were timed before, what was good then.
  std::vector<std::shared_ptr<LinearPlan>> candidates(int64_t most_workspace) {
    const std::set<int> good = contest_.good();
    std::vector<std::shared_ptr<LinearPlan>> plans;
    if (has_library() && (good.empty() || good.contains(Winner::kLibrary)))
      for (const CublasLtAlgorithm& a : library().algorithms(good.empty() ? kCandidates : kFurtherCandidates, most_workspace))
        plans.push_back(make(a));
    if (has_own())
      for (int form : own_forms(shape_, device()))
        if (good.empty() || good.contains(form)) plans.push_back(make_own(form));
    return plans.empty() ? first(most_workspace) : plans;
  }

  /// Products that differ but for a few rows.
  static std::string family(LinearShape shape) {
    const long rows = std::lround(std::log2(double(shape.m)));
    shape.m = 1;
    return fmt::format("linear of about 2^{} rows, {}", rows, shape.text());
  }

  const DeviceInfo& device() const { return vendor_.context().device(); }
  int expected_form() const {
    return expected_split(shape_, device()).value_or(best_tile_form(tile_call(shape_, {}), device().multiprocessors));
  }

  std::shared_ptr<LinearPlan> make_own(int form) {
    const TileProductCall call = tile_call(shape_, {});
    vendor_.kernels()->function(is_split(form) ? split_product_without_maps(call, form - kFirstSplitForm).kernel
                                               : tile_product_without_maps(call, form, device().multiprocessors).kernel);
    std::shared_ptr<LinearPlan> plan(new LinearPlan(vendor_, shape_));
    plan->tile_form_ = form;
    return plan;
  }

  const CublasLtProduct& library() {
    if (!library_) library_ = std::make_shared<CublasLtProduct>(vendor_, shape_);
    return *library_;
  }
  std::shared_ptr<LinearPlan> make(const CublasLtAlgorithm& algorithm) {
    std::shared_ptr<LinearPlan> plan(new LinearPlan(vendor_, shape_));
    plan->library_ = library_;
    plan->algorithm_ = algorithm.words;
    plan->workspace_bytes_ = algorithm.workspace_bytes;
    return plan;
  }

  Planned<LinearPlan> tuned(const std::vector<std::shared_ptr<LinearPlan>>& plans, const TuneOn<LinearBuffers>& tune,
                            std::chrono::steady_clock::time_point start) {
    std::vector<std::unique_ptr<BoundCall>> calls;
    for (const auto& plan : plans) calls.push_back(plan->bind(tune.buffers, tune.workspace));
    std::vector<double> times = time_calls(vendor_.context(), tune.stream, calls);
    note_times("linear " + shape_.text(), times);
    int best = best_candidate(times);
    if (best < 0) return {nullptr, fmt::format("no kernel ran for {}", shape_.text())};
    for (size_t i = 0; i < times.size(); ++i)
      if (times[i] <= times[size_t(best)] * kPromising) contest_.note_good(plans[i]->tile_form_);
    LinearPlan& plan = *plans[size_t(best)];
    plan.choice_ = {.microseconds = times[size_t(best)], .candidates = int(times.size())};
    contest_.keep({.form = plan.tile_form_, .choice = plan.choice_, .algorithm = plan.algorithm_}, start);
    return {plans[size_t(best)], {}};
  }

  std::shared_ptr<LinearPlan> find() {
    const auto winner = contest_.find();
    if (!winner) return nullptr;
    return winner->is_own() ? accepted_own(winner->form, winner->choice) : accepted(winner->algorithm, winner->choice);
  }

  std::shared_ptr<LinearPlan> accepted_own(int form, const Choice& choice) {
    const std::vector<int> forms = own_forms(shape_, device());
    if (!has_own() || std::find(forms.begin(), forms.end(), form) == forms.end()) return nullptr;
    auto plan = make_own(form);
    plan->choice_ = choice;
    return plan;
  }

  /// The library says whether it still knows the algorithm.
  std::shared_ptr<LinearPlan> accepted(const std::array<uint64_t, 8>& words, const Choice& choice) {
    if (!has_library()) return nullptr;
    const auto algorithm = library().accepted(words);
    if (!algorithm || algorithm->workspace_bytes > vendor_.limits().workspace_bytes) return nullptr;
    auto plan = make(*algorithm);
    plan->choice_ = choice;
    return plan;
  }

  Vendor& vendor_;
  LinearShape shape_;
  std::string why_no_library_, why_no_own_;
  Contest contest_;
  std::shared_ptr<const CublasLtProduct> library_;  // once it is needed
};

Facts linear_facts(const Vendor& vendor) {
  Facts facts = vendor.key_facts("cublaslt", vendor.cublaslt() ? vendor.cublaslt()->version : 0);
  if (vendor.kernels()) facts.emplace_back("tile products", kTileProducts);
  return facts;
}

void begin_products(Vendor& vendor) {
  if (!vendor.cublaslt()) return;
  const LinearShape shape = normalised({.m = 64, .n = 64, .k = 64});
  try {
    std::make_shared<CublasLtProduct>(vendor, shape)->algorithms(1, vendor.limits().workspace_bytes);
  } catch (const Error&) {  // whoever plans a product is told
  }
}

Planned<LinearPlan> plan_linear(Vendor& vendor, const LinearShape& shape, const TuneOn<LinearBuffers>* tune) {
  LinearShape s = normalised(shape);
  return LinearPlanner(vendor, s).plan(tune);
}

}  // namespace sinter::cuda
