#include "backends/cpu/plan.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "backends/cpu/calls/attention.h"
#include "backends/cpu/calls/conv.h"
#include "backends/cpu/calls/group_stats.h"
#include "backends/cpu/calls/linear.h"
#include "backends/cpu/calls/pack.h"
#include "graph/ops.h"

namespace sinter::cpu {
namespace {

constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t bytes) { return round_up(std::max<int64_t>(bytes, 1), kAlignment); }

/// The sizes of steps at one binding.
struct Sizes {
  const Bindings& bindings;
  const Unit& unit;
  int64_t operator()(const Dim& dim) const { return dim.value(bindings); }

  LinearShape linear(const LinearStep& s) const {
    const WeightSlot& slot = unit.program.weights[size_t(s.weight)];
    LinearShape shape;
    shape.m = (*this)(s.m), shape.n = s.n, shape.k = s.k, shape.parts = s.parts;
    shape.weights = slot.panels, shape.a = s.a_type, shape.a_stride = (*this)(s.a_stride);
    shape.epilogue = s.epilogue.has_value();
    return shape;
  }
  ConvShape conv(const ConvStep& s) const {
    ConvShape shape;
    shape.n = (*this)(s.n), shape.h = (*this)(s.h), shape.w = (*this)(s.w), shape.c = s.c, shape.out_c = s.out_c;
    shape.kernel_h = int(s.kernel_h), shape.kernel_w = int(s.kernel_w), shape.stride = int(s.stride);
    shape.pad_top = int(s.top), shape.pad_left = int(s.left), shape.pad_bottom = int(s.bottom), shape.pad_right = int(s.right);
    shape.weights = s.computed ? panel_type(s.filter_type) : unit.program.weights[size_t(s.weight)].panels;
    shape.in = s.in_type, shape.pixel_stride = (*this)(s.pixel_stride);
    shape.prologue = s.prologue.has_value(), shape.epilogue = s.epilogue.has_value();
    return shape;
  }
  LinearShape matmul(const MatmulStep& s) const {
    LinearShape shape;
    shape.m = (*this)(s.m), shape.n = (*this)(s.n), shape.k = (*this)(s.k);
    shape.a = s.a_type, shape.a_stride = shape.k;
    return shape;
  }
  AttentionShape attention(const AttentionStep& s) const {
    AttentionShape shape;
    shape.b = (*this)(s.b), shape.heads = (*this)(s.heads), shape.queries = (*this)(s.queries), shape.keys = (*this)(s.keys);
    shape.d = (*this)(s.d), shape.scale = float(s.scale), shape.causal = s.causal, shape.in = s.in, shape.out = s.out_type;
    return shape;
  }
};

PanelLayout filter_layout(const ConvShape& s, const Microkernels& kernels) {
  return conv_layout(s.weights, s.out_c, s.c, s.kernel_h, s.kernel_w, kernels);
}

/// Bytes that a step needs only while it runs.
struct ScratchBytes {
  const Sizes& sizes;
  Engine& engine;

  int threads() const { return engine.pool().threads(); }
  int64_t operator()(const RowStep&) const { return 0; }
  int64_t operator()(const LinearStep& s) const {
    return linear_workspace_bytes(sizes.linear(s), threads(), engine.microkernels());
  }
  int64_t operator()(const ConvStep& s) const {
    ConvShape shape = sizes.conv(s);
    int64_t packed = s.computed ? aligned(filter_layout(shape, engine.microkernels()).bytes()) : 0;
    return packed + conv_workspace_bytes(shape, threads(), engine.microkernels());
  }
  int64_t operator()(const MatmulStep& s) const {
    LinearShape shape = sizes.matmul(s);
    int64_t packed = panel_layout(PanelType::f32, shape.n, shape.k, 1, engine.microkernels()).bytes();
    return aligned(packed) + linear_workspace_bytes(shape, threads(), engine.microkernels());
  }
  int64_t operator()(const AttentionStep& s) const {
    return attention_workspace_bytes(sizes.attention(s), threads(), engine.microkernels());
  }
  int64_t operator()(const GroupStatsStep& s) const {
    return group_stats_workspace_bytes(sizes(s.n), sizes(s.pixels), s.channels, s.groups, threads());
  }
  int64_t operator()(const EmbeddingStep&) const { return 0; }
  int64_t operator()(const QuantiseStep&) const { return 0; }
  int64_t operator()(const CallStep&) const { return 0; }  // the layout's concern
};

}  // namespace

