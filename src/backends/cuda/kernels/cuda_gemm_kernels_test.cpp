#define SINTER_DEVICE_EMULATION
#include <algorithm>
#include <cmath>

#include "backends/cuda/kernels/gemm.device.cpp"
#include "backends/cuda/kernels/gemm.h"
#include "backends/cuda/kernels/test_targets.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

/// Numbers in memory, as they are after rounding, with a place for them on the target.
struct Operand {
  std::vector<float> values;
  DevicePtr address = 0;
};

Operand operand(TestTarget& t, int64_t count, uint32_t seed, DType type, int64_t misplaced = 0, float spread = 1) {
  Operand o;
  auto values = rounded(random_values(size_t(count + misplaced), seed, spread), type);
  o.address = t.upload(encode(values, type)) + DevicePtr(misplaced * byte_size(type));
  o.values.assign(values.begin() + misplaced, values.end());
  return o;
}

double gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

/// The largest error, in units of what rounding allows: a part of the value, and of the sum's length: terms of size 1 are added
/// one after another in f32, each addition losing up to half a unit of a partial sum that is a few times the root of their
/// number.
struct Errors {
  double worst = 0;
  void compare(float seen, double expected, double length, DType out) {
    const double step = out == DType::bf16 ? 0x1p-8 : out == DType::f16 ? 0x1p-11 : 0x1p-22;
    const double error =
        std::fabs(double(seen) - expected) / (std::fabs(expected) * step + std::sqrt(length) * 3e-6 + length * 0x1p-23 + 1e-6);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
};

struct MatmulCase {
  int64_t m, n, k;
  DType type = DType::bf16;
  int64_t extra = 0, misplaced = 0;  // of the rows of a and w and out; of a's address
  bool bias = false, gelu = false, residual = false;
  DType out = DType::bf16;
  int64_t batch = 1;
  bool w_by_columns = false;
};

void check_matmul(TestTarget& t, const MatmulCase& c) {
  CAPTURE(c.m);
  CAPTURE(c.n);
  CAPTURE(c.k);
  CAPTURE(c.extra);
  CAPTURE(name(c.type));
  const int64_t a_stride = c.k + c.extra, out_stride = c.n + c.extra;
  const int64_t w_row = c.w_by_columns ? 1 : a_stride, w_column = c.w_by_columns ? c.n : 1;
  const int64_t w_count = c.w_by_columns ? c.k * c.n : c.n * a_stride;
  const Operand a = operand(t, c.batch * c.m * a_stride, 1, c.type, c.misplaced), w = operand(t, c.batch * w_count, 2, c.type);
  const Operand bias = operand(t, c.n, 3, DType::f32), residual = operand(t, c.batch * c.m * out_stride, 4, c.out);
  MatmulCall call{.batch = c.batch, .m = c.m, .n = c.n, .k = c.k, .type = c.type, .a = a.address, .w = w.address};
  call.a_stride = c.extra ? a_stride : 0;
  call.w_stride = w_row;
  call.w_column_stride = w_column;
  call.a_batch_stride = c.m * a_stride;
  call.w_batch_stride = w_count;
  call.out_batch_stride = call.residual_batch_stride = c.m * out_stride;
  ProductEpilogue& e = call.epilogue;
  const int64_t out_count = c.batch * c.m * out_stride;
  e.out = t.untouched(out_count * byte_size(c.out));
  e.out_type = e.residual_type = c.out;
  e.out_stride = e.residual_stride = out_stride;
  e.scale = 0.25f;
  if (c.bias) e.bias = bias.address;
  if (c.residual) e.residual = residual.address;
  e.gelu = c.gelu;
  matmul(t, call);
  const auto seen = decode(t.download<uint8_t>(e.out, size_t(out_count * byte_size(c.out))), c.out);
  Errors errors;
  size_t outside = 0;
  for (int64_t b = 0; b < c.batch; ++b)
    for (int64_t i = 0; i < c.m; ++i) {
      for (int64_t j = 0; j < c.n; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < c.k; ++k)
          sum += double(a.values[size_t((b * c.m + i) * a_stride + k)]) *
                 double(w.values[size_t(b * w_count + j * w_row + k * w_column)]);
        sum = sum * 0.25 + (c.bias ? double(bias.values[size_t(j)]) : 0);
        if (c.gelu) sum = gelu(sum);
        const auto at = size_t((b * c.m + i) * out_stride + j);
        if (c.residual) sum += double(residual.values[at]);
        errors.compare(seen[at], sum, double(c.k), c.out);
      }
      for (int64_t j = c.n; j < out_stride; ++j) outside += !std::isnan(seen[size_t((b * c.m + i) * out_stride + j)]);
    }
  CHECK(errors.worst < 1);
  CHECK(outside == 0);
}

