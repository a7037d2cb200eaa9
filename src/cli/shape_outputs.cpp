#include "cli/shape_outputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "io/animation.h"
#include "io/image.h"
#include "shapes/growth.h"
#include "shapes/json.h"
#include "shapes/render.h"
#include "shapes/svg.h"

namespace sinter {
namespace {

std::string ending_of(const std::filesystem::path& path) {
  std::string ending = path.extension().string();
  for (char& c : ending) c = char(std::tolower(static_cast<unsigned char>(c)));
  return ending;
}

int64_t largest_side(const std::string& ending) {
  if (ending == ".webp") return 16383;
  if (ending == ".jpg" || ending == ".jpeg") return 65535;
  return 1 << 20;
}

}  // namespace

ShapeOutput::Kind shape_output_kind(const std::string& name, bool animate) {
  std::string ending = ending_of(name);
  if (ending == ".svg") return ShapeOutput::Kind::Svg;
  if (ending == ".json") return ShapeOutput::Kind::Json;
  if (ending == ".gif" || ending == ".mp4" || (ending == ".webp" && animate)) return ShapeOutput::Kind::Moving;
  if (ending == ".png" || ending == ".jpg" || ending == ".jpeg" || ending == ".webp") return ShapeOutput::Kind::Picture;
  fail(Code::InvalidArgument, "'{}': shapes are written as .png, .jpg, .jpeg, .webp, .svg, .json, .gif or .mp4", name);
}

std::filesystem::path shape_output_name(const std::string& pattern, const std::filesystem::path& picture, bool several) {
  constexpr std::string_view kMark = "{name}";
  std::string stem = picture.stem().string(), name = pattern;
  bool marked = false;
  for (size_t at = 0; (at = name.find(kMark, at)) != std::string::npos; at += stem.size(), marked = true)
    name.replace(at, kMark.size(), stem);
  std::filesystem::path path(name);
  if (several && !marked) path.replace_filename(fmt::format("{}_{}{}", path.stem().string(), stem, path.extension().string()));
  return path;
}

DrawnSize drawn_size(const ShapeOutput& output, int64_t source_width, int64_t source_height, double scale) {
  bool even = output.kind == ShapeOutput::Kind::Moving && ending_of(output.path) == ".mp4";
  auto side = [&](int64_t source) {
    int64_t pixels = std::max<int64_t>(1, std::llround(double(source) * scale));
    return even ? std::max<int64_t>(2, pixels & ~int64_t(1)) : pixels;
  };
  return {side(source_width), side(source_height)};
}

void check_shape_output(const ShapeOutput& output, DrawnSize size) {
  constexpr int64_t kMostPixels = int64_t(1) << 28;
  if (output.kind == ShapeOutput::Kind::Svg || output.kind == ShapeOutput::Kind::Json) return;
  if (size.width * size.height > kMostPixels)
    fail(Code::InvalidArgument,
         "{}: at most {} pixels are drawn, and this would be {} x {}; give a smaller --scale, or write an SVG",
         output.path.string(), kMostPixels, size.width, size.height);
  if (output.kind == ShapeOutput::Kind::Moving) return check_animation(output.path, size.width, size.height);
  int64_t most = largest_side(ending_of(output.path));
  if (std::max(size.width, size.height) > most)
    fail(Code::InvalidArgument,
         "{}: the format holds at most {} pixels a side, and this would be {} x {}; give a smaller --scale, "
         "or write a PNG",
         output.path.string(), most, size.width, size.height);
}

void write_shape_output(const ShapeOutput& output, const shapes::Result& result, DrawnSize size, ThreadPool& pool,
                        const std::function<void()>& before_frame) {
  switch (output.kind) {
    case ShapeOutput::Kind::Picture:
      return write_image(output.path, shapes::render(result, size.width, size.height, pool));
    case ShapeOutput::Kind::Moving:
      return shapes::write_growth(output.path, result, size.width, size.height, pool, before_frame);
    case ShapeOutput::Kind::Svg:
      return write_atomically(output.path, shapes::svg(result, size.width, size.height));
    case ShapeOutput::Kind::Json:
      return write_atomically(output.path, shapes::to_json(result));
  }
}

void write_preview(const std::filesystem::path& path, const shapes::Result& result) {
  shapes::Pixels canvas = shapes::draw(result);
  Tensor pixels(DType::u8, {canvas.height, canvas.width, 3});
  std::memcpy(pixels.data(), canvas.rgb.data(), canvas.rgb.size());
  write_image(path, pixels);
}

}  // namespace sinter
