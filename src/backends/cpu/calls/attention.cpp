#include "backends/cpu/calls/attention.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "backends/cpu/calls/panels.h"
#include "backends/cpu/calls/rows.h"
#include "backends/cpu/calls/vector_kernels.h"
#include "base/error.h"

namespace sinter {
namespace {

constexpr int64_t kMaxD = 1024;
constexpr float kLog2E = 1.44269504f;  // scores are kept in base 2
constexpr int64_t kTokenGroup = 32;    // tokens whose keys and values are prepared as one piece

/// Everything is computed transposed, with queries across: scores[key][query] = K . Q^T and out[d][query] = V^T . scores. Queries
/// are the panels of both products, so softmax crosses no lanes, its result is the second product's panel as it stands, and
/// neither d nor the number of keys is padded. Keys are kept as rows and values as rows of the transpose, once for each (batch
/// entry, head).
///
/// With dot products of bf16 the operands of both are pairs, of d and of keys; the odd one's partner is 0. The values then have
/// one row more, of ones, whose product is the sum of the exponentials.
struct Plan {
  bool dot;
  DType type;                             // of the operands: f32 or bf16
  int columns;                            // queries of a panel
  int64_t panels;                         // of a piece
  int64_t row_pieces, heads;              // pieces of a head; heads of all batch entries
  int64_t key_block;                      // keys whose scores are held, in the nearest cache
  int64_t d_block;                        // d that is summed over at a time
  int64_t value_rows;                     // of the transpose
  int64_t k_bytes, v_bytes, block_bytes;  // of a row; values lie block after block of keys
  int64_t key_bytes, head_bytes;          // of the keys of one head; with its values
  int64_t row_floats;                     // of a staged row, in f32
  int64_t panel_floats;                   // of a panel: q, out, sum and maximum
  int64_t shared_bytes, worker_bytes;
};

Plan make_plan(const AttentionShape& s, int threads, const Microkernels& kernels) {
  Plan p;
  p.dot = s.in == DType::bf16 && kernels.dot;
  p.type = p.dot ? DType::bf16 : DType::f32;
  p.columns = kernels.panel_columns();
  p.heads = s.b * s.heads;
  const int64_t bytes = byte_size(p.type), keys = std::max<int64_t>(s.keys, 1);
  p.key_block = round_up(divide_up(keys, divide_up(keys, 128)), 8);
  p.d_block = even_part(s.d, 256);
  const int64_t panels = divide_up(s.queries, p.columns), most = std::max<int64_t>(1, 256 / p.columns);
  int64_t wanted = divide_up(12 * threads, p.heads);  // pieces of a head that keep all threads busy to the end
  p.panels = std::clamp<int64_t>(divide_up(panels, wanted), threads == 1 ? most : 1, most);
  p.row_pieces = std::max<int64_t>(1, divide_up(panels, p.panels));
  p.panels = divide_up(panels, p.row_pieces);
  p.value_rows = s.d + p.dot;
  p.k_bytes = scratch_row_bytes(round_up(s.d, 2) * bytes);
  p.v_bytes = scratch_row_bytes(p.key_block * bytes);
  p.block_bytes = p.value_rows * p.v_bytes;
  p.key_bytes = round_up(s.keys, kTokenGroup) * p.k_bytes;
  p.head_bytes = p.key_bytes + divide_up(keys, p.key_block) * p.block_bytes;
  p.row_floats = scratch_row_bytes(s.d * 4) / 4;
  p.panel_floats = (2 * round_up(s.d, 2) + 2) * p.columns;
  p.shared_bytes = p.heads * p.head_bytes;
  const int64_t staging = std::max<int64_t>(kTokenGroup, p.columns) * p.row_floats;
  p.worker_bytes = round_up((p.panels * p.panel_floats + std::max(p.key_block * p.columns, staging)) * 4, 4096) + 192;
  return p;
}

class Run {
 public:
  Run(const AttentionCall& call, const Microkernels& kernels, int threads)
      : c_(call),
        s_(call.shape),
        kernels_(kernels),
        vector_(vector_kernels(kernels.vector_floats)),
        p_(make_plan(s_, threads, kernels)) {}