TEST_CASE("matrix products agree with f64 for edges, strides, types and epilogues") {
  on_each_target([](TestTarget& t) {
    for (DType type : {DType::bf16, DType::f16, DType::f32}) {
      check_matmul(t, {128, 128, 64, type, 0, 0, false, false, false, type});
      check_matmul(t, {130, 137, 40, type, 0, 0, true, true, true, type});
      check_matmul(t, {5, 200, 104, type, 8, 0, true, false, true, DType::f32});
      check_matmul(t, {77, 64, 33, type, 0, 0, true, false, false, type});
      check_matmul(t, {1, 1, 1, type, 0, 0, false, false, false, type});
      check_matmul(t, {9, 40, 16, type, 3, 1, false, true, false, type});
      check_matmul(t, {20, 24, 48, type, 0, 0, true, false, true, DType::f32, 3});
      check_matmul(t, {33, 50, 64, type, 0, 0, false, false, false, type, 2, true});
    }
  });
}

TEST_CASE("matrix products of many sizes, on a device") {
  TestDevice* device = test_device();
  if (!device) return;
  DeviceTarget t(*device);
  for (DType type : {DType::bf16, DType::f16, DType::f32})
    for (int64_t m : {1, 77, 500})
      for (int64_t n : {64, 320, 333})
        for (int64_t k : {32, 320, 1280, 77}) check_matmul(t, {m, n, k, type, 0, 0, true, false, true, type});
}

struct ConvCase {
  int64_t n, h, w, c, out_c;
  int kernel = 3, stride = 1, top = 1, left = 1, bottom = 1, right = 1;
  DType type = DType::bf16;
  int64_t extra = 0;
  bool residual = false;
  int64_t out_step = 1;
};

