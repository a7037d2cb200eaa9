#pragma once
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "compiler/lowering/kernel_builder.h"
#include "compiler/lowering/lower.h"
#include "compiler/lowering/lowered_ops.h"

namespace sinter {

inline bool is_leaf(const Node& n) { return n.op == &input_op || n.op == &weight_op || n.op == &constant_op; }
inline bool is_reduction(const Node& n) { return n.op == &reduce_sum_op || n.op == &reduce_max_op; }
/// Computed inside row kernels, unless something wants it in memory.
bool is_inline(const Node& n);
inline bool is_call(const Node& n) { return !is_leaf(n) && !is_inline(n) && n.op != &result_op; }
/// The weight that a value is, maybe converted; null for any other value.
const Node* weight_of(Value v);
/// A window of one pixel over whole channels is a linear layer.
bool is_pointwise_conv(const Node& n);

/// One graph on its way to a program. What lower() does is said in lower.h; each file lower_*.cpp holds a part of this.
class Lowering {
 public:
  Lowering(const Graph& graph, const LowerOptions& options);
  Program run();

 private:
  void attempt();

  // What lies in memory --------------------------------------------------------------------------------------------------
  /// Kernels of a GPU keep a value's f32 digits where the graph rounds it between two pointwise ops: nothing is gained by losing
  /// them, and a pass over memory is saved.
  bool rounds(const Node& n) const;
  /// The value below movement ops.
  const Node* base(const Node* n) const;
  void want_in_memory(Value v);
  void find_residents();
  /// A few operations on weights, constants and index ramps alone.
  bool is_cheap(const Node* n) const;
  bool has_one_user(const Node* n) const;
  /// Pointwise work on the input of one convolution with a window is done while its padded tiles are filled.
  void find_prologues();
  bool contains_reduction(const Node* n) const;
  /// A linear or convolution whose result only one pointwise kernel reads becomes part of it.
  void find_epilogues();
  /// What follows a product or convolution and its vendor can do: bias, then GELU, a residual or gating.
  struct Tail {
    const Node *root = nullptr, *bias = nullptr, *residual = nullptr;
    bool gelu = false, gated = false;
  };
  void find_tails();
  void set_tail(const Node* call, const Tail& tail);
  /// A product of rows with weights, whatever the graph calls it.
  static bool is_linear(const Node& n);
  /// The only reader of a tail's root, if it is that op and can be part of the tail, else null.
  const Node* after(const Tail& tail, const OpDef& op) const;
  /// The same of a sum, and what is added there.
  std::pair<const Node*, Value> sum_after(const Tail& tail) const;
  Tail tail_of(const Node* call) const;
  /// A convolution's tail, with the residual behind it if the sum would be a pass over memory.
  Tail with_residual(const Node* conv) const;
  /// The product of the first half of `whole`'s columns and the GELU of the others, if nothing else reads `whole`, else null.
  const Node* gated_halves(const Node* whole) const;
  bool is_bias(Value v, const Node* call) const;
  static Value unbroadcast(Value v) { return v->op == &broadcast_op ? v->inputs[0] : v; }
  /// In memory before the call, and of the same shape.
  bool is_residual(Value v, const Node* sum) const;
  /// The kernels that would read `n` as it stands.
  std::set<const Node*> kernel_roots(const Node* n) const;

  // Homes ----------------------------------------------------------------------------------------------------------------
  int temporary(Dim bytes);
  View new_home(const Node* n);
  void place_homes();
  View part_of_concat(const Node* concat, size_t part) const;
  /// What only changes shape on its way to `n` can be written where `n` is wanted.
  const Node* below_reshapes(const Node* n) const;
  void place_parts(const Node* concat);

  // Weights ---------------------------------------------------------------------------------------------------------------
  int slot(const Node* weight, WeightSlot::Form form, PanelType panels = PanelType::f32, int parts = 1);
  int slot(const WeightSlot& wanted);
  /// Rows of one or more weights, one below the other.
  struct WeightRows {
    std::vector<const Node*> weights;
    int64_t first = 0;
  };
  /// What a value made of weights by cast, concat and slice of rows is; nothing for any other value.
  static std::optional<WeightRows> weight_rows(Value v);
  int rows_slot(const WeightRows& rows, DType type);

  std::optional<View> home(const Node* n);
  Residents residents();

  // Steps ----------------------------------------------------------------------------------------------------------------
  KernelUse add_kernel(BuiltKernel built);
  void emit(const Node* n);
  /// Elements of one view into those of another of the same shape, converted to its type.
  void copy(const View& from, const View& to);
  void copy(const Node* n, const View& to) { copy(copyable(n), to); }
  /// A view that a kernel can read.
  View copyable(const Node* n);
  /// A dense copy of a view in a temporary.
  View copied(const View& from, DType dtype);
  void emit_output(int i);
  static Place place(const View& view) { return {view.buffer, view.offset}; }
  /// Of all axes but the last.
  static Dim rows_count(const Shape& shape) { return element_count({shape.begin(), shape.end() - 1}); }
  /// The rows of an operand of a product; throws NeedsMemory where they are no rows.
  std::pair<View, Dim> rows_of(Value v);

