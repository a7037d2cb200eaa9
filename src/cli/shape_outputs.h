#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "shapes/shapes.h"

namespace sinter {

/// One file that `sinter shapes` writes.
struct ShapeOutput {
  enum class Kind { Picture, Moving, Svg, Json };
  std::filesystem::path path;
  Kind kind = Kind::Picture;
};

/// What this name asks for, by its ending; .webp is a moving picture where `animate` says so. Code::InvalidArgument for others.
ShapeOutput::Kind shape_output_kind(const std::string& name, bool animate);

/// The name for one picture: {name} becomes the picture's file name without its ending; where `several` pictures share a pattern
/// without {name}, "_NAME" goes before the ending.
std::filesystem::path shape_output_name(const std::string& pattern, const std::filesystem::path& picture, bool several);

/// The size of what is drawn: the source's times `scale`, at least 1 x 1, for MP4 cut to even numbers.
struct DrawnSize {
  int64_t width = 0, height = 0;
};
DrawnSize drawn_size(const ShapeOutput& output, int64_t source_width, int64_t source_height, double scale);

/// Throws where this output cannot hold a picture of its size, or ffmpeg is needed and not there.
void check_shape_output(const ShapeOutput& output, DrawnSize size);

/// `before_frame` is called before each frame of a moving picture.
void write_shape_output(const ShapeOutput& output, const shapes::Result& result, DrawnSize size, ThreadPool& pool,
                        const std::function<void()>& before_frame);

/// The canvas as the search sees it.
void write_preview(const std::filesystem::path& path, const shapes::Result& result);

}  // namespace sinter
