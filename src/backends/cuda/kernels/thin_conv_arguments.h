#pragma once
#include <stdint.h>

namespace sinter::device {

/// What the kernels of thin_conv.device.h take, the same bytes for host and device: pictures [n, h, w, c], filters
/// [out_c, kernel_h, kernel_w, c], dense. A block makes tile_h x tile_w pixels of the result at a time and reads the patch under
/// them.
struct ThinConvArguments {
  uint64_t in = 0, filters = 0, bias = 0, out = 0;  ///< bias: 0 is none
  int h = 0, w = 0, c = 0, out_c = 0, out_h = 0, out_w = 0;
  int kernel_h = 0, kernel_w = 0, pad_top = 0, pad_left = 0;
  int tile_h = 0, tile_w = 0;
  int tiles = 0;  ///< few outputs: of all pictures, shared out among the blocks

  constexpr int taps() const { return kernel_h * kernel_w; }
  constexpr int patch_h() const { return tile_h + kernel_h - 1; }
  constexpr int patch_w() const { return tile_w + kernel_w - 1; }
  constexpr int patch_pixels() const { return patch_h() * patch_w(); }
};

/// Few inputs: tiles are 8 pixels wide and an even number high, a warp makes 32 channels, a block at most ten times that.
constexpr int kFewInputsWide = 8, kFewInputsColumns = 32, kFewInputsMostColumns = 320;

constexpr int few_inputs_shared_bytes(const ThinConvArguments& a, int threads, int steps) {
  return (threads * a.taps() + a.patch_pixels()) * a.c * 2 + steps * 64;
}

/// Few outputs: columns are the pixels of all filters, by `tiles` times 16. Shared memory has the filters, their channels by 32,
/// and behind them the sums of each column in a plane.
struct FewOutputsShared {
  int filter_bytes, plane, bytes;  ///< plane: f32 from column to column

  constexpr FewOutputsShared(const ThinConvArguments& a, int tiles)
      : filter_bytes((a.c + 31) / 32 * tiles * 1024),
        // Lanes that store two pixels each of four columns do so in different banks.
        plane((a.patch_pixels() + 31) / 32 * 32 + 8),
        bytes(filter_bytes + plane * a.out_c * a.taps() * 4) {}
};

}  // namespace sinter::device
