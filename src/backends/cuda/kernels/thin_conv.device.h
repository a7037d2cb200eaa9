#pragma once
#include "backends/cuda/kernels/device.h"
#include "backends/cuda/kernels/thin_conv_arguments.h"

// Convolutions whose inputs or outputs have so few channels that tiles of 8 of them would be mostly empty.

namespace sinter::device {

SINTER_DEVICE_INLINE const uint16_t* elements_at(uint64_t address) { return reinterpret_cast<const uint16_t*>(address); }

template <bool kBf16>
SINTER_DEVICE_INLINE float number_of(uint16_t bits) {
  return kBf16 ? to_float(Bf16{bits}) : to_float(F16{bits});
}

/// A pixel's window is a row of at most 16 * kSteps numbers in the order of the filters. Each warp holds 32 filters in registers
/// and walks over the block's pixels, two rows of eight at a time, whose windows it takes from the patch where they lie: the
/// places of a window's numbers are the same for every pixel. kPairs: an even number of channels, so that two neighbours lie in
/// one word.
///
/// Filter 8 i + 2 j + e is column 2 i + e of product j, so that a lane's sums of all four are 8 channels side by side.
template <bool kBf16, int kSteps, bool kPairs>
class FewInputs {
 public:
  SINTER_DEVICE_INLINE explicit FewInputs(const ThinConvArguments& arguments)
      : a_(arguments),
        lane_(thread_x() % 32),
        column_blocks_(divide_up(a_.out_c, threads_x())),
        column_(block_x() % column_blocks_ * threads_x() + thread_x() / 32 * kFewInputsColumns),
        first_x_(block_x() / column_blocks_ * kFewInputsWide),
        first_y_(block_y() * a_.tile_h),
        patch_(reinterpret_cast<uint16_t*>(shared_memory())) {}

  SINTER_DEVICE_INLINE void run() {
    fetch_filters();  // which nothing in the stream writes
    wait_for_operands();
    copy_patch();
    barrier();
    for (int y = 0; y < a_.tile_h; y += 2) make(y);
  }

 private:
  static constexpr int kParts = kPairs ? 1 : 2;  // of a word, each with a place of its own