int64_t Engine::scratch_bytes(const Unit& unit, const Step& step, const Bindings& bindings) {
  Sizes sizes{bindings, unit};
  return std::visit(ScratchBytes{sizes, *this}, step);
}

/// Walks the steps of one instance of a unit and appends their launches.
class Plan::Builder {
 public:
  Builder(Plan& plan, const Layout& layout, const BoundWeights& weights)
      : plan_(plan), layout_(layout), weights_(weights), engine_(plan.engine_) {}

  void add(const Unit& unit, const std::string& prefix, char* base, std::vector<char*> parameters, std::vector<char*> results) {
    Instance instance{
        unit, prefix, base, std::move(parameters), std::move(results), layout_.of(unit), {layout_.bindings(), unit}};
    for (size_t i = 0; i < unit.program.steps.size(); ++i) {
      instance.workspace = base + instance.layout.scratch[i];
      instance.step = i;
      std::visit([&](const auto& step) { add_step(instance, step); }, unit.program.steps[i]);
    }
  }

 private:
  struct Instance {
    const Unit& unit;
    const std::string& prefix;
    char* base;
    std::vector<char*> parameters, results;
    const UnitLayout& layout;
    Sizes sizes;
    char* workspace = nullptr;
    size_t step = 0;

    char* address(BufferRef b, const BoundWeights& weights) const {
      auto i = size_t(b.index);
      switch (b.space) {
        case BufferRef::parameter:
          return parameters[i];
        case BufferRef::result:
          return results[i];
        case BufferRef::temporary:
          return base + layout.temporaries[i];
        case BufferRef::constant:
          return const_cast<char*>(reinterpret_cast<const char*>(unit.program.constants[i].data()));
        case BufferRef::weight:
          return static_cast<char*>(const_cast<void*>(weight(int(i), weights)));
      }
      return nullptr;
    }
    const void* weight(int slot, const BoundWeights& weights) const {
      const WeightSlot& s = unit.program.weights[size_t(slot)];
      return weights.get(prefix + unit.weights[size_t(s.ordinals[0])].name, s);
    }
  };

  char* address(const Instance& in, const Place& place, DType type) const {
    return in.address(place.buffer, weights_) + in.sizes(place.offset) * byte_size(type);
  }

  void launch(const Instance& in, const char* kind, std::function<void()> run) {
    plan_.launches_.push_back({kind, std::move(run), &in.unit, in.step});
  }

  TileKernel bind(const Instance& in, const KernelUse& use) const {
    const RowKernel& kernel = in.unit.program.kernels[size_t(use.kernel)];
    TileKernel bound;
    bound.function = kernel_of(in.unit, use.kernel);
    bound.params = kernel_params(use, kernel, in.sizes.bindings);
    std::vector<std::pair<int64_t, int>> tiles;
    for (size_t i = 0; i < use.operands.size(); ++i) {
      const OperandUse& o = use.operands[i];
      if (o.tile) {
        bound.operands.push_back(nullptr);
        tiles.emplace_back(in.sizes(o.offset), int(i));
        continue;
      }
      bound.operands.push_back(address(in, {o.buffer, o.offset}, kernel.operands[i].dtype));
    }
    std::sort(tiles.begin(), tiles.end());
    for (auto [offset, operand] : tiles) {
      bound.tile_operands.push_back(operand);
      bound.tile_stride_params.push_back(kernel.operand_params(operand));
    }
    return bound;
  }

