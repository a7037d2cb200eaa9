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
        count_(a_.taps() * a_.c),
        all_filters_(reinterpret_cast<uint16_t*>(shared_memory())),
        all_places_(reinterpret_cast<int*>(all_filters_ + threads_x() * count_)),
        patch_(reinterpret_cast<uint16_t*>(all_places_ + kSteps * 16)) {}

  SINTER_DEVICE_INLINE void run() {
    copy_filters();  // which nothing in the stream writes
    wait_for_operands();
    copy_patch();
    copy_async_wait<0>();
    barrier();
    take_filters();
    for (int y = 0; y < a_.tile_h; y += 2) make(y);
  }

 private:
  static constexpr int kParts = kPairs ? 1 : 2;  // of a word, each with a place of its own

  SINTER_DEVICE_INLINE void copy_filters() const {
    const int first = column_ - thread_x() / 32 * kFewInputsColumns;
    const int words = least(threads_x(), a_.out_c - first) * count_ / 8;
    for (int i = thread_x(); i < words; i += threads_x())
      copy_async(all_filters_ + i * 8, elements_at(a_.filters) + first * count_ + i * 8, true);
    copy_async_commit();
    for (int k = thread_x(); k < kSteps * 16; k += threads_x()) all_places_[k] = k < count_ ? place_of(k) : -1;
  }
  /// Of a window's number, from the window's first pixel.
  SINTER_DEVICE_INLINE int place_of(int k) const {
    const int tap = k / a_.c;
    return (tap / a_.kernel_w * a_.patch_w() + tap % a_.kernel_w) * a_.c + k % a_.c;
  }

  SINTER_DEVICE_INLINE void take_filters() {
    const int own = thread_x() / 32 * kFewInputsColumns, g = lane_ / 4;
    SINTER_UNROLL
    for (int s = 0; s < kSteps; ++s) {
      SINTER_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int k = s * 16 + half * 8 + lane_ % 4 * 2;
        SINTER_UNROLL
        for (int part = 0; part < kParts; ++part) places_[s][half][part] = all_places_[k + part];
        SINTER_UNROLL
        for (int j = 0; j < 4; ++j)
          filters_[s][j][half] = pair_of_filter(all_filters_ + (own + g / 2 * 8 + j * 2 + g % 2) * count_, k);
      }
    }
    SINTER_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int channel = own_channel() + i;
      bias_[i] = a_.bias && channel < a_.out_c ? number_of<kBf16>(elements_at(a_.bias)[channel]) : 0.f;
    }
  }
  SINTER_DEVICE_INLINE uint32_t pair_of_filter(const uint16_t* filter, int k) const {
    if constexpr (kPairs) {
      return k < count_ ? *reinterpret_cast<const uint32_t*>(filter + k) : 0;
    } else {
      const uint32_t low = k < count_ ? filter[k] : 0;
      return low | (k + 1 < count_ ? uint32_t(filter[k + 1]) << 16 : 0);
    }
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
  const int lane_, column_blocks_, column_, first_x_, first_y_, count_;
  uint16_t* const all_filters_;  // of the block, as they lie in memory
  int* const all_places_;        // of a window's numbers; none: -1
  uint16_t* const patch_;        // [y][x][channel]
  int places_[kSteps][2][kParts];
  uint32_t filters_[kSteps][4][2];
  float bias_[8];
};

/// Every pixel of a patch is multiplied once with all pixels of all filters, up to 16 * kTiles columns; then each result gathers
/// its sums from the pixels around. So a pixel is read once, straight into the registers that are multiplied: which of 32
/// channels are multiplied together is free, so a lane takes 8 that lie side by side, of one picture's pixel and of two columns.
/// A warp takes kGroups times 8 pixels at a time; what comes next is under way meanwhile, also while results are gathered.
template <bool kBf16, int kTiles, int kGroups>
class FewOutputs {
 public:
  SINTER_DEVICE_INLINE explicit FewOutputs(const ThinConvArguments& arguments)
      : a_(arguments),
        lane_(thread_x() % 32),
        warp_(thread_x() / 32),
        warps_(threads_x() / 32),
        units_(divide_up(a_.patch_pixels(), 8 * kGroups)),
        columns_(a_.out_c * a_.taps()),
        plane_(FewOutputsShared(a_, kTiles).plane),
        filters_(reinterpret_cast<uint32_t*>(shared_memory())),
        sums_(reinterpret_cast<float*>(shared_memory() + FewOutputsShared(a_, kTiles).filter_bytes)) {}

