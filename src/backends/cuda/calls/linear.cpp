#include "backends/cuda/calls/linear.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "backends/cuda/calls/contest.h"
#include "backends/cuda/calls/tuning.h"
#include "backends/cuda/kernels/tile_product.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

// The library's numbers for what we use.
enum DescriptorAttribute {
  kTransposeA = 3,
  kTransposeB = 4,
  kEpilogue = 7,
  kBiasPointer = 8,
  kScalePointerA = 17,
  kScalePointerB = 18,
  kFastAccumulate = 25,
  kBiasType = 26,
  kScaleModeA = 31,
  kScaleModeB = 32
};
enum LayoutAttribute { kBatchCount = 5, kBatchStride = 6 };
enum PreferenceAttribute {
  kMaxWorkspace = 1,
  kReductions = 3,
  kAlignmentA = 5,
  kAlignmentB = 6,
  kAlignmentC = 7,
  kAlignmentD = 8
};
/// Parts of a sum may be joined in f32 (2), not in the type of the result (in place: 1, elsewhere: 4), whose digits are too few.
constexpr uint32_t kReductionsInFull = 2;
constexpr int kTransposed = 1;
constexpr int kOuterVector = 3;
/// Of the library's, and where one of them was among the best for about as many rows.
constexpr int kCandidates = 8, kFurtherCandidates = 2;
/// How far behind the best a candidate may be to be timed for about as many rows too.
constexpr double kPromising = 1.05;

