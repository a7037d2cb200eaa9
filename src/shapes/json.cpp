#include "shapes/json.h"

#include <fmt/format.h>

#include <cmath>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"

namespace sinter::shapes {
namespace {

using nlohmann::json;

constexpr std::string_view kFormat = "sinter shapes";
constexpr int kVersion = 1;
constexpr int kLargestSide = 2048, kLargestSource = 1 << 20;

struct StopName {
  Stop stop;
  std::string_view name;
};
constexpr StopName kStops[] = {{Stop::shapes, "shapes"},
                               {Stop::target_error, "target_error"},
                               {Stop::time_budget, "time_budget"},
                               {Stop::cancelled, "cancelled"},
                               {Stop::no_improvement, "no_improvement"}};

std::string_view stop_name(Stop stop) {
  for (const StopName& s : kStops)
    if (s.stop == stop) return s.name;
  SINTER_ASSERT(false);
}

std::optional<Kind> kind_of(std::string_view name) {
  for (int i = 0; i < kKinds; ++i)
    if (kind_name(Kind(i)) == name) return Kind(i);
  return std::nullopt;
}

bool has_angle(Kind kind) { return kind == Kind::rotated_rectangle || kind == Kind::rotated_ellipse; }

std::string hex(const uint8_t* c) { return fmt::format("#{:02x}{:02x}{:02x}", c[0], c[1], c[2]); }

std::string shape_line(const Step& step) {
  const Shape& s = step.shape;
  std::string points;
  for (int i = 0; i < s.count; ++i) points += fmt::format("{}[{},{}]", i ? "," : "", s.points[i].x, s.points[i].y);
  std::string out = fmt::format("{{\"kind\":\"{}\",\"color\":\"{}\",\"alpha\":{},\"points\":[{}]", kind_name(s.kind),
                                hex(s.color), s.alpha, points);
  if (is_stroke(s.kind)) out += fmt::format(",\"width\":{}", s.width);
  if (has_angle(s.kind)) out += fmt::format(",\"angle\":{}", s.angle);
  return out + fmt::format(",\"error\":{}}}", step.error);
}

/// A value of the file with its place in it, for messages.
class Reader {
 public:
  Reader(const json& value, std::string place) : value_(value), place_(std::move(place)) {}

  [[noreturn]] void refuse(std::string_view expected) const {
    constexpr size_t kShown = 40;
    std::string found = value_.is_structured() ? value_.type_name() : value_.dump(-1, ' ', true, json::error_handler_t::replace);
    if (found.size() > kShown) found = found.substr(0, kShown) + "...";
    fail(Code::Corrupt, "{}: expected {}, found {}", place_, expected, found);
  }

  /// The object must have these members and no others.
  void check_members(std::initializer_list<std::string_view> required) const {
    if (!value_.is_object()) refuse("an object");
    for (std::string_view name : required)
      if (!value_.contains(name)) fail(Code::Corrupt, "{}: \"{}\" is missing", place_, name);
    for (const auto& [name, ignored] : value_.items())
      if (std::find(required.begin(), required.end(), name) == required.end())
        fail(Code::Corrupt, "{}: there is no member \"{}\"", place_, name.substr(0, 40));
  }
  Reader operator[](const char* name) const { return {value_.at(name), fmt::format("{}.{}", place_, name)}; }
  Reader at(size_t i) const { return {value_.at(i), fmt::format("{}[{}]", place_, i)}; }

  uint64_t whole(uint64_t low, uint64_t high) const {
    if (!value_.is_number_unsigned() || value_.get<uint64_t>() < low || value_.get<uint64_t>() > high)
      refuse(fmt::format("a whole number from {} to {}", low, high));
    return value_.get<uint64_t>();
  }
  int32_t coordinate() const {
    constexpr int64_t kLimit = kCoordinateLimit;
    bool fits = value_.is_number_unsigned() ? value_.get<uint64_t>() <= uint64_t(kLimit)
                                            : value_.is_number_integer() && value_.get<int64_t>() >= -kLimit;
    if (!fits) refuse(fmt::format("a whole number from {} to {}", -kLimit, kLimit));
    return value_.get<int32_t>();
  }
  double seconds() const {
    if (!value_.is_number() || !(value_.get<double>() >= 0) || !std::isfinite(value_.get<double>())) refuse("seconds, 0 or more");
    return value_.get<double>();
  }
  std::string_view text() const {
    if (!value_.is_string()) refuse("a text");
    return value_.get_ref<const std::string&>();
  }
  size_t list(size_t fewest, size_t most) const {
    bool fits = value_.is_array() && value_.size() >= fewest && value_.size() <= most;
    if (!fits && most == std::numeric_limits<size_t>::max()) refuse("a list");
    if (!fits) fail(Code::Corrupt, "{}: expected a list of {} to {} values", place_, fewest, most);
    return value_.size();
  }
  Color color() const {
    std::string_view word = text();
    bool good = word.size() == 7 && word[0] == '#' && word.find_first_not_of("0123456789abcdefABCDEF", 1) == word.npos;
    if (!good) refuse("a colour as \"#rrggbb\"");
    auto value = std::strtoul(std::string(word.substr(1)).c_str(), nullptr, 16);
    return {uint8_t(value >> 16), uint8_t(value >> 8), uint8_t(value)};
  }
  const std::string& place() const { return place_; }

