#pragma once
// Random row kernels with memory to run on, and a plain reference in double precision that knows how uncertain its values are.
// For any backend: see src/backends/cpu/row_kernel_test.cpp.

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "compiler/kernel/row_kernel.h"

namespace sinter::row_kernel_cases {

inline KernelStep load(int operand) { return {.kind = KernelStep::load, .operand = operand}; }
inline KernelStep store(int operand, int a) { return {.kind = KernelStep::store, .a = a, .operand = operand}; }
inline KernelStep constant(double value) { return {.kind = KernelStep::constant, .value = value}; }
inline KernelStep prim(Prim p, int a, int b = -1, int c = -1) {
  return {.kind = KernelStep::primitive, .prim = p, .a = a, .b = b, .c = c};
}
inline KernelStep sum(int a) { return {.kind = KernelStep::reduce_sum, .a = a}; }
inline KernelStep largest(int a) { return {.kind = KernelStep::reduce_max, .a = a}; }

/// A value and how far a correct f32 computation may be from it; infinite where nothing can be said.
struct Uncertain {
  double value = 0, error = 0;
};

/// f32 arithmetic with `units` last places of error, at a value.
inline double rounding(double value, double units) { return units * std::max(std::fabs(value) * 0x1p-23, 0x1p-126); }

inline Uncertain apply(Prim p, const Uncertain* in) {
  auto at = [&](double a, double b, double c) { return double(float(evaluate(p, a, b, c))); };
  Uncertain out{at(in[0].value, in[1].value, in[2].value), 0};
  int inputs = arity(p), corners = 1;
  bool exact = true;
  for (int i = 0; i < inputs; ++i) corners *= 3, exact = exact && in[i].error == 0;
  for (int corner = 0; corner < corners && !exact; ++corner) {
    double x[3] = {};
    for (int i = 0, rest = corner; i < inputs; ++i, rest /= 3) x[i] = in[i].value + (rest % 3 - 1) * in[i].error;
    double here = at(x[0], x[1], x[2]);
    if (here == out.value || (std::isnan(here) && std::isnan(out.value))) continue;
    double apart = std::fabs(here - out.value);
    out.error = std::max(out.error, std::isnan(apart) ? std::numeric_limits<double>::infinity() : 2 * apart);
  }
  // Between the corners these may do what the corners do not show.
  bool wild = (p == Prim::sin || p == Prim::cos) && in[0].error > 0.5;
  // A whole exponent among others that give NaN; and NaN that may not be one.
  wild = wild || (p == Prim::power && in[0].value < 0 && in[1].error > 0);
  for (int i = 0; i < inputs; ++i)
    wild = wild || (std::isnan(in[i].value) && in[i].error == std::numeric_limits<double>::infinity());
  bool zero_between = (p == Prim::divide && std::fabs(in[1].value) <= in[1].error && in[1].error > 0) ||
                      ((p == Prim::select || p == Prim::rsqrt || p == Prim::log || p == Prim::power) && in[0].error > 0 &&
                       std::fabs(in[0].value) <= in[0].error);
  if (wild || zero_between || std::fabs(out.value) > 1e37) {
    if (!(exact && std::isinf(out.value) && !(p == Prim::exp || p == Prim::power))) {
      if (wild || zero_between || !std::isnan(out.value)) out.error = std::numeric_limits<double>::infinity();
    }
  }
  bool picks = p == Prim::maximum || p == Prim::minimum || p == Prim::select || p == Prim::less || p == Prim::negate ||
               p == Prim::abs || p == Prim::floor;
  if (!picks && std::isfinite(out.value)) out.error += rounding(out.value, 4) + (p == Prim::sin || p == Prim::cos ? 1e-7 : 0);
  return out;
}

/// out[i] = prim(a[i], b[i], c[i]) over dense f32.
inline RowKernel elementwise(Prim p) {
  RowKernel k;
  int inputs = arity(p);
  for (int i = 0; i < inputs; ++i) {
    k.operands.push_back({});
    k.body.push_back(load(i));
  }
  k.operands.push_back({.written = true});
  k.body.push_back(prim(p, 0, inputs > 1 ? 1 : -1, inputs > 2 ? 2 : -1));
  k.body.push_back(store(inputs, inputs));
  return k;
}

/// The distance of `found` from `exact` in units of the last place of an f32 there.
inline double units_apart(float found, double exact) {
  float nearest = float(exact);
  if (std::isnan(exact)) return std::isnan(found) ? 0 : 1e30;
  if (std::isinf(nearest) || std::isinf(found) || std::isnan(found)) return found == nearest ? 0 : 1e30;
  int exponent;
  std::frexp(nearest, &exponent);
  return std::fabs(double(found) - exact) / std::ldexp(1.0, std::max(exponent, -125) - 24);
}

inline uint64_t seed() {
  const char* text = std::getenv("SINTER_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 20240;
}

struct Accuracy {
  Prim prim;
  double low, high;  // of the argument; both signs are not implied
  double units;
};
inline constexpr Accuracy kAccuracies[] = {
    {Prim::exp, -104, 89, 2},     {Prim::exp, -1, 1, 2},       {Prim::log, 0, 3e38, 2},          {Prim::log, 0.5, 2, 2},
    {Prim::log, 0, 1e-38, 2},     {Prim::sqrt, 0, 3e38, 0.51}, {Prim::rsqrt, 1e-38, 3e38, 1.51}, {Prim::tanh, -10, 10, 2},
    {Prim::tanh, -1e-3, 1e-3, 2}, {Prim::erf, -5, 5, 6},       {Prim::erf, -1e-3, 1e-3, 4},      {Prim::sin, -10, 10, 4},
    {Prim::sin, -1e5, 1e5, 4},    {Prim::cos, -10, 10, 4},     {Prim::cos, -1e5, 1e5, 4},        {Prim::sin, -1e12, 1e12, 4},
    {Prim::floor, -1e9, 1e9, 0},  {Prim::abs, -3e38, 3e38, 0}, {Prim::negate, -3e38, 3e38, 0},
};

/// Memory of one operand; `zero` is the byte offset of its element 0.
struct Memory {
  std::vector<char> bytes;
  int64_t zero = 0;
  char* address() { return bytes.data() + zero; }
};

struct Case {
  RowKernel kernel;
  std::vector<int64_t> params;
  std::vector<Memory> memory;
  std::vector<int> shares;  // an output's number of the input whose memory it is, or -1
  int64_t rows = 1;
  int64_t row_begin = 0, row_end = 0, column_begin = 0, column_end = 0;
  int64_t columns() const { return params[0]; }

  std::vector<char*> addresses() {
    std::vector<char*> all;
    for (size_t i = 0; i < memory.size(); ++i) all.push_back(memory[shares[i] >= 0 ? size_t(shares[i]) : i].address());
    return all;
  }
};

/// The byte offset of an element from element 0, as row_kernel.h defines it.
inline int64_t element_offset(const RowKernel& k, const std::vector<int64_t>& params, int operand, int64_t row, int64_t column) {
  const KernelOperand& o = k.operands[size_t(operand)];
  int at = k.operand_params(operand);
  int64_t offset = 0, rest = row;
  if (o.row == RowAccess::flat) {
    offset = row * params[size_t(at)];
  } else {
    for (int d = k.rank - 1; d >= 0; --d) {
      int64_t size = params[size_t(1 + d)], index = rest % size;
      rest /= size;
      if (o.row == RowAccess::scaled)
        index = index * params[size_t(at + k.rank + 1 + 2 * d)] / params[size_t(at + k.rank + 2 + 2 * d)];
      offset += index * params[size_t(at + d)];
    }
  }
  if (o.column == ColumnAccess::dense) offset += column;
  if (o.column == ColumnAccess::strided) offset += column * params[size_t(at + k.rank)];
  return offset * byte_size(o.dtype);
}

inline double read(const char* at, DType type) {
  float value;
  convert(at, type, &value, DType::f32, 1);
  return value;
}

/// All steps of one row, by step and column; stores keep what is stored.
inline std::vector<std::vector<Uncertain>> evaluate_row(const Case& c, const std::vector<const char*>& operands, int64_t row) {
  const RowKernel& k = c.kernel;
  size_t columns = size_t(c.columns());
  std::vector<std::vector<Uncertain>> values(k.body.size(), std::vector<Uncertain>(std::max<size_t>(columns, 1)));
  for (size_t i = 0; i < k.body.size(); ++i) {
    const KernelStep& s = k.body[i];
    Uncertain total{s.kind == KernelStep::reduce_max ? -std::numeric_limits<double>::infinity() : 0, 0};
    double size = 0;
    if (s.kind == KernelStep::reduce_sum || s.kind == KernelStep::reduce_max) {
      for (size_t j = 0; j < columns; ++j) {
        const Uncertain& x = values[size_t(s.a)][j];
        if (s.kind == KernelStep::reduce_sum) {
          total.value += x.value, total.error += x.error, size += std::fabs(x.value);
        } else {
          total.value = evaluate(Prim::maximum, total.value, x.value, 0);
          total.error = std::max(total.error, x.error);
        }
      }
      if (s.kind == KernelStep::reduce_sum) {
        if (std::isfinite(size)) total.error += size * 64 * 0x1p-24;
        if (size > 1e37) total.error = std::numeric_limits<double>::infinity();
      }
      if (std::isnan(total.error)) total.error = std::numeric_limits<double>::infinity();
    }
    for (size_t j = 0; j < values[i].size(); ++j) {
      Uncertain& out = values[i][j];
      switch (s.kind) {
        case KernelStep::load:
          // Without columns, only values that do not depend on them are ever looked at.
          if (columns > 0 || k.operands[size_t(s.operand)].column == ColumnAccess::broadcast)
            out.value = read(operands[size_t(s.operand)] + element_offset(k, c.params, s.operand, row, int64_t(j)),
                             k.operands[size_t(s.operand)].dtype);
          break;
        case KernelStep::constant:
          out.value = float(s.value);
          break;
        case KernelStep::column_index:
          out.value = double(j);
          break;
        case KernelStep::row_index: {
          int64_t rest = row;
          for (int d = k.rank - 1; d > s.operand; --d) rest /= c.params[size_t(1 + d)];
          out.value = double(rest % c.params[size_t(1 + s.operand)]);
          break;
        }
        case KernelStep::primitive: {
          Uncertain in[3];
          const int from[3] = {s.a, s.b, s.c};
          for (int n = 0; n < arity(s.prim); ++n) in[n] = values[size_t(from[n])][j];
          out = apply(s.prim, in);
          break;
        }
        case KernelStep::reduce_sum:
        case KernelStep::reduce_max:
          out = total;
          break;
        case KernelStep::swap_pairs:
          out = values[size_t(s.a)][columns > 0 ? j ^ 1 : j];
          break;
        case KernelStep::store:
          out = values[size_t(s.a)][j];
          break;
      }
    }
  }
  return values;
}

/// Whether a stored element is what `expected` allows. Storing is monotonous, so it lies between the stored bounds.
inline bool agrees(const Uncertain& expected, const char* stored, DType type) {
  if (!(expected.error < std::numeric_limits<double>::infinity())) return true;
  auto as_double = [&](const char* at) {
    double value;
    convert(at, type, &value, DType::f64, 1);
    return value;
  };
  auto through = [&](double value) {
    float narrow = float(value);
    char bytes[8];
    convert(&narrow, DType::f32, bytes, type, 1);
    return as_double(bytes);
  };
  double found = as_double(stored), middle = through(expected.value);
  double low = through(expected.value - expected.error), high = through(expected.value + expected.error);
  if (std::isnan(low) || std::isnan(high) || std::isnan(middle)) return std::isnan(found) || (found >= low) || (found <= high);
  if (type == DType::boolean) return found == low || found == high || found == middle;
  return found >= low && found <= high;
}

/// Empty if `run(c)`, which must do what the kernel says to the memory of `c`, did what the reference does; else what differs.
template <class Run>
std::string difference(Case& c, Run&& run) {
  std::vector<Memory> before = c.memory;
  std::vector<const char*> inputs;
  for (size_t i = 0; i < c.memory.size(); ++i) inputs.push_back(before[c.shares[i] >= 0 ? size_t(c.shares[i]) : i].address());
  run(c);
  std::vector<char*> now = c.addresses();

  // What is stored is written over in `expected` too; what differs then was changed without being asked for.
  std::vector<Memory> expected = before;
  for (int64_t row = c.row_begin; row < c.row_end; ++row) {
    auto values = evaluate_row(c, inputs, row);
    for (size_t i = 0; i < c.kernel.body.size(); ++i) {
      const KernelStep& s = c.kernel.body[i];
      if (s.kind != KernelStep::store) continue;
      const KernelOperand& o = c.kernel.operands[size_t(s.operand)];
      size_t home = c.shares[size_t(s.operand)] >= 0 ? size_t(c.shares[size_t(s.operand)]) : size_t(s.operand);
      bool once = o.column == ColumnAccess::broadcast;
      for (int64_t j = once ? 0 : c.column_begin; j < (once ? 1 : c.column_end); ++j) {
        int64_t at = element_offset(c.kernel, c.params, s.operand, row, j);
        if (!agrees(values[i][size_t(j)], now[size_t(s.operand)] + at, o.dtype)) {
          double found;
          convert(now[size_t(s.operand)] + at, o.dtype, &found, DType::f64, 1);
          return fmt::format("operand {}, row {}, column {}: found {}, expected {} +- {}", s.operand, row, j, found,
                             values[i][size_t(j)].value, values[i][size_t(j)].error);
        }
        std::memcpy(expected[home].address() + at, now[size_t(s.operand)] + at, size_t(byte_size(o.dtype)));
      }
    }
  }
  for (size_t i = 0; i < c.memory.size(); ++i)
    if (expected[i].bytes != c.memory[i].bytes)
      return fmt::format("operand {} is changed outside of the rows and columns given", i);
  return "";
}

/// Makes random cases from a seed.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t below(int64_t n) { return int64_t(engine_() % uint64_t(n)); }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  bool chance(int percent) { return below(100) < percent; }
  double real() { return double(engine_() >> 11) * 0x1p-53; }

  Case make() {
    Case c;
    c.kernel.rank = int(between(1, 4));
    static constexpr int64_t kColumns[] = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 100, 128, 257, 1000, 2500};
    c.params.push_back(kColumns[size_t(below(20))]);
    for (int d = 0; d < c.kernel.rank; ++d) {
      c.params.push_back(chance(4) ? 0 : between(1, c.columns() > 300 ? 2 : 4));
      c.rows *= c.params.back();
    }
    int inputs = int(between(1, 4)), outputs = int(between(1, 2));
    for (int i = 0; i < inputs; ++i) add_operand(c, false);
    for (int i = 0; i < outputs; ++i) add_operand(c, true);
    make_body(c, inputs, outputs);
    c.row_begin = chance(50) ? 0 : below(c.rows + 1);
    c.row_end = chance(50) ? c.rows : between(c.row_begin, c.rows);
    c.column_begin = chance(70) ? 0 : below(c.columns() + 1);
    c.column_end = chance(70) ? c.columns() : between(c.column_begin, c.columns());
    if (std::any_of(c.kernel.body.begin(), c.kernel.body.end(), is_swap)) {
      c.column_begin -= c.column_begin % 2;
      c.column_end -= c.column_end % 2;
    }
    return c;
  }

