#include "backends/cpu/calls/conv.h"

#include "backends/cpu/calls/test_tools.h"

namespace sinter {
namespace {

using namespace calls_test;

/// Doubles and shifts: tile[row, column] = 2 * x[row, column] + column % 3. Params: tile stride, x stride.
void prologue(char* const* operands, const int64_t* params, int64_t row_begin, int64_t row_end, int64_t column_begin,
              int64_t column_end) {
  for (int64_t r = row_begin; r < row_end; ++r)
    for (int64_t c = column_begin; c < column_end; ++c)
      reinterpret_cast<float*>(operands[1])[r * params[0] + c] =
          2 * reinterpret_cast<const float*>(operands[0])[r * params[1] + c] + float(c % 3);
}

/// out[row, column] = tile + bias[column] + row % 7. Operands: tile, bias, out. Params: tile stride, out stride.
void epilogue(char* const* operands, const int64_t* params, int64_t row_begin, int64_t row_end, int64_t column_begin,
              int64_t column_end) {
  auto* f = reinterpret_cast<float* const*>(operands);
  for (int64_t r = row_begin; r < row_end; ++r)
    for (int64_t c = column_begin; c < column_end; ++c)
      f[2][r * params[1] + c] = f[0][r * params[0] + c] + f[1][c] + float(r % 7);
}

void check_conv(ConvShape s, DType weight_type, const Microkernels& kernels, ThreadPool& pool) {
  CAPTURE(s.n);
  CAPTURE(s.h);
  CAPTURE(s.w);
  CAPTURE(s.c);
  CAPTURE(s.out_c);
  CAPTURE(s.kernel_h);
  CAPTURE(s.kernel_w);
  CAPTURE(s.stride);
  CAPTURE(s.pad_top);
  CAPTURE(s.pad_left);
  CAPTURE(int(s.weights));
  CAPTURE(name(s.in));
  CAPTURE(s.prologue);
  CAPTURE(s.epilogue);
  CAPTURE(pool.threads());
  CAPTURE(kernels.vector_floats);
  const int64_t oh = s.out_h(), ow = s.out_w(), window = s.kernel_h * s.kernel_w;
  Stored in(normal(s.n * s.h * s.w * s.pixel_stride), s.in), w(normal(s.out_c * s.c * window), weight_type, 1);
  PanelLayout layout = conv_layout(s.weights, s.out_c, s.c, s.kernel_h, s.kernel_w, kernels);
  Buffer packed(layout.bytes()), workspace(conv_workspace_bytes(s, pool.threads(), kernels));
  pack_conv(layout, {w.data(), weight_type, 0, s.out_c}, s.c, s.kernel_h, s.kernel_w, packed.get(), pool);
  CHECK(packed.guard_intact());
  auto bias = normal(s.out_c);
  std::vector<float> out(size_t(s.n * oh * ow * s.out_c), 7.f);
  TileKernel before{prologue, {const_cast<char*>(static_cast<const char*>(in.data())), nullptr}, {0, s.pixel_stride}, {1}, {0}};
  TileKernel after{
      epilogue, {nullptr, reinterpret_cast<char*>(bias.data()), reinterpret_cast<char*>(out.data())}, {0, s.out_c}, {0}, {0}};
  conv({s, in.data(), packed.get(), s.prologue ? &before : nullptr, s.epilogue ? &after : nullptr, out.data(), s.out_c,
        workspace.get()},
       kernels, pool);
  CHECK(workspace.guard_intact());
  // The input and weights as the kernels see them.
  std::vector<float> x = in.values, weights = w.values;
  for (size_t i = 0; i < x.size(); ++i) {
    if (s.prologue) x[i] = 2 * x[i] + float(int64_t(i) % s.pixel_stride % 3);
    if (s.weights == PanelType::bf16_dot) x[i] = rounded_to_bf16(x[i]);
  }
  for (float& v : weights) {
    if (s.weights == PanelType::bf16 || s.weights == PanelType::bf16_dot) v = rounded_to_bf16(v);
    if (s.weights == PanelType::f16) v = f16_to_f32(f32_to_f16(v));
  }
  ErrorMeter meter;
  for (int64_t row = 0; row < s.n * oh * ow; ++row) {
    int64_t n = row / (oh * ow), y = row / ow % oh, xx = row % ow;
    for (int64_t o = 0; o < s.out_c; ++o) {
      double sum = 0, size = 0;
      for (int i = 0; i < s.kernel_h; ++i)
        for (int j = 0; j < s.kernel_w; ++j) {
          int64_t iy = y * s.stride + i - s.pad_top, ix = xx * s.stride + j - s.pad_left;
          if (iy < 0 || iy >= s.h || ix < 0 || ix >= s.w) continue;
          const float* pixel = &x[size_t(((n * s.h + iy) * s.w + ix) * s.pixel_stride)];
          for (int64_t c = 0; c < s.c; ++c) {
            double product = double(pixel[c]) * weights[size_t((o * s.c + c) * window + i * s.kernel_w + j)];
            sum += product, size += std::abs(product);
          }
        }
      if (s.epilogue) sum += double(bias[size_t(o)]) + double(row % 7), size += 10;
      meter.add(out[size_t(row * s.out_c + o)], sum, size + 1e-3);
    }
  }
  CHECK(meter.worst < 1e-6);
}

TEST_CASE("conv is the sum over the window, for random shapes, types, paddings, strides, prologues and epilogues") {
  ThreadPool one(1), four(4);
  for (const Microkernels& kernels : all_kernels())
    for (int i = 0; i < 150; ++i) {
      ConvShape s;
      s.n = pick(1, 3), s.h = pick(1, 20), s.w = pick(0, 4) ? pick(1, 20) : pick(30, 70);
      s.c = pick(0, 2) ? pick(1, 20) : pick(64, 140), s.out_c = pick(0, 2) ? pick(1, 40) : pick(60, 150);
      s.kernel_h = int(pick(1, 3)), s.kernel_w = int(pick(1, 3)), s.stride = int(pick(1, 2));
      s.pad_top = int(pick(0, 1)), s.pad_left = int(pick(0, 2)), s.pad_bottom = int(pick(0, 1)), s.pad_right = int(pick(0, 1));
      if (pick(0, 2) == 0) s.pad_top = s.pad_left = s.pad_bottom = s.pad_right = 0;
      if (s.out_h() <= 0 || s.out_w() <= 0 || s.h + s.pad_top + s.pad_bottom < s.kernel_h ||
          s.w + s.pad_left + s.pad_right < s.kernel_w)
        continue;
      s.weights = PanelType(pick(0, kernels.dot ? 3 : 2));
      if (s.weights == PanelType::bf16_dot) s.c = round_up(s.c, 2);
      DType types[] = {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2};
      s.prologue = pick(0, 1), s.epilogue = pick(0, 1);
      s.in = s.prologue ? DType::f32 : types[pick(0, 2)];
      s.pixel_stride = s.c + (pick(0, 2) ? 0 : pick(1, 5));
      check_conv(s, types[pick(0, 4)], kernels, pick(0, 1) ? one : four);
    }
}

TEST_CASE("conv cuts wide pictures into tiles and small ones into channel chunks") {
  ThreadPool one(1), four(4);
  for (const Microkernels& kernels : all_kernels())
    for (ThreadPool* pool : {&one, &four}) {
      ConvShape wide{
          .n = 1, .h = 70, .w = 260, .c = 20, .out_c = 24, .weights = PanelType::f16, .pixel_stride = 20, .epilogue = true};
      check_conv(wide, DType::f16, kernels, *pool);
      ConvShape small{.n = 2, .h = 8, .w = 8, .c = 160, .out_c = 320, .pixel_stride = 160, .prologue = true, .epilogue = true};
      check_conv(small, DType::f32, kernels, *pool);
      ConvShape shortcut{.n = 2,
                         .h = 24,
                         .w = 24,
                         .c = 128,
                         .out_c = 96,
                         .kernel_h = 1,
                         .kernel_w = 1,
                         .pad_top = 0,
                         .pad_left = 0,
                         .pad_bottom = 0,
                         .pad_right = 0,
                         .weights = PanelType::bf16,
                         .pixel_stride = 128};
      check_conv(shortcut, DType::bf16, kernels, *pool);
    }
}

TEST_CASE("a NaN in a picture reaches exactly the pixels whose window covers it") {
  ThreadPool four(4);
  for (const Microkernels& kernels : all_kernels())
    for (int64_t c : {6, 64}) {
      ConvShape s{.n = 1, .h = 9, .w = 17, .c = c, .out_c = 5, .pixel_stride = c};
      auto in = normal(s.h * s.w * c), w = normal(s.out_c * c * 9);
      in[size_t((4 * s.w + 6) * c + 2)] = NAN;
      PanelLayout layout = conv_layout(s.weights, s.out_c, c, 3, 3, kernels);
      Buffer packed(layout.bytes()), workspace(conv_workspace_bytes(s, 4, kernels));
      pack_conv(layout, {w.data(), DType::f32, 0, s.out_c}, c, 3, 3, packed.get(), four);
      std::vector<float> out(size_t(s.h * s.w * s.out_c));
      conv({s, in.data(), packed.get(), nullptr, nullptr, out.data(), s.out_c, workspace.get()}, kernels, four);
      for (int64_t i = 0; i < s.h * s.w * s.out_c; ++i) {
        int64_t y = i / s.out_c / s.w, x = i / s.out_c % s.w;
        CHECK(std::isnan(out[size_t(i)]) == (std::abs(y - 4) <= 1 && std::abs(x - 6) <= 1));
      }
    }
}

TEST_CASE("conv refuses bf16 dot products of an odd number of channels, in words") {
  ThreadPool one(1);
  Microkernels kernels;
  ConvShape s{.h = 4, .w = 4, .c = 3, .out_c = 4, .weights = PanelType::bf16_dot, .pixel_stride = 3};
  CHECK_THROWS_WITH(conv({s}, kernels, one),
                    "conv: bf16 dot products need an even number of channels, not 3; pack the weights as bf16");
}

}  // namespace
}  // namespace sinter
