#include "backends/cuda/kernels/gemm.h"

#include <limits>

#include "backends/cuda/kernels/element_types.h"
#include "backends/cuda/kernels/gemm_arguments.h"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

// As in gemm.device.cpp.
constexpr int64_t kTile = 128, kSharedBytes = 3 * 2 * 128 * 40 * 2;
constexpr int64_t kPlainTile = 64, kPlainSharedBytes = 64 * 68 * 4;
constexpr int64_t kChunk = 8;
constexpr uint32_t kThreads = 256;
constexpr int64_t kMostGridYz = 65535;

int element_type(const char* what, DType type) {
  switch (type) {
    case DType::f32:
      return device::kF32;
    case DType::f16:
      return device::kF16;
    case DType::bf16:
      return device::kBf16;
    default:
      fail(Code::Unsupported, "{}: there is no kernel for {}", what, name(type));
  }
}

device::EpilogueArguments arguments(const char* what, const ProductEpilogue& e, int64_t n) {
  device::EpilogueArguments a{.out = e.out, .bias = e.bias, .residual = e.residual};
  a.out_stride = e.out_stride ? e.out_stride : n;
  a.residual_stride = e.residual_stride ? e.residual_stride : n;
  a.out_type = element_type(what, e.out_type);
  a.bias_type = element_type(what, e.bias_type);
  a.residual_type = element_type(what, e.residual_type);
  a.gelu = e.gelu;
  a.scale = e.scale;
  return a;
}

struct Size {
  int64_t batch, m, n, k;
};

LaunchShape shape_of(const char* what, const Size& s, DType type) {
  const bool plain = type == DType::f32;
  const int64_t tile = plain ? kPlainTile : kTile, rows = divide_up(s.m, tile), columns = divide_up(s.n, tile);
  constexpr int64_t kMost = std::numeric_limits<int>::max() - 256;  // kernels count a little past the end
  if (s.m > kMost || s.n > kMost || s.k > kMost || columns > kMostGridYz || s.batch > kMostGridYz)
    fail(Code::Unsupported, "{}: {} products of {} x {} x {} are too large for the built-in kernel", what, s.batch, s.m, s.n,
         s.k);
  return {.grid = {uint32_t(rows), uint32_t(columns), uint32_t(s.batch)},
          .block = {kThreads},
          .shared_bytes = uint32_t(plain ? kPlainSharedBytes : kSharedBytes)};
}

std::string kernel_name(const char* what, DType type, bool chunks) {
  return fmt::format("gemm__{}_{}{}", what, name(type), type == DType::f32 || chunks ? "" : "_any");
}

bool in_chunks(const device::MatrixArguments& a) {
  return a.base % 16 == 0 && a.column_stride == 1 && a.row_stride % kChunk == 0 && a.batch_stride % kChunk == 0;
}

}  // namespace

void matmul(KernelTarget& target, const MatmulCall& c) {
  if (c.batch == 0 || c.m == 0 || c.n == 0) return;
  element_type("matmul", c.type);
  const device::MatrixArguments a{.base = c.a,
                                  .row_stride = c.a_stride ? c.a_stride : c.k,
                                  .column_stride = c.a_column_stride,
                                  .batch_stride = c.a_batch_stride};
  const device::MatrixArguments w{.base = c.w,
                                  .row_stride = c.w_stride ? c.w_stride : c.k,
                                  .column_stride = c.w_column_stride,
                                  .batch_stride = c.w_batch_stride};
  device::EpilogueArguments e = arguments("matmul", c.epilogue, c.n);
  e.out_batch_stride = c.out_batch_stride;
  e.residual_batch_stride = c.residual_batch_stride;
  const bool chunks = c.k % kChunk == 0 && in_chunks(a) && in_chunks(w);
  target(kernel_name("matmul", c.type, chunks), shape_of("matmul", {c.batch, c.m, c.n, c.k}, c.type), a, w, e,
         device::ProductSize{int(c.m), int(c.n), int(c.k)});
}

void conv(KernelTarget& target, const ConvCall& c) {
  element_type("conv", c.type);
  if (c.stride < 1 || c.h + c.pad_top + c.pad_bottom < c.kernel_h || c.w + c.pad_left + c.pad_right < c.kernel_w)
    fail(Code::InvalidArgument, "conv: a window of {} x {} with stride {} does not fit into pictures of {} x {}", c.kernel_h,
         c.kernel_w, c.stride, c.h, c.w);
  const int64_t rows = c.n * c.out_h() * c.out_w(), columns = c.kernel_h * c.kernel_w * c.c;
  if (rows == 0 || c.out_c == 0) return;
  device::WindowArguments in{.base = c.in, .pixel_stride = c.pixel_stride ? c.pixel_stride : c.c};
  in.h = int(c.h);
  in.w = int(c.w);
  in.c = int(c.c);
  in.out_h = int(c.out_h());
  in.out_w = int(c.out_w());
  in.kernel_w = c.kernel_w;
  in.stride = c.stride;
  in.pad_top = c.pad_top;
  in.pad_left = c.pad_left;
  const device::MatrixArguments filters{.base = c.filters, .row_stride = columns};
  device::EpilogueArguments e = arguments("conv", c.epilogue, c.out_c);
  if (c.out_step > 1) {
    e.line_rows = c.out_w();
    e.out_stride = c.out_step * c.out_c;
    e.line_stride = c.out_step * c.out_w() * e.out_stride;
  }
  const bool chunks = c.c % kChunk == 0 && c.in % 16 == 0 && in.pixel_stride % kChunk == 0 && in_chunks(filters);
  target(kernel_name("conv", c.type, chunks), shape_of("conv", {1, rows, c.out_c, columns}, c.type), in, filters, e,
         device::ProductSize{int(rows), int(c.out_c), int(columns)});
}

}  // namespace sinter::cuda
