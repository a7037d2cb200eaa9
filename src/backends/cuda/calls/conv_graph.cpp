#include "backends/cuda/calls/conv_graph.h"

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

}  // namespace

std::string conv_family(ConvShape s) {
  s.n = 1;
  for (ConvAxis& axis : s.axes) axis.in = 0;
  return s.text();
}

CudnnRequest conv_request(const ConvShape& s) {
  return {.kind = "conv",
          .shape = s.text(),
          .family = conv_family(s),
          .numerics = {.f32_inputs = s.type == DType::f32, .allow_tf32 = s.allow_tf32},
          .candidates = s.residual || s.silu ? 3 : 8,  // those it compiles 0.3 to 0.8 s long
          .build = [s](CudnnGraph& graph) { build(s, graph); }};
}

std::vector<CudnnArgument> conv_arguments(const ConvShape& s, const ConvBuffers& b) {
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

}  // namespace sinter::cuda
