#pragma once
#include <array>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "backends/cuda/calls/vendor.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

enum class LinearEpilogue {
  None,
  Bias,
  BiasGelu,  ///< GELU in its tanh form; the erf form does not exist here
};

enum class LinearCompute {
  F32,            ///< products of the given types, added in f32; f32 inputs are used whole
  TF32,           ///< f32 inputs rounded to 10 fraction bits
  F16Accumulate,  ///< f16 sums: faster where f32 ones run at half rate; they overflow at 65504
  FP8Tensor,      ///< e4m3 inputs, one f32 factor for all of `a` and one for all weights
  FP8Vector,      ///< e4m3 inputs, one f32 factor for each row of `a` and one for each row of the weights (output feature)
};

std::string_view name_of(LinearCompute compute);

/// out[b, m, n] = epilogue(sum over k of a[b, m, k] * weights[b, n, k]) (+ residual[b, m, n]), all row-major, strides in
/// elements. A product of two computed tensors is the same thing; see weights_are_kn. cuBLASLt makes it, or on devices of
/// capability 9.0 a kernel of ours (kernels/tile_product.h, split_product.h).
struct LinearShape {
  int64_t m = 0, n = 0, k = 0;
  DType a = DType::bf16;  ///< and of the weights, which the library wants alike (of fp8: f8e4m3)
  DType weights = DType::bf16;
  DType out = DType::bf16;  ///< and of the residual
  /// From one row to the next; 0: dense. A larger one reads a slice of a wider buffer, or writes into one (a concat less).
  int64_t a_stride = 0, weights_stride = 0, out_stride = 0, residual_stride = 0;
  bool weights_are_kn = false;  ///< weights[b, k, n] instead, rows of n
  LinearEpilogue epilogue = LinearEpilogue::None;
  /// out = value * gelu(gate), GELU in its erf form: n more rows of the weights, and of the bias, follow the first n and make the
  /// gate. A tile product only: the library has no such thing.
  bool gated = false;
  bool residual = false;  ///< may be `out` itself; not with BiasGelu, which the library would apply to the sum
  LinearCompute compute = LinearCompute::F32;
  bool fast_accumulate = true;  ///< fp8: sums of shorter runs in fewer bits; up to 1.3 times as fast
  int64_t batch = 1;
  /// From one matrix to the next; 0: the same for all (not `out`). Unused with batch 1.
  int64_t a_batch = 0, weights_batch = 0, out_batch = 0, residual_batch = 0;
  /// What every address is a multiple of, in bytes. Below 16 most kernels are lost.
  int alignment = 256;

  /// To what divides these addresses too.
  void lower_alignment(std::initializer_list<DevicePtr> addresses) {
    for (DevicePtr address : addresses)
      while (address % DevicePtr(alignment) != 0) alignment /= 2;
  }
  DType bias() const;  ///< the type of the bias vector [n]: that of `out`, but bf16 with fp8 inputs
  bool is_fp8() const { return compute == LinearCompute::FP8Tensor || compute == LinearCompute::FP8Vector; }
  double flops() const { return (gated ? 4.0 : 2.0) * double(batch) * double(m) * double(n) * double(k); }
  /// Everything in it, in a short form: names stored choices.
  std::string text() const;
  bool operator==(const LinearShape&) const = default;
};

/// Strides filled in; a batch that shares its weights and lies dense becomes more rows. Code::InvalidArgument for sizes that
/// make no sense.
LinearShape normalised(LinearShape shape);

/// Why no tile product of ours makes this; empty where one does.
std::string why_no_tile_product(const LinearShape& shape, const DeviceInfo& device);
/// The kernels that may be wanted for products with such results, timed or not; empty where none is.
std::vector<std::string> tile_kernels(DType type, bool gated, bool residual, bool timed, const DeviceInfo& device);
/// Whether one, or a split product, should be faster than the library's, with a kernel that gates after it where `gated`.
bool tile_product_should_win(const LinearShape& shape, const DeviceInfo& device);

struct LinearBuffers {
  DevicePtr a = 0, weights = 0, out = 0;
  DevicePtr bias = 0;      ///< with an epilogue that has one
  DevicePtr residual = 0;  ///< with one
  /// No kernel of the stream writes the weights: a call may read them before those queued in front of it have ended.
  bool early_weights = false;
  float scale = 1;  ///< of the sums; no part of the plan, and 1 with f16 sums
  /// fp8: f32 factors, aligned to 16 bytes: one each (FP8Tensor) or [m] and [n] (FP8Vector).
  DevicePtr a_scale = 0, weights_scale = 0;
};

class CublasLtProduct;

/// What will run for one shape. Valid as long as its Vendor.
class LinearPlan {
 public:
  LinearPlan(const LinearPlan&) = delete;
  LinearPlan& operator=(const LinearPlan&) = delete;

  const LinearShape& shape() const { return shape_; }  ///< as normalised
  int64_t workspace_bytes() const { return workspace_bytes_; }
  const Choice& choice() const { return choice_; }
  bool is_own() const { return tile_form_ >= 0; }

  /// Code::InvalidArgument for a missing or misaligned address and for too little workspace.
  std::unique_ptr<BoundCall> bind(const LinearBuffers& buffers, const Workspace& workspace) const;

 private:
  friend class LinearPlanner;
  LinearPlan(Vendor& vendor, const LinearShape& shape);

  Vendor& vendor_;
  LinearShape shape_;
  std::shared_ptr<const CublasLtProduct> library_;  ///< none for a tile product
  std::array<uint64_t, 8> algorithm_{};             ///< the library's
  int tile_form_ = -1;
  int64_t workspace_bytes_ = 0;
  Choice choice_;
};

/// What stored choices depend on, beside the shape.
Facts linear_facts(const Vendor& vendor);

/// Starts cuBLASLt and asks it for a product, which takes 0.1 s the first time; on any thread.
void begin_products(Vendor& vendor);

/// The stored choice if there is one; else, with `tune`, the fastest of the library's best five and our kernels, which is
/// stored; else the library's first, or one of ours where tile_product_should_win().
Planned<LinearPlan> plan_linear(Vendor& vendor, const LinearShape& shape, const TuneOn<LinearBuffers>* tune = nullptr);

}  // namespace sinter::cuda
