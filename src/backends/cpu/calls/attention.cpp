#include "backends/cpu/calls/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cpu/calls/panels.h"
#include "backends/cpu/calls/rows.h"
#include "backends/cpu/calls/vector_kernels.h"
#include "base/error.h"

namespace sinter {
namespace {

constexpr int kMaxBlocks = 32;  // of query rows in one piece
constexpr int64_t kMaxD = 1024;
constexpr float kLog2E = 1.44269504f;  // scores are kept in base 2

/// Keys and values are packed once for each (batch entry, head): keys as the panels of a matrix [keys, d], values as those of its
/// transpose [d, keys]. A piece is a block of queries of one head.
struct Plan {
  PanelLayout keys, values;
  int64_t key_block, d_block;                               // keys whose scores are held; d that is summed over at a time
  int64_t rows, row_pieces;                                 // queries of a piece; pieces of a head
  int64_t heads;                                            // of all batch entries
  int64_t q_stride, score_stride, out_stride, out_columns;  // floats
  int64_t shared_bytes, worker_bytes;
};

Plan make_plan(const AttentionShape& s, int threads, const Microkernels& kernels) {
  Plan p;
  p.keys = panel_layout(PanelType::f32, s.keys, s.d, 1, kernels);
  p.values = panel_layout(PanelType::f32, s.d, s.keys, 1, kernels);
  p.heads = s.b * s.heads;
  // Large heads: the values that go with a block of keys should stay in the second cache with the queries.
  p.key_block = std::min<int64_t>(round_up(s.keys, p.keys.columns), s.d > 256 ? 128 : 256);
  p.d_block = even_part(s.d, 256);
  int64_t most = std::min<int64_t>(kMaxBlocks, kernels.vector_floats == 16 ? 8 : 16) * kernels.max_rows;
  int64_t wanted = divide_up(12 * threads, p.heads);  // pieces of a head that keep all threads busy to the end
  int64_t rows = std::clamp<int64_t>(divide_up(s.queries, wanted), threads == 1 ? most : 2 * kernels.max_rows, most);
  p.row_pieces = std::max<int64_t>(1, divide_up(s.queries, rows));
  p.rows = divide_up(s.queries, p.row_pieces);
  p.q_stride = scratch_row_bytes(s.d * 4) / 4;
  p.score_stride = p.key_block + 16;
  p.out_columns = (p.values.panels() - 1) * p.values.columns + p.values.panel_columns(p.values.panels() - 1);
  p.out_stride = scratch_row_bytes(p.out_columns * 4) / 4;
  p.shared_bytes = p.heads * (p.keys.bytes() + p.values.bytes());
  p.worker_bytes = round_up(p.rows * (p.q_stride + p.score_stride + p.out_stride + 2) * 4, 4096) + 192;
  p.worker_bytes = std::max(p.worker_bytes, round_up(p.keys.columns * s.d * 4, 4096));  // rows on their way into panels
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
    const int64_t blocks = p_.keys.panels(), heads = s_.heads;
    pool.parallel_for(s_.b * blocks * heads, heads, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) pack(i / heads / blocks * heads + i % heads, i / heads % blocks, worker);
    });
    // The same for queries, if the keys of all heads fit the cache; else one head's queries after the other.
    const bool few_keys = heads * (p_.keys.bytes() + p_.values.bytes()) <= kernels_.l2_bytes / 2;
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
  float* keys(int64_t head) const {
    return reinterpret_cast<float*>(static_cast<char*>(c_.workspace) + head * (p_.keys.bytes() + p_.values.bytes()));
  }
  float* values(int64_t head) const { return keys(head) + p_.keys.bytes() / 4; }
  float* scratch(int worker) const {
    return reinterpret_cast<float*>(static_cast<char*>(c_.workspace) + p_.shared_bytes + worker * p_.worker_bytes);
  }
  const char* row(const void* base, const HeadStrides& strides, int64_t head, int64_t t) const {
    int64_t element = head / s_.heads * strides.b + head % s_.heads * strides.h + t * strides.t;
    return static_cast<const char*>(base) + element * byte_size(s_.in);
  }

  /// One panel of keys, and the values of the same keys.
  void pack(int64_t head, int64_t panel, int worker) const {
    const int64_t first = panel * p_.keys.columns, count = std::min<int64_t>(p_.keys.columns, s_.keys - first), d = s_.d;
    const int columns = p_.keys.panel_columns(panel);
    float* rows = scratch(worker);
    float* to = keys(head) + p_.keys.panel_offset(panel) / 4;
    for (int64_t i = 0; i < columns; ++i) {
      if (i < count)
        convert_row(row(c_.k, c_.k_strides, head, first + i), s_.in, rows + i * d, DType::f32, d);
      else
        std::fill_n(rows + i * d, d, 0.f);
    }
    for (int64_t i = 0; i < columns; i += 8)
      for (int64_t j = 0; j < d; ++j)
        for (int64_t r = 0; r < 8; ++r) to[j * columns + i + r] = rows[(i + r) * d + j];
    for (int64_t i = 0; i < count; ++i) {
      convert_row(row(c_.v, c_.v_strides, head, first + i), s_.in, rows, DType::f32, d);
      for (int64_t q = 0; q < p_.values.panels(); ++q) {
        const int64_t wide = p_.values.panel_columns(q), used = std::min<int64_t>(wide, d - q * p_.values.columns);
        float* place = values(head) + p_.values.panel_offset(q) / 4 + (first + i) * wide;
        std::memcpy(place, rows + q * p_.values.columns, size_t(used) * 4);
        std::fill_n(place + used, wide - used, 0.f);
      }
    }
  }

