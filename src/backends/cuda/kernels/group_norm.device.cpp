// Group normalisation of channels-last pictures in one launch.
//
// A cluster of blocks has some whole groups of one picture, each block all their channels at some of the pixels. It brings those
// into shared memory, where they stay as they came, sums them while they come, tells the others what it found, and normalises.
#include "backends/cuda/kernels/group_moments.h"
#include "backends/cuda/kernels/group_norm_arguments.h"

namespace sinter::device {

/// What blocks tell each other.
struct alignas(16) Part {
  float mean, squares, elements, unused;
};

template <class T, bool kSilu>
class GroupNorm {
 public:
  SINTER_DEVICE_INLINE explicit GroupNorm(const GroupNormArguments& arguments)
      : a(arguments),
        channel(block_y() * a.channels()),
        count(most(0, least(a.chunk, a.pixels - block_x() * a.chunk))),
        vector(thread_x() % a.vectors),
        lane(thread_x() / a.vectors),
        rounds(lane < a.lanes && lane < count ? (count - lane + a.lanes - 1) / a.lanes : 0),
        map(reinterpret_cast<Words4*>(shared_memory())),
        parts(reinterpret_cast<Part*>(shared_memory() + a.parts_at())),
        factors(reinterpret_cast<float*>(shared_memory() + a.factors_at())),
        moments(reinterpret_cast<Moments*>(shared_memory() + a.moments_at())) {}

  SINTER_DEVICE_INLINE void run() {
    wait_for_operands();
    start_copies();
    fetch_parameters();
    barrier();
    sum();
    barrier();
    join_rows();
    cluster_arrive();
    cluster_wait();
    join_blocks();
    cluster_arrive();
    barrier();
    normalise();
    cluster_wait();  // others may still read what this block told them
  }

 private:
  static constexpr int kWide = kGroupNormWide;
  static constexpr int kStages = 4;  // in which a thread's pixels come, so that it sums some while it waits for others
  using Elements = Pack<T, kWide>;

  /// The first round of a stage; the first stage has one if any has.
  SINTER_DEVICE_INLINE int stage_begin(int stage) const { return (rounds * stage + kStages - 1) / kStages; }
  SINTER_DEVICE_INLINE Words4& held(int round) const { return map[(lane + round * a.lanes) * a.vectors + vector]; }
  /// Of the thread's first element.
  SINTER_DEVICE_INLINE int64_t place(int64_t stride) const {
    return (int64_t(block_z()) * a.pixels + block_x() * a.chunk + lane) * stride + channel + vector * kWide;
  }

  SINTER_DEVICE_INLINE void start_copies() {
    const T* from = reinterpret_cast<const T*>(a.x) + place(a.x_stride);
    const int64_t step = a.lanes * a.x_stride;
    SINTER_UNROLL
    for (int stage = 0; stage < kStages; ++stage) {
      for (int r = stage_begin(stage); r < stage_begin(stage + 1); ++r) copy_async(&held(r), from + r * step, true);
      copy_async_commit();
    }
  }

  /// Gamma, beta and what is added, for the slab's channels: all are under way before the first is stored.
  SINTER_DEVICE_INLINE void fetch_parameters() {
    const int channels = a.channels();
    const int64_t row = block_z() * a.addend_stride + channel;
    for (int i = thread_x(); i < channels; i += threads_x()) {
      const float gamma = a.gamma ? reinterpret_cast<const float*>(a.gamma)[channel + i] : 1.f;
      const float beta = element_at(a.beta, kF32, channel + i), addend = element_at(a.addend, a.addend_type, row + i);
      factors[i] = gamma;
      factors[channels + i] = beta;
      factors[2 * channels + i] = addend;
    }
  }

  SINTER_DEVICE_INLINE void sum() {
    ColumnSums<kWide> sums;
    sum_stage<0>(sums);
    sum_stage<1>(sums);
    sum_stage<2>(sums);
    sum_stage<3>(sums);
    if (rounds == 0) return;
    const float* addend = factors + 2 * a.channels() + vector * kWide;
    Moments m[kWide];
    sums.finish(
        float(rounds), a.piece_log, [&](int i) { return addend[i]; }, m);
    store_pieces(m, a.piece_log, moments + lane * a.row_pieces() + (vector * kWide >> a.piece_log));
  }
  template <int kStage>
  SINTER_DEVICE_INLINE void sum_stage(ColumnSums<kWide>& sums) {
    copy_async_wait<kStages - 1 - kStage>();
    for (int r = stage_begin(kStage); r < stage_begin(kStage + 1); ++r) {
      const auto elements = __builtin_bit_cast(Elements, held(r));
      if (kStage == 0 && r == 0) sums.begin_around(elements);
      sums.add(elements);
    }
  }

