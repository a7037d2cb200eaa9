#include "io/palette.h"

#include <algorithm>
#include <cstdlib>

namespace sinter {
namespace {

uint32_t packed(Rgb c) { return uint32_t(c[0]) << 16 | uint32_t(c[1]) << 8 | c[2]; }
Rgb unpacked(uint32_t c) { return {uint8_t(c >> 16), uint8_t(c >> 8), uint8_t(c)}; }

struct Counted {
  Rgb color;
  int64_t count;
};

/// Sums over some colours; error is the squared distance from their mean.
struct Sums {
  int64_t count = 0, squares = 0;
  std::array<int64_t, 3> sum{};
  void add(const Counted& c, int sign = 1) {
    count += sign * c.count;
    for (size_t i = 0; i < 3; ++i) {
      sum[i] += sign * c.count * c.color[i];
      squares += sign * c.count * c.color[i] * c.color[i];
    }
  }
  double error() const {
    double out = double(squares);
    for (int64_t s : sum) out -= count ? double(s) * double(s) / double(count) : 0;
    return std::max(out, 0.0);
  }
  Rgb mean() const {
    Rgb out{};
    for (size_t i = 0; i < 3; ++i) out[i] = uint8_t((sum[i] + count / 2) / count);
    return out;
  }
};

struct Box {
  std::span<Counted> colors;
  Sums sums;
  explicit Box(std::span<Counted> colors) : colors(colors) {
    for (const Counted& c : colors) sums.add(c);
  }
};

void sort_along(std::span<Counted> colors, size_t axis) {
  std::ranges::sort(colors, [axis](const Counted& a, const Counted& b) {
    return a.color[axis] != b.color[axis] ? a.color[axis] < b.color[axis] : packed(a.color) < packed(b.color);
  });
}

/// How many of the box' colours go to the first part of the best cut; they are sorted for it.
size_t best_cut(const Box& box) {
  size_t best_axis = 0, best = 1;
  double lowest = -1;
  for (size_t axis = 0; axis < 3; ++axis) {
    sort_along(box.colors, axis);
    Sums first, rest = box.sums;
    for (size_t i = 0; i + 1 < box.colors.size(); ++i) {
      first.add(box.colors[i]);
      rest.add(box.colors[i], -1);
      double error = first.error() + rest.error();
      if (lowest >= 0 && error >= lowest) continue;
      lowest = error;
      best_axis = axis;
      best = i + 1;
    }
  }
  sort_along(box.colors, best_axis);
  return best;
}

std::vector<Counted> counted(std::span<const Rgb> colors) {
  std::vector<uint32_t> all;
  all.reserve(colors.size());
  for (Rgb c : colors) all.push_back(packed(c));
  std::ranges::sort(all);
  std::vector<Counted> out;
  for (uint32_t c : all) {
    if (out.empty() || packed(out.back().color) != c) out.push_back({unpacked(c), 0});
    ++out.back().count;
  }
  return out;
}

}  // namespace

std::vector<Rgb> choose_palette(std::span<const Rgb> colors, size_t most) {
  std::vector<Counted> all = counted(colors);
  std::vector<Box> boxes;
  std::vector<Rgb> palette;
  if (all.size() <= most) {
    for (const Counted& c : all) palette.push_back(c.color);
    return palette;
  }
  boxes.emplace_back(all);
  while (boxes.size() < most) {
    auto worst = std::ranges::max_element(boxes, {}, [](const Box& b) { return b.sums.error(); });
    if (worst->colors.size() < 2) break;
    std::span<Counted> whole = worst->colors;
    size_t cut = best_cut(*worst);
    *worst = Box(whole.first(cut));
    boxes.emplace_back(whole.subspan(cut));
  }
  for (const Box& box : boxes) palette.push_back(box.sums.mean());
  return palette;
}

PaletteIndex::PaletteIndex(std::span<const Rgb> palette) : palette_(palette), known_(1 << 14) {}

uint8_t PaletteIndex::nearest(Rgb color) {
  Entry& entry = known_[(packed(color) * 2654435761u) >> 18];
  if (entry.color == packed(color)) return entry.index;
  int lowest = INT32_MAX;
  for (size_t i = 0; i < palette_.size(); ++i) {
    int distance = 0;
    for (size_t c = 0; c < 3; ++c) distance += (palette_[i][c] - color[c]) * (palette_[i][c] - color[c]);
    if (distance < lowest) lowest = distance, entry.index = uint8_t(i);
  }
  entry.color = packed(color);
  return entry.index;
}

}  // namespace sinter
