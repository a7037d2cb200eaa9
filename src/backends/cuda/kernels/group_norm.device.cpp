// Group normalisation of channels-last pictures in one launch.
//
// A cluster of blocks has some whole groups of one picture, each block all their channels at some of the pixels. It keeps those
// in registers, and what does not fit there in shared memory; sums them, sends the others what it found, and normalises.
//
// All who sum elements of a group do it around one pivot, so sums are joined by adding them: no counts, no divisions. The pivot
// is an element of the group, so that a mean far from zero costs no digits.
#include "backends/cuda/kernels/group_moments.h"
#include "backends/cuda/kernels/group_norm_arguments.h"
#include "backends/cuda/kernels/hopper_intrinsics.h"

namespace sinter::device {

/// Of distances from the pivot, and of their squares.
struct alignas(8) Sums {
  float sum, square;
};

/// kHeld: how many vectors of 16 bytes a thread keeps in registers.
template <class T, bool kSilu, int kHeld>
class GroupNorm {
 public:
  SINTER_DEVICE_INLINE explicit GroupNorm(const GroupNormArguments& arguments)
      : a(arguments),
        channel(block_y() * a.channels()),
        vector(thread_x() % a.vectors),
        lane(thread_x() / a.vectors),
        rounds(rounds_of(most(0, least(a.chunk, a.pixels - block_x() * a.chunk)))),
        rest(reinterpret_cast<Words4*>(shared_memory())),
        received(reinterpret_cast<Sums*>(shared_memory() + a.received_at())),
        factors(reinterpret_cast<float*>(shared_memory() + a.factors_at())),
        sums(reinterpret_cast<Sums*>(shared_memory() + a.sums_at())) {}

  SINTER_DEVICE_INLINE void run() {
    const bool meets = kClusters && blocks_x() > 1;
    if (meets) prepare_meeting();
    prefetch_weights();
    wait_for_operands();
    const Parameters first = parameters(thread_x());
    start_loads();
    store_parameters(first);
    barrier();
    if (meets && thread_x() == 0) arrive_expecting(meeting(), uint32_t(a.slab_groups * blocks_x()) * sizeof(Sums));
    sum();
    barrier();
    if (meets) cluster_wait();  // all blocks have begun, and made their barriers
    each_group([&](int group) {
      const Sums joined = joined_threads(group);
      if (meets)
        send(group, joined);
      else
        make_factors(group, joined);
    });
    if (meets) {
      wait_phase(meeting(), 0);
      each_group([&](int group) { make_factors(group, joined_blocks(group)); });
    }
    barrier();
    normalise();
  }

 private:
  static constexpr int kWide = kGroupNormWide;
#if defined(SINTER_DEVICE_EMULATION) || SINTER_DEVICE_ARCH >= 90
  static constexpr bool kClusters = true;
#else
  static constexpr bool kClusters = false;
#endif
  using Elements = Pack<T, kWide>;
  struct Parameters {
    float gamma, beta, pivot;
  };

  SINTER_DEVICE_INLINE int rounds_of(int count) const {
    return lane < a.lanes && lane < count ? (count - lane + a.lanes - 1) / a.lanes : 0;
  }
  /// Of a round that registers do not hold.
  SINTER_DEVICE_INLINE Words4& kept(int round) const { return rest[(lane + (round - kHeld) * a.lanes) * a.vectors + vector]; }
  /// Of the thread's first element.
  SINTER_DEVICE_INLINE int64_t place(int64_t stride) const {
    return (int64_t(block_z()) * a.pixels + block_x() * a.chunk + lane) * stride + channel + vector * kWide;
  }
  SINTER_DEVICE_INLINE float* pivots() const { return factors + 2 * a.channels(); }
  SINTER_DEVICE_INLINE uint32_t meeting() const { return shared_address(shared_memory() + a.meeting_at()); }

  /// The barrier at which sums of all blocks come in.
  SINTER_DEVICE_INLINE void prepare_meeting() {
    if (thread_x() == 0) {
      make_barrier(meeting(), 1);
      publish_barriers();
    }
    cluster_arrive();
  }

  /// Gamma and beta are weights, which come from memory.
  SINTER_DEVICE_INLINE void prefetch_weights() const {
    constexpr int kLine = 32;  // elements
    const int i = thread_x() * kLine;
    if (i >= a.channels()) return;
    if (a.gamma) prefetch(reinterpret_cast<const float*>(a.gamma) + channel + i);
    if (a.beta) prefetch(reinterpret_cast<const float*>(a.beta) + channel + i);
  }

