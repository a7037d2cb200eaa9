#pragma once
// oneDNN as the peer of benchmarks: alone, in the layouts that it likes best, with weights reordered before. Nothing but
// benchmarks uses it, and only where it was found (SINTER_HAVE_ONEDNN).
#ifdef SINTER_HAVE_ONEDNN
#include <dnnl.hpp>
#include <unordered_map>
#include <vector>

#include "backends/cpu/calls/conv.h"
#include "bench_tools.h"

extern "C" void omp_set_num_threads(int);

namespace sinter {

inline const dnnl::engine& engine() {
  static dnnl::engine e(dnnl::engine::kind::cpu, 0);
  return e;
}

inline dnnl::memory::dims plain_strides(const dnnl::memory::dims& dims) {
  dnnl::memory::dims out(dims.size(), 1);
  for (size_t i = dims.size() - 1; i > 0; --i) out[i - 1] = out[i] * dims[i];
  return out;
}

/// Runs a primitive whose tensors have the layouts it asked for, filled with small numbers.
inline double onednn_time(const dnnl::primitive& primitive, std::vector<std::pair<int, dnnl::memory::desc>> arguments,
                          double budget) {
  std::vector<std::unique_ptr<Memory>> memory;
  std::unordered_map<int, dnnl::memory> bound;
  for (auto& [argument, desc] : arguments) {
    memory.push_back(std::make_unique<Memory>(int64_t(desc.get_size())));
    bool half = desc.data_type() == dnnl::memory::data_type::bf16;
    if (half)
      std::fill_n(memory.back()->as<uint16_t>(), memory.back()->bytes() / 2, uint16_t(0x3c00));
    else
      std::fill_n(memory.back()->as(), memory.back()->bytes() / 4, 0.01f);
    bound.emplace(argument, dnnl::memory(desc, engine(), memory.back()->as<char>()));
  }
  dnnl::stream stream(engine());
  return best_time(
      [&] {
        primitive.execute(stream, bound);
        stream.wait();
      },
      budget);
}

inline double onednn_linear(int64_t m, int64_t n, int64_t k, dnnl::memory::data_type type, double budget = 0.4) {
  using D = dnnl::memory::desc;
  dnnl::memory::dims a{m, k}, b{k, n}, c{m, n};
  D any_b(b, type, dnnl::memory::format_tag::any);
  D plain_a(a, type, plain_strides(a)), plain_c(c, dnnl::memory::data_type::f32, plain_strides(c));
  dnnl::matmul::primitive_desc pd(dnnl::matmul::desc(plain_a, any_b, plain_c), engine());
  // The inner product primitive sometimes has a better kernel for the same work.
  dnnl::memory::dims w{n, k};
  dnnl::inner_product_forward::primitive_desc ip(
      dnnl::inner_product_forward::desc(dnnl::prop_kind::forward_inference, plain_a, D(w, type, dnnl::memory::format_tag::any),
                                        plain_c),
      engine());
  double first =
      onednn_time(dnnl::matmul(pd),
                  {{DNNL_ARG_SRC, pd.src_desc()}, {DNNL_ARG_WEIGHTS, pd.weights_desc()}, {DNNL_ARG_DST, pd.dst_desc()}}, budget);
  double second =
      onednn_time(dnnl::inner_product_forward(ip),
                  {{DNNL_ARG_SRC, ip.src_desc()}, {DNNL_ARG_WEIGHTS, ip.weights_desc()}, {DNNL_ARG_DST, ip.dst_desc()}}, budget);
  return std::min(first, second);
}

inline double onednn_conv(const ConvShape& s, dnnl::memory::data_type type, double budget = 0.4) {
  using D = dnnl::memory::desc;
  auto any = dnnl::memory::format_tag::any;
  D src({s.n, s.c, s.h, s.w}, type, any), weights({s.out_c, s.c, s.kernel_h, s.kernel_w}, type, any);
  D dst({s.n, s.out_c, s.out_h(), s.out_w()}, dnnl::memory::data_type::f32, any);
  dnnl::convolution_forward::primitive_desc pd(
      dnnl::convolution_forward::desc(dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct, src, weights, dst,
                                      {s.stride, s.stride}, {s.pad_top, s.pad_left}, {s.pad_bottom, s.pad_right}),
      engine());
  return onednn_time(dnnl::convolution_forward(pd),
                     {{DNNL_ARG_SRC, pd.src_desc()}, {DNNL_ARG_WEIGHTS, pd.weights_desc()}, {DNNL_ARG_DST, pd.dst_desc()}},
                     budget);
}

}  // namespace sinter
#endif
