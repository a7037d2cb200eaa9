// Attention for machines without the vendor's library: rows of queries go through blocks of keys with running maxima (Milakov and
// Gimelshein 2018; Dao et al. 2022), the products on tensor cores. Also the softmax of stored scores, for what does not fit.
#include "backends/cuda/kernels/attention_parts.device.h"
#include "backends/cuda/kernels/element_types.h"

namespace sinter::device {

SINTER_DEVICE_INLINE float bias_at(const BiasArguments& b, int64_t place) {
  if (b.type == kF32) return reinterpret_cast<const float*>(b.at.base)[place];
  if (b.type == kF16) return to_float(reinterpret_cast<const F16*>(b.at.base)[place]);
  return to_float(reinterpret_cast<const Bf16*>(b.at.base)[place]);
}

/// 4 warps take 16 queries each. kD: d rounded up to what there are kernels for; columns from d on are zeros. Shared memory holds
/// the queries and two stages of kKeys keys and values, rows kD + 8 apart, so that eight of them begin in eight different sets
/// of banks. See multiply_bf16() for who holds what of a product.
template <bool kBf16, int kD, int kKeys>
SINTER_DEVICE_INLINE void flash_attention(const AttentionArguments& a) {
  constexpr int kQueries = 64, kThreads = 128, kPitch = kD + 8, kChunk = 8, kChunks = kD / kChunk;
  auto* shared_q = reinterpret_cast<uint16_t*>(shared_memory());
  uint16_t* shared_kv = shared_q + kQueries * kPitch;  // [stage][k, v][key][d]
  const int thread = thread_x(), warp = thread / 32, lane = thread % 32;
  const int first_query = block_x() * kQueries;
  const auto* q = head_of<const uint16_t>(a.q);
  const auto* k = head_of<const uint16_t>(a.k);
  const auto* v = head_of<const uint16_t>(a.v);

  auto copy_rows = [&](uint16_t* to, const uint16_t* from, int64_t stride, int first, int rows, int count) {
    for (int i = thread; i < rows * kChunks; i += kThreads) {
      const int row = i / kChunks, column = i % kChunks * kChunk;
      const bool inside = first + row < count && column < a.d;
      copy_async(to + row * kPitch + column, inside ? from + (first + row) * stride + column : from, inside);
    }
  };
  auto copy_tile = [&](int tile) {
    uint16_t* to = shared_kv + tile % 2 * 2 * kKeys * kPitch;
    copy_rows(to, k, a.k.t, tile * kKeys, kKeys, a.keys);
    copy_rows(to + kKeys * kPitch, v, a.v.t, tile * kKeys, kKeys, a.keys);
    copy_async_commit();
  };
  Gathered<kD> gathered;
  const int own_query = first_query + warp * 16 + lane / 4;
  const int64_t bias = block_z() * a.bias.at.b + block_y() * a.bias.at.h;
  const float scale = a.scale * kLog2E;

  auto mask = [&](int first_key, float(&scores)[kKeys / 8][4]) {
    SINTER_UNROLL
    for (int j = 0; j < kKeys / 8; ++j) {
      SINTER_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int key = first_key + j * 8 + lane % 4 * 2 + i % 2, query = own_query + i / 2 * 8;
        float score = scores[j][i] * scale;
        if (a.bias.at.base && key < a.keys && query < a.queries)
          score += bias_at(a.bias, bias + query * a.bias.at.t + key * a.bias.key_stride) * kLog2E;
        scores[j][i] = key >= a.keys || (a.causal && key > query) ? kNegativeInfinity : score;
      }
    }
  };
  int tiles = divide_up(a.keys, kKeys);
  if (a.causal) tiles = least(tiles, divide_up(first_query + kQueries, kKeys));
  copy_rows(shared_q, q, a.q.t, first_query, kQueries, a.queries);
  copy_tile(0);
  for (int tile = 0; tile < tiles; ++tile) {
    copy_async_wait<0>();
    barrier();  // the tile is there for all, and all are done with the one before
    if (tile + 1 < tiles) copy_tile(tile + 1);
    const uint16_t* keys = shared_kv + tile % 2 * 2 * kKeys * kPitch;
    float scores[kKeys / 8][4] = {};
    add_products<kBf16, kD, kPitch>(shared_q + warp * 16 * kPitch, keys, scores);
    mask(tile * kKeys, scores);
    uint32_t weights[kKeys / 8][2];
    gathered.template exponentiate<kBf16>(scores, 1.f, tile > 0, weights);
    add_values<kBf16, kPitch>(keys + kKeys * kPitch, weights, gathered);
  }

