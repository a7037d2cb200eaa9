#include "compiler/lowering/program.h"

#include <map>

#include "base/bytes.h"

namespace sinter {
namespace {

/// The free symbols of a graph in the order of their numbers in its digest.
std::vector<SymbolId> symbols_of(const Graph& graph) {
  SymbolNumbering numbering;
  structure_digest(graph, numbering);
  std::map<uint32_t, SymbolId> by_number;
  for (auto [id, number] : numbering.numbers())
    if (symbol_info(id).divisor == 0) by_number[number] = id;
  std::vector<SymbolId> symbols;
  symbols.reserve(by_number.size());
  for (auto [number, id] : by_number) symbols.push_back(id);
  return symbols;
}

class Writer {
 public:
  explicit Writer(const Graph& graph) {
    for (SymbolId id : symbols_of(graph)) numbers_.emplace(id, uint32_t(numbers_.size()));
  }
  template <class... T>
  void operator()(T&... values) {
    (write(values), ...);
  }
  std::vector<std::byte> take() { return out_.take(); }

  template <class T>
  requires(std::is_arithmetic_v<T> || std::is_enum_v<T>) void write(const T& value) { out_.put(value); }
  void write(const Dim& dim) {
    out_.put(uint64_t(dim.terms().size()));
    for (const Dim::Term& term : dim.terms()) {
      out_.put(term.coefficient);
      out_.put(uint64_t(term.symbols.size()));
      for (SymbolId id : term.symbols) write_symbol(id);
    }
  }
  void write(const Tensor& tensor) {
    out_.put(tensor.dtype());
    out_.put(uint64_t(tensor.shape().size()));
    for (int64_t size : tensor.shape()) out_.put(size);
    out_.put(std::span(tensor.data(), size_t(tensor.bytes())));
  }
  void write(const std::vector<std::byte>& bytes) { out_.put(std::span<const std::byte>(bytes)); }
  template <class T>
  void write(const std::vector<T>& values) {
    out_.put(uint64_t(values.size()));
    for (const T& value : values) write(value);
  }
  template <class T>
  void write(const std::optional<T>& value) {
    out_.put(value.has_value());
    if (value) write(*value);
  }
  void write(const Step& step) {
    out_.put(uint8_t(step.index()));
    std::visit([&](const auto& s) { write(s); }, step);
  }
  template <class T>
  requires std::is_class_v<T>
  void write(const T& value) { fields(*this, const_cast<T&>(value)); }

 private:
  void write_symbol(SymbolId id) {
    const Symbol& symbol = symbol_info(id);
    out_.put(symbol.divisor);
    if (symbol.divisor)
      write(symbol.numerator);
    else
      out_.put(numbers_.at(id));
  }
  ByteWriter out_;
  std::map<SymbolId, uint32_t> numbers_;
};

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const Graph& graph) : in_(bytes), symbols_(symbols_of(graph)) {}
  template <class... T>
  void operator()(T&... values) {
    (read(values), ...);
  }
  bool at_end() const { return in_.at_end(); }