  std::shared_ptr<TileKernel> bind(const Instance& in, const std::optional<KernelUse>& use) const {
    return use ? std::make_shared<TileKernel>(bind(in, *use)) : nullptr;
  }

  void add_step(const Instance& in, const RowStep& step) {
    const RowKernel& kernel = in.unit.program.kernels[size_t(step.use.kernel)];
    bool whole_rows = false;
    for (const KernelStep& s : kernel.body)
      whole_rows = whole_rows || s.kind == KernelStep::reduce_sum || s.kind == KernelStep::reduce_max;
    TileKernel bound = bind(in, step.use);
    int64_t columns = bound.params[0], rows = 1;
    for (size_t d = 0; d < step.use.outer.size(); ++d) rows *= bound.params[1 + d];
    if (rows == 0 || columns == 0) return;
    constexpr int64_t kPiece = 16384;  // elements: some microseconds
    int64_t column_pieces = whole_rows ? 1 : divide_up(columns, 4 * kPiece);
    int64_t width = round_up(divide_up(columns, column_pieces), 16);
    int64_t row_grain = std::max<int64_t>(1, kPiece / width);
    int64_t row_pieces = divide_up(rows, row_grain);
    launch(in, "kernel", [=, engine = &engine_]() mutable {
      engine->pool().parallel_for(row_pieces * column_pieces, 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          int64_t row = i / column_pieces * row_grain, column = i % column_pieces * width;
          bound.function(bound.operands.data(), bound.params.data(), row, std::min(rows, row + row_grain), column,
                         std::min(columns, column + width));
        }
      });
    });
  }

  void add_step(const Instance& in, const LinearStep& step) {
    LinearCall call;
    call.shape = in.sizes.linear(step);
    call.a = address(in, step.a, step.a_type);
    call.weights = in.weight(step.weight, weights_);
    auto epilogue = bind(in, step.epilogue);
    call.epilogue = epilogue.get();
    if (!epilogue) {
      call.out = reinterpret_cast<float*>(address(in, step.out, DType::f32));
      call.out_stride = in.sizes(step.out_stride);
    }
    call.workspace = in.workspace;
    if (call.shape.m == 0) return;
    launch(in, "linear", [call, epilogue, engine = &engine_] { linear(call, engine->microkernels(), engine->pool()); });
  }

  void add_step(const Instance& in, const ConvStep& step) {
    ConvCall call;
    call.shape = in.sizes.conv(step);
    auto prologue = bind(in, step.prologue), epilogue = bind(in, step.epilogue);
    if (!prologue) call.in = address(in, step.in, step.in_type);
    call.prologue = prologue.get(), call.epilogue = epilogue.get();
    if (!epilogue) {
      call.out = reinterpret_cast<float*>(address(in, step.out, DType::f32));
      call.out_stride = in.sizes(step.out_stride);
    }
    call.workspace = in.workspace;
    if (step.computed) {
      PanelLayout layout = filter_layout(call.shape, engine_.microkernels());
      call.weights = in.workspace;
      call.workspace = in.workspace + aligned(layout.bytes());
      PackSource source{address(in, step.filter, step.filter_type), step.filter_type, 0, call.shape.out_c};
      launch(in, "conv", [=, to = in.workspace, engine = &engine_] {
        pack_conv(layout, source, call.shape.c, call.shape.kernel_h, call.shape.kernel_w, to, engine->pool());
      });
    } else {
      call.weights = in.weight(step.weight, weights_);
    }
    launch(in, "conv", [call, prologue, epilogue, engine = &engine_] { conv(call, engine->microkernels(), engine->pool()); });
  }

  void add_step(const Instance& in, const MatmulStep& step) {
    LinearCall call;
    call.shape = in.sizes.matmul(step);
    int64_t batch = in.sizes(step.batch);
    PanelLayout layout = panel_layout(PanelType::f32, call.shape.n, call.shape.k, 1, engine_.microkernels());
    call.a = address(in, step.a, step.a_type);
    call.weights = in.workspace;
    call.workspace = in.workspace + aligned(layout.bytes());
    call.out = reinterpret_cast<float*>(address(in, step.out, DType::f32));
    call.out_stride = call.shape.n;
    const char* b = address(in, step.b, step.b_type);
    DType a_type = step.a_type, b_type = step.b_type;
    if (batch * call.shape.m * call.shape.n == 0) return;
    launch(in, "linear", [=, engine = &engine_]() mutable {
      LinearCall one = call;
      for (int64_t i = 0; i < batch; ++i) {
        PackSource source{b + i * call.shape.n * call.shape.k * byte_size(b_type), b_type, 0, call.shape.n};
        pack_matrix(layout, source, const_cast<void*>(one.weights), engine->pool());
        one.a = static_cast<const char*>(call.a) + i * call.shape.m * call.shape.k * byte_size(a_type);
        one.out = call.out + i * call.shape.m * call.shape.n;
        linear(one, engine->microkernels(), engine->pool());
      }
    });
  }

  HeadStrides strides(const Instance& in, const HeadPlace& place) const {
    return {in.sizes(place.b), in.sizes(place.t), in.sizes(place.h)};
  }

  void add_step(const Instance& in, const AttentionStep& step) {
    AttentionCall call;
    call.shape = in.sizes.attention(step);
    call.q = address(in, step.q.at, step.in), call.q_strides = strides(in, step.q);
    call.k = address(in, step.k.at, step.in), call.k_strides = strides(in, step.k);
    call.v = address(in, step.v.at, step.in), call.v_strides = strides(in, step.v);
    call.out = address(in, step.out.at, step.out_type), call.out_strides = strides(in, step.out);
    if (step.biased) {
      call.bias = reinterpret_cast<const float*>(address(in, step.bias.at, DType::f32));
      call.bias_strides = strides(in, step.bias);
      call.bias_key_stride = int(in.sizes(step.bias_key_stride));
    }
    call.workspace = in.workspace;
    launch(in, "attention", [call, engine = &engine_] { attention(call, engine->microkernels(), engine->pool()); });
  }

  void add_step(const Instance& in, const GroupStatsStep& step) {
    GroupStatsCall call;
    call.n = in.sizes(step.n), call.pixels = in.sizes(step.pixels), call.channels = step.channels, call.groups = step.groups;
    call.x = address(in, step.x, step.type), call.type = step.type, call.pixel_stride = in.sizes(step.pixel_stride);
    call.gamma = reinterpret_cast<const float*>(address(in, step.gamma, DType::f32));
    call.beta = reinterpret_cast<const float*>(address(in, step.beta, DType::f32));
    call.epsilon = step.epsilon;
    call.out = reinterpret_cast<float*>(address(in, step.out, DType::f32));
    call.workspace = in.workspace;
    launch(in, "group_stats", [call, engine = &engine_] { group_stats(call, engine->target().vector_floats, engine->pool()); });
  }

  void add_step(const Instance&, const QuantiseStep&) { fail(Code::Internal, "the CPU multiplies no f8e4m3"); }

  void add_step(const Instance& in, const EmbeddingStep& step) {
    const char* table = address(in, step.table, step.table_type);
    const char* indices = address(in, step.indices, DType::i64);
    char* out = address(in, step.out, step.out_type);
    int64_t count = in.sizes(step.count), rows = in.sizes(step.rows), width = step.width;
    DType from = step.table_type, to = step.out_type;
    launch(in, "embedding", [=] {
      for (int64_t i = 0; i < count; ++i) {
        int64_t row;
        std::memcpy(&row, indices + i * 8, 8);
        if (row < 0 || row >= rows) fail(Code::InvalidArgument, "embedding: index {} in a table of {} rows", row, rows);
        convert(table + row * width * byte_size(from), from, out + i * width * byte_size(to), to, width);
      }
    });
  }

  void add_step(const Instance& in, const CallStep& step) {
    const auto& callee = in.unit.callees[size_t(step.callee)];
    std::vector<char*> arguments, results;
    for (BufferRef b : step.arguments) arguments.push_back(in.address(b, weights_));
    for (BufferRef b : step.results) results.push_back(in.address(b, weights_));
    add(*callee.unit, in.prefix + callee.prefix, in.workspace, std::move(arguments), std::move(results));
  }

  Plan& plan_;
  const Layout& layout_;
  const BoundWeights& weights_;
  Engine& engine_;
};

