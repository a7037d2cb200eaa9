#pragma once
#include <stdint.h>

namespace sinter::device {

/// What the kernels of thin_conv.device.h take, the same bytes for host and device: pictures [n, h, w, c], filters
/// [out_c, kernel_h, kernel_w, c], dense. A block makes tile_h x tile_w pixels of the result and reads the patch under them.
struct ThinConvArguments {
  uint64_t in = 0, filters = 0, bias = 0, out = 0;  ///< bias: 0 is none
  int h = 0, w = 0, c = 0, out_c = 0, out_h = 0, out_w = 0;
  int kernel_h = 0, kernel_w = 0, pad_top = 0, pad_left = 0;
  int tile_h = 0, tile_w = 0;

  constexpr int taps() const { return kernel_h * kernel_w; }
  constexpr int patch_h() const { return tile_h + kernel_h - 1; }
  constexpr int patch_w() const { return tile_w + kernel_w - 1; }
  constexpr int patch_pixels() const { return patch_h() * patch_w(); }
};

/// Few inputs: tiles are 8 pixels wide and an even number high, a warp makes 32 channels, a block at most ten times that.
constexpr int kFewInputsWide = 8, kFewInputsColumns = 32, kFewInputsMostColumns = 320;

/// Few outputs: columns are 8 times `tiles` filters of one pixel, of each of which `shared` holds its channels, by 32; behind
/// them lie the sums of all columns, one plane each.
struct FewOutputsShared {
  int filter_bytes, plane, bytes;  ///< plane: f32 from column to column

  constexpr FewOutputsShared(const ThinConvArguments& a, int tiles)
      : filter_bytes((a.c + 31) / 32 * tiles * 512),
        // Lanes that store two neighbouring columns of eight pixels each do so in different banks.
        plane((a.patch_pixels() + 15) / 16 * 16 + 4),
        bytes(filter_bytes + plane * a.out_c * a.taps() * 4) {}
};

}  // namespace sinter::device