  SINTER_DEVICE_INLINE void run() {
    copy_filters();  // which nothing in the stream writes
    wait_for_operands();
    Source next{block_x(), warp_, 0, {}};
    uint32_t held[kAhead][kGroups][4];
    find(next);
    SINTER_UNROLL
    for (int i = 0; i < kAhead; ++i) load(next, i * kDepth, held[i]);
    barrier();
    for (int tile = block_x(); tile < a_.tiles; tile += blocks_x()) {
      multiply_patch(next, held);
      barrier();
      if (a_.kernel_h == 3 && a_.kernel_w == 3)
        gather<3>(tile);
      else
        gather<0>(tile);
      barrier();
    }
  }

 private:
  static constexpr int kDepth = 32;           // channels that four lanes hold of a pixel
  static constexpr int kAhead = 8 / kGroups;  // so many times that are under way

  /// Each thread takes some pieces of 8 channels apart, as the lanes will want them.
  SINTER_DEVICE_INLINE void copy_filters() const {
    constexpr int kAtOnce = 4, kColumns = 16 * kTiles;
    const int pieces = divide_up(a_.c, kDepth) * kColumns * 4;
    SINTER_NO_UNROLL
    for (int begin = thread_x(); begin < pieces; begin += kAtOnce * threads_x()) {
      uint32_t words[kAtOnce][4];
      SINTER_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int at = begin + i * threads_x(), column = at / 4 % kColumns, channel = at / 4 / kColumns * kDepth + at % 4 * 8;
        const bool inside = at < pieces && column < columns_ && channel < a_.c;
        const int place = (column % a_.out_c * a_.taps() + column / a_.out_c) * a_.c + channel;
        load_or_zero(words[i], elements_at(a_.filters) + (inside ? place : 0), inside);
      }
      SINTER_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int at = begin + i * threads_x(), column = at / 4 % kColumns;
        if (at >= pieces) continue;
        uint32_t* to =
            filters_ + (at / 4 / kColumns * 2 * kTiles + column / 16) * 128 + (column % 8 * 4 + at % 4) * 4 + column / 8 % 2;
        SINTER_UNROLL
        for (int w = 0; w < 4; ++w) to[w / 2 * kTiles * 128 + w % 2 * 2] = words[i][w];
      }
    }
  }

  struct Tile {
    int n, y, x;  // of the result's first pixel
  };
  SINTER_DEVICE_INLINE Tile tile_at(int tile) const {
    const int across = divide_up(a_.out_w, a_.tile_w), down = divide_up(a_.out_h, a_.tile_h);
    return {tile / across / down, tile / across % down * a_.tile_h, tile % across * a_.tile_w};
  }

  /// What is loaded next: of a unit of pixels, those of this lane.
  struct Source {
    int tile, unit, channel;
    int at[kGroups];  // the lane's channels, in pieces of 8 from the first of all pictures; -1: outside
  };
  SINTER_DEVICE_INLINE void find(Source& s) const {
    const Tile tile = tile_at(s.tile);
    const int pixel = s.unit * 8 * kGroups + lane_ / 4;
    int row = pixel / a_.patch_w(), column = pixel % a_.patch_w();
    SINTER_UNROLL
    for (int i = 0; i < kGroups; ++i) {
      const int y = tile.y - a_.pad_top + row, x = tile.x - a_.pad_left + column;
      const bool inside = s.tile < a_.tiles && row < a_.patch_h() && y >= 0 && y < a_.h && x >= 0 && x < a_.w;
      s.at[i] = inside ? ((tile.n * a_.h + y) * a_.w + x) * (a_.c / 8) + lane_ % 4 : -1;
      column += 8;  // a patch is at least that wide
      if (column >= a_.patch_w()) column -= a_.patch_w(), ++row;
    }
  }
  SINTER_DEVICE_INLINE void advance(Source& s) const {
    s.channel += kAhead * kDepth;
    if (s.channel < a_.c) return;
    s.channel = 0;
    s.unit += warps_;
    if (s.unit >= units_) s.unit = warp_, s.tile += blocks_x();
    find(s);
  }
  SINTER_DEVICE_INLINE void load(const Source& s, int channel, uint32_t (&pixels)[kGroups][4]) const {
    const bool has = s.channel + channel + lane_ % 4 * 8 < a_.c;
    const auto* from = reinterpret_cast<const Words4*>(a_.in) + (s.channel + channel) / 8;
    SINTER_UNROLL
    for (int i = 0; i < kGroups; ++i) load_or_zero(pixels[i], from + s.at[i], has && s.at[i] >= 0);
  }

  SINTER_DEVICE_INLINE void multiply_patch(Source& next, uint32_t (&held)[kAhead][kGroups][4]) const {
    SINTER_NO_UNROLL
    for (int unit = warp_; unit < units_; unit += warps_) {
      float sums[kTiles][kGroups][4] = {};
      SINTER_NO_UNROLL
      for (int channel = 0; channel < a_.c; channel += kAhead * kDepth) {
        advance(next);
        SINTER_UNROLL
        for (int i = 0; i < kAhead; ++i) {
          if (channel + i * kDepth < a_.c) add_products(held[i], filters_ + (channel / kDepth + i) * kTiles * 256, sums);
          load(next, i * kDepth, held[i]);
        }
      }
      store(unit, sums);
    }
  }
  SINTER_DEVICE_INLINE void add_products(const uint32_t (&pixels)[kGroups][4], const uint32_t* filters,
                                         float (&sums)[kTiles][kGroups][4]) const {
    SINTER_UNROLL
    for (int step = 0; step < 2; ++step) {
      SINTER_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        const Words4 words = *reinterpret_cast<const Words4*>(filters + (step * kTiles + j) * 128 + lane_ * 4);
        const uint32_t two[4] = {words[0], words[1], words[2], words[3]};
        SINTER_UNROLL
        for (int i = 0; i < kGroups; ++i) multiply<kBf16>(sums[j][i], two, pixels[i][step * 2], pixels[i][step * 2 + 1]);
      }
    }
  }
  SINTER_DEVICE_INLINE void store(int unit, const float (&sums)[kTiles][kGroups][4]) const {
    float* to = sums_ + lane_ / 4 * plane_ + unit * 8 * kGroups + lane_ % 4 * 2;
    SINTER_UNROLL
    for (int j = 0; j < kTiles * 2; ++j) {
      if (lane_ / 4 + j * 8 >= columns_) continue;
      SINTER_UNROLL
      for (int i = 0; i < kGroups; ++i) {
        const Words2 two = {as_bits(sums[j / 2][i][j % 2 * 2]), as_bits(sums[j / 2][i][j % 2 * 2 + 1])};
        *reinterpret_cast<Words2*>(to + j * 8 * plane_ + i * 8) = two;
      }
    }
  }

  /// kSide: of the windows; 0: any.
  template <int kSide>
  SINTER_DEVICE_INLINE void gather(int number) const {
    const Tile tile = tile_at(number);
    const int tap = a_.out_c * plane_, line = a_.patch_w();
    auto* out = reinterpret_cast<uint16_t*>(a_.out);
    SINTER_NO_UNROLL
    for (int pixel = thread_x(); pixel < a_.tile_h * a_.tile_w; pixel += threads_x()) {
      const int y = pixel / a_.tile_w, x = pixel % a_.tile_w;
      if (tile.y + y >= a_.out_h || tile.x + x >= a_.out_w) continue;
      const float* from = sums_ + y * line + x;
      uint16_t* to = out + ((int64_t(tile.n) * a_.out_h + tile.y + y) * a_.out_w + tile.x + x) * a_.out_c;
      SINTER_NO_UNROLL
      for (int o = 0; o < a_.out_c; ++o, from += plane_) {
        float sum = a_.bias ? number_of<kBf16>(elements_at(a_.bias)[o]) : 0.f;
        if constexpr (kSide > 0) {
          SINTER_UNROLL
          for (int i = 0; i < kSide * kSide; ++i) sum += from[i * tap + i / kSide * line + i % kSide];
        } else {
          for (int i = 0; i < a_.kernel_h; ++i)
            for (int j = 0; j < a_.kernel_w; ++j) sum += from[(i * a_.kernel_w + j) * tap + i * line + j];
        }
        to[o] = uint16_t(pair_of<kBf16>(sum, 0.f));
      }
    }
  }

  const ThinConvArguments& a_;
  const int lane_, warp_, warps_, units_, columns_, plane_;
  uint32_t* const filters_;  // [channel / 32][half of its products][16 columns][lane]: the lane's four words of both
  float* const sums_;        // [column][pixel]
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
  SINTER_THIN_CONV_FORM(type, few_outputs_32, FewOutputs<bf16, 2, 4>)       \
  SINTER_THIN_CONV_FORM(type, few_outputs_48, FewOutputs<bf16, 3, 2>)       \
  }