  /// Of a channel of the slab. The pivot is an element of the first channel of the group, less what is added to this one: so
  /// distances from it are those of sums from one number.
  SINTER_DEVICE_INLINE Parameters parameters(int i) const {
    if (i >= a.channels()) return {};
    const int first = channel + i / a.group_width * a.group_width;
    const int64_t row = block_z() * a.addend_stride;
    const float gamma = a.gamma ? reinterpret_cast<const float*>(a.gamma)[channel + i] : 1.f;
    const float beta = element_at(a.beta, kF32, channel + i);
    const float pivot = middle_of_three(first);
    const float addend = element_at(a.addend, a.addend_type, row + channel + i);
    return {gamma, beta, pivot + (element_at(a.addend, a.addend_type, row + first) - addend)};
  }
  /// Of three pixels far from each other, so that one which is like no other is none.
  SINTER_DEVICE_INLINE float middle_of_three(int of_channel) const {
    const T* from = reinterpret_cast<const T*>(a.x) + int64_t(block_z()) * a.pixels * a.x_stride + of_channel;
    const int64_t quarter = a.pixels / 4 * a.x_stride;
    const float p = to_float(from[quarter]), q = to_float(from[2 * quarter]), r = to_float(from[3 * quarter]);
    return most(least(p, q), least(most(p, q), r));
  }
  SINTER_DEVICE_INLINE void store_parameters(Parameters p) {
    const int channels = a.channels();
    for (int i = thread_x(); i < channels; i += threads_x()) {
      if (i != thread_x()) p = parameters(i);
      factors[i] = p.gamma;
      factors[channels + i] = p.beta;
      pivots()[i] = p.pivot;
    }
  }

  SINTER_DEVICE_INLINE void start_loads() {
    const T* from = reinterpret_cast<const T*>(a.x) + place(a.x_stride);
    const int64_t step = a.lanes * a.x_stride;
    SINTER_UNROLL
    for (int r = 0; r < kHeld; ++r)
      if (r < rounds) held[r] = *reinterpret_cast<const Words4*>(from + r * step);
    for (int r = kHeld; r < rounds; ++r) copy_async(&kept(r), from + r * step, true);
    copy_async_commit();
  }

