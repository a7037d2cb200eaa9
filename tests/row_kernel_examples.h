#pragma once
// The row kernels that a diffusion model spends its time in, with the sizes of real models, for tests and benchmarks of any
// backend.

#include <string>
#include <vector>

#include "compiler/kernel/row_kernel.h"

namespace sinter::row_kernel_examples {

/// A kernel and the params of one run. Operands are read, except the last one, which is written.
struct Example {
  std::string name;
  RowKernel kernel;
  std::vector<int64_t> params;
  double bytes = 0;  ///< moved, if every element is read once
};

/// Puts a kernel together with its addressing. Dims: outer sizes, then the columns.
class ExampleBuilder {
 public:
  ExampleBuilder(std::string name, std::vector<int64_t> outer, int64_t columns) : outer_(std::move(outer)), columns_(columns) {
    example_.name = std::move(name);
    example_.kernel.rank = int(outer_.size());
  }

  /// An operand with these strides of the outer dims.
  int operand(DType type, std::vector<int64_t> strides, ColumnAccess column = ColumnAccess::dense) {
    example_.kernel.operands.push_back({.dtype = type, .column = column});
    double elements = column == ColumnAccess::broadcast ? 1 : double(columns_);
    for (size_t d = 0; d < outer_.size(); ++d) elements *= strides[d] != 0 ? double(outer_[d]) : 1;
    example_.bytes += elements * double(byte_size(type));
    strides_.push_back(std::move(strides));
    return int(strides_.size()) - 1;
  }
  /// Strides of rows that lie one after the other.
  std::vector<int64_t> rows() const { return rows(columns_); }
  std::vector<int64_t> rows(int64_t width) const {
    std::vector<int64_t> strides(outer_.size());
    for (size_t d = outer_.size(); d-- > 0; width *= outer_[d]) strides[d] = width;
    return strides;
  }
  std::vector<int64_t> none() const { return std::vector<int64_t>(outer_.size(), 0); }

  int step(KernelStep s) {
    example_.kernel.body.push_back(s);
    return int(example_.kernel.body.size()) - 1;
  }
  int load(DType type, std::vector<int64_t> strides, ColumnAccess column = ColumnAccess::dense) {
    return step({.kind = KernelStep::load, .operand = operand(type, std::move(strides), column)});
  }
  int number(double value) { return step({.kind = KernelStep::constant, .value = value}); }
  int prim(Prim p, int a, int b = -1, int c = -1) {
    return step({.kind = KernelStep::primitive, .prim = p, .a = a, .b = b, .c = c});
  }
  int sum(int a) { return step({.kind = KernelStep::reduce_sum, .a = a}); }
  int largest(int a) { return step({.kind = KernelStep::reduce_max, .a = a}); }
  int swap_pairs(int a) { return step({.kind = KernelStep::swap_pairs, .a = a}); }
  int add(int a, int b) { return prim(Prim::add, a, b); }
  int multiply(int a, int b) { return prim(Prim::multiply, a, b); }
  int mean(int a) { return multiply(sum(a), number(1.0 / double(columns_))); }
  int silu(int x) { return prim(Prim::divide, x, add(prim(Prim::exp, prim(Prim::negate, x)), number(1))); }
  int gelu(int x) {
    int e = prim(Prim::erf, multiply(x, number(0.70710678118654752)));
    return multiply(multiply(x, number(0.5)), add(e, number(1)));
  }

  Example store(int value, DType type, std::vector<int64_t> strides) {
    int to = operand(type, std::move(strides));
    example_.kernel.operands[size_t(to)].written = true;
    step({.kind = KernelStep::store, .a = value, .operand = to});
    example_.params = {columns_};
    example_.params.insert(example_.params.end(), outer_.begin(), outer_.end());
    for (const auto& s : strides_) {
      example_.params.insert(example_.params.end(), s.begin(), s.end());
      example_.params.push_back(1);
    }
    return example_;
  }