  SINTER_DEVICE_INLINE void fetch_filters() {
    const int count = a_.taps() * a_.c, g = lane_ / 4;
    SINTER_UNROLL
    for (int s = 0; s < kSteps; ++s) {
      SINTER_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int k = s * 16 + half * 8 + lane_ % 4 * 2;
        SINTER_UNROLL
        for (int part = 0; part < kParts; ++part) places_[s][half][part] = k + part < count ? place_of(k + part) : -1;
        SINTER_UNROLL
        for (int j = 0; j < 4; ++j) {
          const int filter = column_ + g / 2 * 8 + j * 2 + g % 2;
          // Of filters that there are not, anything will do.
          filters_[s][j][half] = pair_of_filter(least(filter, a_.out_c - 1) * count, k, count);
        }
      }
    }
    SINTER_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int channel = own_channel() + i;
      bias_[i] = a_.bias && channel < a_.out_c ? number_of<kBf16>(elements_at(a_.bias)[channel]) : 0.f;
    }
  }
  /// Loads without branches, so that all are under way together.
  SINTER_DEVICE_INLINE uint32_t pair_of_filter(int first, int k, int count) const {
    const uint16_t* all = elements_at(a_.filters);
    if constexpr (kPairs) {
      const uint32_t pair = *reinterpret_cast<const uint32_t*>(all + (k < count ? first + k : 0));
      return k < count ? pair : 0;
    } else {
      const uint32_t low = all[k < count ? first + k : 0], high = all[k + 1 < count ? first + k + 1 : 0];
      return (k < count ? low : 0) | (k + 1 < count ? high << 16 : 0);
    }
  }
  /// Of a window's number, from the window's first pixel.
  SINTER_DEVICE_INLINE int place_of(int k) const {
    const int tap = k / a_.c;
    return (tap / a_.kernel_w * a_.patch_w() + tap % a_.kernel_w) * a_.c + k % a_.c;
  }
  SINTER_DEVICE_INLINE int own_channel() const { return column_ + lane_ % 4 * 8; }

  SINTER_DEVICE_INLINE void copy_patch() {
    constexpr int kAtOnce = 4;
    const int line = a_.patch_w() * a_.c, count = a_.patch_h() * line;
    const int first = (first_x_ - a_.pad_left) * a_.c, top = first_y_ - a_.pad_top, width = a_.w * a_.c;
    const uint16_t* picture = elements_at(a_.in) + int64_t(block_z()) * a_.h * width;
    for (int begin = thread_x(); begin < count; begin += kAtOnce * threads_x()) {
      uint16_t held[kAtOnce];
      SINTER_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int at = begin + i * threads_x(), y = top + at / line, x = first + at % line;
        const bool inside = at < count && y >= 0 && y < a_.h && x >= 0 && x < width;
        const uint16_t bits = picture[inside ? int64_t(y) * width + x : 0];
        held[i] = inside ? bits : 0;
      }
      SINTER_UNROLL
      for (int i = 0; i < kAtOnce; ++i)
        if (begin + i * threads_x() < count) patch_[begin + i * threads_x()] = held[i];
    }
  }

  /// Two numbers of the window that begins at `window`; zeros where it has no more.
  static SINTER_DEVICE_INLINE uint32_t pair_at(const uint16_t* window, const int (&places)[kParts]) {
    if constexpr (kPairs) {
      return places[0] < 0 ? 0 : *reinterpret_cast<const uint32_t*>(window + places[0]);
    } else {
      const uint32_t low = places[0] < 0 ? 0 : window[places[0]];
      return low | (places[1] < 0 ? 0 : uint32_t(window[places[1]]) << 16);
    }
  }

  SINTER_DEVICE_INLINE void make(int y) const {
    const uint16_t* upper = patch_ + (y * a_.patch_w() + lane_ / 4) * a_.c;
    const uint16_t* lower = upper + a_.patch_w() * a_.c;
    float sums[4][4];
    SINTER_UNROLL
    for (int i = 0; i < 16; ++i) sums[i / 4][i % 4] = bias_[i / 4 * 2 + i % 2];
    SINTER_UNROLL
    for (int s = 0; s < kSteps; ++s) {
      const uint32_t windows[4] = {pair_at(upper, places_[s][0]), pair_at(lower, places_[s][0]), pair_at(upper, places_[s][1]),
                                   pair_at(lower, places_[s][1])};
      SINTER_UNROLL
      for (int j = 0; j < 4; ++j) multiply<kBf16>(sums[j], windows, filters_[s][j][0], filters_[s][j][1]);
    }
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = first_y_ + y + half, x = first_x_ + lane_ / 4;
      if (row >= a_.out_h || x >= a_.out_w || own_channel() >= a_.out_c) continue;
      Words4 packed;
      SINTER_UNROLL
      for (int j = 0; j < 4; ++j) packed[j] = pair_of<kBf16>(sums[j][half * 2], sums[j][half * 2 + 1]);
      auto* out = reinterpret_cast<uint16_t*>(a_.out);
      *reinterpret_cast<Words4*>(out + ((int64_t(block_z()) * a_.out_h + row) * a_.out_w + x) * a_.out_c + own_channel()) =
          packed;
    }
  }

  const ThinConvArguments& a_;
  const int lane_, column_blocks_, column_, first_x_, first_y_;
  uint16_t* const patch_;  // [y][x][channel]
  int places_[kSteps][2][kParts];
  uint32_t filters_[kSteps][4][2];
  float bias_[8];
};