 private:
  static bool is_swap(const KernelStep& s) { return s.kind == KernelStep::swap_pairs; }

  DType dtype() {
    if (chance(50)) return DType(below(3));
    return DType(below(15));
  }

  void add_operand(Case& c, bool written) {
    const RowKernel& k = c.kernel;
    KernelOperand o{.dtype = dtype(),
                    .column = chance(60) ? ColumnAccess::dense : ColumnAccess(below(3)),
                    .row = RowAccess::dims,
                    .written = written};
    int number = int(k.operands.size()), share = -1;
    // In place: the output takes over an input's memory and addressing.
    if (written && chance(30))
      for (int i = 0; i < number; ++i) {
        const KernelOperand& input = k.operands[size_t(i)];
        bool taken = std::count(c.shares.begin(), c.shares.end(), i) > 0;
        if (!input.written && !taken && injective_[size_t(i)]) share = i;
      }
    if (share >= 0) {
      o = k.operands[size_t(share)];
      o.written = true;
    } else if (written) {
      o.row = chance(15) ? RowAccess::flat : RowAccess::dims;
    } else {
      o.row = RowAccess(chance(70) ? 0 : below(3));
    }
    c.kernel.operands.push_back(o);
    c.shares.push_back(share);
    c.memory.emplace_back();
    int count = c.kernel.operand_params(number + 1) - c.kernel.operand_params(number);
    if (share >= 0) {
      auto from = c.params.begin() + c.kernel.operand_params(share);
      std::vector<int64_t> same(from, from + count);
      c.params.insert(c.params.end(), same.begin(), same.end());
      injective_.push_back(false);
      return;
    }
    injective_.push_back(o.row != RowAccess::scaled);
    lay_out(c, o, written);
    fill(c, number);
  }

