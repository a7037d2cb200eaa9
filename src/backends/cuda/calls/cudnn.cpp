#include "backends/cuda/calls/cudnn.h"

#include "backends/cuda/calls/cudnn_numbers.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

std::vector<int64_t> dense_strides(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size() - 1; i-- > 0;) strides[i] = strides[i + 1] * sizes[i + 1];
  return strides;
}

}  // namespace

CudnnType cudnn_type(DType type) {
  switch (type) {
    case DType::f32:
      return CudnnType::F32;
    case DType::f16:
      return CudnnType::F16;
    case DType::bf16:
      return CudnnType::BF16;
    case DType::f8e4m3:
      return CudnnType::F8E4M3;
    case DType::f8e5m2:
      return CudnnType::F8E5M2;
    default:
      fail(Code::InvalidArgument, "{} is no type of cuDNN's tensors", name(type));
  }
}

CudnnObject::CudnnObject(const CudnnCalls& calls, int kind) : calls_(&calls) {
  if (int status = calls.descriptor_create(kind, &handle_)) fail_cudnn(calls, status, "making a cuDNN descriptor");
}
CudnnObject::~CudnnObject() {
  if (handle_) calls_->descriptor_destroy(handle_);
}
void CudnnObject::set_number(int attribute, int type, const void* value, int64_t count) {
  if (int status = calls_->set(handle_, attribute, type, count, value))
    fail_cudnn(*calls_, status, fmt::format("setting attribute {} of a cuDNN descriptor", attribute));
}
void CudnnObject::set(int attribute, int type, std::span<const int64_t> values) {
  set_number(attribute, type, values.data(), int64_t(values.size()));
}
void CudnnObject::set_int64(int attribute, int64_t value) { set_number(attribute, type::kInt64, &value); }
void CudnnObject::set_object(int attribute, const CudnnObject& object) {
  void* handle = object.handle();
  set_number(attribute, type::kDescriptor, &handle);
}
void CudnnObject::set_objects(int attribute, const std::vector<CudnnObject>& objects) {
  std::vector<void*> handles;
  for (const auto& o : objects) handles.push_back(o.handle());
  set_number(attribute, type::kDescriptor, handles.data(), int64_t(handles.size()));
}
void CudnnObject::set_text(int attribute, std::string_view text) {
  set_number(attribute, type::kChar, text.data(), int64_t(text.size()));
}
int64_t CudnnObject::int64(int attribute) const {
  int64_t value = 0, count = 0;
  if (int status = calls_->get(handle_, attribute, type::kInt64, 1, &count, &value))
    fail_cudnn(*calls_, status, fmt::format("reading attribute {} of a cuDNN descriptor", attribute));
  return value;
}
std::string CudnnObject::text(int attribute) const {
  int64_t size = 0;
  int status = calls_->get(handle_, attribute, type::kChar, 0, &size, nullptr);
  std::string text(size_t(status ? 0 : size), 0);
  if (!status) status = calls_->get(handle_, attribute, type::kChar, size, &size, text.data());
  if (status) fail_cudnn(*calls_, status, fmt::format("reading attribute {} of a cuDNN descriptor", attribute));
  return text;
}
std::string CudnnObject::try_finalize() {
  int status = calls_->finalize(handle_);
  if (!status) return {};
  char reason[2048] = "";
  calls_->last_error(reason, sizeof reason);
  return fmt::format("{}{}{}", calls_->status_text(status), *reason ? ": " : "", reason);
}
void CudnnObject::finalize(const char* what) {
  if (int status = calls_->finalize(handle_)) fail_cudnn(*calls_, status, what);
}

int CudnnGraph::tensor(const CudnnTensor& t) {
  CudnnObject object(calls_, kind::kTensor);
  object.set_number(attribute::kTensorType, type::kDataType, &t.type);
  object.set(attribute::kTensorSizes, type::kInt64, t.sizes);
  object.set(attribute::kTensorStrides, type::kInt64, t.strides);
  object.set_int64(attribute::kTensorId, t.id);
  object.set_int64(attribute::kTensorAlignment, kAlignment);
  if (t.is_virtual) object.set_number(attribute::kTensorVirtual, type::kBoolean, &t.is_virtual);
  if (t.by_value) object.set_number(attribute::kTensorByValue, type::kBoolean, &t.by_value);
  object.finalize("describing a tensor to cuDNN");
  tensors_.push_back(t);
  objects_.push_back(std::move(object));
  return int(tensors_.size()) - 1;
}

