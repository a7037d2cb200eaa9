#include "shapes/coverage_by_row.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "shapes/moves.h"
#include "shapes/test_tools.h"

using namespace sinter;
using namespace sinter::shapes;

namespace {

struct Span {
  int row, begin, end;
  friend bool operator==(const Span&, const Span&) = default;
};

/// The spans of rows first, first + stride ..., those that touch each other as one.
template <class Walk>
std::vector<Span> collected(const Walk& walk) {
  std::vector<Span> spans;
  walk([&](int row, int begin, int end) {
    if (!spans.empty() && spans.back().row == row && spans.back().end >= begin)
      spans.back().end = end;
    else
      spans.push_back({row, begin, end});
  });
  return spans;
}

std::vector<Span> by_row(const Shape& s, const Rows& rows) {
  if (!is_stroke(s.kind)) return collected([&](auto sink) { spans_by_row(s, rows, sink); });
  std::vector<StrokePiece> pieces;
  int top = rows.height, bottom = 0;
  for (int i = 0; i < stroke_pieces(s); ++i) {
    pieces.emplace_back(stroke_point(s, i), stroke_point(s, i + 1), s.width, rows.height);
    top = std::min(top, pieces.back().top), bottom = std::max(bottom, pieces.back().bottom);
  }
  return collected([&](auto sink) {
    for (int row = top + rows.first; row < bottom; row += rows.stride) {
      int32_t found[kCurveSegments];
      std::fill(found, found + kCurveSegments, StrokePiece::kNone);
      for (size_t i = 0; i < pieces.size(); ++i)
        if (row >= pieces[i].top && row < pieces[i].bottom) found[i] = pieces[i].row(row, rows.width);
      united_spans(found, row, sink);
    }
  });
}

std::vector<Span> walked(const Shape& s, const Rows& rows) {
  return collected([&](auto sink) { for_each_span(s, rows, sink); });
}

int64_t differing(const Shape& s, int width, int height) {
  int64_t wrong = 0;
  for (const Rows& rows : {Rows{width, height}, Rows{width, height, 2, 3}}) wrong += by_row(s, rows) != walked(s, rows);
  return wrong;
}

}  // namespace

TEST_CASE("row by row, the shapes of a search cover what they cover in rising order, in pictures of any size") {
  for (auto [width, height] : {std::pair{256, 171}, {40, 64}, {2048, 2048}, {2048, 3}, {1, 64}}) {
    Scene scene{.width = width, .height = height, .typical = std::max(width, height) * 4};
    for (int kind = 0; kind < kKinds; ++kind) {
      CAPTURE(kind_name(Kind(kind)));
      CAPTURE(width);
      scene.kinds = kind_bit(Kind(kind));
      int64_t wrong = 0;
      const uint32_t count = height > 256 ? 150 : 1500;
      for (uint32_t i = 0; i < count; ++i) {
        Random random(21, 0, 0, i);
        Shape s = random_shape(random, scene);
        for (uint32_t moves = random.below(30); moves > 0; --moves) mutate(s, random, scene);
        wrong += differing(s, width, height);
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("row by row, shapes at the edges of what a search may find, and degenerate ones, cover the same") {
  constexpr int kSides[] = {61, 2048};
  for (int side : kSides) {
    const Scene scene{.width = side, .height = side, .typical = side};
    for (int kind = 0; kind < kKinds; ++kind) {
      CAPTURE(kind_name(Kind(kind)));
      CAPTURE(side);
      int64_t wrong = 0;
      for (uint32_t i = 0; i < (side > 256 ? 400 : 4000); ++i) {
        Random random(22, 0, 0, i);
        Shape s = wild_shape(random, Kind(kind), side, side);
        // Now and then in the corners of what is allowed.
        if (i % 5 == 0)
          for (int point = 0; point < s.count && !(is_centred(s.kind) && point == 1); ++point)
            s.points[point] = {random.below(2) ? 1 << 17 : -(1 << 17), random.below(2) ? 1 << 17 : -(1 << 17)};
        detail::keep_near(s, scene);
        wrong += differing(s, side, side);
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("estimates that are put right give whole quotients and roots") {
  int64_t wrong = 0;
  for (uint32_t i = 0; i < 1 << 20; ++i) {
    Random random(23, 0, 0, i);
    const auto n = int32_t(random.next() >> (1 + random.below(31)));
    wrong += square_root_of_word(n) != square_root(n);
    const auto root = int32_t(random.below(46340));
    for (int32_t near : {root * root - 1, root * root, root * root + 1})
      if (near >= 0) wrong += square_root_of_word(near) != square_root(near);
    const int64_t a = (int64_t(random.next()) << 30 | random.next()) >> random.below(62);
    const int64_t b = 1 + ((int64_t(random.next()) << 14 ^ random.next()) >> random.below(46));
    const auto high = int32_t(random.below(65536)), low = int32_t(random.below(uint32_t(high) + 1));
    for (int64_t top : {a, -a, b * low, b * high, b * (low + 1) - 1, b * high - 1})
      wrong += detail::bounded_quotient_by_float(top, b, low, high) != clamped<int64_t>(floor_div(top, b), low, high);
  }
  CHECK(wrong == 0);
}