  void lay_out(Case& c, const KernelOperand& o, bool written) {
    int rank = c.kernel.rank;
    std::vector<int64_t> strides(size_t(rank), 0), scale;
    std::vector<int> order;
    for (int d = 0; d <= rank; ++d) order.push_back(d);  // `rank` is the column
    std::shuffle(order.begin(), order.end(), engine_);
    int64_t unit = 1, column_stride = 1;
    if (o.column == ColumnAccess::dense) unit = c.columns() + below(3), order.erase(std::find(order.begin(), order.end(), rank));
    if (o.row == RowAccess::scaled)
      for (int d = 0; d < rank; ++d) scale.push_back(between(1, 3)), scale.push_back(between(1, 3));
    if (o.row == RowAccess::flat) {
      strides[0] = (o.column == ColumnAccess::broadcast ? 1 : c.columns() * 2) + below(3);
      column_stride = 2;
    } else {
      for (int d : order) {
        if (d == rank) {
          if (o.column == ColumnAccess::broadcast) continue;
          column_stride = unit, unit *= std::max<int64_t>(c.columns(), 1);
          continue;
        }
        if (!written && chance(25)) {
          injective_.back() = false;
          continue;
        }
        strides[size_t(d)] = unit;
        int64_t extent = c.params[size_t(1 + d)];
        if (!scale.empty()) extent = extent * scale[size_t(2 * d)] / scale[size_t(2 * d + 1)] + 1;
        unit *= std::max<int64_t>(extent, 1);
      }
    }
    if (o.column == ColumnAccess::strided && chance(25)) column_stride = -column_stride;
    c.params.insert(c.params.end(), strides.begin(), strides.end());
    c.params.push_back(column_stride);
    c.params.insert(c.params.end(), scale.begin(), scale.end());
  }