int CudnnGraph::number(int64_t id) {
  return tensor({.id = id, .sizes = {1, 1, 1, 1}, .strides = {1, 1, 1, 1}, .by_value = true});
}

int CudnnGraph::intermediate(std::vector<int64_t> sizes, CudnnType type, std::vector<int64_t> strides) {
  if (strides.empty()) strides = dense_strides(sizes);
  return tensor({.id = next_id_++, .sizes = std::move(sizes), .strides = std::move(strides), .type = type, .is_virtual = true});
}

CudnnObject CudnnGraph::operation(int kind) { return CudnnObject(calls_, kind); }

void CudnnGraph::connect(CudnnObject& operation, int attribute, int tensor) {
  operation.set_object(attribute, objects_[size_t(tensor)]);
}

void CudnnGraph::matmul(int a, int b, int out) {
  CudnnType compute = CudnnType::F32;
  CudnnObject& description = parts_.emplace_back(calls_, kind::kMatmul);
  description.set_number(attribute::kMatmulCompute, type::kDataType, &compute);
  description.finalize("describing a product to cuDNN");
  CudnnObject o = operation(kind::kMatmulOperation);
  o.set_object(attribute::kMatmulDescription, description);
  connect(o, attribute::kMatmulA, a);
  connect(o, attribute::kMatmulB, b);
  connect(o, attribute::kMatmulC, out);
  o.finalize("describing a product to cuDNN");
  operations_.push_back(std::move(o));
}

namespace {

CudnnObject pointwise_description(const CudnnCalls& calls, Pointwise mode, CudnnType precision,
                                  std::optional<int64_t> axis = {}) {
  CudnnObject description(calls, kind::kPointwise);
  description.set_number(attribute::kPointwiseMode, type::kPointwiseMode, &mode);
  description.set_number(attribute::kPointwisePrecision, type::kDataType, &precision);
  double beta = 1;
  if (mode == Pointwise::Swish) description.set_number(attribute::kSwishBeta, type::kDouble, &beta);
  if (axis) description.set_int64(attribute::kAxis, *axis);
  description.finalize("describing a pointwise operation to cuDNN");
  return description;
}

}  // namespace

void CudnnGraph::pointwise(Pointwise mode, int x, int b, int out) {
  CudnnObject& description = parts_.emplace_back(pointwise_description(calls_, mode, CudnnType::F32));
  CudnnObject o = operation(kind::kPointwiseOperation);
  o.set_object(attribute::kOperationPointwise, description);
  connect(o, attribute::kPointwiseX, x);
  if (b >= 0) connect(o, attribute::kPointwiseB, b);
  connect(o, attribute::kPointwiseY, out);
  o.finalize("describing a pointwise operation to cuDNN");
  operations_.push_back(std::move(o));
}

void CudnnGraph::index(int axis, int shape_of, int out) {
  CudnnObject& description = parts_.emplace_back(pointwise_description(calls_, Pointwise::GenerateIndex, CudnnType::I32, axis));
  CudnnObject o = operation(kind::kPointwiseOperation);
  o.set_object(attribute::kOperationPointwise, description);
  connect(o, attribute::kPointwiseX, shape_of);
  connect(o, attribute::kPointwiseY, out);
  o.finalize("describing positions to cuDNN");
  operations_.push_back(std::move(o));
}

void CudnnGraph::select(int mask, int if_true, int if_false, int out) {
  CudnnObject& description = parts_.emplace_back(pointwise_description(calls_, Pointwise::Select, CudnnType::F32));
  CudnnObject o = operation(kind::kPointwiseOperation);
  o.set_object(attribute::kOperationPointwise, description);
  connect(o, attribute::kPointwiseX, if_true);
  connect(o, attribute::kPointwiseB, if_false);
  connect(o, attribute::kPointwiseT, mask);
  connect(o, attribute::kPointwiseY, out);
  o.finalize("describing a choice to cuDNN");
  operations_.push_back(std::move(o));
}

