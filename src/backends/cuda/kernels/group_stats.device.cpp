// Mean and spread of groups of channels of channels-last pictures, in two launches: parts of the pixels, then all of them.
#include "backends/cuda/kernels/device.h"

namespace sinter::device {

/// Mean and sum of squared distances from it, of as many elements as the place in the array says.
struct Moments {
  float mean, squares;
};

/// Each block takes `chunk` pixels of one picture and the channels of `slab_groups` groups. Threads form rows: `vectors` threads
/// with `kWide` channels each read one pixel, and `lanes` pixels are read side by side.
/// partial: [n][groups][chunks].
template <class T, int kWide>
SINTER_DEVICE_INLINE void group_stats_partial(const T* x, Moments* partial, int pixels, int chunk, int64_t pixel_stride,
                                              int groups, int group_width, int slab_groups, int vectors, int lanes,
                                              const float* addend, int64_t addend_stride) {
  const int picture = block_z(), slab = block_y(), chunks = blocks_x();
  const int first_pixel = block_x() * chunk, count = least(chunk, pixels - first_pixel);
  const int vector = thread_x() % vectors, lane = thread_x() / vectors;
  const int first_channel = slab * slab_groups * group_width;
  auto* entries = reinterpret_cast<Moments*>(shared_memory());  // [lane][channel of the slab]
  const int slab_channels = vectors * kWide;
  using Vector = Pack<T, kWide>;

  if (lane < least(lanes, count)) {
    const T* from = x + (int64_t(picture) * pixels + first_pixel) * pixel_stride + first_channel + vector * kWide;
    // Loads of several pixels are under way together. The last round has fewer: it loads some pixel again and leaves it out.
    constexpr int kAtOnce = 4;
    Vector v[kAtOnce];
    auto load_round = [&](int first) {
      SINTER_UNROLL
      for (int j = 0; j < kAtOnce; ++j)
        v[j] = *reinterpret_cast<const Vector*>(from + least(first + j * lanes, count - 1) * pixel_stride);
    };
    float pivot[kWide], sum[kWide] = {}, square[kWide] = {};
    auto take_round = [&](int first, bool whole) {
      SINTER_UNROLL
      for (int j = 0; j < kAtOnce; ++j) {
        const bool counts = whole || first + j * lanes < count;
        SINTER_UNROLL
        for (int i = 0; i < kWide; ++i) {
          const float distance = counts ? to_float(v[j].at[i]) - pivot[i] : 0.f;
          sum[i] += distance;
          square[i] += distance * distance;
        }
      }
    };
    load_round(lane);
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i) pivot[i] = to_float(v[0].at[i]);
    take_round(lane, false);
    int p = lane + kAtOnce * lanes;
    for (; p + (kAtOnce - 1) * lanes < count; p += kAtOnce * lanes) {
      load_round(p);
      take_round(p, true);
    }
    if (p < count) {
      load_round(p);
      take_round(p, false);
    }

    const float share = 1.f / float((count - lane + lanes - 1) / lanes);
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i) {
      const int channel = vector * kWide + i;
      const float offset = sum[i] * share;
      const float more = addend ? addend[picture * addend_stride + first_channel + channel] : 0.f;
      const float squares = square[i] - offset * sum[i];
      // NaN stays: the comparison is false for it.
      entries[lane * slab_channels + channel] = {pivot[i] + offset + more, squares < 0 ? 0 : squares};
    }
  }
  barrier();

  // A warp joins the entries of a group: first their mean, then the distances from it.
  const int warp = thread_x() / 32, warps = threads_x() / 32, lane_of_warp = thread_x() % 32;
  const int rows = least(lanes, count);
  const float total = float(count) * float(group_width);
  for (int group = warp; group < slab_groups; group += warps) {
    const Moments* from = entries + group * group_width;
    auto pixels_of = [&](int row) { return float((count - row + lanes - 1) / lanes); };
    // Around the first entry, so that the sum keeps the digits of small differences.
    const float pivot = from[0].mean;
    float sum = 0;
    for (int i = lane_of_warp; i < rows * group_width; i += 32) {
      const int row = i / group_width;
      sum += (from[row * slab_channels + i % group_width].mean - pivot) * pixels_of(row);
    }
    const float offset = warp_sum(sum) / total;
    float squares = 0;
    for (int i = lane_of_warp; i < rows * group_width; i += 32) {
      const int row = i / group_width;
      const Moments m = from[row * slab_channels + i % group_width];
      const float distance = m.mean - pivot - offset;
      squares += m.squares + distance * distance * pixels_of(row);
    }
    squares = warp_sum(squares);
    if (lane_of_warp == 0)
      partial[(int64_t(picture) * groups + slab * slab_groups + group) * chunks + block_x()] = {pivot + offset, squares};
  }
}

#define SINTER_GROUP_STATS_PARTIAL(name, T, wide)                                                                              \
  SINTER_DEVICE_KERNEL(group_stats__partial_##name, const T* x, Moments* partial, int pixels, int chunk, int64_t pixel_stride, \
                       int groups, int group_width, int slab_groups, int vectors, int lanes, const float* addend,              \
                       int64_t addend_stride) {                                                                                \
    group_stats_partial<T, wide>(x, partial, pixels, chunk, pixel_stride, groups, group_width, slab_groups, vectors, lanes,    \
                                 addend, addend_stride);                                                                       \
  }
SINTER_GROUP_STATS_PARTIAL(f32_x4, F32, 4)
SINTER_GROUP_STATS_PARTIAL(f32_x1, F32, 1)
SINTER_GROUP_STATS_PARTIAL(f16_x8, F16, 8)
SINTER_GROUP_STATS_PARTIAL(f16_x1, F16, 1)
SINTER_GROUP_STATS_PARTIAL(bf16_x8, Bf16, 8)
SINTER_GROUP_STATS_PARTIAL(bf16_x1, Bf16, 1)

/// A block of one warp for each group and picture. The joined sums are f64: there are few of them.
SINTER_DEVICE_KERNEL(group_stats__finish, const Moments* partial, float* out, int pixels, int chunk, int chunks, int channels,
                     int group_width, const float* gamma, const float* beta, const float* addend, int64_t addend_stride,
                     double epsilon) {
  const int group = block_x(), picture = block_y(), groups = blocks_x(), lane = thread_x();
  partial += (int64_t(picture) * groups + group) * chunks;
  auto elements = [&](int i) { return double(least(chunk, pixels - i * chunk)) * group_width; };
  const double pivot = partial[0].mean, total = double(pixels) * group_width;
  double sum = 0;
  for (int i = lane; i < chunks; i += 32) sum += (partial[i].mean - pivot) * elements(i);
  const double mean = pivot + warp_sum(sum) / total;
  double squares = 0;
  for (int i = lane; i < chunks; i += 32) {
    const double distance = partial[i].mean - mean;
    squares += partial[i].squares + distance * distance * elements(i);
  }
  const double inverse = 1 / square_root(warp_sum(squares) / total + epsilon);
  float* scale = out + int64_t(picture) * 2 * channels;
  for (int i = lane; i < group_width; i += 32) {
    const int channel = group * group_width + i;
    const double factor = gamma ? inverse * gamma[channel] : inverse;
    const double more = addend ? addend[picture * addend_stride + channel] : 0.0;
    scale[channel] = float(factor);
    scale[channels + channel] = float((beta ? beta[channel] : 0.0) + (more - mean) * factor);
  }
}

}  // namespace sinter::device