  SINTER_DEVICE_INLINE void sum() {
    float pivot[kWide], total[kWide] = {}, square[kWide] = {};
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i) pivot[i] = pivots()[vector * kWide + i];
    auto add = [&](const Words4& words) SINTER_INLINE_LAMBDA {
      const auto elements = __builtin_bit_cast(Elements, words);
      SINTER_UNROLL
      for (int i = 0; i < kWide; ++i) {
        const float distance = to_float(elements.at[i]) - pivot[i];
        total[i] += distance;
        square[i] += distance * distance;
      }
    };
    SINTER_UNROLL
    for (int r = 0; r < kHeld; ++r)
      if (r < rounds) add(held[r]);
    copy_async_wait<0>();
    for (int r = kHeld; r < rounds; ++r) add(kept(r));
    if (lane < a.lanes) store_pieces(total, square);
  }
  /// Channels of one group are summed as far as they lie evenly in all threads.
  SINTER_DEVICE_INLINE void store_pieces(float (&total)[kWide], float (&square)[kWide]) {
    SINTER_UNROLL
    for (int level = 0; level < 3; ++level) {
      if (level >= a.piece_log) break;
      SINTER_UNROLL
      for (int i = 0; i + (1 << level) < kWide; i += 2 << level) {
        total[i] += total[i + (1 << level)];
        square[i] += square[i + (1 << level)];
      }
    }
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i)
      if ((i & ((1 << a.piece_log) - 1)) == 0)
        sums[((vector * kWide + i) >> a.piece_log) * a.lanes + lane] = {total[i], square[i]};
  }

  /// Calls use(group) in one warp for each group of the slab.
  template <class Use>
  SINTER_DEVICE_INLINE void each_group(const Use& use) {
    for (int group = thread_x() / 32; group < a.slab_groups; group += threads_x() / 32) use(group);
  }
  SINTER_DEVICE_INLINE Sums joined_threads(int group) const {
    constexpr int kAtOnce = 4;
    const int count = (a.group_width >> a.piece_log) * a.lanes;
    const Sums* from = sums + group * count;
    Sums joined = {};
    for (int first = thread_x() % 32; first < count; first += 32 * kAtOnce) {
      Sums some[kAtOnce] = {};
      SINTER_UNROLL
      for (int j = 0; j < kAtOnce; ++j)
        if (first + 32 * j < count) some[j] = from[first + 32 * j];
      SINTER_UNROLL
      for (int j = 0; j < kAtOnce; ++j) {
        joined.sum += some[j].sum;
        joined.square += some[j].square;
      }
    }
    return {warp_sum(joined.sum), warp_sum(joined.square)};
  }
  /// Each lane sends to one block.
  SINTER_DEVICE_INLINE void send(int group, const Sums& joined) {
    const int block = thread_x() % 32;
    if (block < blocks_x())
      send_in_cluster(shared_address(&received[group * blocks_x() + block_x()]), block, joined.sum, joined.square, meeting());
  }
  SINTER_DEVICE_INLINE Sums joined_blocks(int group) const {
    const int block = thread_x() % 32;
    const Sums part = block < blocks_x() ? received[group * blocks_x() + block] : Sums{};
    return {warp_sum(part.sum), warp_sum(part.square)};
  }

  /// The result, or what finished() makes it from, is x * factors[0] + factors[1].
  SINTER_DEVICE_INLINE void make_factors(int group, const Sums& joined) {
    const int channels = a.channels();
    const float offset = joined.sum * a.share, variance = joined.square * a.share - offset * offset;
    // NaN stays: the comparison is false for it.
    const float inverse = inverse_root_fast((variance < 0 ? 0 : variance) + a.epsilon);
    for (int i = group * a.group_width + thread_x() % 32; i < (group + 1) * a.group_width; i += 32) {
      const float factor = kUnit * inverse * factors[i];
      // What nearly cancels keeps its digits in f64.
      const double mean = double(pivots()[i]) + offset;
      factors[i] = factor;
      factors[channels + i] = float(double(kUnit) * factors[channels + i] - mean * factor);
    }
  }

  SINTER_DEVICE_INLINE void normalise() {
    if (rounds == 0) return;
    float scale[kWide], shift[kWide];
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i) {
      scale[i] = factors[vector * kWide + i];
      shift[i] = factors[a.channels() + vector * kWide + i];
    }
    T* to = reinterpret_cast<T*>(a.out) + place(a.out_stride);
    const int64_t step = a.lanes * a.out_stride;
    auto finish = [&](int round, const Words4& words) SINTER_INLINE_LAMBDA {
      const auto elements = __builtin_bit_cast(Elements, words);
      float v[kWide];
      SINTER_UNROLL
      for (int i = 0; i < kWide; ++i) v[i] = to_float(elements.at[i]) * scale[i] + shift[i];
      if (kSilu) {
        SINTER_UNROLL
        for (int i = 0; i < kWide; i += 2) silu(v[i], v[i + 1]);
      }
      Elements packed;
      from_floats(v, packed);
      *reinterpret_cast<Words4*>(to + round * step) = __builtin_bit_cast(Words4, packed);
    };
    SINTER_UNROLL
    for (int r = 0; r < kHeld; ++r)
      if (r < rounds) finish(r, held[r]);
    for (int r = kHeld; r < rounds; ++r) finish(r, kept(r));
  }

  /// SiLU comes as multiples of -log2 e, whose power of two is what it divides by.
  static constexpr float kUnit = kSilu ? -1.4426950408889634f : 1.f;
  /// Two at a time share a reciprocal, of which a multiprocessor makes no more in a cycle than powers of two. Beyond 2^62, which
  /// divides by what nothing is left of, the product would leave f32.
  static SINTER_DEVICE_INLINE void silu(float& v, float& w) {
    const float by_v = kUnit * exp2_fast(v < 62.f ? v : 62.f) + kUnit, by_w = kUnit * exp2_fast(w < 62.f ? w : 62.f) + kUnit;
    const float both = reciprocal_fast(by_v * by_w);
    v *= both * by_w;
    w *= both * by_v;
  }

  const GroupNormArguments& a;
  const int channel;               // the slab's first
  const int vector, lane, rounds;  // which channels this thread has, its first pixel, how many
  Words4 held[kHeld];
  Words4* const rest;    // [round][lane][vector]
  Sums* const received;  // [group][block]
  float* const factors;  // gamma, beta, pivot; then factor and shift
  Sums* const sums;      // [piece][lane]
};

#define SINTER_GROUP_NORM_OF(name, T, silu, held) \
  SINTER_DEVICE_KERNEL(group_norm__##name##_x##held, GroupNormArguments arguments) { GroupNorm<T, silu, held>(arguments).run(); }
#define SINTER_GROUP_NORM(name, T, silu) SINTER_GROUP_NORM_OF(name, T, silu, 3) SINTER_GROUP_NORM_OF(name, T, silu, 9)
SINTER_GROUP_NORM(bf16, Bf16, false)
SINTER_GROUP_NORM(bf16_silu, Bf16, true)
SINTER_GROUP_NORM(f16, F16, false)
SINTER_GROUP_NORM(f16_silu, F16, true)

}  // namespace sinter::device