 private:
  const json& value_;
  std::string place_;
};

Kind read_kind(const Reader& reader) {
  auto kind = kind_of(reader.text());
  if (!kind) reader.refuse("the name of a kind of shape");
  return *kind;
}

Step read_step(const Reader& reader, const json& value) {
  if (!value.is_object() || !value.contains("kind")) reader.refuse("an object with a \"kind\"");
  Step step;
  Shape& s = step.shape;
  s.kind = read_kind(reader["kind"]);
  if (is_stroke(s.kind))
    reader.check_members({"kind", "color", "alpha", "points", "width", "error"});
  else if (has_angle(s.kind))
    reader.check_members({"kind", "color", "alpha", "points", "angle", "error"});
  else
    reader.check_members({"kind", "color", "alpha", "points", "error"});

  Color color = reader["color"].color();
  std::copy(color.begin(), color.end(), s.color);
  s.alpha = uint8_t(reader["alpha"].whole(1, 255));
  Reader points = reader["points"];
  s.count = uint8_t(points.list(2, kMaxPoints));
  for (size_t i = 0; i < s.count; ++i) {
    Reader point = points.at(i);
    point.list(2, 2);
    s.points[i] = {point.at(0).coordinate(), point.at(1).coordinate()};
  }
  if (is_stroke(s.kind)) s.width = int32_t(reader["width"].whole(1, kWidthLimit));
  if (has_angle(s.kind)) s.angle = uint32_t(reader["angle"].whole(0, kTurn - 1));
  try {
    check(s);
  } catch (const Error& e) {
    fail(Code::Corrupt, "{}: {}", reader.place(), e.message());
  }
  step.error = reader["error"].whole(0, std::numeric_limits<uint64_t>::max());
  return step;
}

json parse(std::string_view text, std::string_view name) {
  try {
    return json::parse(text);
  } catch (const json::exception& e) {
    fail(Code::Corrupt, "{}: not the JSON of an earlier result: {}", name, e.what());
  }
}

Result read_result(const Reader& reader, const json& value) {
  if (!value.is_object() || !value.contains("format") || value["format"] != kFormat)
    fail(Code::Corrupt, "{}: not the JSON of an earlier result: expected \"format\": \"{}\"", reader.place(), kFormat);
  if (value.contains("version") && value["version"].is_number_unsigned() && value["version"] > kVersion)
    fail(Code::Unsupported, "{}: written by a later version of sinter: version {}, and {} is the last one known here",
         reader.place(), value["version"].dump(), kVersion);
  reader.check_members({"format", "version", "width", "height", "source_width", "source_height", "fill", "start_error", "stop",
                        "score", "candidates", "seconds", "cpu_seconds", "shapes"});
  reader["version"].whole(1, kVersion);

  Result out;
  out.width = int(reader["width"].whole(1, kLargestSide));
  out.height = int(reader["height"].whole(1, kLargestSide));
  out.source_width = int(reader["source_width"].whole(uint64_t(out.width), kLargestSource));
  out.source_height = int(reader["source_height"].whole(uint64_t(out.height), kLargestSource));
  out.fill = reader["fill"].color();
  const uint64_t most = uint64_t(out.width) * uint64_t(out.height) * 3 * 255 * 255;
  out.start_error = reader["start_error"].whole(0, most);
  std::string_view stop = reader["stop"].text();
  const auto* known = std::ranges::find(kStops, stop, &StopName::name);
  if (known == std::end(kStops)) reader["stop"].refuse("why the search ended");
  out.stop = known->stop;
  reader["score"].seconds();  // follows from the error; a number like seconds
  out.candidates = int64_t(reader["candidates"].whole(0, uint64_t(std::numeric_limits<int64_t>::max())));
  out.seconds = reader["seconds"].seconds();
  out.cpu_seconds = reader["cpu_seconds"].seconds();

  const json& list = value["shapes"];
  Reader shapes = reader["shapes"];
  size_t count = shapes.list(0, std::numeric_limits<size_t>::max());
  out.steps.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    Step step = read_step(shapes.at(i), list[i]);
    if (step.error > out.error()) shapes.at(i)["error"].refuse(fmt::format("at most the error before it, {}", out.error()));
    out.steps.push_back(step);
  }
  return out;
}

}  // namespace

std::string to_json(const Result& r) {
  std::string out = fmt::format(
      "{{\"format\": \"{}\", \"version\": {},\n\"width\": {}, \"height\": {}, \"source_width\": {}, \"source_height\": {},\n"
      "\"fill\": \"{}\", \"start_error\": {}, \"stop\": \"{}\", \"score\": {:.6f},\n"
      "\"candidates\": {}, \"seconds\": {:.3f}, \"cpu_seconds\": {:.3f},\n\"shapes\": [",
      kFormat, kVersion, r.width, r.height, r.source_width, r.source_height, hex(r.fill.data()), r.start_error, stop_name(r.stop),
      score(r), r.candidates, r.seconds, r.cpu_seconds);
  for (size_t i = 0; i < r.steps.size(); ++i) out += (i ? ",\n" : "\n") + shape_line(r.steps[i]);
  return out + "\n]}\n";
}

Result from_json(std::string_view text, std::string_view name) {
  json value = parse(text, name);
  return read_result(Reader(value, std::string(name)), value);
}

}  // namespace sinter::shapes
