// Mean and spread of groups of channels of channels-last pictures.
#include "backends/cuda/kernels/group_moments.h"
#include "backends/cuda/kernels/group_stats_arguments.h"

namespace sinter::device {

/// As many bytes as registers hold them: elements of 16 bits would each take one.
template <int kBytes>
struct Raw;
template <>
struct Raw<2> {
  using Type = uint16_t;
};
template <>
struct Raw<4> {
  using Type = uint32_t;
};
template <>
struct Raw<8> {
  using Type = Words2;
};
template <>
struct Raw<16> {
  using Type = Words4;
};

/// Sums kWide channels at the pixels lane, lane + lanes, ... below `count`.
template <class T, int kWide>
SINTER_DEVICE_INLINE ColumnSums<kWide> read_column(const T* from, int lane, int count, const GroupStatsArguments& a) {
  using Vector = typename Raw<sizeof(T) * kWide>::Type;
  constexpr int kAtOnce = 4;  // loads that are under way together
  const int lanes = a.lanes;
  Vector v[kAtOnce] = {};
  ColumnSums<kWide> sums;
  auto elements = [&](int j) SINTER_INLINE_LAMBDA { return __builtin_bit_cast(Pack<T, kWide>, v[j]); };
  auto load_round = [&](int first, bool whole) SINTER_INLINE_LAMBDA {
    SINTER_UNROLL
    for (int j = 0; j < kAtOnce; ++j)
      if (whole || first + j * lanes < count)
        v[j] = *reinterpret_cast<const Vector*>(from + (first + j * lanes) * a.pixel_stride);
  };
  auto take_round = [&](int first, bool whole) SINTER_INLINE_LAMBDA {
    SINTER_UNROLL
    for (int j = 0; j < kAtOnce; ++j) sums.add(elements(j), whole || first + j * lanes < count);
  };
  load_round(lane, false);
  sums.begin_around(elements(0));
  take_round(lane, false);
  int p = lane + kAtOnce * lanes;
  for (; p + (kAtOnce - 1) * lanes < count; p += kAtOnce * lanes) {
    load_round(p, true);
    take_round(p, true);
  }
  if (p < count) {
    load_round(p, false);
    take_round(p, false);
  }
  return sums;
}

/// One block's work: its chunk of pixels, and the picture if it is the last to finish.
template <class T, int kWide>
class GroupStats {
 public:
  SINTER_DEVICE_INLINE explicit GroupStats(const GroupStatsArguments& arguments)
      : a(arguments),
        picture(block_z()),
        first_group(block_y() * a.slab_groups),
        member(thread_x() % a.team),
        entries(reinterpret_cast<Moments*>(shared_memory())) {}

  SINTER_DEVICE_INLINE void run() {
    const int chunk = block_x(), count = least(a.chunk, a.pixels - chunk * a.chunk);
    const int row_pieces = a.vectors * kWide >> a.piece_log;
    if (chunk == 0) fetch_parameters();  // weights, which no kernel writes
    wait_for_operands();
    read(chunk, count, row_pieces);
    barrier();

    const int pieces = a.group_width >> a.piece_log, rows = least(a.lanes, count);
    const int each = count / a.lanes, longer = count % a.lanes;  // pixels of a row; rows with one more
    auto weight = [&](int row) { return float((each + (row < longer)) << a.piece_log); };
    auto of_group = [&](int group) {
      return joined(entries + group * pieces, rows, row_pieces, pieces, weight, float(count) * float(a.group_width), member,
                    a.team);
    };
    if (a.chunks == 1) return each_group(0, a.slab_groups, of_group, [&](int group, const Moments& m) { finish(group, m); });
    each_group(0, a.slab_groups, of_group, [&](int group, const Moments& m) {
      if (member == 0) partial(group)[chunk] = m;
    });
    if (is_last()) join_chunks();
  }

 private:
  SINTER_DEVICE_INLINE float addend(int channel) const {
    return element_at(a.addend, a.addend_type, picture * a.addend_stride + channel);
  }

  /// Gamma and beta come from memory, and are needed at the end.
  SINTER_DEVICE_INLINE void fetch_parameters() {
    constexpr int kLine = 32;  // elements
    const int i = thread_x() * kLine;
    if (i >= a.slab_groups * a.group_width) return;
    const int64_t bytes = int64_t(first_group * a.group_width + i) * 4;
    if (a.gamma) prefetch(reinterpret_cast<const void*>(a.gamma + bytes));
    if (a.beta) prefetch(reinterpret_cast<const void*>(a.beta + bytes));
  }

  SINTER_DEVICE_INLINE void read(int chunk, int count, int row_pieces) {
    const int vector = thread_x() % a.vectors, lane = thread_x() / a.vectors;
    if (lane >= least(a.lanes, count)) return;
    const int channel = first_group * a.group_width + vector * kWide;
    const int64_t pixel = int64_t(picture) * a.pixels + chunk * a.chunk;
    Moments m[kWide];
    const auto sums = read_column<T, kWide>(reinterpret_cast<const T*>(a.x) + pixel * a.pixel_stride + channel, lane, count, a);
    sums.finish(
        float((count - lane + a.lanes - 1) / a.lanes), a.piece_log, [&](int i) { return addend(channel + i); }, m);
    store_pieces(m, a.piece_log, entries + lane * row_pieces + (vector * kWide >> a.piece_log));
  }

