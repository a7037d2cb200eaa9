#pragma once
#include <functional>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "compiler/kernel/gpu_row_kernel.h"
#include "compiler/kernel/microkernels.h"
#include "compiler/kernel/row_kernel.h"
#include "compiler/view.h"

namespace sinter {

/// One operand of a kernel in use: where it is and the numbers that its params take.
struct OperandUse {
  BufferRef buffer;
  bool tile = false;         ///< a tile of the call around it; no buffer
  Dim offset = 0;            ///< elements
  std::vector<Dim> strides;  ///< for each outer dim
  Dim column_stride = 0;
  std::vector<View::Scale> scales;  ///< for RowAccess::scaled
};

struct KernelUse {
  int32_t kernel = 0;    ///< index into Program::kernels
  int32_t variant = -1;  ///< index into Program::variants; none on a CPU
  Dim columns = 1;
  std::vector<Dim> outer;
  std::vector<OperandUse> operands;
};

/// Elements of a buffer from an offset on.
struct Place {
  BufferRef buffer;
  Dim offset = 0;
};

struct RowStep {
  KernelUse use;
};

/// What a vendor's product or convolution does to its result, in this order, before it stores it as `out_type`.
struct VendorTail {
  int32_t bias = -1;   ///< slot of form `rows` in `out_type`; none: -1
  bool gelu = false;   ///< the tanh form
  bool gated = false;  ///< of a product of two parts: the first times the GELU, in its erf form, of the second
  bool adds = false;   ///< the residual, of `out_type`
  Place residual;
  Dim residual_stride = 0, residual_batch_stride = 0;
  DType out_type = DType::f32;
};

/// out[m, n] = a[m, k] . weight[n, k]^T, then the epilogue, or the vendor's tail.
struct LinearStep {
  Dim m;
  int64_t n = 0, k = 0;  ///< n of one part
  int32_t parts = 1;
  DType a_type = DType::f32;  ///< f8e4m3: a and the weights have factors
  Place a;
  Dim a_stride = 0;
  Place a_scales;                     ///< of f8e4m3: f32, dense, one for each row of each batch
  int32_t weight = 0;                 ///< slot
  int64_t weight_row = 0;             ///< where the n rows begin in a slot of form `rows` or `e4m3_rows`, and in the tail's bias
  std::optional<KernelUse> epilogue;  ///< none: `out` gets the result as it is (f32 unless the tail says otherwise)
  std::optional<VendorTail> tail;
  Place out;
  Dim out_stride = 0;
  /// With a tail: so many times m rows, where those of a, the residual or the result cannot be walked as one.
  Dim batch = 1, a_batch_stride = 0, out_batch_stride = 0;
};

/// A convolution, channels-last.
struct ConvStep {
  Dim n, h, w;
  /// The picture is read at another size, pixel (y / 2, x / 2) of memory for pixel (y, x): at twice its size, or with a last row
  /// or column less, which only the sizes of a run may tell. h and w are what lies in memory. Only with a tail, windows of 3 x 3,
  /// a stride and a padding of 1, and weights of the form `doubled_filters`.
  bool doubled = false;
  Dim enlarged_h, enlarged_w;
  int64_t c = 0, out_c = 0, kernel_h = 1, kernel_w = 1, stride = 1, top = 0, left = 0, bottom = 0, right = 0;
  DType in_type = DType::f32;
  std::optional<KernelUse> prologue;
  Place in;  ///< without a prologue
  Dim pixel_stride = 0;
  int32_t weight = 0;
  bool computed = false;  ///< the weights are no slot: they lie dense in `filter`, and are packed at every run
  DType filter_type = DType::f32;
  Place filter;
  /// With a tail: there where the tail adds a residual, or a bias where it is doubled, and does the same to `out` as it lies, for
  /// where that is faster.
  std::optional<KernelUse> epilogue;
  std::optional<VendorTail> tail;
  Place out;
  Dim out_stride = 0;
};

/// A product of two computed matrices: out[b, m, n] = a[b, m, :] . b[b, n, :], all dense.
struct MatmulStep {
  Dim batch, m, n, k;
  DType a_type = DType::f32, b_type = DType::f32, out_type = DType::f32;
  bool shared_b = false;  ///< one b for the whole batch
  Place a, b, out;
};

struct HeadPlace {
  Place at;
  Dim b, t, h;  ///< strides in elements
};
struct AttentionStep {
  Dim b, heads, queries, keys, d;
  double scale = 1;
  bool causal = false, biased = false;
  DType in = DType::f32, out_type = DType::f32;  ///< f8e4m3: both are
  HeadPlace q, k, v, bias, out;
  Dim bias_key_stride = 0;
  Place unit;  ///< of f8e4m3: f32, what 1 stands for in q and k; the result is in the units of v
};

/// Scale and shift of group_norm(x), or of group_norm(x + addend) with the addend in the shift.
struct GroupStatsStep {
  Dim n, pixels;
  int64_t channels = 0, groups = 1;
  double epsilon = 1e-5;
  DType type = DType::f32;
  Place x, gamma, beta, out;  ///< gamma and beta: f32, [channels]
  Dim pixel_stride = 0;
  bool adds = false;  ///< only where LowerOptions::vendor
  DType addend_type = DType::f32;
  Place addend;  ///< [n, channels]
  Dim addend_stride = 0;
};

struct EmbeddingStep {
  Dim count;
  Dim rows;
  int64_t width = 0;
  DType table_type = DType::f32, out_type = DType::f32;
  Place table, indices, out;
};

/// out[b, m, :] = x[b, m, :] / scales[b, m] as f8e4m3, scales[b, m] being the largest magnitude of the row / 448. Results are
/// dense.
struct QuantiseStep {
  Dim batch = 1, m;
  int64_t k = 0;
  DType type = DType::bf16;
  Place x, out, scales;  ///< scales: f32
  Dim x_stride = 0, x_batch_stride = 0;
};

/// The program of the `callee`-th call of the graph (in topological order).
struct CallStep {
  int32_t callee = 0;
  std::vector<BufferRef> arguments, results;
};

using Step =
    std::variant<RowStep, LinearStep, ConvStep, MatmulStep, AttentionStep, GroupStatsStep, EmbeddingStep, CallStep, QuantiseStep>;

/// A form in which a program wants some of its graph's own weights.
struct WeightSlot {
  std::vector<int32_t> ordinals;  ///< in own_weights(graph); several only in the forms of rows
  enum Form : uint8_t {
    plain,        ///< as it is declared
    matrix,       ///< packed for the CPU's matrix kernels
    convolution,  ///< the same, of a window
    rows,         ///< row-major [rows, k], several weights one below the other; a bias is rows of one
    filters,      ///< [out, height, width, in]
    e4m3_rows,    ///< `rows` as f8e4m3, and an f32 factor for each row
    /// [in, 4, 4, out]: what windows of 3 x 3 do to a picture at twice its size, said of the picture itself: its pixel i is added
    /// to the result's 2 i - 1 to 2 i + 2, in both directions, times these sums of the windows' weights.
    doubled_filters,
  } form = plain;
  PanelType panels = PanelType::f32;  ///< the element type of all forms but `plain` and `e4m3_rows`
  int32_t parts = 1;                  ///< of `matrix`: each packed by itself
  auto operator<=>(const WeightSlot&) const = default;
};

struct Temporary {
  Dim bytes;
  int32_t first_step = 0, last_step = 0;  ///< between which it is in use
};

/// A kernel as it is compiled for a GPU.
struct KernelVariant {
  int32_t kernel = 0;
  GpuSchedule schedule;
  bool operator==(const KernelVariant&) const = default;
};

/// What compiling one block gives: a list of steps over buffers with symbolic sizes, and machine code.
struct Program {
  std::vector<Step> steps;
  std::vector<WeightSlot> weights;
  std::vector<Tensor> constants;
  std::vector<Temporary> temporaries;
  std::vector<RowKernel> kernels;
  std::vector<KernelVariant> variants;
  /// With one function for each kernel (CPU: an ELF object) or variant (GPU); empty if there is none.
  std::vector<std::byte> code;
};

std::string kernel_symbol(size_t kernel_or_variant);

/// The params of a kernel in use, as row_kernel.h lists them, at one binding of sizes. Those of tiles are 0.
std::vector<int64_t> kernel_params(const KernelUse& use, const RowKernel& kernel, const Bindings& bindings);

/// Calls `visit` on every buffer that a step touches, tiles aside.
void for_each_buffer(const Step& step, const std::function<void(BufferRef)>& visit);

/// Checks that every number in a program refers to something: buffers, kernels and their params, weights, calls, lifetimes. Fails
/// with Code::Corrupt. Says nothing about offsets and strides, which are the compiler's word.
void validate(const Program& program, const Graph& graph);

/// The bytes that the cache keeps. Symbols are written as numbers that structure_digest gives them, so that a program serves
/// every graph of equal structure; `graph` gives the names back. What is read is valid, or Code::Corrupt.
std::vector<std::byte> to_bytes(const Program& program, const Graph& graph);
Program program_from_bytes(std::span<const std::byte> bytes, const Graph& graph);

}  // namespace sinter