  // Products and convolutions -----------------------------------------------------------------------------------------------
  PanelType panels_for(const Node* weight, DType compute, bool even) const;
  /// The kernel that turns tiles of `call` into `root`; nothing where the tiles can be stored as they are.
  std::optional<KernelUse> epilogue(const Node* call, const Node* root, int64_t columns, int parts);
  template <class CallStepType>
  void set_result(CallStepType& step, const Node* root);
  void emit_product_call(const Node* n, const Node* root);
  /// A view as `batch` times rows: the first axis, and all but the last of the others. Nothing where the view is none.
  struct BatchedRows {
    View view;
    Dim batch_stride = 0, stride = 0;
    bool together = true;  ///< the batches follow each other like rows
  };
  static std::optional<BatchedRows> batched_rows(const View& view);
  BatchedRows batched_rows_of(Value v);
  /// A home with gaps that rows cannot cross is copied to from a temporary.
  View writable_rows(const Node* root);
  View writable_dense(const Node* root);
  void copy_home(const Node* root, const View& from);

  // Products in f8e4m3 ------------------------------------------------------------------------------------------------------
  /// A linear layer whose product is made in f8e4m3.
  bool is_fp8(const Node& n) const;
  /// What is quantised, and where the results are.
  struct Quantised {
    BufferRef buffer;
    Dim offset, batch, batch_stride, m, stride;
    int64_t k;
    BatchedRows rows;
    Place scales;
    bool is_of(const Quantised& other) const {
      return buffer == other.buffer && offset == other.offset && batch == other.batch && m == other.m && stride == other.stride &&
             k == other.k && (batch == Dim(1) || batch_stride == other.batch_stride);
    }
  };
  static Quantised quantised_rows(const BatchedRows& a);
  /// Temporaries for rows as f8e4m3, dense, and their factors.
  void place_quantised(Quantised& q, const Shape& shape);
  /// The rows as f8e4m3; made once for all that read them.
  Quantised quantised(const BatchedRows& a);
  /// A row kernel can give its result as f8e4m3 itself where nobody reads it otherwise.
  bool can_quantise(const Node* n, const BuiltKernel& built) const;
  bool only_fp8_reads(const Node* n, const Dim& columns) const;
  /// The same kernel, whose last step then stores rows as f8e4m3, and one more their factors.
  void quantise_result(const Node* n, BuiltKernel& built);

  // Steps of calls ----------------------------------------------------------------------------------------------------------
  void emit_vendor_linear(const Node* n, const Node* root);
  void emit_linear(const Node* n, const Node* root);
  void emit_conv(const Node* n, const Node* root);
  /// A picture, resized to twice its size (ConvStep::doubled) for a convolution that need not see it so: what was resized; else
  /// nothing.
  Value doubled_input(const Node& conv) const;
  /// The kernel that makes a sum where the part of it that is a convolution's result lies.
  BuiltKernel in_place(const Node* sum, const Node* part, const View& out);
  /// Computed filters [out, in, height, width] as [out, height, width, in].
  View filters_of(Value v, DType type);
  View dense_operand(Value v);
  void emit_matmul(const Node* n);
  void emit_product(Value a, Value b, const Node* n, bool shared_b);
  void add_product(const View& a, const View& b, const Node* n, bool shared_b);
  HeadPlace heads(const View& view, const Node* node);
  void emit_attention(const Node* n);
  void emit_group_stats(const Node* n);
  void throw_unless_resident(const Node* n);
  void emit_embedding(const Node* n);
  void emit_concat(const Node* n);
  void emit_call(const Node* n);

  void find_lifetimes();

  const Graph& graph_;
  const LowerOptions& options_;
  std::vector<Value> order_;
  std::unordered_map<const Node*, std::vector<const Node*>> users_;  // null: the graph's output
  std::unordered_map<const Node*, int> ordinals_, inputs_;
  std::unordered_set<const Node*> in_memory_, dense_;  // what earlier attempts found out

  Program program_;
  std::unordered_set<const Node*> resident_;
  std::unordered_map<const Node*, std::set<const Node*>> roots_;
  std::unordered_map<const Node*, View> homes_;
  std::unordered_map<const Node*, const Node*> fused_, fused_call_;  // call -> root, root -> call
  std::unordered_set<const Node*> prologue_;                         // convolutions
  std::unordered_map<const Node*, Tail> tails_;                      // of vendor calls
  std::map<WeightSlot, int> slots_;
  std::vector<Quantised> quantised_;
  std::unordered_map<const Node*, std::vector<int>> call_results_;
  int callees_ = 0;
};

}  // namespace sinter
