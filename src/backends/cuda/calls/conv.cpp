#include "backends/cuda/calls/conv.h"

#include "base/error.h"

namespace sinter::cuda {
namespace {

/// Ids of the tensors in memory; they are part of stored plans.
enum Id : int64_t { kIn = 1, kWeights = 2, kOut = 3, kBias = 4, kResidual = 5 };

/// Sizes in the library's order (n, c, spatial axes) with strides of channels-last memory.
CudnnTensor channels_last(Id id, int64_t n, int64_t c, const std::vector<int64_t>& space, DType type) {
  CudnnTensor t{.id = id, .sizes = {n, c}, .strides = {0, 1}, .type = cudnn_type(type)};
  t.sizes.insert(t.sizes.end(), space.begin(), space.end());
  t.strides.resize(t.sizes.size());
  int64_t stride = c;
  for (size_t i = t.sizes.size(); i-- > 2;) {
    t.strides[i] = stride;
    stride *= t.sizes[i];
  }
  t.strides[0] = stride;
  return t;
}

std::vector<int64_t> along(const ConvShape& s, auto what) {
  std::vector<int64_t> values;
  for (const auto& axis : s.axes) values.push_back(what(axis));
  return values;
}

void build(const ConvShape& s, CudnnGraph& g) {
  auto in = along(s, [](const ConvAxis& a) { return a.in; });
  auto kernel = along(s, [](const ConvAxis& a) { return a.kernel; });
  auto size = along(s, [&](const ConvAxis& a) { return s.out_size(a); });
  CudnnTensor result = channels_last(kOut, s.n, s.out_c, size, s.type);
  int x = g.tensor(channels_last(kIn, s.n, s.c, in, s.type));
  int w = g.tensor(s.doubles ? channels_last(kWeights, s.c, s.out_c, kernel, s.type)
                             : channels_last(kWeights, s.out_c, s.c, kernel, s.type));

  // Every step but the last writes an intermediate.
  int steps = 1 + s.bias + s.residual + s.silu;
  auto next = [&] { return --steps == 0 ? g.tensor(result) : g.intermediate(result.sizes, CudnnType::F32, result.strides); };
  int y = next();
  const CudnnGraph::Window window{.strides = along(s, [](const ConvAxis& a) { return a.stride; }),
                                  .dilations = along(s, [](const ConvAxis& a) { return a.dilation; }),
                                  .pad_before = along(s, [](const ConvAxis& a) { return a.pad_before; }),
                                  .pad_after = along(s, [](const ConvAxis& a) { return a.pad_after; })};
  s.doubles ? g.convolution_back(window, x, w, y) : g.convolution(window, x, w, y);
  auto add = [&](const CudnnTensor& tensor) {
    int more = g.tensor(tensor), out = next();
    g.pointwise(Pointwise::Add, y, more, out);
    y = out;
  };
  if (s.bias) add(channels_last(kBias, 1, s.out_c, std::vector<int64_t>(s.axes.size(), 1), s.type));
  if (s.residual) add(channels_last(kResidual, s.n, s.out_c, size, s.type));
  if (s.silu) g.unary(Pointwise::Swish, y, next());
}

void check_shape(const ConvShape& s) {
  if (s.axes.size() != 2 && s.axes.size() != 3)
    fail(Code::InvalidArgument, "convolution: {} spatial axes, 2 or 3 are possible", s.axes.size());
  if (s.n < 1 || s.c < 1 || s.out_c < 1)
    fail(Code::InvalidArgument, "convolution: sizes must be positive, n {} c {} out_c {}", s.n, s.c, s.out_c);
  if (s.doubles) {
    for (const auto& a : s.axes)
      if (a.in < 1 || a.kernel != 4 || a.stride != 2 || a.pad_before != 1 || a.pad_after != 1 || a.dilation != 1)
        fail(Code::InvalidArgument, "convolution: a result of twice the size is that of windows of 4 by 2, padded by 1");
    return;
  }
  for (const auto& a : s.axes)
    if (a.kernel < 1 || a.stride < 1 || a.dilation < 1 || a.pad_before < 0 || a.pad_after < 0 || a.out() < 1 ||
        a.in + a.pad_before + a.pad_after < a.dilation * (a.kernel - 1) + 1)
      fail(Code::InvalidArgument, "convolution: a window of {} does not fit into {} padded by {} and {}", a.kernel, a.in,
           a.pad_before, a.pad_after);
}

std::string family_of(ConvShape s) {
  s.n = 1;
  for (ConvAxis& axis : s.axes) axis.in = 0;
  return s.text();
}

CudnnRequest request_for(const ConvShape& s) {
  return {.kind = "conv",
          .shape = s.text(),
          .family = family_of(s),
          .numerics = {.f32_inputs = s.type == DType::f32, .allow_tf32 = s.allow_tf32},
          .candidates = 8,
          .build = [s](CudnnGraph& graph) { build(s, graph); }};
}

std::vector<CudnnArgument> arguments_of(const ConvShape& s, const ConvBuffers& b) {
  std::vector<CudnnArgument> list;
  auto add = [&](Id id, DevicePtr address, const char* what) {
    if (address == 0) fail(Code::InvalidArgument, "convolution: no address for {}", what);
    if (address % 16) fail(Code::InvalidArgument, "convolution: {} is not aligned to 16 bytes", what);
    list.push_back({id, reinterpret_cast<void*>(address)});
  };
  add(kIn, b.in, "in");
  add(kWeights, b.weights, "the weights");
  add(kOut, b.out, "out");
  if (s.bias) add(kBias, b.bias, "the bias");
  if (s.residual) add(kResidual, b.residual, "the residual");
  return list;
}

}  // namespace

int64_t ConvShape::out_pixels() const {
  int64_t pixels = n;
  for (const auto& a : axes) pixels *= out_size(a);
  return pixels;
}

double ConvShape::flops() const {
  double window = 1;
  for (const auto& a : axes) window *= double(a.kernel) / (doubles ? 2 : 1);  // half of the taps meet each pixel
  return 2.0 * double(out_pixels()) * double(out_c) * double(c) * window;
}

std::string ConvShape::text() const {
  std::string t = fmt::format("{}x{}->{} {}", n, c, out_c, name(type));
  for (const auto& a : axes) {
    t += fmt::format(" {}/{} by {}", a.in, a.kernel, a.stride);
    if (a.pad_before || a.pad_after) t += fmt::format(" pad {}+{}", a.pad_before, a.pad_after);
    if (a.dilation != 1) t += fmt::format(" dilation {}", a.dilation);
  }
  if (doubles) t += " doubles";
  if (bias) t += " bias";
  if (residual) t += " residual";
  if (silu) t += " silu";
  if (allow_tf32) t += " tf32";
  return t;
}

std::unique_ptr<BoundCall> ConvPlan::bind(const ConvBuffers& buffers, const Workspace& workspace) const {
  return plan_->bind(arguments_of(shape_, buffers), {}, workspace);
}

Planned<ConvPlan> plan_conv(Vendor& vendor, const ConvShape& s, const TuneOn<ConvBuffers>* tune) {
  check_shape(s);
  CudnnRequest request = request_for(s);
  std::optional<CudnnTuning> tuning;
  if (tune) {
    request.arguments = arguments_of(s, tune->buffers);
    tuning.emplace(tune->stream, tune->workspace, tune->candidates);
  }
  auto planned = plan_cudnn(vendor, request, tuning ? &*tuning : nullptr);
  if (!planned) return {nullptr, planned.why_none};
  return {std::make_shared<ConvPlan>(s, planned.plan), {}};
}

Prepared prepare_conv(Vendor& vendor, const ConvShape& s) {
  check_shape(s);
  return prepare_cudnn(vendor, request_for(s));
}

bool residual_should_be_fused(const ConvShape& s) {
  constexpr double kLargeResult = double(int64_t(64) << 20), kMostFlopsPerByte = 2400;  // 3 x 3 over 256 channels have 2304
  const double bytes = double(s.out_pixels()) * double(s.out_c * byte_size(s.type));
  return byte_size(s.type) == 2 && bytes >= kLargeResult && s.flops() <= kMostFlopsPerByte * bytes;
}

std::string why_no_conv(const CudnnCalls& calls, const ConvShape& s, int capability) {
  check_shape(s);
  return why_unsupported(calls, request_for(s), DescribedDevice::of(capability));
}

}  // namespace sinter::cuda
