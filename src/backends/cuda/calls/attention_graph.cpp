#include "backends/cuda/calls/attention_graph.h"

#include <limits>

#include "base/error.h"

namespace sinter::cuda {
namespace {

/// Ids of the tensors in memory; they are part of stored plans.
enum Id : int64_t {
  kQ = 1,
  kK = 2,
  kV = 3,
  kOut = 4,
  kScale = 5,
  kBias = 6,
  kMasked = 7,
  kDescaleQ = 10,
  kDescaleK = 11,
  kDescaleV = 12,
  kScaleS = 13,
  kDescaleS = 14,
  kScaleOut = 15,
  kLargestS = 16,
  kLargestOut = 17
};

/// Builds the graph of one attention; the library recognises it by its form.
class Builder {
 public:
  Builder(const AttentionShape& shape, CudnnGraph& graph) : s_(shape), g_(graph) {}

  void sixteen_or_thirty_two_bits() {
    int q = in_memory(kQ, s_.q, s_.queries), v = in_memory(kV, s_.v, s_.keys), out = in_memory(kOut, s_.out, s_.queries);
    int scores = product_of_q_and_k(q);
    if (s_.bias) scores = joined(Pointwise::Add, scores, bias());
    if (s_.causal) scores = causal(scores);
    int p = probabilities(scores, cudnn_type(s_.type));
    g_.matmul(p, v, out);
  }

  void fp8() {
    int q = in_memory(kQ, s_.q, s_.queries), v = in_memory(kV, s_.v, s_.keys), out = in_memory(kOut, s_.out, s_.queries);
    int scores = product_of_q_and_k(q);
    scores = joined(Pointwise::Multiply, scores, factor(kDescaleQ));
    scores = joined(Pointwise::Multiply, scores, factor(kDescaleK));
    int p = probabilities(scores, CudnnType::F32);
    g_.reduce(Reduction::AbsoluteMax, p, factor(kLargestS));
    int stored = g_.intermediate(score_sizes(), CudnnType::F8E4M3);
    g_.pointwise(Pointwise::Multiply, p, factor(kScaleS), stored);
    int o = result();
    g_.matmul(stored, v, o);
    for (Id id : {kDescaleS, kDescaleV}) {
      int next = result();
      g_.pointwise(Pointwise::Multiply, o, factor(id), next);
      o = next;
    }
    g_.pointwise(Pointwise::Multiply, o, factor(kScaleOut), out);
    g_.reduce(Reduction::AbsoluteMax, o, factor(kLargestOut));
  }

 private:
  std::vector<int64_t> score_sizes() const { return {s_.b, s_.heads, s_.queries, s_.keys}; }

  int in_memory(Id id, const HeadStrides& strides, int64_t tokens) {
    return g_.tensor({.id = id,
                      .sizes = {s_.b, s_.heads, tokens, s_.d},
                      .strides = {strides.b, strides.h, strides.t, 1},
                      .type = cudnn_type(s_.type)});
  }

  int product_of_q_and_k(int q) {
    // Transposed by its strides.
    int k = g_.tensor({.id = kK,
                       .sizes = {s_.b, s_.heads, s_.d, s_.keys},
                       .strides = {s_.k.b, s_.k.h, 1, s_.k.t},
                       .type = cudnn_type(s_.type)});
    int scores = g_.intermediate(score_sizes());
    g_.matmul(q, k, scores);
    return joined(Pointwise::Multiply, scores, g_.number(kScale));
  }

  int joined(Pointwise mode, int scores, int with) {
    int out = g_.intermediate(score_sizes());
    g_.pointwise(mode, scores, with, out);
    return out;
  }

  int factor(Id id) { return g_.tensor({.id = id, .sizes = {1, 1, 1, 1}, .strides = {1, 1, 1, 1}}); }

  int result() {
    // Heads side by side, as the result is stored.
    std::vector<int64_t> strides{s_.heads * s_.queries * s_.d, s_.d, s_.heads * s_.d, 1};
    return g_.intermediate({s_.b, s_.heads, s_.queries, s_.d}, CudnnType::F32, strides);
  }

  int bias() {
    const HeadStrides& s = s_.bias->strides;
    std::vector<int64_t> sizes{s.b ? s_.b : 1, s.h ? s_.heads : 1, s.t ? s_.queries : 1, s_.keys};
    // The stride of a size of 1 means nothing, but must not be 0.
    int64_t row = s.t ? s.t : s_.keys, head = s.h ? s.h : row * sizes[2], entry = s.b ? s.b : head * sizes[1];
    return g_.tensor({.id = kBias, .sizes = sizes, .strides = {entry, head, row, 1}, .type = cudnn_type(s_.bias->type)});
  }