 private:
  Example example_;
  std::vector<int64_t> outer_;
  int64_t columns_;
  std::vector<std::vector<int64_t>> strides_;
};

/// (x - mean) / deviation * (1 + scale) + shift: transformer blocks with adaptive normalisation.
inline Example modulated_layer_norm(DType type, int64_t tokens, int64_t width) {
  ExampleBuilder k("layer norm, modulated, " + std::to_string(width), {tokens}, width);
  int x = k.load(type, k.rows()), scale = k.load(type, k.none()), shift = k.load(type, k.none());
  int centred = k.prim(Prim::subtract, x, k.mean(x));
  int deviation = k.prim(Prim::rsqrt, k.add(k.mean(k.multiply(centred, centred)), k.number(1e-6)));
  int unit = k.multiply(centred, deviation);
  return k.store(k.add(k.multiply(unit, k.add(scale, k.number(1))), shift), type, k.rows());
}

/// Root-mean-square norm of each head, then rotation: x cos + swap_pairs(x) sin, out of the joint result for q, k and v.
inline Example rotated_rms_norm(DType type, int64_t tokens, int64_t heads, int64_t width) {
  ExampleBuilder k("RMS norm + rope, " + std::to_string(width), {tokens, heads}, width);
  int x = k.load(type, {3 * heads * width, width}), weight = k.load(type, k.none());
  int cosine = k.load(DType::f32, {width, 0}), sine = k.load(DType::f32, {width, 0});
  int size = k.prim(Prim::rsqrt, k.add(k.mean(k.multiply(x, x)), k.number(1e-6)));
  int unit = k.multiply(k.multiply(x, size), weight);
  return k.store(k.add(k.multiply(unit, cosine), k.multiply(k.swap_pairs(unit), sine)), type, k.rows());
}

/// silu(x * scale + shift) with the scale and shift of each image and channel: the second half of a group norm.
inline Example group_norm_silu(DType type, int64_t images, int64_t pixels, int64_t channels) {
  ExampleBuilder k("group norm apply + SiLU, " + std::to_string(channels), {images, pixels}, channels);
  int x = k.load(type, k.rows());
  int scale = k.load(DType::f32, {2 * channels, 0}), shift = k.load(DType::f32, {2 * channels, 0});
  return k.store(k.silu(k.add(k.multiply(x, scale), shift)), type, k.rows());
}

/// x * gelu(gate), both halves of one wide row.
inline Example gated_gelu(DType type, int64_t rows, int64_t width) {
  ExampleBuilder k("GEGLU, " + std::to_string(width), {rows}, width);
  int x = k.load(type, k.rows(2 * width)), gate = k.load(type, k.rows(2 * width));
  return k.store(k.multiply(x, k.gelu(gate)), type, k.rows());
}

/// x + gate * y with one gate for all rows.
inline Example gated_residual(DType type, int64_t rows, int64_t width) {
  ExampleBuilder k("gate + residual, " + std::to_string(width), {rows}, width);
  int x = k.load(type, k.rows()), y = k.load(type, k.rows()), gate = k.load(type, k.none());
  return k.store(k.add(x, k.multiply(gate, y)), type, k.rows());
}

inline Example softmax(DType type, int64_t rows, int64_t width) {
  ExampleBuilder k("softmax, " + std::to_string(width), {rows}, width);
  int x = k.load(type, k.rows());
  int e = k.prim(Prim::exp, k.prim(Prim::subtract, x, k.largest(x)));
  return k.store(k.prim(Prim::divide, e, k.sum(e)), type, k.rows());
}

inline Example silu(DType type, int64_t rows, int64_t width) {
  ExampleBuilder k("SiLU, " + std::to_string(width), {rows}, width);
  return k.store(k.silu(k.load(type, k.rows())), type, k.rows());
}

inline Example tanh_gelu(DType type, int64_t rows, int64_t width) {
  ExampleBuilder k("GELU (tanh), " + std::to_string(width), {rows}, width);
  int x = k.load(type, k.rows());
  int cube = k.multiply(k.multiply(x, x), x);
  int inner = k.multiply(k.number(0.7978845608028654), k.add(x, k.multiply(cube, k.number(0.044715))));
  int t = k.prim(Prim::tanh, inner);
  return k.store(k.multiply(k.multiply(x, k.number(0.5)), k.add(t, k.number(1))), type, k.rows());
}

/// With the number of tokens and pixels of 1024 x 1024 pictures.
inline std::vector<Example> main_kernels(DType type = DType::bf16) {
  return {modulated_layer_norm(type, 4608, 3072),
          modulated_layer_norm(type, 8192, 1280),
          rotated_rms_norm(type, 4608, 24, 128),
          group_norm_silu(type, 2, 128 * 128, 320),
          group_norm_silu(type, 2, 64 * 64, 640),
          gated_gelu(type, 8192, 2560),
          gated_gelu(type, 2048, 5120),
          gated_residual(type, 4608, 3072),
          softmax(type, 8192, 4096),
          silu(type, 4608, 12288),
          tanh_gelu(type, 4608, 12288)};
}

}  // namespace sinter::row_kernel_examples