  void fill(Case& c, int number) {
    int64_t low = 0, high = 0, bytes = byte_size(c.kernel.operands[size_t(number)].dtype);
    for (int64_t row = 0; row < c.rows; ++row)
      for (int64_t column : {int64_t(0), std::max<int64_t>(c.columns() - 1, 0)}) {
        int64_t at = element_offset(c.kernel, c.params, number, row, column);
        low = std::min(low, at), high = std::max(high, at);
      }
    // No bytes around: a test can put guard pages there.
    Memory& m = c.memory[size_t(number)];
    m.zero = -low;
    m.bytes.resize(size_t(high - low + bytes));
    for (size_t i = 0; i + size_t(bytes) <= m.bytes.size(); i += size_t(bytes)) {
      float value = chance(3) ? 0.0f : float(real() * 8 - 4);
      if (!is_float(c.kernel.operands[size_t(number)].dtype)) value = std::round(value * 30);
      convert(&value, DType::f32, m.bytes.data() + i, c.kernel.operands[size_t(number)].dtype, 1);
    }
  }

  void make_body(Case& c, int inputs, int outputs) {
    auto& body = c.kernel.body;
    for (int i = 0; i < inputs; ++i) body.push_back(load(i));
    if (chance(30)) body.push_back(constant(real() * 4 - 2));
    if (chance(20)) body.push_back({.kind = KernelStep::column_index});
    if (chance(20)) body.push_back({.kind = KernelStep::row_index, .operand = int(below(c.kernel.rank))});
    int64_t steps = between(0, 12);
    bool reduces = chance(40);
    for (int64_t i = 0; i < steps; ++i) {
      int count = int(body.size());
      auto any = [&] { return int(chance(50) ? std::max<int64_t>(0, count - 1 - below(3)) : below(count)); };
      if (c.columns() > 0 && c.columns() % 2 == 0 && chance(10)) {
        body.push_back({.kind = KernelStep::swap_pairs, .a = any()});
      } else if (reduces && chance(20)) {
        body.push_back(chance(50) ? sum(any()) : largest(any()));
      } else {
        Prim p = Prim(below(int64_t(Prim::floor) + 1));
        body.push_back(prim(p, any(), arity(p) > 1 ? any() : -1, arity(p) > 2 ? any() : -1));
      }
    }
    int last = int(body.size()) - 1;
    for (int i = 0; i < outputs; ++i) {
      int operand = inputs + i, value = i == 0 ? last : int(below(last + 1));
      if (c.kernel.operands[size_t(operand)].column == ColumnAccess::broadcast && varies(c.kernel, value)) {
        body.push_back(sum(value));  // one value a row
        value = int(body.size()) - 1;
        stored_.push_back(value);
      } else {
        stored_.push_back(value);
      }
    }
    for (int i = 0; i < outputs; ++i) body.push_back(store(inputs + i, stored_[size_t(i)]));
  }

  static bool varies(const RowKernel& k, int step) {
    const KernelStep& s = k.body[size_t(step)];
    if (s.kind == KernelStep::load) return k.operands[size_t(s.operand)].column != ColumnAccess::broadcast;
    if (s.kind == KernelStep::primitive) return varies(k, s.a) || (s.b >= 0 && varies(k, s.b)) || (s.c >= 0 && varies(k, s.c));
    return s.kind == KernelStep::column_index || (is_swap(s) && varies(k, s.a));
  }

  std::mt19937_64 engine_;
  std::vector<bool> injective_;  // by operand: no two rows and columns are one element
  std::vector<int> stored_;
};

}  // namespace sinter::row_kernel_cases