  template <class T>
  requires(std::is_arithmetic_v<T> || std::is_enum_v<T>) void read(T& value) { value = in_.get<T>(); }
  void read(Dim& dim) {
    Dim sum;
    size_t terms = in_.get_count();
    for (size_t i = 0; i < terms; ++i) {
      Dim product = in_.get<int64_t>();
      size_t symbols = in_.get_count();
      if (symbols > kMostFactors) fail(Code::Corrupt, "a size is a product of {} factors", symbols);
      for (size_t s = 0; s < symbols; ++s) product = product * read_symbol();
      sum = sum + product;
    }
    dim = sum;
  }
  void read(Tensor& tensor) {
    auto dtype = in_.get<DType>();
    if (uint8_t(dtype) > uint8_t(DType::boolean)) fail(Code::Corrupt, "no element type has the number {}", int(dtype));
    std::vector<int64_t> shape(in_.get_count());
    for (int64_t& size : shape) size = in_.get<int64_t>();
    auto data = in_.get_bytes();
    int64_t count = element_count(std::span<const int64_t>(shape));
    auto size = uint64_t(byte_size(dtype));
    if (data.size() % size != 0 || uint64_t(count) != data.size() / size)
      fail(Code::Corrupt, "a constant has another size than it says");
    tensor = Tensor(dtype, std::move(shape));
    if (!data.empty()) std::memcpy(tensor.data(), data.data(), data.size());
  }
  void read(std::vector<std::byte>& bytes) {
    auto data = in_.get_bytes();
    bytes.assign(data.begin(), data.end());
  }
  template <class T>
  void read(std::vector<T>& values) {
    values.clear();
    for (size_t count = in_.get_count(); count > 0; --count) read(values.emplace_back());  // a wrong count soon runs out of bytes
  }
  template <class T>
  void read(std::optional<T>& value) {
    value.reset();
    if (in_.get<uint8_t>()) read(value.emplace());
  }
  void read(Step& step) { read_alternative<0>(step, in_.get<uint8_t>()); }
  template <class T>
  requires std::is_class_v<T>
  void read(T& value) { fields(*this, value); }

 private:
  template <size_t I>
  void read_alternative(Step& step, uint8_t index) {
    if constexpr (I < std::variant_size_v<Step>) {
      if (index == I) return read(step.emplace<I>());
      read_alternative<I + 1>(step, index);
    } else {
      fail(Code::Corrupt, "no kind of step has the number {}", index);
    }
  }
  Dim read_symbol() {
    auto divisor = in_.get<int64_t>();
    if (divisor) {
      if (divisor < 0) fail(Code::Corrupt, "a size is divided by {}", divisor);
      if (++depth_ > kMostFactors) fail(Code::Corrupt, "a size is a quotient of {} quotients", depth_);
      Dim numerator;
      read(numerator);
      --depth_;
      return floor_div(numerator, divisor);
    }
    auto number = in_.get<uint32_t>();
    if (number >= symbols_.size()) fail(Code::Corrupt, "a size names symbol {} of {}", number, symbols_.size());
    return Dim::from_terms({{{symbols_[number]}, 1}});
  }
  static constexpr size_t kMostFactors = 64;
  ByteReader in_;
  std::vector<SymbolId> symbols_;
  size_t depth_ = 0;
};