  /// Calls use(group, of_group(group)) for the groups [first, first + count) of the slab, one for each team at a time.
  template <class Of, class Use>
  SINTER_DEVICE_INLINE void each_group(int first, int count, const Of& of_group, const Use& use) {
    const int teams = threads_x() / a.team;
    for (int round = 0; round < count; round += teams) {
      const int group = round + thread_x() / a.team;
      const Moments m = of_group(least(group, count - 1));
      if (group < count) use(first + group, m);
    }
  }

  SINTER_DEVICE_INLINE Moments* partial(int group) {
    const int groups = a.channels / a.group_width;
    return reinterpret_cast<Moments*>(a.partial) + (int64_t(picture) * groups + first_group + group) * a.chunks;
  }

  /// Whether all other blocks of this slab have stored their moments. The counter is left as it was found, at zero.
  SINTER_DEVICE_INLINE bool is_last() {
    barrier();
    auto* seen = reinterpret_cast<uint32_t*>(entries);
    if (thread_x() == 0) {
      auto* counter =
          reinterpret_cast<uint32_t*>(a.counters) + picture * (a.channels / a.group_width / a.slab_groups) + block_y();
      *seen = arrive(counter);
      if (*seen == uint32_t(a.chunks - 1)) *counter = 0;
    }
    barrier();
    const bool last = *seen == uint32_t(a.chunks - 1);
    barrier();
    return last;
  }

  SINTER_DEVICE_INLINE void join_chunks() {
    auto weight = [&](int chunk) { return float(least(a.chunk, a.pixels - chunk * a.chunk)) * float(a.group_width); };
    const float total = float(a.pixels) * float(a.group_width);
    for (int first = 0; first < a.slab_groups; first += a.tile_groups) {
      const int groups = least(a.tile_groups, a.slab_groups - first);
      fetch_chunks(partial(first), groups * a.chunks);
      barrier();
      each_group(
          first, groups,
          [&](int group) { return joined(entries + group * a.chunks, a.chunks, 1, 1, weight, total, member, a.team); },
          [&](int group, const Moments& m) { finish(group, m); });
      barrier();
    }
  }

  SINTER_DEVICE_INLINE void fetch_chunks(const Moments* from, int count) {
    constexpr int kAtOnce = 8;
    for (int first = thread_x(); first < count; first += kAtOnce * threads_x()) {
      Moments m[kAtOnce] = {};
      SINTER_UNROLL
      for (int j = 0; j < kAtOnce; ++j)
        if (first + j * threads_x() < count) m[j] = from[first + j * threads_x()];
      SINTER_UNROLL
      for (int j = 0; j < kAtOnce; ++j)
        if (first + j * threads_x() < count) entries[first + j * threads_x()] = m[j];
    }
  }

  SINTER_DEVICE_INLINE void finish(int group, const Moments& m) {
    const float variance = m.squares / (float(a.pixels) * float(a.group_width));
    const float inverse = 1.f / square_root(variance + a.epsilon);
    float* scale = reinterpret_cast<float*>(a.out) + int64_t(picture) * 2 * a.channels;
    const auto* gamma = reinterpret_cast<const float*>(a.gamma);
    const auto* beta = reinterpret_cast<const float*>(a.beta);
    for (int i = member; i < a.group_width; i += a.team) {
      const int channel = (first_group + group) * a.group_width + i;
      const float factor = gamma ? inverse * gamma[channel] : inverse;
      // What nearly cancels keeps its digits in f64.
      const double distance = double(addend(channel)) - m.mean;
      scale[channel] = factor;
      scale[a.channels + channel] = float((beta ? beta[channel] : 0.0) + distance * factor);
    }
  }

  const GroupStatsArguments& a;
  const int picture, first_group, member;
  Moments* const entries;  // [lane][piece of the slab], then [group][chunk]
};

#define SINTER_GROUP_STATS(name, T, wide) \
  SINTER_DEVICE_KERNEL(group_stats__##name, GroupStatsArguments arguments) { GroupStats<T, wide>(arguments).run(); }
SINTER_GROUP_STATS(f32_x4, F32, 4)
SINTER_GROUP_STATS(f32_x2, F32, 2)
SINTER_GROUP_STATS(f32_x1, F32, 1)
SINTER_GROUP_STATS(f16_x8, F16, 8)
SINTER_GROUP_STATS(f16_x4, F16, 4)
SINTER_GROUP_STATS(f16_x2, F16, 2)
SINTER_GROUP_STATS(f16_x1, F16, 1)
SINTER_GROUP_STATS(bf16_x8, Bf16, 8)
SINTER_GROUP_STATS(bf16_x4, Bf16, 4)
SINTER_GROUP_STATS(bf16_x2, Bf16, 2)
SINTER_GROUP_STATS(bf16_x1, Bf16, 1)

}  // namespace sinter::device