/// What the heuristic and the check answer.
struct HeuristicResult {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

int library_type(DType type) {
  switch (type) {
    case DType::f32:
      return 0;
    case DType::f16:
      return 2;
    case DType::bf16:
      return 14;
    case DType::f8e4m3:
      return 28;
    case DType::f8e5m2:
      return 29;
    default:
      fail(Code::InvalidArgument, "linear: {} is no type of cuBLASLt products", name(type));
  }
}

int compute_type(LinearCompute compute) {
  switch (compute) {
    case LinearCompute::F16Accumulate:
      return 64;
    case LinearCompute::TF32:
      return 77;
    default:
      return 68;
  }
}

int epilogue_number(LinearEpilogue epilogue) {
  switch (epilogue) {
    case LinearEpilogue::None:
      return 1;
    case LinearEpilogue::Bias:
      return 4;
    case LinearEpilogue::BiasGelu:
      return 36;
  }
  return 1;
}

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

/// Owns one of the library's small objects.
class Handle {
 public:
  using Destroy = int (*)(void*);
  explicit Handle(Destroy destroy) : destroy_(destroy) {}
  ~Handle() {
    if (object_) destroy_(object_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  void** out() { return &object_; }
  void* get() const { return object_; }

 private:
  void* object_ = nullptr;
  Destroy destroy_;
};

void check(const CublasLtCalls& calls, int status, const char* attempted) {
  if (status) [[unlikely]]
    fail_cublaslt(calls, status, attempted);
}

/// The operation, without pointers.
void make_operation(const CublasLtCalls& calls, const LinearShape& s, Handle& operation) {
  bool half = s.compute == LinearCompute::F16Accumulate;
  check(calls, calls.operation_create(operation.out(), compute_type(s.compute), library_type(half ? DType::f16 : DType::f32)),
        "describing a matrix product");
  auto set = [&](int attribute, auto value) {
    check(calls, calls.operation_set(operation.get(), attribute, &value, sizeof value), "describing a matrix product");
  };
  // The library is column-major: it computes the transpose of `out`, from the weights as its A and our `a` as its B.
  set(kTransposeA, int32_t(s.weights_are_kn ? 0 : kTransposed));
  set(kTransposeB, int32_t(0));
  set(kEpilogue, uint32_t(epilogue_number(s.epilogue)));
  if (s.epilogue != LinearEpilogue::None) set(kBiasType, int32_t(library_type(s.bias())));
  if (s.is_fp8()) set(kFastAccumulate, int8_t(s.fast_accumulate));
  if (s.compute == LinearCompute::FP8Vector) {
    set(kScaleModeA, int32_t(kOuterVector));
    set(kScaleModeB, int32_t(kOuterVector));
  }
}

void set_pointers(const CublasLtCalls& calls, const LinearShape& s, const LinearBuffers& b, void* operation) {
  auto set = [&](int attribute, DevicePtr value) {
    check(calls, calls.operation_set(operation, attribute, &value, sizeof value), "giving a matrix product its addresses");
  };
  if (s.epilogue != LinearEpilogue::None) set(kBiasPointer, b.bias);
  if (s.is_fp8()) {
    set(kScalePointerA, b.weights_scale);
    set(kScalePointerB, b.a_scale);
  }
}

void make_layout(const CublasLtCalls& calls, DType type, int64_t rows, int64_t columns, int64_t stride, int64_t batch,
                 int64_t batch_stride, Handle& layout) {
  check(calls, calls.layout_create(layout.out(), library_type(type), uint64_t(rows), uint64_t(columns), stride),
        "describing a matrix");
  if (batch == 1) return;
  int32_t count = int32_t(batch);
  check(calls, calls.layout_set(layout.get(), kBatchCount, &count, sizeof count), "describing a matrix");
  check(calls, calls.layout_set(layout.get(), kBatchStride, &batch_stride, sizeof batch_stride), "describing a matrix");
}

/// Why the library cannot do it, where we know without asking.
std::string known_refusal(const LinearShape& s, const DeviceInfo& device) {
  if (s.gated) return "cuBLASLt gates nothing";
  if (s.a != s.weights) return fmt::format("cuBLASLt wants both inputs alike, not {} and {}", name(s.a), name(s.weights));
  if (s.residual && s.epilogue == LinearEpilogue::BiasGelu) return "cuBLASLt adds the residual before GELU, not after";
  if (s.is_fp8() != (s.a == DType::f8e4m3))
    return fmt::format("inputs of {} do not go with {} sums", name(s.a), name_of(s.compute));
  if (s.compute == LinearCompute::TF32 && s.a != DType::f32) return "TF32 is a way to use f32 inputs";
  if (s.compute == LinearCompute::F16Accumulate && (s.a != DType::f16 || s.out != DType::f16)) return "f16 sums need f16 tensors";
  if (!s.is_fp8()) return {};
  if (!device.has_fp8()) return fmt::format("{} has no fp8 units", device.name);
  if (s.weights_are_kn) return "fp8 products need weights as [n, k]";
  if (s.k % 16 || s.a_stride % 16 || s.weights_stride % 16 || s.n % 8)
    return fmt::format("fp8 products need k and row strides in multiples of 16 and n in multiples of 8, not k {} n {}", s.k, s.n);
  return {};
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
constexpr std::string_view kTileProducts = "2";
/// From which tile_share() on a tile product is taken untimed. Measured on an H200 against cuBLASLt's best of eight: GEGLU 1.24
/// to 1.71 times as fast at shares of 0.97, 0.67 at 0.48; with a residual 0.98 to 1.28 times at 0.97, 0.5 to 0.8 at 0.48. Without
/// either it is 0.9 to 1.1, which only timing decides.
constexpr double kGatedShare = 0.75, kResidualShare = 0.9;

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

constexpr float kOneF32 = 1, kZeroF32 = 0;
constexpr uint16_t kOneF16 = 0x3c00, kZeroF16 = 0;

}  // namespace

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

std::vector<std::string> tile_modules(DType type, bool gated, bool residual, bool timed, const DeviceInfo& device) {
  const LinearShape shape{.m = 1, .n = 8, .k = 8, .a = type, .weights = type, .out = type, .gated = gated, .residual = residual};
  if (!(gated || residual || timed) || !why_no_tile_product(shape, device).empty()) return {};
  std::vector<std::string> modules;
  for (int form = 0; form < int(tile_forms().size()); ++form)
    if (tile_forms()[size_t(form)].gated == gated) modules.push_back(tile_module(form, type));
  return modules;
}

bool tile_product_should_win(const LinearShape& shape, const DeviceInfo& device) {
  if (!why_no_tile_product(shape, device).empty()) return false;
  const LinearShape s = normalised(shape);
  const TileProductCall call = tile_call(s, {});
  const double share = tile_share(call, best_tile_form(call, device.multiprocessors), device.multiprocessors);
  return (s.gated && share >= kGatedShare) || (s.residual && share >= kResidualShare);
}

/// The operation with stand-in pointers, and the matrices as the library names them: a, b, c, d.
struct LinearPlan::Descriptors {
  const CublasLtCalls& calls;
  Handle operation, a, b, c, d;

  Descriptors(const CublasLtCalls& library, const LinearShape& s)
      : calls(library),
        operation(library.operation_destroy),
        a(library.layout_destroy),
        b(library.layout_destroy),
        c(library.layout_destroy),
        d(library.layout_destroy) {
    make_operation(calls, s, operation);
    // The heuristic looks at the pointers' alignment; these are never read.
    DevicePtr stand_in = DevicePtr(1) << 20;
    set_pointers(calls, s, {.bias = stand_in, .a_scale = stand_in, .weights_scale = stand_in}, operation.get());
    int64_t weights_rows = s.weights_are_kn ? s.n : s.k, weights_columns = s.weights_are_kn ? s.k : s.n;
    make_layout(calls, s.weights, weights_rows, weights_columns, s.weights_stride, s.batch, s.weights_batch, a);
    make_layout(calls, s.a, s.k, s.m, s.a_stride, s.batch, s.a_batch, b);
    make_layout(calls, s.out, s.n, s.m, s.residual ? s.residual_stride : s.out_stride, s.batch,
                s.residual ? s.residual_batch : s.out_batch, c);
    make_layout(calls, s.out, s.n, s.m, s.out_stride, s.batch, s.out_batch, d);
  }
};

namespace {

class BoundTileProduct : public BoundCall {
 public:
  BoundTileProduct(Kernels& kernels, TileProduct product) : kernels_(kernels), product_(std::move(product)) {}
  void launch(const Stream& stream) const override {
    KernelStream target(kernels_, stream);
    product_.launch(target);
  }

 private:
  Kernels& kernels_;
  TileProduct product_;
};

class BoundLinear : public BoundCall {
 public:
  BoundLinear(std::shared_ptr<const LinearPlan> plan, const CublasLtCalls& calls, void* handle, const LinearBuffers& buffers,
              const Workspace& workspace)
      : plan_(std::move(plan)),
        calls_(calls),
        handle_(handle),
        operation_(calls.operation_destroy),
        buffers_(buffers),
        workspace_(workspace) {
    make_operation(calls, plan_->shape(), operation_);
    set_pointers(calls, plan_->shape(), buffers, operation_.get());
  }

  void launch(const Stream& stream) const override {
    bool half = plan_->shape().compute == LinearCompute::F16Accumulate;
    bool residual = plan_->shape().residual;
    const void* one = half ? static_cast<const void*>(&kOneF16) : &kOneF32;
    const void* scale = half ? one : &buffers_.scale;
    const void* zero = half ? static_cast<const void*>(&kZeroF16) : &kZeroF32;
    DevicePtr c = residual ? buffers_.residual : buffers_.out;
    int status = calls_.matmul(handle_, operation_.get(), scale, pointer(buffers_.weights), a, pointer(buffers_.a), b,
                               residual ? one : zero, pointer(c), this->c, pointer(buffers_.out), d, algorithm,
                               pointer(workspace_.address), size_t(workspace_.bytes), stream.handle());
    if (status) [[unlikely]]
      fail_cublaslt(calls_, status, fmt::format("multiplying {}", plan_->shape().text()));
  }

  void *a = nullptr, *b = nullptr, *c = nullptr, *d = nullptr;
  const uint64_t* algorithm = nullptr;

 private:
  static void* pointer(DevicePtr address) { return reinterpret_cast<void*>(address); }
  std::shared_ptr<const LinearPlan> plan_;  // owns what the pointers above point to
  const CublasLtCalls& calls_;
  void* handle_;
  Handle operation_;
  LinearBuffers buffers_;
  Workspace workspace_;
};

}  // namespace

LinearPlan::LinearPlan(Vendor& vendor, const LinearShape& shape) : vendor_(vendor), shape_(shape) {}
LinearPlan::~LinearPlan() = default;

std::unique_ptr<BoundCall> LinearPlan::bind(const LinearBuffers& buffers, const Workspace& workspace) const {
  check_buffers(shape_, buffers);
  if (is_own()) {
    const int multiprocessors = vendor_.context().device().multiprocessors;
    return std::make_unique<BoundTileProduct>(*vendor_.kernels(),
                                              tile_product(tile_call(shape_, buffers), tile_form_, multiprocessors));
  }
  if (workspace.bytes < workspace_bytes_)
    fail(Code::InvalidArgument, "linear {}: {} bytes of workspace, {} are needed", shape_.text(), workspace.bytes,
         workspace_bytes_);
  auto call =
      std::make_unique<BoundLinear>(shared_from_this(), *vendor_.cublaslt(), vendor_.cublaslt_handle(), buffers, workspace);
  call->a = descriptors_->a.get();
  call->b = descriptors_->b.get();
  call->c = descriptors_->c.get();
  call->d = descriptors_->d.get();
  call->algorithm = algorithm_;
  return call;
}

class LinearPlanner {
 public:
  LinearPlanner(Vendor& vendor, const LinearShape& shape)
      : vendor_(vendor),
        shape_(shape),
        why_no_library_(vendor.cublaslt() ? known_refusal(shape, vendor.context().device()) : vendor.why_no_cublaslt()),
        why_no_own_(vendor.kernels() ? why_no_tile_product(shape, vendor.context().device()) : "tile products are not asked for"),
        contest_(vendor, "linear", shape.text(), family(shape), linear_facts(vendor)) {}

  Planned<LinearPlan> plan(const TuneOn<LinearBuffers>* tune) {
    if (!has_library() && !has_own()) return {nullptr, shape_.gated ? why_no_own_ : why_no_library_};
    if (auto stored = find()) {
      contest_.note_good(stored->tile_form_);
      return {stored, {}};
    }
    if (!tune && has_own() && tile_product_should_win(shape_, vendor_.context().device())) return {make_own(expected_form()), {}};
    int64_t most = tune ? std::min(tune->workspace.bytes, vendor_.limits().workspace_bytes) : vendor_.limits().workspace_bytes;
    auto start = std::chrono::steady_clock::now();
    std::vector<std::shared_ptr<LinearPlan>> plans = tune ? candidates(most) : first(most);
    if (plans.empty()) return {nullptr, fmt::format("cuBLASLt {} has no kernel for {}", calls().version_text(), shape_.text())};
    return tune ? tuned(plans, *tune, start) : Planned<LinearPlan>{plans.front(), {}};
  }

 private:
  bool has_library() const { return why_no_library_.empty(); }
  bool has_own() const { return why_no_own_.empty(); }
  const CublasLtCalls& calls() const { return *vendor_.cublaslt(); }

  /// What there is to choose from untimed.
  std::vector<std::shared_ptr<LinearPlan>> first(int64_t most_workspace) {
    std::vector<std::shared_ptr<LinearPlan>> plans;
    if (has_library())
      for (const HeuristicResult& r : heuristic(1, most_workspace))
        plans.push_back(make(r.algorithm, int64_t(r.workspace_bytes)));
    if (plans.empty() && has_own()) plans.push_back(make_own(expected_form()));
    return plans;
  }

  /// What is timed: everything, or where about as many rows were timed before, what was good then.
  std::vector<std::shared_ptr<LinearPlan>> candidates(int64_t most_workspace) {
    const std::set<int> good = contest_.good();
    std::vector<std::shared_ptr<LinearPlan>> plans;
    if (has_library() && (good.empty() || good.contains(Winner::kLibrary)))
      for (const HeuristicResult& r : heuristic(good.empty() ? kCandidates : kFurtherCandidates, most_workspace))
        plans.push_back(make(r.algorithm, int64_t(r.workspace_bytes)));
    for (int form = 0; has_own() && form < int(tile_forms().size()); ++form)
      if (tile_forms()[size_t(form)].gated == shape_.gated && (good.empty() || good.contains(form)))
        plans.push_back(make_own(form));
    return plans.empty() ? first(most_workspace) : plans;
  }

  /// Products that differ but for a few rows.
  static std::string family(LinearShape shape) {
    const long rows = std::lround(std::log2(double(shape.m)));
    shape.m = 1;
    return fmt::format("linear of about 2^{} rows, {}", rows, shape.text());
  }

  int expected_form() const { return best_tile_form(tile_call(shape_, {}), vendor_.context().device().multiprocessors); }

  std::shared_ptr<LinearPlan> make_own(int form) {
    const int multiprocessors = vendor_.context().device().multiprocessors;
    vendor_.kernels()->function(tile_product_without_maps(tile_call(shape_, {}), form, multiprocessors).kernel);
    std::shared_ptr<LinearPlan> plan(new LinearPlan(vendor_, shape_));
    plan->tile_form_ = form;
    return plan;
  }

  std::shared_ptr<LinearPlan> make(const uint64_t* algorithm, int64_t workspace_bytes) {
    std::shared_ptr<LinearPlan> plan(new LinearPlan(vendor_, shape_));
    plan->descriptors_ = std::make_unique<LinearPlan::Descriptors>(calls(), shape_);
    std::memcpy(plan->algorithm_, algorithm, sizeof plan->algorithm_);
    plan->workspace_bytes_ = workspace_bytes;
    return plan;
  }

  std::vector<HeuristicResult> heuristic(int count, int64_t most_workspace) {
    LinearPlan::Descriptors descriptors(calls(), shape_);
    Handle preference(calls().preference_destroy);
    check(calls(), calls().preference_create(preference.out()), "asking for a matrix product");
    auto set = [&](int attribute, auto value) {
      check(calls(), calls().preference_set(preference.get(), attribute, &value, sizeof value), "asking for a matrix product");
    };
    set(kMaxWorkspace, uint64_t(most_workspace));
    set(kReductions, kReductionsInFull);
    for (int attribute : {kAlignmentA, kAlignmentB, kAlignmentC, kAlignmentD}) set(attribute, uint32_t(shape_.alignment));
    std::vector<HeuristicResult> results(static_cast<size_t>(count));
    int found = 0;
    int status =
        calls().heuristic(vendor_.cublaslt_handle(), descriptors.operation.get(), descriptors.a.get(), descriptors.b.get(),
                          descriptors.c.get(), descriptors.d.get(), preference.get(), count, results.data(), &found);
    results.resize(status ? 0 : size_t(found));  // not supported: an empty list
    std::erase_if(results, [](const HeuristicResult& r) { return r.state != 0; });
    return results;
  }

  Planned<LinearPlan> tuned(const std::vector<std::shared_ptr<LinearPlan>>& plans, const TuneOn<LinearBuffers>& tune,
                            std::chrono::steady_clock::time_point start) {
    std::vector<std::unique_ptr<BoundCall>> calls;
    for (const auto& plan : plans) calls.push_back(plan->bind(tune.buffers, tune.workspace));
    std::vector<double> times = time_calls(vendor_.context(), tune.stream, calls);
    int best = best_candidate(times);
    if (best < 0) return {nullptr, fmt::format("no kernel ran for {}", shape_.text())};
    for (size_t i = 0; i < times.size(); ++i)
      if (times[i] <= times[size_t(best)] * kPromising) contest_.note_good(plans[i]->tile_form_);
    LinearPlan& plan = *plans[size_t(best)];
    plan.choice_ = {.microseconds = times[size_t(best)], .candidates = int(times.size())};
    Winner winner{.form = plan.tile_form_, .choice = plan.choice_};
    std::copy(std::begin(plan.algorithm_), std::end(plan.algorithm_), winner.algorithm.begin());
    contest_.keep(winner, start);
    return {plans[size_t(best)], {}};
  }

  std::shared_ptr<LinearPlan> find() {
    const auto winner = contest_.find();
    if (!winner) return nullptr;
    return winner->is_own() ? accepted_own(winner->form, winner->choice) : accepted(winner->algorithm.data(), winner->choice);
  }

  std::shared_ptr<LinearPlan> accepted_own(int form, const Choice& choice) {
    if (!has_own() || form >= int(tile_forms().size()) || tile_forms()[size_t(form)].gated != shape_.gated) return nullptr;
    auto plan = make_own(form);
    plan->choice_ = choice;
    return plan;
  }

  /// The library says whether it still knows the algorithm.
  std::shared_ptr<LinearPlan> accepted(const uint64_t* algorithm, const Choice& choice) {
    if (!has_library()) return nullptr;
    auto plan = make(algorithm, 0);
    const auto& d = *plan->descriptors_;
    HeuristicResult result{};
    int status = calls().check_algorithm(vendor_.cublaslt_handle(), d.operation.get(), d.a.get(), d.b.get(), d.c.get(), d.d.get(),
                                         algorithm, &result);
    if (status || result.state || int64_t(result.workspace_bytes) > vendor_.limits().workspace_bytes) return nullptr;
    plan->workspace_bytes_ = int64_t(result.workspace_bytes);
    plan->choice_ = choice;
    return plan;
  }

  Vendor& vendor_;
  LinearShape shape_;
  std::string why_no_library_, why_no_own_;
  Contest contest_;
};

Facts linear_facts(const Vendor& vendor) {
  Facts facts = vendor.key_facts("cublaslt", vendor.cublaslt() ? vendor.cublaslt()->version : 0);
  if (vendor.kernels()) facts.emplace_back("tile products", kTileProducts);
  return facts;
}

Planned<LinearPlan> plan_linear(Vendor& vendor, const LinearShape& shape, const TuneOn<LinearBuffers>* tune) {
  LinearShape s = normalised(shape);
  return LinearPlanner(vendor, s).plan(tune);
}

}  // namespace sinter::cuda