Plan::Plan(Engine& engine, const CompiledGraph& compiled, const Layout& layout, const BoundWeights& weights)
    : engine_(engine), compiled_(compiled), bindings_(layout.bindings()) {
  const Arena& arena = engine.arena();
  if (layout.bytes() > arena.capacity()) fail(Code::OutOfMemory, "a run would need {} bytes of buffers", layout.bytes());
  const auto& graph = compiled.root().graph;
  kept_.resize(graph.inputs().size());
  kept_memory_ = Tensor(DType::u8, {layout.kept_bytes() + kAlignment});
  auto* kept = reinterpret_cast<char*>(round_up(reinterpret_cast<intptr_t>(kept_memory_.data()), kAlignment));
  for (size_t i = 0; i < graph.inputs().size(); ++i) {
    is_kept_.push_back(layout.is_kept(i));
    inputs_.push_back((is_kept_[i] ? kept : arena.base()) + layout.input_offset(i));
  }
  for (size_t i = 0; i < graph.outputs().size(); ++i) outputs_.push_back(arena.base() + layout.output_offset(i));
  Builder(*this, layout, weights).add(compiled.root(), "", arena.base() + layout.root_offset(), inputs_, outputs_);
}

std::vector<Tensor> Plan::run(const std::map<std::string, Tensor>& inputs) {
  const Graph& graph = compiled_.root().graph;
  auto values = [&](const Shape& shape) {
    std::vector<int64_t> sizes;
    for (const Dim& dim : shape) sizes.push_back(dim.value(bindings_));
    return sizes;
  };
  for (size_t i = 0; i < inputs_.size(); ++i) {
    Value input = graph.inputs()[i];
    const std::string& input_name = input->attrs.as<NameAttrs>().name;
    auto at = inputs.find(input_name);
    if (at == inputs.end()) fail(Code::InvalidArgument, "the input '{}' is missing", input_name);
    std::vector<int64_t> expected = values(input.shape());
    if (at->second.shape() != expected)
      fail(Code::InvalidArgument, "the input '{}' should have the shape {}, not {}", input_name, shape_text(expected),
           shape_text(at->second.shape()));
    if (is_kept_[i] && at->second.data() == kept_[i].data() && at->second.dtype() == kept_[i].dtype()) continue;
    convert(at->second.data(), at->second.dtype(), inputs_[i], input.dtype(), at->second.count());
    if (is_kept_[i]) kept_[i] = at->second;
  }
  for (Launch& launch : launches_) {
    engine_.check_cancelled();
    if (!measuring_) {
      launch.run();
      continue;
    }
    auto start = std::chrono::steady_clock::now();
    launch.run();
    launch.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  std::vector<Tensor> results;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const Type& type = graph.outputs()[i].value->type;
    Tensor out(type.dtype, values(type.shape));
    if (out.bytes() > 0) std::memcpy(out.data(), outputs_[i], size_t(out.bytes()));
    results.push_back(std::move(out));
  }
  return results;
}

std::map<std::string, double> Plan::measured() const {
  std::map<std::string, double> sum;
  for (const Launch& launch : launches_) sum[launch.kind] += launch.seconds;
  return sum;
}

}  // namespace sinter::cpu