  int causal(int scores) {
    int row = g_.intermediate(score_sizes(), CudnnType::I32), column = g_.intermediate(score_sizes(), CudnnType::I32);
    g_.index(2, scores, row);
    g_.index(3, scores, column);
    int seen = g_.intermediate(score_sizes(), CudnnType::Boolean);
    g_.pointwise(Pointwise::GreaterOrEqual, row, column, seen);
    int out = g_.intermediate(score_sizes());
    g_.select(seen, scores, g_.number(kMasked), out);
    return out;
  }

  int probabilities(int scores, CudnnType type) {
    std::vector<int64_t> row_sizes{s_.b, s_.heads, s_.queries, 1};
    auto row = [&] { return g_.intermediate(row_sizes, CudnnType::F32, {s_.heads * s_.queries, s_.queries, 1, 1}); };
    int largest = row(), sum = row(), log = row(), statistics = row();
    g_.reduce(Reduction::Max, scores, largest);
    int difference = joined(Pointwise::Subtract, scores, largest);
    int power = g_.intermediate(score_sizes());
    g_.unary(Pointwise::Exp, difference, power);
    g_.reduce(Reduction::Add, power, sum);
    // Unused here, but without these two the library does not know the form.
    g_.unary(Pointwise::Log, sum, log);
    g_.pointwise(Pointwise::Add, largest, log, statistics);
    int p = g_.intermediate(score_sizes(), type);
    g_.pointwise(Pointwise::Divide, power, sum, p);
    return p;
  }

  const AttentionShape& s_;
  CudnnGraph& g_;
};

/// From which on the library's first candidate was its best, for every size of heads.
constexpr int64_t kManyKeys = 160;

/// Collects the arguments of a call and checks them.
struct Arguments {
  std::vector<CudnnArgument> list;
  void add(Id id, DevicePtr address, uint64_t alignment, const char* what) {
    if (address == 0) fail(Code::InvalidArgument, "attention: no address for {}", what);
    if (address % alignment) fail(Code::InvalidArgument, "attention: {} is not aligned to {} bytes", what, alignment);
    list.push_back({id, reinterpret_cast<void*>(address)});
  }
  void add_number(Id id) { list.push_back({id, nullptr}); }
};

}  // namespace

std::string attention_family(const AttentionShape& s) {
  std::string keys = s.keys == s.queries ? "own" : fmt::format("{}", s.keys);  // a prompt's: they stay as many
  return fmt::format("heads of {}, {} keys {}{}{}{}", s.d, keys, name(s.type), s.bias ? " bias" : "", s.causal ? " causal" : "",
                     s.allow_tf32 ? " tf32" : "");
}

CudnnRequest attention_request(const AttentionShape& s) {
  return {.kind = "attention",
          .shape = s.text(),
          .family = attention_family(s),
          .numerics = {.f32_inputs = s.type == DType::f32, .allow_tf32 = s.allow_tf32},
          .candidates = s.keys > kManyKeys ? 1 : 3,
          .build = [s](CudnnGraph& graph) { Builder(s, graph).sixteen_or_thirty_two_bits(); }};
}

CudnnRequest fp8_attention_request(const AttentionShape& s) {
  CudnnRequest request = attention_request(s);
  request.kind = "fp8 attention";
  request.build = [s](CudnnGraph& graph) { Builder(s, graph).fp8(); };
  return request;
}

AttentionArguments attention_arguments(const AttentionShape& s, const AttentionBuffers& b) {
  Arguments a;
  a.add(kQ, b.q, 16, "q");
  a.add(kK, b.k, 16, "k");
  a.add(kV, b.v, 16, "v");
  a.add(kOut, b.out, 16, "out");
  if (s.bias) a.add(kBias, b.bias, 16, "the bias");
  std::vector<float> numbers{b.scale};
  a.add_number(kScale);
  if (s.causal) {
    a.add_number(kMasked);
    numbers.push_back(-std::numeric_limits<float>::infinity());
  }
  return {std::move(a.list), std::move(numbers)};
}

AttentionArguments attention_arguments(const Fp8AttentionBuffers& b) {
  Arguments a;
  a.add(kQ, b.q, 16, "q");
  a.add(kK, b.k, 16, "k");
  a.add(kV, b.v, 16, "v");
  a.add(kOut, b.out, 16, "out");
  a.add_number(kScale);
  a.add(kDescaleQ, b.descale_q, 4, "descale_q");
  a.add(kDescaleK, b.descale_k, 4, "descale_k");
  a.add(kDescaleV, b.descale_v, 4, "descale_v");
  a.add(kScaleS, b.scale_s, 4, "scale_s");
  a.add(kDescaleS, b.descale_s, 4, "descale_s");
  a.add(kScaleOut, b.scale_out, 4, "scale_out");
  a.add(kLargestS, b.largest_s, 4, "largest_s");
  a.add(kLargestOut, b.largest_out, 4, "largest_out");
  return {std::move(a.list), {b.scale}};
}

}  // namespace sinter::cuda
