#include "backends/cpu/calls/attention.h"

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
struct Plan {
  int columns;                          // queries of a panel
  int64_t panels;                       // of a piece
  int64_t row_pieces, heads;            // pieces of a head; heads of all batch entries
  int64_t key_block;                    // keys whose scores are held, in the nearest cache
  int64_t d_block;                      // d that is summed over at a time
  int64_t k_stride, v_stride, v_block;  // floats; values lie block after block of keys
  int64_t head_floats;                  // of keys and values of one head
  int64_t panel_floats;                 // of a panel: q and out, maximum and sum
  int64_t shared_bytes, worker_bytes;
};

Plan make_plan(const AttentionShape& s, int threads, const Microkernels& kernels) {
  Plan p;
  p.columns = kernels.panel_columns();
  p.heads = s.b * s.heads;
  const int64_t blocks = std::max<int64_t>(1, divide_up(s.keys, s.d > 256 ? 128 : 256));
  p.key_block = round_up(divide_up(s.keys, blocks), 8);
  p.d_block = even_part(s.d, 256);
  const int64_t panels = divide_up(s.queries, p.columns), most = std::max<int64_t>(1, 128 / p.columns);
  int64_t wanted = divide_up(12 * threads, p.heads);  // pieces of a head that keep all threads busy to the end
  p.panels = std::clamp<int64_t>(divide_up(panels, wanted), threads == 1 ? most : 1, most);
  p.row_pieces = std::max<int64_t>(1, divide_up(panels, p.panels));
  p.panels = divide_up(panels, p.row_pieces);
  p.k_stride = scratch_row_bytes(s.d * 4) / 4;
  p.v_stride = scratch_row_bytes(p.key_block * 4) / 4;
  p.v_block = s.d * p.v_stride;
  p.head_floats = round_up(s.keys, kTokenGroup) * p.k_stride + divide_up(std::max<int64_t>(s.keys, 1), p.key_block) * p.v_block;
  p.panel_floats = (2 * s.d + 2) * p.columns;
  p.shared_bytes = p.heads * p.head_floats * 4;
  const int64_t staging = std::max<int64_t>(kTokenGroup, p.columns) * p.k_stride;
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
    const bool few_keys = heads * p_.head_floats * 4 <= kernels_.l2_bytes / 2;
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
  float* keys(int64_t head) const { return static_cast<float*>(c_.workspace) + head * p_.head_floats; }
  float* values(int64_t head) const { return keys(head) + round_up(s_.keys, kTokenGroup) * p_.k_stride; }
  float* scratch(int worker) const {
    return reinterpret_cast<float*>(static_cast<char*>(c_.workspace) + p_.shared_bytes + worker * p_.worker_bytes);
  }
  float* staging(int worker) const { return scratch(worker) + p_.panels * p_.panel_floats; }
  const char* row(const void* base, const HeadStrides& strides, int64_t head, int64_t t) const {
    int64_t element = head / s_.heads * strides.b + head % s_.heads * strides.h + t * strides.t;
    return static_cast<const char*>(base) + element * byte_size(s_.in);
  }

  /// Rows of keys, and the values of the same tokens, transposed.
  void prepare(int64_t head, int64_t group, int worker) const {
    const int64_t end = std::min(s_.keys, (group + 1) * kTokenGroup);
    float* rows = staging(worker);
    for (int64_t t = group * kTokenGroup; t < end;) {
      const int64_t block = t / p_.key_block, in_block = t % p_.key_block, count = std::min(end - t, p_.key_block - in_block);
      for (int64_t i = 0; i < count; ++i) {
        convert_row(row(c_.k, c_.k_strides, head, t + i), s_.in, keys(head) + (t + i) * p_.k_stride, DType::f32, s_.d);
        convert_row(row(c_.v, c_.v_strides, head, t + i), s_.in, rows + i * p_.k_stride, DType::f32, s_.d);
      }
      vector_.transpose(rows, p_.k_stride, values(head) + block * p_.v_block + in_block, p_.v_stride, count, s_.d);
      t += count;
    }
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
    p.out = p.q + s_.d * p_.columns;
    p.maximum = p.out + s_.d * p_.columns;
    p.sum = p.maximum + p_.columns;
    return p;
  }

  void piece(int64_t head, int64_t index, int worker) const {
    const int64_t first = index * p_.panels, last = std::min(first + p_.panels, divide_up(s_.queries, p_.columns));
    for (int64_t i = first; i < last; ++i) begin(head, panel(i, worker, i - first), staging(worker));
    for (int64_t key = 0; key < s_.keys; key += p_.key_block)
      for (int64_t i = first; i < last; ++i) add_keys(head, panel(i, worker, i - first), staging(worker), key);
    for (int64_t i = first; i < last; ++i) write(head, panel(i, worker, i - first), staging(worker));
  }

  void begin(int64_t head, const Panel& p, float* rows) const {
    for (int64_t i = 0; i < p.columns; ++i) {
      if (i < p.used)
        convert_row(row(c_.q, c_.q_strides, head, p.first + i), s_.in, rows + i * p_.k_stride, DType::f32, s_.d);
      else
        std::fill_n(rows + i * p_.k_stride, s_.d, 0.f);
    }
    vector_.transpose(rows, p_.k_stride, p.q, p.columns, p.columns, s_.d);
    vector_.scale(p.q, s_.scale * kLog2E, p.q, s_.d * p.columns);
    std::fill_n(p.out, s_.d * p.columns, 0.f);
    std::fill_n(p.maximum, p.columns, -INFINITY);
    std::fill_n(p.sum, p.columns, 0.f);
  }

  /// The queries of a panel see the block of keys that begins at `key`.
  void add_keys(int64_t head, const Panel& p, float* scores, int64_t key) const {
    int64_t count = std::min(p_.key_block, s_.keys - key);
    if (s_.causal) count = std::min(count, p.first + p.used - key);
    if (count <= 0) return;
    const int vectors = p.columns / kernels_.vector_floats;
    const int64_t row_bytes = p.columns * 4;
    const float* k = keys(head) + key * p_.k_stride;
    for (int64_t d = 0; d < s_.d; d += p_.d_block)
      for_each_block(count, [&](int64_t r, int n) {
        kernels_.get(PanelType::f32, vectors, n)(k + r * p_.k_stride + d, p_.k_stride * 4, p.q + d * p.columns,
                                                 std::min(p_.d_block, s_.d - d), scores + r * p.columns, row_bytes, d > 0);
      });
    if (c_.bias) add_bias(head, p, scores, key, count);
    // Query i sees keys up to i.
    for (int64_t i = s_.causal ? std::max<int64_t>(0, p.first + 1 - key) : count; i < count; ++i)
      std::fill_n(scores + i * p.columns, std::min<int64_t>(key + i - p.first, p.columns), -INFINITY);
    vector_.softmax({scores, count, p.columns, p.maximum, p.sum, p.out, s_.d});
    const float* v = values(head) + key / p_.key_block * p_.v_block;
    for_each_block(s_.d, [&](int64_t r, int n) {
      kernels_.get(PanelType::f32, vectors, n)(v + r * p_.v_stride, p_.v_stride * 4, scores, count, p.out + r * p.columns,
                                               row_bytes, 1);
    });
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
    vector_.transpose(p.out, p.columns, rows, p_.k_stride, s_.d, p.used);
    for (int64_t i = 0; i < p.used; ++i) {
      const float scale = p.sum[i] == 0 ? 0 : 1 / p.sum[i];
      int64_t element =
          head / s_.heads * c_.out_strides.b + head % s_.heads * c_.out_strides.h + (p.first + i) * c_.out_strides.t;
      char* to = static_cast<char*>(c_.out) + element * byte_size(s_.out);
      float* from = rows + i * p_.k_stride;
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