  void operator()(ThreadPool& pool) {
    // All heads of the same tokens one after the other: they lie side by side in memory.
    const int64_t groups = divide_up(s_.keys, kTokenGroup), heads = s_.heads;
    pool.parallel_for(s_.b * groups * heads, heads, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) prepare(i / heads / groups * heads + i % heads, i / heads % groups, worker);
    });
    // The same for queries, if the keys of all heads fit the cache; else one head's queries after the other.
    const bool few_keys = heads * p_.head_bytes <= kernels_.l2_bytes / 2;
    const int64_t inner = few_keys ? heads : 1, pieces = p_.row_pieces;
    const int64_t grain = few_keys && s_.b * pieces >= 6 * pool.threads() ? heads : 1;
    pool.parallel_for(p_.heads * pieces, grain, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t outer = i / (pieces * inner), row_piece = i / inner % pieces;
        piece(outer * inner + i % inner, row_piece, worker);
      }
    });
  }

 private:
  char* keys(int64_t head) const { return static_cast<char*>(c_.workspace) + head * p_.head_bytes; }
  char* values(int64_t head, int64_t key) const { return keys(head) + p_.key_bytes + key / p_.key_block * p_.block_bytes; }
  float* scratch(int worker) const {
    return reinterpret_cast<float*>(static_cast<char*>(c_.workspace) + p_.shared_bytes + worker * p_.worker_bytes);
  }
  float* staging(int worker) const { return scratch(worker) + p_.panels * p_.panel_floats; }
  const char* row(const void* base, const HeadStrides& strides, int64_t head, int64_t t) const {
    int64_t element = head / s_.heads * strides.b + head % s_.heads * strides.h + t * strides.t;
    return static_cast<const char*>(base) + element * byte_size(s_.in);
  }
  /// A row of q, k or v in the operands' type.
  void copy_row(const char* from, void* to) const {
    convert_row(from, s_.in, to, p_.type, s_.d);
    if (p_.dot && s_.d % 2) static_cast<uint16_t*>(to)[s_.d] = 0;
  }

  /// Rows of keys, and the values of the same tokens, transposed.
  void prepare(int64_t head, int64_t group, int worker) const {
    const int64_t end = std::min(s_.keys, (group + 1) * kTokenGroup), bytes = byte_size(p_.type);
    float* rows = staging(worker);
    for (int64_t t = group * kTokenGroup; t < end;) {
      const int64_t in_block = t % p_.key_block, count = std::min(end - t, p_.key_block - in_block);
      for (int64_t i = 0; i < count; ++i) copy_row(row(c_.k, c_.k_strides, head, t + i), keys(head) + (t + i) * p_.k_bytes);
      const char* v = row(c_.v, c_.v_strides, head, t);
      int64_t stride = c_.v_strides.t;
      if (s_.in != p_.type) {
        for (int64_t i = 0; i < count; ++i)
          convert_row(row(c_.v, c_.v_strides, head, t + i), s_.in, rows + i * p_.row_floats, p_.type, s_.d);
        v = reinterpret_cast<const char*>(rows), stride = p_.row_floats;
      }
      char* to = values(head, t) + in_block * bytes;
      if (p_.dot)
        transpose_values(v, stride, to, count);
      else
        vector_.transpose(reinterpret_cast<const float*>(v), stride, reinterpret_cast<float*>(to), p_.v_bytes / 4, count, s_.d);
      t += count;
    }
  }

  void transpose_values(const char* rows, int64_t from_stride, char* to, int64_t count) const {
    const int64_t stride = p_.v_bytes / 2;
    auto* out = reinterpret_cast<uint16_t*>(to);
    vector_.transpose_halves(reinterpret_cast<const uint16_t*>(rows), from_stride, out, stride, count, s_.d);
    std::fill_n(out + s_.d * stride, count, f32_to_bf16(1));
    for (int64_t d = 0; d <= s_.d && count % 2; ++d) out[d * stride + count] = 0;
  }

  struct Panel {
    int64_t first;  // query
    int columns, used;
    float *q, *out, *maximum, *sum;
  };

  Panel panel(int64_t index, int worker, int64_t of_piece) const {
    Panel p;
    p.first = index * p_.columns;
    p.used = int(std::min<int64_t>(p_.columns, s_.queries - p.first));
    p.columns = p.used <= p_.columns / 2 ? p_.columns / 2 : p_.columns;
    p.q = scratch(worker) + of_piece * p_.panel_floats;
    p.out = p.q + round_up(s_.d, 2) * p_.columns;
    p.sum = p.out + s_.d * p.columns;  // with dot products the last row of out
    p.maximum = p.sum + p.columns;
    return p;
  }

  void piece(int64_t head, int64_t index, int worker) const {
    const int64_t first = index * p_.panels, last = std::min(first + p_.panels, divide_up(s_.queries, p_.columns));
    for (int64_t i = first; i < last; ++i) begin(head, panel(i, worker, i - first), staging(worker));
    for (int64_t key = 0; key < s_.keys; key += p_.key_block)
      for (int64_t i = first; i < last; ++i) {
        fetch_keys(head, key + p_.key_block, i - first, last - first);
        add_keys(head, panel(i, worker, i - first), staging(worker), key);
      }
    for (int64_t i = first; i < last; ++i) write(head, panel(i, worker, i - first), staging(worker));
  }

  /// One of `parts` of the next block of keys is put on its way: many pieces read it, from a cache that all cores share.
  void fetch_keys(int64_t head, int64_t key, int64_t part, int64_t parts) const {
    if (key >= s_.keys) return;
    auto fetch = [&](const char* from, int64_t bytes) {
      for (int64_t i = bytes * part / parts; i < bytes * (part + 1) / parts; i += 64) _mm_prefetch(from + i, _MM_HINT_T1);
    };
    fetch(keys(head) + key * p_.k_bytes, std::min(p_.key_block, s_.keys - key) * p_.k_bytes);
    fetch(values(head, key), p_.block_bytes);
  }

  void begin(int64_t head, const Panel& p, float* rows) const {
    const float* from = reinterpret_cast<const float*>(row(c_.q, c_.q_strides, head, p.first));
    int64_t stride = c_.q_strides.t;
    bool in_place = s_.in == p_.type && p.used == p.columns;
    if (p_.dot) in_place = in_place && s_.d % 2 == 0 && stride % 2 == 0, stride /= 2;
    if (!in_place) {
      for (int64_t i = 0; i < p.columns; ++i) {
        if (i < p.used)
          copy_row(row(c_.q, c_.q_strides, head, p.first + i), rows + i * p_.row_floats);
        else
          std::fill_n(rows + i * p_.row_floats, s_.d, 0.f);
      }
      from = rows, stride = p_.row_floats;
    }
    // Pairs stay together: they are moved as one float.
    vector_.transpose(from, stride, p.q, p.columns, p.columns, p_.dot ? divide_up(s_.d, 2) : s_.d);
    if (!p_.dot) vector_.scale(p.q, s_.scale * kLog2E, p.q, s_.d * p.columns);
    if (s_.keys == 0) std::fill_n(p.out, s_.d * p.columns, 0.f);
    std::fill_n(p.sum, p.columns, 0.f);
    std::fill_n(p.maximum, p.columns, -INFINITY);
  }

  /// result[rows][query] (+)= a . panel over `length` of d or keys.
  void multiply(const char* a, int64_t a_row_bytes, const float* panel, int64_t length, float* result, int64_t rows, int columns,
                bool accumulate) const {
    const PanelType type = p_.dot ? PanelType::bf16_dot : PanelType::f32;
    const int64_t steps = p_.dot ? divide_up(length, 2) : length;
    for_each_block(rows, [&](int64_t r, int n) {
      kernels_.get(type, columns / kernels_.vector_floats, n)(a + r * a_row_bytes, a_row_bytes, panel, steps,
                                                              result + r * columns, columns * 4, accumulate);
    });
  }

  /// The queries of a panel see the block of keys that begins at `key`.
  void add_keys(int64_t head, const Panel& p, float* scores, int64_t key) const {
    int64_t count = std::min(p_.key_block, s_.keys - key);
    if (s_.causal) count = std::min(count, p.first + p.used - key);
    if (count <= 0) return;
    const int64_t bytes = byte_size(p_.type);
    for (int64_t d = 0; d < s_.d; d += p_.d_block)
      multiply(keys(head) + key * p_.k_bytes + d * bytes, p_.k_bytes, p.q + d * p.columns * bytes / 4,
               std::min(p_.d_block, s_.d - d), scores, count, p.columns, d > 0);
    // What the scores are to be multiplied with: in f32 nothing, q was. Not in bf16, where that would round once more.
    float scale = p_.dot ? s_.scale * kLog2E : 1;
    if (p_.dot && (c_.bias || !(scale > 0))) {
      vector_.scale(scores, scale, scores, count * p.columns);
      scale = 1;
    }
    if (c_.bias) add_bias(head, p, scores, key, count);
    // Query i sees keys up to i.
    for (int64_t i = s_.causal ? std::max<int64_t>(0, p.first + 1 - key) : count; i < count; ++i)
      std::fill_n(scores + i * p.columns, std::min<int64_t>(key + i - p.first, p.columns), -INFINITY);
    const SoftmaxBlock block{scores, count, p.columns, p.maximum, p.sum, p.out, key ? p_.value_rows : 0};
    if (p_.dot)
      vector_.softmax_pairs(block, scale);
    else
      vector_.softmax(block);
    multiply(values(head, key), p_.v_bytes, scores, count, p.out, p_.value_rows, p.columns, key > 0);
  }

  template <class Body>
  void for_each_block(int64_t rows, const Body& body) const {
    const int64_t count = divide_up(rows, kernels_.max_rows);
    for (int64_t i = 0; i < count; ++i) body(rows * i / count, int(rows * (i + 1) / count - rows * i / count));
  }

  void add_bias(int64_t head, const Panel& p, float* scores, int64_t key, int64_t count) const {
    const HeadStrides& strides = c_.bias_strides;
    for (int64_t i = 0; i < p.used; ++i) {
      const float* bias = c_.bias + head / s_.heads * strides.b + head % s_.heads * strides.h + (p.first + i) * strides.t +
                          key * c_.bias_key_stride;
      for (int64_t j = 0; j < count; ++j) scores[j * p.columns + i] += bias[j * c_.bias_key_stride] * kLog2E;
    }
  }

  void write(int64_t head, const Panel& p, float* rows) const {
    vector_.transpose(p.out, p.columns, rows, p_.row_floats, s_.d, p.used);
    for (int64_t i = 0; i < p.used; ++i) {
      const float scale = p.sum[i] == 0 ? 0 : 1 / p.sum[i];
      int64_t element =
          head / s_.heads * c_.out_strides.b + head % s_.heads * c_.out_strides.h + (p.first + i) * c_.out_strides.t;
      char* to = static_cast<char*>(c_.out) + element * byte_size(s_.out);
      float* from = rows + i * p_.row_floats;
      vector_.scale(from, scale, s_.out == DType::f32 ? reinterpret_cast<float*>(to) : from, s_.d);
      if (s_.out != DType::f32) convert_row(from, DType::f32, to, s_.out, s_.d);
    }
  }

  const AttentionCall& c_;
  const AttentionShape& s_;
  const Microkernels& kernels_;
  const VectorKernels& vector_;
  Plan p_;
};

}  // namespace

int64_t attention_workspace_bytes(const AttentionShape& shape, int threads, const Microkernels& kernels) {
  Plan plan = make_plan(shape, threads, kernels);
  return plan.shared_bytes + threads * plan.worker_bytes;
}

void attention(const AttentionCall& call, const Microkernels& kernels, ThreadPool& pool) {
  const AttentionShape& s = call.shape;
  if (s.d < 1 || s.d > kMaxD) fail(Code::Unsupported, "attention: heads of {} channels; 1 to {} are supported", s.d, kMaxD);
  if (s.b * s.heads * s.queries <= 0) return;
  Run run(call, kernels, pool.threads());
  run(pool);
}

double attention_flops(const AttentionShape& s) {
  double pairs = 0;
  for (int64_t i = 0; i < (s.causal ? s.queries : 0); ++i) pairs += double(std::min(s.keys, i + 1));
  if (!s.causal) pairs = double(s.queries) * double(s.keys);
  return 4 * double(s.b * s.heads) * pairs * double(s.d);
}

}  // namespace sinter
