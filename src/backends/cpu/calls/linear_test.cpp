#include "backends/cpu/calls/linear.h"

#include "backends/cpu/calls/test_tools.h"

namespace sinter {
namespace {

using namespace calls_test;

/// out[row, column] = 2 * x[row, column] + row - column, x in f32, out a tile (operand 1, its stride params[0]).
template <class Out>
void prologue(char* const* operands, const int64_t* params, int64_t row_begin, int64_t row_end, int64_t column_begin,
              int64_t column_end) {
  auto* x = reinterpret_cast<const float*>(operands[0]);
  for (int64_t r = row_begin; r < row_end; ++r)
    for (int64_t c = column_begin; c < column_end; ++c) {
      float value = 2 * x[r * params[1] + c] + float(r % 5 - c % 3);
      char* at = operands[1] + (r * params[0] + c) * int64_t(sizeof(Out));
      if constexpr (sizeof(Out) == 4) std::memcpy(at, &value, 4);
      if constexpr (sizeof(Out) == 2) {
        uint16_t bits = f32_to_bf16(value);
        std::memcpy(at, &bits, 2);
      }
    }
}

/// out[row, column] = tile0 * (parts > 1 ? 1 + tile1 : 1) + bias[column] + residual[row, column]. Params: stride of each tile,
/// then of residual and out, then parts. Operands: tiles, bias, residual, out.
void epilogue(char* const* operands, const int64_t* params, int64_t row_begin, int64_t row_end, int64_t column_begin,
              int64_t column_end) {
  auto* f = reinterpret_cast<float* const*>(operands);
  for (int64_t r = row_begin; r < row_end; ++r)
    for (int64_t c = column_begin; c < column_end; ++c) {
      float value = f[0][r * params[0] + c];
      if (params[3] > 1) value *= 1 + f[1][r * params[1] + c];
      f[4][r * params[2] + c] = value + f[2][c] + f[3][r * params[2] + c];
    }
}

struct Case {
  LinearShape shape;
  DType weight_type = DType::f32;
  bool check_nan = false;
};

double run_case(Case c, const Microkernels& kernels, ThreadPool& pool) {
  LinearShape& s = c.shape;
  CAPTURE(s.m);
  CAPTURE(s.n);
  CAPTURE(s.k);
  CAPTURE(s.parts);
  CAPTURE(int(s.weights));
  CAPTURE(name(s.a));
  CAPTURE(s.a_stride);
  CAPTURE(s.prologue);
  CAPTURE(s.epilogue);
  CAPTURE(pool.threads());
  CAPTURE(kernels.vector_floats);
  Stored a(normal(s.m * s.a_stride), s.prologue ? DType::f32 : s.a);
  Stored w(normal(s.parts * s.n * s.k), c.weight_type, 1);
  PanelLayout layout = panel_layout(s.weights, s.n, s.k, 1, kernels);
  Buffer packed(layout.bytes() * s.parts);
  for (int part = 0; part < s.parts; ++part) {
    // In two goes, as a matrix made from several: the cut is anywhere.
    int64_t cut = pick(0, s.n);
    const char* from = static_cast<const char*>(w.data()) + part * s.n * s.k * byte_size(c.weight_type);
    char* to = packed.get() + part * layout.bytes();
    pack_matrix(layout, {from + cut * s.k * byte_size(c.weight_type), c.weight_type, cut, s.n - cut}, to, pool);
    pack_matrix(layout, {from, c.weight_type, 0, cut}, to, pool);
    if (cut == s.n) CHECK(packed.guard_intact());
  }
  CHECK(packed.guard_intact());
  auto bias = normal(s.n), residual = normal(s.m * s.n);
  std::vector<float> out(size_t(s.m * s.n), 7.f);
  TileKernel before{s.a == DType::bf16 ? prologue<uint16_t> : prologue<float>,
                    {const_cast<char*>(static_cast<const char*>(a.data())), nullptr},
                    {0, s.a_stride},
                    {1},
                    {0}};
  TileKernel after{epilogue,
                   {nullptr, nullptr, reinterpret_cast<char*>(bias.data()), reinterpret_cast<char*>(residual.data()),
                    reinterpret_cast<char*>(out.data())},
                   {0, 0, s.n, s.parts},
                   s.parts > 1 ? std::vector{0, 1} : std::vector{0},
                   s.parts > 1 ? std::vector{0, 1} : std::vector{0}};
  Buffer workspace(linear_workspace_bytes(s, pool.threads(), kernels));
  LinearCall call{s,          a.data(), packed.get(),   s.prologue ? &before : nullptr, s.epilogue ? &after : nullptr,
                  out.data(), s.n,      workspace.get()};
  linear(call, kernels, pool);
  CHECK(workspace.guard_intact());
  auto a_value = [&](int64_t m, int64_t k) {
    float x = a.values[size_t(m * s.a_stride + k)];
    if (s.prologue) x = 2 * x + float(m % 5 - k % 3);
    if (s.a == DType::bf16 || s.weights == PanelType::bf16_dot) x = rounded_to_bf16(x);
    return double(x);
  };
  ErrorMeter meter;
  for (int64_t m = 0; m < s.m; ++m)
    for (int64_t n = 0; n < s.n; ++n) {
      double sum[2] = {0, 0}, size = 0;
      for (int part = 0; part < s.parts; ++part)
        for (int64_t k = 0; k < s.k; ++k) {
          double w_value = w.values[size_t((part * s.n + n) * s.k + k)];
          if (s.weights == PanelType::bf16 || s.weights == PanelType::bf16_dot) w_value = rounded_to_bf16(float(w_value));
          if (s.weights == PanelType::f16) w_value = f16_to_f32(f32_to_f16(float(w_value)));
          sum[part] += a_value(m, k) * w_value;
          size += std::abs(a_value(m, k) * w_value);
        }
      double expected = sum[0];
      if (s.epilogue) {
        if (s.parts > 1) expected *= 1 + sum[1], size = (1 + size) * (1 + size);
        expected += double(bias[size_t(n)]) + double(residual[size_t(m * s.n + n)]);
        size += 4;
      }
      meter.add(out[size_t(m * s.n + n)], expected, size);
    }
  CHECK(meter.worst < 1e-6);
  return meter.worst;
}

TEST_CASE("linear is A times W transposed, for random shapes, types, strides, prologues and epilogues") {
  ThreadPool one(1), four(4);
  for (const Microkernels& kernels : all_kernels()) {
    for (int i = 0; i < 160; ++i) {
      Case c;
      c.shape.m = pick(0, 3) ? pick(1, 40) : pick(100, 300);
      c.shape.n = pick(0, 3) ? pick(1, 90) : pick(100, 400);
      c.shape.k = pick(0, 3) ? pick(1, 70) : pick(300, 900);
      c.shape.a_stride = c.shape.k + (pick(0, 1) ? pick(0, 9) : 0);
      if (pick(0, 9) == 0) c.shape.a_stride = round_up(c.shape.k, 1024);
      c.shape.weights = PanelType(pick(0, kernels.dot ? 3 : 2));
      DType types[] = {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2};
      c.weight_type = types[pick(0, 4)];
      c.shape.a = types[pick(0, 2)];
      c.shape.prologue = pick(0, 1);
      if (c.shape.prologue && c.shape.a == DType::f16) c.shape.a = DType::f32;
      c.shape.epilogue = pick(0, 1);
      if (c.shape.epilogue) c.shape.parts = int(pick(1, 2));
      run_case(c, kernels, pick(0, 1) ? one : four);
    }
  }
}

TEST_CASE("linear with many rows cuts them into tiles, and with one row streams the weights once") {
  ThreadPool four(4);
  for (const Microkernels& kernels : all_kernels())
    for (int64_t m : {1, 77, 1500}) {
      Case c;
      c.shape = {.m = m, .n = 100, .k = 1280, .weights = PanelType::f16, .a_stride = 1280, .prologue = true, .epilogue = true};
      run_case(c, kernels, four);
      c.shape.prologue = false;
      run_case(c, kernels, four);
    }
}

TEST_CASE("a NaN in A reaches every column of its row and no other row") {
  ThreadPool four(4);
  for (const Microkernels& kernels : all_kernels())
    for (int type = 0; type < (kernels.dot ? 4 : 3); ++type) {
      LinearShape s{.m = 50, .n = 45, .k = 33, .weights = PanelType(type), .a_stride = 33};
      auto a = normal(s.m * s.k), w = normal(s.n * s.k);
      a[7 * 33 + 0] = NAN;  // the element behind row 6: the zero that pads an odd row must not multiply it
      PanelLayout layout = panel_layout(s.weights, s.n, s.k, 1, kernels);
      Buffer packed(layout.bytes()), workspace(linear_workspace_bytes(s, 4, kernels));
      pack_matrix(layout, {w.data(), DType::f32, 0, s.n}, packed.get(), four);
      std::vector<float> out(size_t(s.m * s.n));
      linear({s, a.data(), packed.get(), nullptr, nullptr, out.data(), s.n, workspace.get()}, kernels, four);
      for (int64_t i = 0; i < s.m * s.n; ++i) CHECK(std::isnan(out[size_t(i)]) == (i / s.n == 7));
    }
}

TEST_CASE("the object code of the microkernels is under a megabyte and holds every one of them") {
  CpuTarget target = host_target();
  auto object = code_generator().microkernels(target);
  CHECK(object.size() < (1 << 20));
  ObjectCode code(object);
  CHECK_NOTHROW(load_microkernels(code, target, host_cpu()));
}

}  // namespace
}  // namespace sinter
