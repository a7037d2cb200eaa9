#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace sinter {

using Rgb = std::array<uint8_t, 3>;

/// At most `most` (2..256) colours that stand for these with a small squared error: the colours themselves where they are few;
/// else boxes of colours are cut in two, the one with the largest error first, where that lowers the error most.
std::vector<Rgb> choose_palette(std::span<const Rgb> colors, size_t most);

/// The nearest of a palette's colours, remembered for colours asked before.
class PaletteIndex {
 public:
  explicit PaletteIndex(std::span<const Rgb> palette);
  uint8_t nearest(Rgb color);

 private:
  struct Entry {
    uint32_t color = UINT32_MAX;
    uint8_t index = 0;
  };
  std::span<const Rgb> palette_;
  std::vector<Entry> known_;
};

}  // namespace sinter
