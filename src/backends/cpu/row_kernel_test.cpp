#include <doctest/doctest.h>
#include <fmt/core.h>

#include <cstdlib>
#include <memory>

#include "backends/cpu/host.h"
#include "backends/cpu/object_code.h"
#include "base/error.h"
#include "guarded_memory.h"

namespace sinter {
namespace {

using namespace row_kernel_cases;

std::vector<CpuTarget> targets() {
  std::vector<CpuTarget> all{cpu_target("avx2", host_cpu())};
  if (host_cpu().level_avx512()) all.push_back(cpu_target("avx512", host_cpu()));
  return all;
}

ObjectCode compile(const RowKernel& kernel, const CpuTarget& target) {
  return ObjectCode(code_generator().row_kernels(std::vector<NamedKernel>{{"kernel", kernel}}, target));
}

/// Runs a kernel of one row on dense operands.
void run_row(const ObjectCode& code, const RowKernel& k, std::vector<char*> operands, int64_t columns) {
  std::vector<int64_t> params(size_t(k.param_count()), 0);
  params[0] = columns;
  params[1] = 1;
  code.function<RowKernelFunction>("kernel")(operands.data(), params.data(), 0, 1, 0, columns);
}

std::string difference(Case& c, const CpuTarget& target, bool at_end) {
  ObjectCode code = compile(c.kernel, target);
  auto run = code.function<RowKernelFunction>("kernel");
  return row_kernel_cases::difference(c, [&](Case& now) {
    run_guarded(now, at_end, [&](const std::vector<char*>& operands) {
      run(operands.data(), now.params.data(), now.row_begin, now.row_end, now.column_begin, now.column_end);
    });
  });
}

TEST_CASE("generated row kernels do what the reference does") {
  for (uint64_t i = 0; i < 400; ++i)
    for (const CpuTarget& target : targets()) {
      Case c = Random(seed() + i).make();
      std::string wrong = difference(c, target, i % 2 == 0);
      std::string sizes;
      for (int64_t p : c.params) sizes += fmt::format(" {}", p);
      CHECK_MESSAGE(wrong.empty(), "SINTER_TEST_SEED=", seed() + i, " ", target.text(), "\n", wrong, "\nparams", sizes, "\n",
                    c.kernel.text());
    }
}

TEST_CASE("the functions of one argument are as accurate as they promise") {
  constexpr int64_t kCount = 300'007;
  for (const CpuTarget& target : targets())
    for (const Accuracy& a : kAccuracies) {
      RowKernel k = elementwise(a.prim);
      ObjectCode code = compile(k, target);
      std::mt19937_64 random(seed());
      std::vector<float> x(kCount), y(kCount);
      for (size_t i = 0; i < x.size(); ++i) {
        double u = double(random() >> 11) * 0x1p-53;
        // Half evenly, half by magnitude.
        double end = i % 4 < 2 ? a.high : a.low;
        x[i] = i % 2 ? float(a.low + (a.high - a.low) * u) : float(end * std::exp2(-40 * u));
        if (!(x[i] >= float(a.low) && x[i] <= float(a.high))) x[i] = float(a.high);
      }
      run_row(code, k, {reinterpret_cast<char*>(x.data()), reinterpret_cast<char*>(y.data())}, kCount);
      double worst = 0;
      float where = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        double apart = units_apart(y[i], evaluate(a.prim, x[i], 0, 0));
        if (apart > worst) worst = apart, where = x[i];
      }
      INFO(target.cpu, " ", name(a.prim), " on ", a.low, " .. ", a.high, ": ", worst, " units at ", where);
      CHECK(worst <= a.units);
      if (std::getenv("SINTER_TEST_VERBOSE"))
        MESSAGE(target.cpu, " ", name(a.prim), " on ", a.low, " .. ", a.high, ": ", worst, " units at ", where);
    }
}

TEST_CASE("power is accurate over its whole range, signs and special values included") {
  std::vector<float> a, b;
  std::mt19937_64 random(seed());
  for (int i = 0; i < 100'000; ++i) {
    double u = double(random() >> 11) * 0x1p-53, v = double(random() >> 11) * 0x1p-53;
    a.push_back(float(std::exp2(u * 240 - 120)));
    b.push_back(float((v * 2 - 1) * 126 / std::max(1.0, std::fabs(std::log2(double(a.back()))))));
    if (i % 5 == 0) a.back() = -a.back(), b.back() = std::round(b.back());
  }
  const float special[] = {0.0f, -0.0f, 1.0f, -1.0f, 2.0f, -2.0f, 3.0f, -3.0f, 0.5f, -0.5f, 1e-40f, INFINITY, -INFINITY, NAN};
  for (float x : special)
    for (float y : special) a.push_back(x), b.push_back(y);
  for (const CpuTarget& target : targets()) {
    RowKernel k = elementwise(Prim::power);
    ObjectCode code = compile(k, target);
    std::vector<float> y(a.size());
    run_row(code, k, {reinterpret_cast<char*>(a.data()), reinterpret_cast<char*>(b.data()), reinterpret_cast<char*>(y.data())},
            int64_t(y.size()));
    int wrong = 0;
    for (size_t i = 0; i < y.size() && wrong < 5; ++i) {
      bool right = units_apart(y[i], std::pow(double(a[i]), double(b[i]))) <= 1;
      wrong += !right;
      CHECK_MESSAGE(right, a[i], " ^ ", b[i], " gave ", y[i], ", not ", std::pow(double(a[i]), double(b[i])));
    }
  }
}

TEST_CASE("infinities, zeros, subnormals and NaN go through every primitive as through C's functions") {
  const float special[] = {0.0f,   -0.0f,   1.0f,  -1.0f,   1e-45f,  -1e-45f,  1e-39f,    3.4e38f, -3.4e38f,
                           100.0f, -100.0f, 88.9f, -103.9f, -110.0f, INFINITY, -INFINITY, NAN};
  for (const CpuTarget& target : targets())
    for (int p = 0; p <= int(Prim::floor); ++p) {
      if (Prim(p) == Prim::power) continue;
      RowKernel k = elementwise(Prim(p));
      ObjectCode code = compile(k, target);
      std::vector<float> in[3], y;
      for (float a : special)
        for (float b : special) {
          in[0].push_back(a), in[1].push_back(b), in[2].push_back(-b);
          y.push_back(-7);
        }
      std::vector<char*> operands;
      for (int i = 0; i < arity(Prim(p)); ++i) operands.push_back(reinterpret_cast<char*>(in[i].data()));
      operands.push_back(reinterpret_cast<char*>(y.data()));
      run_row(code, k, operands, int64_t(y.size()));
      bool trigonometric = Prim(p) == Prim::sin || Prim(p) == Prim::cos;
      for (size_t i = 0; i < y.size(); ++i) {
        float a = in[0][i], b = in[1][i], c = in[2][i];
        if (trigonometric && std::fabs(a) > 1e15f && std::isfinite(a)) {
          CHECK(std::fabs(y[i]) <= 1);
          continue;
        }
        double expected = evaluate(Prim(p), a, b, c);
        CHECK_MESSAGE(units_apart(y[i], expected) <= 4, target.cpu, " ", name(Prim(p)), "(", a, ", ", b, ", ", c, ") gave ", y[i],
                      ", not ", expected);
      }
    }
}

TEST_CASE("every element type is loaded and stored with the bits that convert gives") {
  std::vector<float> values;
  std::mt19937_64 random(seed());
  for (int i = 0; i < 60'000; ++i) values.push_back(__builtin_bit_cast(float, uint32_t(random())));
  for (int i = 0; i < 20'000; ++i) values.push_back(float(std::ldexp(double(random() % 4096) - 2048, int(random() % 40) - 30)));
  for (float v :
       {0.0f, -0.0f, 448.0f, 464.0f, 465.0f, 57344.0f, 61440.0f, 65504.0f, 65520.0f, 255.9f, -1.0f, 2147483648.0f, 9.3e18f})
    values.push_back(v);
  int64_t count = int64_t(values.size());
  for (const CpuTarget& target : targets())
    for (int type = 0; type <= int(DType::boolean); ++type) {
      CAPTURE(target.cpu);
      CAPTURE(name(DType(type)));
      RowKernel k;
      k.operands = {{}, {.dtype = DType(type), .written = true}};
      k.body = {load(0), store(1, 0)};
      size_t bytes = size_t(byte_size(DType(type)) * count);
      std::vector<char> found(bytes), expected(bytes);
      run_row(compile(k, target), k, {reinterpret_cast<char*>(values.data()), found.data()}, count);
      convert(values.data(), DType::f32, expected.data(), DType(type), count);
      int64_t size = byte_size(DType(type)), wrong = 0;
      for (int64_t i = 0; i < count && wrong < 3; ++i)
        if (std::memcmp(found.data() + i * size, expected.data() + i * size, size_t(size)) != 0) {
          double f, e;
          convert(found.data() + i * size, DType(type), &f, DType::f64, 1);
          convert(expected.data() + i * size, DType(type), &e, DType::f64, 1);
          if (DType(type) == DType::f32 && std::isnan(f)) continue;
          // The instruction that converts to bf16 turns subnormals into 0.
          if (DType(type) == DType::bf16 && f == 0 && std::fabs(e) <= 0x1p-126) continue;
          if (DType(type) == DType::bf16 && std::isnan(f) && std::isnan(e)) continue;
          ++wrong;
          CHECK_MESSAGE(false, values[size_t(i)], " is stored as ", f, ", not ", e);
        }

      RowKernel back;
      back.operands = {{.dtype = DType(type)}, {.written = true}};
      back.body = {load(0), store(1, 0)};
      std::vector<float> y(values.size()), exact(values.size());
      run_row(compile(back, target), back, {expected.data(), reinterpret_cast<char*>(y.data())}, count);
      convert(expected.data(), DType(type), exact.data(), DType::f32, count);
      for (size_t i = 0; i < y.size() && wrong < 3; ++i)
        if (y[i] != exact[i] && !(std::isnan(y[i]) && std::isnan(exact[i]))) {
          ++wrong;
          CHECK_MESSAGE(false, y[i], " is loaded, not ", exact[i]);
        }
    }
}

TEST_CASE("the error of a sum does not grow with the length of the row") {
  RowKernel k;
  k.operands = {{}, {.column = ColumnAccess::broadcast, .written = true}};
  k.body = {load(0), sum(0), store(1, 1)};
  std::vector<float> x(3'000'001, 0.1f);
  for (const CpuTarget& target : targets()) {
    float total = 0;
    run_row(compile(k, target), k, {reinterpret_cast<char*>(x.data()), reinterpret_cast<char*>(&total)}, int64_t(x.size()));
    CHECK(std::fabs(total / (double(0.1f) * double(x.size())) - 1) < 1e-6);
  }
}

TEST_CASE("a reduction covers the whole row even where only some columns are stored") {
  RowKernel k;
  k.operands = {{}, {.written = true}};
  k.body = {load(0), sum(0), prim(Prim::divide, 0, 1), store(1, 2)};
  std::vector<float> x(100, 2.0f), y(100, -1.0f);
  std::vector<int64_t> params{100, 1, 0, 1, 0, 1};
  char* operands[] = {reinterpret_cast<char*>(x.data()), reinterpret_cast<char*>(y.data())};
  compile(k, host_target()).function<RowKernelFunction>("kernel")(operands, params.data(), 0, 1, 40, 43);
  for (int i = 0; i < 100; ++i) CHECK(y[size_t(i)] == (i >= 40 && i < 43 ? 0.01f : -1.0f));
}

TEST_CASE("a kernel that stores many values to one place, or uses what comes later, is refused") {
  RowKernel k;
  k.operands = {{}, {.column = ColumnAccess::broadcast, .written = true}};
  k.body = {load(0), store(1, 0)};
  CHECK_THROWS_AS(compile(k, host_target()), Error);
  k.operands[1].column = ColumnAccess::dense;
  k.body = {prim(Prim::exp, 1), load(0), store(1, 0)};
  CHECK_THROWS_AS(compile(k, host_target()), Error);
  k.body = {load(1), store(1, 0)};
  CHECK_THROWS_AS(compile(k, host_target()), Error);
}

TEST_CASE("one object holds many kernels, and listings show them") {
  std::vector<NamedKernel> kernels{{"first", elementwise(Prim::exp)}, {"second", elementwise(Prim::add)}};
  ObjectCode code(code_generator().row_kernels(kernels, host_target()));
  CHECK(code.symbol("first") != code.symbol("second"));
  CHECK_THROWS_WITH_AS(code.symbol("third"), doctest::Contains("third"), Error);
  CHECK(code_generator().listing(kernels, host_target(), "ir").find("@second") != std::string::npos);
  CHECK(code_generator().listing(kernels, host_target(), "asm").find("second:") != std::string::npos);
  CHECK_THROWS_AS(code_generator().listing(kernels, host_target(), "ptx"), Error);
}

}  // namespace
}  // namespace sinter
