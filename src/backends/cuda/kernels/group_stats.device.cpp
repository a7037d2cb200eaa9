// Mean and spread of groups of channels of channels-last pictures.
#include "backends/cuda/kernels/device.h"
#include "backends/cuda/kernels/element_types.h"
#include "backends/cuda/kernels/group_stats_arguments.h"

namespace sinter::device {

/// Mean and sum of squared distances from it, of as many elements as the place in the array says.
struct alignas(8) Moments {
  float mean, squares;
};

SINTER_DEVICE_INLINE float addend_at(const GroupStatsArguments& a, int picture, int channel) {
  if (!a.addend) return 0.f;
  const int64_t at = picture * a.addend_stride + channel;
  if (a.addend_type == kF32) return to_float(reinterpret_cast<const F32*>(a.addend)[at]);
  if (a.addend_type == kF16) return to_float(reinterpret_cast<const F16*>(a.addend)[at]);
  return to_float(reinterpret_cast<const Bf16*>(a.addend)[at]);
}

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

/// The moments of `kWide` channels at the pixels lane, lane + lanes, ... below `count`; pieces of 1 << piece_log channels are
/// joined, and their moments are where the pieces begin. Each channel is summed around its first pixel. `channel` is the first.
template <class T, int kWide>
SINTER_DEVICE_INLINE void read_column(const T* from, int lane, int count, const GroupStatsArguments& a, int channel,
                                      Moments (&out)[kWide]) {
  using Vector = typename Raw<sizeof(T) * kWide>::Type;
  constexpr int kAtOnce = 4;  // loads that are under way together
  const int lanes = a.lanes;
  Vector v[kAtOnce] = {};
  float pivot[kWide], sum[kWide] = {}, square[kWide] = {};
  auto load_round = [&](int first, bool whole) SINTER_INLINE_LAMBDA {
    SINTER_UNROLL
    for (int j = 0; j < kAtOnce; ++j)
      if (whole || first + j * lanes < count)
        v[j] = *reinterpret_cast<const Vector*>(from + (first + j * lanes) * a.pixel_stride);
  };
  auto take_round = [&](int first, bool whole) SINTER_INLINE_LAMBDA {
    SINTER_UNROLL
    for (int j = 0; j < kAtOnce; ++j) {
      const auto elements = __builtin_bit_cast(Pack<T, kWide>, v[j]);
      const bool counts = whole || first + j * lanes < count;
      SINTER_UNROLL
      for (int i = 0; i < kWide; ++i) {
        const float distance = counts ? to_float(elements.at[i]) - pivot[i] : 0.f;
        sum[i] += distance;
        square[i] += distance * distance;
      }
    }
  };
  load_round(lane, false);
  const auto first = __builtin_bit_cast(Pack<T, kWide>, v[0]);
  SINTER_UNROLL
  for (int i = 0; i < kWide; ++i) pivot[i] = to_float(first.at[i]);
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

  const float pixels = float((count - lane + lanes - 1) / lanes), share = 1.f / pixels;
  SINTER_UNROLL
  for (int i = 0; i < kWide; ++i) {
    const float offset = sum[i] * share, squares = square[i] - offset * sum[i];
    // NaN stays: the comparison is false for it.
    out[i] = {pivot[i] + offset + addend_at(a, block_z(), channel + i), squares < 0 ? 0 : squares};
  }
  SINTER_UNROLL
  for (int level = 0; level < 3; ++level) {
    if (level >= a.piece_log) break;
    SINTER_UNROLL
    for (int i = 0; i + (1 << level) < kWide; i += 2 << level) {
      const Moments other = out[i + (1 << level)];
      const float distance = other.mean - out[i].mean;
      out[i].mean += 0.5f * distance;
      out[i].squares += other.squares + distance * distance * (0.5f * float(1 << level) * pixels);
    }
  }
}

/// Joins the moments from[row * row_stride + piece], each of weight(row) elements, `total` in all: first their mean, then the
/// distances from it. The threads of a team do it together; all teams of a warp take part.
template <class Weight>
SINTER_DEVICE_INLINE Moments joined(const Moments* from, int rows, int row_stride, int pieces, const Weight& weight, float total,
                                    int member, int team) {
  const bool by_rows = pieces < team;
  const int first_row = by_rows ? member : 0, row_step = by_rows ? team : 1;
  const int first_piece = by_rows ? 0 : member, piece_step = by_rows ? 1 : team;
  auto sum_of = [&](const auto& term) {
    float sum = 0;
    for (int row = first_row; row < rows; row += row_step) {
      const float elements = weight(row);
      for (int piece = first_piece; piece < pieces; piece += piece_step) sum += term(from[row * row_stride + piece], elements);
    }
    for (int lanes = team / 2; lanes > 0; lanes /= 2) sum += shuffle_xor(sum, lanes);
    return sum;
  };
  // Around the first, so that the sum keeps the digits of small differences.
  const float pivot = from[0].mean;
  const float offset = sum_of([&](const Moments& m, float elements) { return (m.mean - pivot) * elements; }) / total;
  const float squares = sum_of([&](const Moments& m, float elements) {
    const float distance = m.mean - pivot - offset;
    return m.squares + distance * distance * elements;
  });
  return {pivot + offset, squares};
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
    read_column<T, kWide>(reinterpret_cast<const T*>(a.x) + pixel * a.pixel_stride + channel, lane, count, a, channel, m);
    Moments* to = entries + lane * row_pieces + (vector * kWide >> a.piece_log);
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i)
      if ((i & ((1 << a.piece_log) - 1)) == 0) to[i >> a.piece_log] = m[i];
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
      const double distance = double(addend_at(a, picture, channel)) - m.mean;
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