/// Every pixel of the patch is multiplied once with all pixels of all filters, up to 8 * kTiles columns; then each result gathers
/// its sums from the pixels around. So a pixel is read once, straight into the registers that multiply it: which of 32 channels
/// are multiplied together is free, so a lane takes 8 that lie side by side, of the picture and of the filters.
template <bool kBf16, int kTiles>
class FewOutputs {
 public:
  SINTER_DEVICE_INLINE explicit FewOutputs(const ThinConvArguments& arguments)
      : a_(arguments),
        lane_(thread_x() % 32),
        warp_(thread_x() / 32),
        columns_(a_.out_c * a_.taps()),
        plane_(FewOutputsShared(a_, kTiles).plane),
        first_x_(block_x() * a_.tile_w),
        first_y_(block_y() * a_.tile_h),
        filters_(reinterpret_cast<Words4*>(shared_memory())),
        sums_(reinterpret_cast<float*>(shared_memory() + FewOutputsShared(a_, kTiles).filter_bytes)) {}

  SINTER_DEVICE_INLINE void run() {
    copy_filters();  // which nothing in the stream writes
    wait_for_operands();
    multiply_patch();
    barrier();
    gather();
  }

 private:
  static constexpr int kDepth = 32;  // channels that a lane's four 16-byte words of both rows make
  static constexpr int kAhead = 4;   // so many times that are under way

  SINTER_DEVICE_INLINE void copy_filters() const {
    const int words = divide_up(a_.c, kDepth) * kTiles * 32;
    for (int i = thread_x(); i < words; i += threads_x()) {
      const int column = i / 32 % kTiles * 8 + i % 32 / 4, channel = i / 32 / kTiles * kDepth + i % 4 * 8;
      const bool inside = column < columns_ && channel < a_.c;
      const int tap = column / a_.out_c, filter = column % a_.out_c;
      const uint16_t* from = elements_at(a_.filters);
      copy_async(filters_ + i, inside ? from + (filter * a_.taps() + tap) * a_.c + channel : from, inside);
    }
    copy_async_commit();
  }