// One description of each struct serves both directions.
void fields(auto& a, BufferRef& v) { a(v.space, v.index); }
void fields(auto& a, View::Scale& v) { a(v.numerator, v.denominator); }
void fields(auto& a, OperandUse& v) { a(v.buffer, v.tile, v.offset, v.strides, v.column_stride, v.scales); }
void fields(auto& a, KernelUse& v) { a(v.kernel, v.variant, v.columns, v.outer, v.operands); }
void fields(auto& a, Place& v) { a(v.buffer, v.offset); }
void fields(auto& a, HeadPlace& v) { a(v.at, v.b, v.t, v.h); }
void fields(auto& a, RowStep& v) { a(v.use); }
void fields(auto& a, VendorTail& v) {
  a(v.bias, v.gelu, v.gated, v.adds, v.residual, v.residual_stride, v.residual_batch_stride, v.out_type);
}
void fields(auto& a, LinearStep& v) {
  a(v.m, v.n, v.k, v.parts, v.a_type, v.a, v.a_stride, v.a_scales, v.weight, v.weight_row, v.epilogue, v.tail, v.out,
    v.out_stride, v.batch, v.a_batch_stride, v.out_batch_stride);
}
void fields(auto& a, ConvStep& v) {
  a(v.n, v.h, v.w, v.doubled, v.enlarged_h, v.enlarged_w, v.c, v.out_c, v.kernel_h, v.kernel_w, v.stride, v.top, v.left, v.bottom,
    v.right, v.in_type);
  a(v.prologue, v.in, v.pixel_stride, v.weight, v.computed, v.filter_type, v.filter, v.epilogue, v.tail, v.out, v.out_stride);
}
void fields(auto& a, MatmulStep& v) { a(v.batch, v.m, v.n, v.k, v.a_type, v.b_type, v.out_type, v.shared_b, v.a, v.b, v.out); }
void fields(auto& a, AttentionStep& v) {
  a(v.b, v.heads, v.queries, v.keys, v.d, v.scale, v.causal, v.biased, v.in, v.out_type, v.q, v.k, v.v, v.bias, v.out);
  a(v.bias_key_stride, v.unit);
}
void fields(auto& a, GroupStatsStep& v) {
  a(v.n, v.pixels, v.channels, v.groups, v.epsilon, v.type, v.x, v.gamma, v.beta, v.out, v.pixel_stride, v.adds, v.addend_type,
    v.addend, v.addend_stride);
}
void fields(auto& a, EmbeddingStep& v) { a(v.count, v.rows, v.width, v.table_type, v.out_type, v.table, v.indices, v.out); }
void fields(auto& a, QuantiseStep& v) { a(v.batch, v.m, v.k, v.type, v.x, v.out, v.scales, v.x_stride, v.x_batch_stride); }
void fields(auto& a, CallStep& v) { a(v.callee, v.arguments, v.results); }
void fields(auto& a, WeightSlot& v) { a(v.ordinals, v.form, v.panels, v.parts); }
void fields(auto& a, Temporary& v) { a(v.bytes, v.first_step, v.last_step); }
void fields(auto& a, KernelOperand& v) { a(v.dtype, v.column, v.row, v.written); }
void fields(auto& a, KernelStep& v) { a(v.kind, v.prim, v.a, v.b, v.c, v.operand, v.value); }
void fields(auto& a, RowKernel& v) { a(v.rank, v.operands, v.body); }
void fields(auto& a, GpuSchedule::Operand& v) { a(v.access, v.read_only); }
void fields(auto& a, GpuSchedule& v) { a(v.columns, v.vector, v.turns, v.row_threads, v.block_rows, v.wide, v.operands); }
void fields(auto& a, KernelVariant& v) { a(v.kernel, v.schedule); }
void fields(auto& a, Program& v) { a(v.steps, v.weights, v.constants, v.temporaries, v.kernels, v.variants, v.code); }

}  // namespace

std::vector<int64_t> kernel_params(const KernelUse& use, const RowKernel& kernel, const Bindings& bindings) {
  std::vector<int64_t> params(size_t(kernel.param_count()), 0);
  params[0] = use.columns.value(bindings);
  for (size_t d = 0; d < use.outer.size(); ++d) params[1 + d] = use.outer[d].value(bindings);
  for (size_t i = 0; i < use.operands.size(); ++i) {
    const OperandUse& o = use.operands[i];
    if (o.tile) continue;
    auto at = size_t(kernel.operand_params(int(i)));
    for (const Dim& stride : o.strides) params[at++] = stride.value(bindings);
    params[at++] = o.column_stride.value(bindings);
    for (const View::Scale& scale : o.scales) {
      params[at++] = scale.numerator.value(bindings);
      params[at++] = scale.denominator.value(bindings);
    }
  }
  return params;
}

std::vector<std::byte> to_bytes(const Program& program, const Graph& graph) {
  Writer writer(graph);
  writer.write(program);
  return writer.take();
}

Program program_from_bytes(std::span<const std::byte> bytes, const Graph& graph) {
  try {
    Reader reader(bytes, graph);
    Program program;
    reader.read(program);
    if (!reader.at_end()) fail(Code::Corrupt, "a program is followed by something else");
    validate(program, graph);
    return program;
  } catch (const Error& e) {
    if (e.code() != Code::InvalidArgument) throw;
    fail(Code::Corrupt, "{}", e.message());  // sizes that cannot be counted
  }
}

}  // namespace sinter