  /// Each warp joins some of the block's rows of one group.
  SINTER_DEVICE_INLINE void join_rows() {
    const int rows = least(a.lanes, count), part_rows = divide_up(a.lanes, a.parts);
    const int each = count / a.lanes, longer = count % a.lanes;  // pixels of a row; rows with one more
    const int pieces = a.group_width >> a.piece_log, row_pieces = a.row_pieces();
    for (int task = thread_x() / 32; task < a.slab_groups * a.parts; task += threads_x() / 32) {
      const int group = task / a.parts, first = task % a.parts * part_rows, here = least(part_rows, rows - first);
      Part part = {};
      if (here > 0) {
        const int pixels = here * each + most(0, least(here, longer - first));
        part.elements = float(pixels) * float(a.group_width);
        auto weight = [&](int row) { return float((each + (first + row < longer)) << a.piece_log); };
        const Moments m = joined(moments + first * row_pieces + group * pieces, here, row_pieces, pieces, weight, part.elements,
                                 thread_x() % 32, 32);
        part.mean = m.mean, part.squares = m.squares;
      }
      if (thread_x() % 32 == 0) parts[task] = part;
    }
  }

  /// Each warp joins all blocks' parts of one group, one in each lane, and makes its factors.
  SINTER_DEVICE_INLINE void join_blocks() {
    const int member = thread_x() % 32, block = member / a.parts;
    const float total = float(a.pixels) * float(a.group_width);
    for (int group = thread_x() / 32; group < a.slab_groups; group += threads_x() / 32) {
      float first[4], part[4] = {};
      read_of_cluster(first, parts + group * a.parts, 0);
      if (block < blocks_x()) read_of_cluster(part, parts + group * a.parts + member % a.parts, block);
      // Around the first, so that the sum keeps the digits of small differences.
      const float mean = part[0], squares = part[1], elements = part[2], pivot = first[0];
      const float offset = warp_sum(elements > 0 ? (mean - pivot) * elements : 0.f) / total;
      const float distance = mean - pivot - offset;
      make_factors(group, pivot + offset, warp_sum(elements > 0 ? squares + distance * distance * elements : 0.f) / total);
    }
  }

  /// x * factors[0] + factors[1] is the result; it contains what is added to x.
  SINTER_DEVICE_INLINE void make_factors(int group, float mean, float variance) {
    const float inverse = 1.f / square_root(variance + a.epsilon);
    const int channels = a.channels();
    for (int i = group * a.group_width + thread_x() % 32; i < (group + 1) * a.group_width; i += 32) {
      const float factor = inverse * factors[i];
      // What nearly cancels keeps its digits in f64.
      const double distance = double(factors[2 * channels + i]) - mean;
      factors[i] = factor;
      factors[channels + i] = float(factors[channels + i] + distance * factor);
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
    for (int r = 0; r < rounds; ++r) {
      const auto elements = __builtin_bit_cast(Elements, held(r));
      float v[kWide];
      SINTER_UNROLL
      for (int i = 0; i < kWide; ++i) v[i] = finished(to_float(elements.at[i]) * scale[i] + shift[i]);
      Elements packed;
      from_floats(v, packed);
      *reinterpret_cast<Words4*>(to + r * step) = __builtin_bit_cast(Words4, packed);
    }
  }
  static SINTER_DEVICE_INLINE float finished(float v) {
    constexpr float kLog2E = 1.4426950408889634f;
    return kSilu ? v * reciprocal_fast(1.f + exp2_fast(-kLog2E * v)) : v;
  }

  const GroupNormArguments& a;
  const int channel, count;        // the slab's first; pixels of this block
  const int vector, lane, rounds;  // which channels this thread holds, its first pixel, how many
  Words4* const map;               // [pixel][vector]
  Part* const parts;
  float* const factors;  // gamma, beta, addend; then factor and shift
  Moments* const moments;
};

#define SINTER_GROUP_NORM(name, T, silu) \
  SINTER_DEVICE_KERNEL(group_norm__##name, GroupNormArguments arguments) { GroupNorm<T, silu>(arguments).run(); }
SINTER_GROUP_NORM(bf16, Bf16, false)
SINTER_GROUP_NORM(bf16_silu, Bf16, true)
SINTER_GROUP_NORM(f16, F16, false)
SINTER_GROUP_NORM(f16_silu, F16, true)

}  // namespace sinter::device