void check_conv(TestTarget& t, const ConvCase& c) {
  CAPTURE(c.h);
  CAPTURE(c.w);
  CAPTURE(c.c);
  CAPTURE(c.out_c);
  CAPTURE(c.kernel);
  CAPTURE(c.stride);
  CAPTURE(name(c.type));
  ConvCall call{.n = c.n, .h = c.h, .w = c.w, .c = c.c, .out_c = c.out_c, .kernel_h = c.kernel, .kernel_w = c.kernel};
  call.stride = c.stride;
  call.pad_top = c.top;
  call.pad_left = c.left;
  call.pad_bottom = c.bottom;
  call.pad_right = c.right;
  call.type = c.type;
  call.out_step = c.out_step;
  const int64_t pixel = c.c + c.extra, oh = call.out_h(), ow = call.out_w();
  const Operand in = operand(t, c.n * c.h * c.w * pixel, 5, c.type),
                filters = operand(t, c.out_c * c.kernel * c.kernel * c.c, 6, c.type);
  const Operand bias = operand(t, c.out_c, 7, c.type), residual = operand(t, c.n * oh * ow * c.out_c, 8, c.type);
  call.in = in.address;
  call.pixel_stride = c.extra ? pixel : 0;
  call.filters = filters.address;
  call.epilogue = {.out_type = c.type, .bias = bias.address, .bias_type = c.type, .residual_type = c.type};
  const int64_t step = c.out_step, out_count = c.n * oh * ow * c.out_c * step * step;
  call.epilogue.out = t.untouched(out_count * byte_size(c.type));
  if (c.residual) call.epilogue.residual = residual.address;
  conv(t, call);
  const auto seen = decode(t.download<uint8_t>(call.epilogue.out, size_t(out_count * byte_size(c.type))), c.type);
  Errors errors;
  for (int64_t n = 0; n < c.n; ++n)
    for (int64_t y = 0; y < oh; ++y)
      for (int64_t x = 0; x < ow; ++x)
        for (int64_t o = 0; o < c.out_c; ++o) {
          double sum = double(bias.values[size_t(o)]);
          for (int i = 0; i < c.kernel; ++i)
            for (int j = 0; j < c.kernel; ++j) {
              const int64_t sy = y * c.stride + i - c.top, sx = x * c.stride + j - c.left;
              if (sy < 0 || sy >= c.h || sx < 0 || sx >= c.w) continue;
              for (int64_t k = 0; k < c.c; ++k)
                sum += double(in.values[size_t(((n * c.h + sy) * c.w + sx) * pixel + k)]) *
                       double(filters.values[size_t(((o * c.kernel + i) * c.kernel + j) * c.c + k)]);
            }
          const auto at = size_t(((n * oh + y) * ow + x) * c.out_c + o);
          if (c.residual) sum += double(residual.values[at]);
          const auto place = size_t((((n * oh + y) * step * ow + x) * step) * c.out_c + o);
          errors.compare(seen[place], sum, double(c.kernel * c.kernel * c.c), c.type);
        }
  CHECK(errors.worst < 1);
}

TEST_CASE("convolutions agree with f64 for windows, strides, padding and channels of every kind") {
  on_each_target([](TestTarget& t) {
    for (DType type : {DType::bf16, DType::f16, DType::f32}) {
      check_conv(t, {2, 9, 7, 16, 40, 3, 1, 1, 1, 1, 1, type});
      check_conv(t, {1, 8, 8, 24, 130, 3, 2, 0, 0, 1, 1, type, 0, true});  // the encoder's padding
      check_conv(t, {1, 6, 5, 4, 33, 3, 1, 1, 1, 1, 1, type});             // the latent's channels
      check_conv(t, {1, 12, 10, 3, 8, 4, 4, 0, 0, 0, 0, type, 2});         // patches
      check_conv(t, {2, 5, 5, 32, 8, 1, 1, 0, 0, 0, 0, type, 8, true});
      check_conv(t, {1, 3, 11, 8, 5, 5, 2, 2, 1, 3, 2, type});
      check_conv(t, {2, 5, 7, 16, 24, 2, 1, 1, 0, 0, 1, type, 0, false, 2});  // a quarter of a picture at twice its size
    }
  });
}

TEST_CASE("convolutions as models have them, on a device") {
  TestDevice* device = test_device();
  if (!device) return;
  DeviceTarget t(*device);
  for (DType type : {DType::bf16, DType::f16, DType::f32}) {
    check_conv(t, {2, 32, 24, 128, 64, 3, 1, 1, 1, 1, 1, type, 0, true});
    check_conv(t, {1, 16, 16, 320, 320, 3, 2, 1, 1, 1, 1, type});
    check_conv(t, {1, 64, 64, 128, 3, 3, 1, 1, 1, 1, 1, type});
  }
}

TEST_CASE("types without a kernel and windows that do not fit are refused") {
  EmulatedTarget t;
  CHECK_THROWS_AS(matmul(t, {.m = 1, .n = 1, .k = 1, .type = DType::f8e4m3}), Error);
  CHECK_THROWS_AS(conv(t, {.h = 2, .w = 2, .c = 1, .out_c = 1, .kernel_h = 5}), Error);
}

}  // namespace
}  // namespace sinter::cuda