void CudnnGraph::reduce(Reduction operation_kind, int x, int out) {
  CudnnType compute = CudnnType::F32;
  CudnnObject& description = parts_.emplace_back(calls_, kind::kReduction);
  description.set_number(attribute::kReductionOperator, type::kReductionOperator, &operation_kind);
  description.set_number(attribute::kReductionCompute, type::kDataType, &compute);
  description.finalize("describing a reduction to cuDNN");
  CudnnObject o = operation(kind::kReductionOperation);
  o.set_object(attribute::kReductionDescription, description);
  connect(o, attribute::kReductionX, x);
  connect(o, attribute::kReductionY, out);
  o.finalize("describing a reduction to cuDNN");
  operations_.push_back(std::move(o));
}

const CudnnObject& CudnnGraph::describe(const Window& w) {
  CudnnType compute = CudnnType::F32;
  int mode = kCrossCorrelation;
  CudnnObject& description = parts_.emplace_back(calls_, kind::kConvolution);
  description.set_number(attribute::kConvolutionCompute, type::kDataType, &compute);
  description.set_number(attribute::kConvolutionMode, type::kConvolutionMode, &mode);
  description.set_int64(attribute::kSpatialDims, int64_t(w.strides.size()));
  description.set(attribute::kFilterStrides, type::kInt64, w.strides);
  description.set(attribute::kDilations, type::kInt64, w.dilations);
  description.set(attribute::kPrePaddings, type::kInt64, w.pad_before);
  description.set(attribute::kPostPaddings, type::kInt64, w.pad_after);
  description.finalize("describing a convolution to cuDNN");
  return description;
}

void CudnnGraph::add_convolution(const Window& w, int x, int weights, int out, const ConvolutionNumbers& numbers) {
  const CudnnObject& description = describe(w);
  CudnnObject o = operation(numbers.kind);
  float alpha = 1, beta = 0;
  o.set_number(numbers.alpha, type::kFloat, &alpha);
  o.set_number(numbers.beta, type::kFloat, &beta);
  o.set_object(numbers.description, description);
  connect(o, numbers.x, x);
  connect(o, numbers.weights, weights);
  connect(o, numbers.out, out);
  o.finalize("describing a convolution to cuDNN");
  operations_.push_back(std::move(o));
}

void CudnnGraph::convolution_back(const Window& w, int x, int weights, int out) {
  add_convolution(w, x, weights, out,
                  {kind::kConvolutionBackward, attribute::kBackwardAlpha, attribute::kBackwardBeta,
                   attribute::kBackwardConvolution, attribute::kBackwardIn, attribute::kBackwardW, attribute::kBackwardOut});
}

void CudnnGraph::convolution(const Window& w, int x, int weights, int out) {
  add_convolution(w, x, weights, out,
                  {kind::kConvolutionForward, attribute::kForwardAlpha, attribute::kForwardBeta, attribute::kForwardConvolution,
                   attribute::kForwardX, attribute::kForwardW, attribute::kForwardY});
}

CudnnObject CudnnGraph::finish(void* handle) {
  CudnnObject graph(calls_, kind::kOperationGraph);
  if (handle) graph.set_number(attribute::kGraphHandle, type::kHandle, &handle);
  graph.set_objects(attribute::kGraphOperations, operations_);
  graph.finalize("describing a graph to cuDNN");
  return graph;
}

DescribedDevice DescribedDevice::of(int capability) {
  bool data_centre = capability == 80 || capability == 90 || capability == 100;
  int shared = capability == 80 ? 166912 : data_centre ? 232448 : 101376;
  int blocks = capability == 86 ? 16 : data_centre ? 32 : 24;
  return {fmt::format(
      R"({{"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"regsPerBlock":65536,"multiProcessorCount":{},)"
      R"("warpSize":32,"maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":{},"reservedSharedMemoryPerBlock":1024,)"
      R"("maxRegistersPerSM":65536,"maxCtasPerSM":{},"maxThreadsPerBlock":1024,"maxThreadsPerSM":{},"pciDeviceId":6,)"
      R"("isTccDriver":0,"supportCoopLaunch":1,"totalGlobalMem":25769803776,"smClockRateKHz":1980000,"memClockRateKHz":2619000,)"
      R"("l2CacheSize":41943040,"cudaDeviceId":0,"deviceVer":{},"driverVer":13000,"deviceName":"sm_{}"}})",
      data_centre ? 108 : 84, shared, blocks, data_centre ? 2048 : 1536, capability * 10, capability)};
}

}  // namespace sinter::cuda