  auto* out = head_of<uint16_t>(a.out);
  SINTER_UNROLL
  for (int half = 0; half < 2; ++half) {
    const float share = gathered.share(half);
    const int query = own_query + half * 8;
    if (query >= a.queries) continue;
    SINTER_UNROLL
    for (int d = 0; d < kD / 8; ++d) {
      const int column = d * 8 + lane % 4 * 2;
      if (column < a.d)
        *reinterpret_cast<uint32_t*>(out + query * a.out.t + column) =
            pair_of<kBf16>(gathered.sums[d][half * 2] * share, gathered.sums[d][half * 2 + 1] * share);
    }
  }
}

#define SINTER_FLASH_ATTENTION(type, bf16, d, keys) \
  SINTER_DEVICE_KERNEL(attention__flash_##type##_##d, AttentionArguments a) { flash_attention<bf16, d, keys>(a); }
SINTER_FLASH_ATTENTION(bf16, true, 64, 64)
SINTER_FLASH_ATTENTION(bf16, true, 128, 64)
SINTER_FLASH_ATTENTION(bf16, true, 256, 32)
SINTER_FLASH_ATTENTION(f16, false, 64, 64)
SINTER_FLASH_ATTENTION(f16, false, 128, 64)
SINTER_FLASH_ATTENTION(f16, false, 256, 32)

/// Both values of all threads in every thread; shared memory: two floats for each warp.
SINTER_DEVICE_INLINE float block_reduce(float value, bool sum) {
  auto* shared = reinterpret_cast<float*>(shared_memory());
  value = sum ? warp_sum(value) : warp_max(value);
  barrier();
  if (thread_x() % 32 == 0) shared[thread_x() / 32] = value;
  barrier();
  float all = shared[0];
  for (int i = 1; i < threads_x() / 32; ++i) all = sum ? all + shared[i] : most(all, shared[i]);
  return all;
}

/// A block for each query (x) and head (y).
SINTER_DEVICE_KERNEL(attention__softmax, SoftmaxArguments a) {
  const int query = a.first_query + block_x();
  const int64_t row = (int64_t(block_y()) * a.queries + block_x()) * a.keys;
  const auto* scores = reinterpret_cast<const float*>(a.scores) + row;
  const BiasArguments& b = a.bias;
  const int64_t bias = a.b * b.at.b + block_y() * b.at.h + query * b.at.t;
  auto score_of = [&](int key) {
    const float score = b.at.base ? scores[key] + bias_at(b, bias + key * b.key_stride) : scores[key];
    return a.causal && key > query ? kNegativeInfinity : score;
  };
  float largest = kNegativeInfinity;
  for (int key = thread_x(); key < a.keys; key += threads_x()) largest = most(largest, score_of(key));
  largest = block_reduce(largest, false);
  const float base = largest == kNegativeInfinity ? 0.f : largest;
  float total = 0;
  for (int key = thread_x(); key < a.keys; key += threads_x()) total += exp2_fast((score_of(key) - base) * kLog2E);
  total = block_reduce(total, true);
  const float share = total == 0.f ? 0.f : 1.f / total;
  for (int key = thread_x(); key < a.keys; key += threads_x()) {
    const float value = exp2_fast((score_of(key) - base) * kLog2E) * share;
    if (a.type == kF32)
      from_float(value, reinterpret_cast<F32*>(a.out)[row + key]);
    else if (a.type == kF16)
      from_float(value, reinterpret_cast<F16*>(a.out)[row + key]);
    else
      from_float(value, reinterpret_cast<Bf16*>(a.out)[row + key]);
  }
}

}  // namespace sinter::device
