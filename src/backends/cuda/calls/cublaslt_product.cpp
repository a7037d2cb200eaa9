#include "backends/cuda/calls/cublaslt_product.h"

#include <algorithm>

#include "base/error.h"
#include "base/spans.h"

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

/// What the heuristic and the check answer.
struct HeuristicResult {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

CublasLtAlgorithm algorithm_of(const HeuristicResult& result) {
  CublasLtAlgorithm algorithm{.workspace_bytes = int64_t(result.workspace_bytes)};
  std::copy(std::begin(result.algorithm), std::end(result.algorithm), algorithm.words.begin());
  return algorithm;
}

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

constexpr float kOneF32 = 1, kZeroF32 = 0;
constexpr uint16_t kOneF16 = 0x3c00, kZeroF16 = 0;

}  // namespace

std::string why_no_cublaslt_product(const LinearShape& s, const DeviceInfo& device) {
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

/// The operation with stand-in pointers, and the matrices as the library names them: a, b, c, d.
struct CublasLtProduct::Descriptors {
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

/// A product with its addresses.
class CublasLtProduct::Bound : public BoundCall {
 public:
  Bound(std::shared_ptr<const CublasLtProduct> product, const CublasLtAlgorithm& algorithm, const LinearBuffers& buffers,
        const Workspace& workspace)
      : product_(std::move(product)),
        algorithm_(algorithm),
        handle_(product_->vendor_.cublaslt_handle()),
        operation_(product_->calls().operation_destroy),
        buffers_(buffers),
        workspace_(workspace) {
    make_operation(product_->calls(), product_->shape_, operation_);
    set_pointers(product_->calls(), product_->shape_, buffers, operation_.get());
  }

  void launch(const Stream& stream) const override {
    const LinearShape& shape = product_->shape_;
    const Descriptors& d = *product_->descriptors_;
    const bool half = shape.compute == LinearCompute::F16Accumulate;
    const void* one = half ? static_cast<const void*>(&kOneF16) : &kOneF32;
    const void* scale = half ? one : &buffers_.scale;
    const void* zero = half ? static_cast<const void*>(&kZeroF16) : &kZeroF32;
    const DevicePtr c = shape.residual ? buffers_.residual : buffers_.out;
    const int status =
        product_->calls().matmul(handle_, operation_.get(), scale, pointer(buffers_.weights), d.a.get(), pointer(buffers_.a),
                                 d.b.get(), shape.residual ? one : zero, pointer(c), d.c.get(), pointer(buffers_.out), d.d.get(),
                                 algorithm_.words.data(), pointer(workspace_.address), size_t(workspace_.bytes), stream.handle());
    if (status) [[unlikely]]
      fail_cublaslt(product_->calls(), status, fmt::format("multiplying {}", shape.text()));
  }

 private:
  static void* pointer(DevicePtr address) { return reinterpret_cast<void*>(address); }
  std::shared_ptr<const CublasLtProduct> product_;
  CublasLtAlgorithm algorithm_;
  void* handle_;
  Handle operation_;
  LinearBuffers buffers_;
  Workspace workspace_;
};

CublasLtProduct::CublasLtProduct(Vendor& vendor, const LinearShape& shape)
    : vendor_(vendor), shape_(shape), descriptors_(std::make_unique<Descriptors>(calls(), shape)) {}
CublasLtProduct::~CublasLtProduct() = default;

const CublasLtCalls& CublasLtProduct::calls() const { return *vendor_.cublaslt(); }

std::vector<CublasLtAlgorithm> CublasLtProduct::algorithms(int count, int64_t most_workspace) const {
  vendor_.cublaslt_handle();
  const Span span("ask cuBLASLt");
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
  const Descriptors& d = *descriptors_;
  const int status = calls().heuristic(vendor_.cublaslt_handle(), d.operation.get(), d.a.get(), d.b.get(), d.c.get(), d.d.get(),
                                       preference.get(), count, results.data(), &found);
  std::vector<CublasLtAlgorithm> list;
  if (status) return list;  // not supported
  for (int i = 0; i < found; ++i)
    if (results[size_t(i)].state == 0) list.push_back(algorithm_of(results[size_t(i)]));
  return list;
}

std::optional<CublasLtAlgorithm> CublasLtProduct::accepted(const std::array<uint64_t, 8>& words) const {
  const Descriptors& d = *descriptors_;
  HeuristicResult result{};
  const int status = calls().check_algorithm(vendor_.cublaslt_handle(), d.operation.get(), d.a.get(), d.b.get(), d.c.get(),
                                             d.d.get(), words.data(), &result);
  if (status || result.state) return {};
  return CublasLtAlgorithm{words, int64_t(result.workspace_bytes)};
}

std::unique_ptr<BoundCall> CublasLtProduct::bind(const CublasLtAlgorithm& algorithm, const LinearBuffers& buffers,
                                                 const Workspace& workspace) const {
  if (workspace.bytes < algorithm.workspace_bytes)
    fail(Code::InvalidArgument, "linear {}: {} bytes of workspace, {} are needed", shape_.text(), workspace.bytes,
         algorithm.workspace_bytes);
  return std::make_unique<Bound>(shared_from_this(), algorithm, buffers, workspace);
}

}  // namespace sinter::cuda
