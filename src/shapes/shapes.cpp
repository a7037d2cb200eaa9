#include "shapes/shapes.h"

#include <cmath>

#include "base/error.h"
#include "shapes/coverage.h"
#include "shapes/scoring.h"

namespace sinter::shapes {

namespace {

constexpr std::string_view kNames[] = {
#define SINTER_SHAPE_KIND(name) #name,
#include "shapes/kinds.list"
#undef SINTER_SHAPE_KIND
};

std::string known_names() {
  std::string text;
  for (auto name : kNames) text += fmt::format("{}, ", name);
  return text + "mixed or all";
}

KindSet parse_kind(std::string_view name) {
  if (name == "mixed") return kMixedKinds;
  if (name == "all") return kAllKinds;
  for (int i = 0; i < kKinds; ++i)
    if (name == kNames[i]) return kind_bit(Kind(i));
  fail(Code::InvalidArgument, "there is no kind of shape \"{}\"; known are {}", name, known_names());
}

template <class T>
void check_range(const char* option, T value, T low, T high) {
  if (!(value >= low && value <= high))
    fail(Code::InvalidArgument, "{} is {}, but must lie within {} and {}", option, value, low, high);
}

struct PointCounts {
  int low, high;
};

PointCounts point_counts(Kind kind) {
  switch (kind) {
    case Kind::triangle:
    case Kind::bezier:
      return {3, 3};
    case Kind::quadrilateral:
      return {4, 4};
    case Kind::polygon:
      return {3, kMaxPoints};
    case Kind::polyline:
      return {2, kMaxPoints};
    default:
      return {2, 2};
  }
}

}  // namespace

std::string_view kind_name(Kind kind) { return kNames[int(kind)]; }

KindSet parse_kinds(std::string_view text) {
  KindSet kinds = 0;
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = std::min(text.find(',', begin), text.size());
    kinds |= parse_kind(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return kinds;
}

AlphaRange parse_style(std::string_view name) {
  if (name == "crispy") return {198, 236};
  if (name == "dreamy") return {89, 166};
  if (name == "blurry") return {38, 89};
  fail(Code::InvalidArgument, "there is no style \"{}\"; known are crispy, dreamy and blurry", name);
}

void check(const Options& o) {
  check_range<int64_t>("shapes", o.shapes, 1, 100'000);
  check_range("compute_size", o.compute_size, 64, 2048);
  check_range("candidates", o.candidates, 0, 1'000'000);
  check_range("climbers", o.climbers, 0, 4096);
  check_range("mutations", o.mutations, 0, 100'000);
  check_range("threads", o.threads, 0, 1024);
  check_range("target_error", o.target_error, 0.0, 1.0);
  check_range("time_budget", o.time_budget, 0.0, 1e9);
  if (o.kinds == 0 || (o.kinds & ~kAllKinds) != 0) fail(Code::InvalidArgument, "kinds: none, or ones that are not known");
  if (o.alpha.low < 1 || o.alpha.low > o.alpha.high)
    fail(Code::InvalidArgument, "alpha is {}..{} of 255, but must begin at 1 or more and end at no less", o.alpha.low,
         o.alpha.high);
}

void check(const Shape& s) {
  if (int(s.kind) >= kKinds) fail(Code::InvalidArgument, "a shape of the unknown kind {}", int(s.kind));
  const auto name = kind_name(s.kind);
  const auto [low, high] = point_counts(s.kind);
  if (s.count < low || s.count > high)
    fail(Code::InvalidArgument, "a {} has {} points, but must have {} to {}", name, s.count, low, high);
  for (int i = 0; i < s.count; ++i) {
    const Point p = s.points[i];
    const bool sizes = is_centred(s.kind) && i == 1;
    const int32_t least = sizes ? 1 : -kCoordinateLimit, most = sizes ? kRadiusLimit : kCoordinateLimit;
    if (p.x < least || p.x > most || p.y < least || p.y > most)
      fail(Code::InvalidArgument, "point {} of a {} is ({}, {}), but must lie within {} and {}", i, name, p.x, p.y, least, most);
  }
  if (s.kind == Kind::circle && s.points[1].x != s.points[1].y)
    fail(Code::InvalidArgument, "a circle has the radii {} and {}, which must be equal", s.points[1].x, s.points[1].y);
  if (is_stroke(s.kind)) check_range(fmt::format("the width of a {}", name).c_str(), s.width, 1, kWidthLimit);
  if (s.angle >= kTurn) fail(Code::InvalidArgument, "the angle of a {} is {}, but must be less than {}", name, s.angle, kTurn);
  if (s.alpha < 1) fail(Code::InvalidArgument, "the alpha of a {} is 0", name);
}

double score(uint64_t error, int64_t width, int64_t height) {
  return std::sqrt(double(error) / (4.0 * double(width) * double(height))) / 255.0;
}

void draw(Pixels& canvas, const Shape& shape) {
  for_each_span(shape, {canvas.width, canvas.height}, [&](int row, int begin, int end) {
    uint8_t* at = canvas.rgb.data() + (size_t(row) * size_t(canvas.width) + size_t(begin)) * kChannels;
    for (int x = begin; x < end; ++x)
      for (int i = 0; i < kChannels; ++i, ++at) *at = blended(*at, shape.color[i], shape.alpha);
  });
}

Pixels draw(const Result& result) {
  Pixels canvas{result.width, result.height, {}};
  canvas.rgb.resize(size_t(result.width) * size_t(result.height) * kChannels);
  for (size_t i = 0; i < canvas.rgb.size(); ++i) canvas.rgb[i] = result.fill[i % kChannels];
  for (const Step& step : result.steps) draw(canvas, step.shape);
  return canvas;
}

uint64_t squared_error(const Pixels& a, const Pixels& b) {
  if (a.width != b.width || a.height != b.height)
    fail(Code::InvalidArgument, "pictures of {} x {} and {} x {} cannot be compared", a.width, a.height, b.width, b.height);
  uint64_t sum = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i) {
    int difference = int(a.rgb[i]) - int(b.rgb[i]);
    sum += uint64_t(difference * difference);
  }
  return sum;
}

}  // namespace sinter::shapes