  /// What is loaded next: of the 16 pixels of a tile, those of this lane's two rows.
  struct Source {
    int tile, channel;
    bool inside[2];
    const uint16_t* at[2];  // the lane's channels of both pixels
  };
  SINTER_DEVICE_INLINE Source source_of(int tile) const {
    Source s;
    s.tile = tile, s.channel = 0;
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int pixel = tile * 16 + half * 8 + lane_ / 4;
      const int y = first_y_ - a_.pad_top + pixel / a_.patch_w(), x = first_x_ - a_.pad_left + pixel % a_.patch_w();
      s.inside[half] = pixel < a_.patch_pixels() && y >= 0 && y < a_.h && x >= 0 && x < a_.w;
      const int64_t place = s.inside[half] ? (int64_t(block_z()) * a_.h + y) * a_.w + x : 0;
      s.at[half] = elements_at(a_.in) + place * a_.c + lane_ % 4 * 8;
    }
    return s;
  }
  SINTER_DEVICE_INLINE void load(const Source& s, int channel, uint32_t (&rows)[2][4]) const {
    const bool has = s.channel + channel + lane_ % 4 * 8 < a_.c;
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) load_or_zero(rows[half], s.at[half] + s.channel + channel, has && s.inside[half]);
  }

  SINTER_DEVICE_INLINE void multiply_patch() const {
    const int tiles = divide_up(a_.patch_pixels(), 16), warps = threads_x() / 32;
    Source next = source_of(warp_);
    uint32_t held[kAhead][2][4];
    SINTER_UNROLL
    for (int i = 0; i < kAhead; ++i) load(next, i * kDepth, held[i]);
    copy_async_wait<0>();
    barrier();
    for (int tile = warp_; tile < tiles; tile += warps) {
      float sums[kTiles][4] = {};
      for (int channel = 0; channel < a_.c; channel += kAhead * kDepth) {
        next.channel += kAhead * kDepth;
        if (next.channel >= a_.c) next = source_of(next.tile + warps);
        SINTER_UNROLL
        for (int i = 0; i < kAhead; ++i) {
          if (channel + i * kDepth < a_.c) add_products(held[i], filters_ + (channel / kDepth + i) * kTiles * 32, sums);
          load(next, i * kDepth, held[i]);
        }
      }
      store(tile, sums);
    }
  }
  SINTER_DEVICE_INLINE void add_products(const uint32_t (&rows)[2][4], const Words4* filters, float (&sums)[kTiles][4]) const {
    const auto &upper = rows[0], &lower = rows[1];
    const uint32_t first[4] = {upper[0], lower[0], upper[1], lower[1]}, second[4] = {upper[2], lower[2], upper[3], lower[3]};
    SINTER_UNROLL
    for (int j = 0; j < kTiles; ++j) {
      const Words4 filter = filters[j * 32 + lane_];
      multiply<kBf16>(sums[j], first, filter[0], filter[1]);
      multiply<kBf16>(sums[j], second, filter[2], filter[3]);
    }
  }
  SINTER_DEVICE_INLINE void store(int tile, const float (&sums)[kTiles][4]) const {
    SINTER_UNROLL
    for (int i = 0; i < kTiles * 4; ++i) {
      const int column = i / 4 * 8 + lane_ % 4 * 2 + i % 2;
      if (column < columns_) sums_[column * plane_ + tile * 16 + lane_ / 4 + i % 4 / 2 * 8] = sums[i / 4][i % 4];
    }
  }

  SINTER_DEVICE_INLINE void gather() const {
    auto* out = reinterpret_cast<uint16_t*>(a_.out);
    for (int pixel = thread_x(); pixel < a_.tile_h * a_.tile_w; pixel += threads_x()) {
      const int y = pixel / a_.tile_w, x = pixel % a_.tile_w;
      if (first_y_ + y >= a_.out_h || first_x_ + x >= a_.out_w) continue;
      const int64_t to = ((int64_t(block_z()) * a_.out_h + first_y_ + y) * a_.out_w + first_x_ + x) * a_.out_c;
      for (int o = 0; o < a_.out_c; ++o) {
        float sum = a_.bias ? number_of<kBf16>(elements_at(a_.bias)[o]) : 0.f;
        const float* from = sums_ + o * plane_ + y * a_.patch_w() + x;
        for (int i = 0; i < a_.kernel_h; ++i) {
          for (int j = 0; j < a_.kernel_w; ++j) sum += from[(i * a_.kernel_w + j) * a_.out_c * plane_ + i * a_.patch_w() + j];
        }
        out[to + o] = uint16_t(pair_of<kBf16>(sum, 0.f));
      }
    }
  }

  const ThinConvArguments& a_;
  const int lane_, warp_, columns_, plane_, first_x_, first_y_;
  Words4* const filters_;  // [channel / 32][tile][lane]: 8 channels of one column
  float* const sums_;      // [column][pixel]
};

}  // namespace sinter::device

#define SINTER_THIN_CONV_FORM(type, form, ...) \
  SINTER_DEVICE_KERNEL(thin_conv_##type##__##form, ThinConvArguments a) { __VA_ARGS__(a).run(); }
#define SINTER_THIN_CONV(type, bf16)                                        \
  namespace sinter::device {                                                \
  SINTER_THIN_CONV_FORM(type, few_inputs_48, FewInputs<bf16, 3, true>)      \
  SINTER_THIN_CONV_FORM(type, few_inputs_48_odd, FewInputs<bf16, 3, false>) \
  SINTER_THIN_CONV_FORM(type, few_inputs_96, FewInputs<bf16, 6, true>)      \
  SINTER_THIN_CONV_FORM(type, few_inputs_96_odd, FewInputs<bf16, 6, false>) \
  SINTER_THIN_CONV_FORM(type, few_outputs_32, FewOutputs<bf16, 4>)          \
  SINTER_THIN_CONV_FORM(type, few_outputs_40, FewOutputs<bf16, 5>)          \
  }
