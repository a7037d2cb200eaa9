#include "shapes/svg.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <iterator>
#include <numbers>
#include <string_view>
#include <utility>

namespace sinter::shapes {
namespace {

/// At most `digits` decimals, and none that say nothing: "12.5", "-3", ".502".
std::string number(double value, int digits) {
  std::string text = fmt::format("{:.{}f}", value, digits);
  if (text.find('.') != std::string::npos) {
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
  }
  if (text == "-0") return "0";
  if (text.starts_with("0.")) return text.substr(1);
  if (text.starts_with("-0.")) return "-" + text.substr(2);
  return text;
}

/// Numbers in a row; a minus sign separates as well as a blank.
void append(std::string& out, std::string_view word) {
  bool apart = word.front() == '-' || (!out.empty() && (std::isalpha(static_cast<unsigned char>(out.back()))));
  if (!apart) out += ' ';
  out += word;
}
std::string path(std::span<const Point> points, std::string_view second = {}) {
  std::string out = "M";
  for (size_t i = 0; i < points.size(); ++i) {
    if (i == 1) out += second;
    append(out, std::to_string(points[i].x));
    append(out, std::to_string(points[i].y));
  }
  return out;
}

std::string color_of(const uint8_t* c) {
  auto doubled = [](int value) { return value >> 4 == (value & 15); };
  if (doubled(c[0]) && doubled(c[1]) && doubled(c[2])) return fmt::format("#{:x}{:x}{:x}", c[0] & 15, c[1] & 15, c[2] & 15);
  return fmt::format("#{:02x}{:02x}{:02x}", c[0], c[1], c[2]);
}

std::string rotated_rectangle(const Shape& s) {
  double radians = double(s.angle) / kTurn * 2 * std::numbers::pi, cosine = std::cos(radians), sine = std::sin(radians);
  double ax = s.points[1].x * cosine, ay = s.points[1].x * sine, bx = -s.points[1].y * sine, by = s.points[1].y * cosine;
  std::string out = "M";
  for (auto [a, b] : {std::pair{1, 1}, {-1, 1}, {-1, -1}, {1, -1}}) {
    append(out, number(s.points[0].x + a * ax + b * bx, 1));
    append(out, number(s.points[0].y + a * ay + b * by, 1));
  }
  return out;
}

/// The element without its colour: `<path d="..."`.
std::string geometry(const Shape& s) {
  const Point *p = s.points, half = s.points[1];
  std::span<const Point> points(s.points, s.count);
  switch (s.kind) {
    case Kind::triangle:
    case Kind::quadrilateral:
    case Kind::polygon:
    case Kind::line:
    case Kind::polyline:
      return fmt::format("<path d=\"{}\"", path(points));
    case Kind::rectangle:
      return fmt::format("<path d=\"M{} {}H{}V{}H{}\"", p[0].x, p[0].y, p[1].x, p[1].y, p[0].x);
    case Kind::rotated_rectangle:
      return fmt::format("<path d=\"{}\"", rotated_rectangle(s));
    case Kind::circle:
      return fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"{}\"", p[0].x, p[0].y, half.x);
    case Kind::ellipse:
      return fmt::format("<ellipse cx=\"{}\" cy=\"{}\" rx=\"{}\" ry=\"{}\"", p[0].x, p[0].y, half.x, half.y);
    case Kind::rotated_ellipse:
      return fmt::format("<ellipse rx=\"{}\" ry=\"{}\" transform=\"translate({} {})rotate({})\"", half.x, half.y, p[0].x, p[0].y,
                         number(double(s.angle) * 360 / kTurn, 2));
    case Kind::bezier:
      return fmt::format("<path d=\"{}\"", path(points, "Q"));
  }
  return {};
}

std::string paint(const Shape& s) {
  std::string color = color_of(s.color), opacity = number(s.alpha / 255.0, 3);
  if (is_stroke(s.kind))
    return fmt::format(" fill=\"none\" stroke=\"{}\" stroke-opacity=\"{}\" stroke-width=\"{}\"/>\n", color, opacity, s.width);
  return fmt::format(" fill=\"{}\" fill-opacity=\"{}\"/>\n", color, opacity);
}

}  // namespace

std::string svg(const Result& result, int64_t width, int64_t height) {
  int across = result.width * kUnitsPerPixel, down = result.height * kUnitsPerPixel;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" viewBox=\"0 0 {} {}\" preserveAspectRatio=\"none\">\n"
      "<rect width=\"{}\" height=\"{}\" fill=\"{}\"/>\n"
      "<g fill-rule=\"evenodd\" stroke-linecap=\"round\" stroke-linejoin=\"round\">\n",
      width, height, across, down, across, down, color_of(result.fill.data()));
  for (const Step& step : result.steps) out += geometry(step.shape) + paint(step.shape);
  return out + "</g>\n</svg>\n";
}

}  // namespace sinter::shapes