  struct Scratch {
    float *q, *scores, *out, *maximum, *sum;
  };

  void piece(int64_t head, int64_t index, int worker) const {
    const int64_t first = index * p_.rows, rows = std::min(p_.rows, s_.queries - first);
    if (rows <= 0) return;
    Scratch m;
    m.q = scratch(worker);
    m.scores = m.q + p_.rows * p_.q_stride;
    m.out = m.scores + p_.rows * p_.score_stride;
    m.maximum = m.out + p_.rows * p_.out_stride;
    m.sum = m.maximum + p_.rows;
    for (int64_t i = 0; i < rows; ++i) {
      float* q = m.q + i * p_.q_stride;
      const char* from = row(c_.q, c_.q_strides, head, first + i);
      if (s_.in != DType::f32) convert_row(from, s_.in, q, DType::f32, s_.d);
      vector_.scale(s_.in == DType::f32 ? reinterpret_cast<const float*>(from) : q, s_.scale * kLog2E, q, s_.d);
      std::fill_n(m.out + i * p_.out_stride, p_.out_columns, 0.f);
    }
    std::fill_n(m.maximum, rows, -INFINITY);
    std::fill_n(m.sum, rows, 0.f);
    const int64_t keys_seen = s_.causal ? std::min(s_.keys, first + rows) : s_.keys;
    for (int64_t key = 0; key < keys_seen; key += p_.key_block) {
      const int64_t count = std::min(p_.key_block, keys_seen - key);
      score(head, m, rows, key, count);
      if (c_.bias) add_bias(head, m, first, rows, key, count);
      vector_.softmax({m.scores, p_.score_stride, rows, count, s_.causal ? first - key + 1 : count, s_.causal ? 1 : 0, m.maximum,
                       m.sum, m.out, p_.out_stride, p_.out_columns});
      add_values(head, m, rows, key, count);
    }
    for (int64_t i = 0; i < rows; ++i) write(head, first + i, m.out + i * p_.out_stride, m.sum[i]);
  }

  template <class Body>
  void for_each_block(int64_t rows, const Body& body) const {
    const int64_t count = divide_up(rows, kernels_.max_rows);
    for (int64_t i = 0; i < count; ++i) body(rows * i / count, int(rows * (i + 1) / count - rows * i / count));
  }

  void score(int64_t head, const Scratch& m, int64_t rows, int64_t key, int64_t count) const {
    for (int64_t panel = key / p_.keys.columns; panel * p_.keys.columns < key + count; ++panel) {
      const int columns = p_.keys.panel_columns(panel);
      const float* b = keys(head) + p_.keys.panel_offset(panel) / 4;
      float* scores = m.scores + panel * p_.keys.columns - key;
      for (int64_t d = 0; d < s_.d; d += p_.d_block)
        for_each_block(rows, [&](int64_t r, int n) {
          kernels_.get(PanelType::f32, columns / kernels_.vector_floats, n)(
              m.q + r * p_.q_stride + d, p_.q_stride * 4, b + d * columns, std::min(p_.d_block, s_.d - d),
              scores + r * p_.score_stride, p_.score_stride * 4, d > 0);
        });
    }
  }

  void add_values(int64_t head, const Scratch& m, int64_t rows, int64_t key, int64_t count) const {
    for (int64_t panel = 0; panel < p_.values.panels(); ++panel) {
      const int columns = p_.values.panel_columns(panel);
      const float* b = values(head) + p_.values.panel_offset(panel) / 4 + key * columns;
      for_each_block(rows, [&](int64_t r, int n) {
        kernels_.get(PanelType::f32, columns / kernels_.vector_floats, n)(
            m.scores + r * p_.score_stride, p_.score_stride * 4, b, count, m.out + r * p_.out_stride + panel * p_.values.columns,
            p_.out_stride * 4, 1);
      });
    }
  }

  void add_bias(int64_t head, const Scratch& m, int64_t first, int64_t rows, int64_t key, int64_t count) const {
    const HeadStrides& strides = c_.bias_strides;
    for (int64_t i = 0; i < rows; ++i) {
      const float* bias = c_.bias + head / s_.heads * strides.b + head % s_.heads * strides.h + (first + i) * strides.t +
                          key * c_.bias_key_stride;
      float* scores = m.scores + i * p_.score_stride;
      if (c_.bias_key_stride == 0) {
        for (int64_t j = 0; j < count; ++j) scores[j] += *bias * kLog2E;
      } else {
        for (int64_t j = 0; j < count; ++j) scores[j] += bias[j] * kLog2E;
      }
    }
  }

  void write(int64_t head, int64_t query, float* out, float sum) const {
    const float scale = sum == 0 ? 0 : 1 / sum;
    int64_t element = head / s_.heads * c_.out_strides.b + head % s_.heads * c_.out_strides.h + query * c_.out_strides.t;
    char* to = static_cast<char*>(c_.out) + element * byte_size(s_.out);
    vector_.scale(out, scale, s_.out == DType::f32 ? reinterpret_cast<float*>(to) : out, s_.d);
    if (s_.out != DType::f32) convert_row(out, DType::f32, to, s_.out, s_.d);
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
