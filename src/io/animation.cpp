#include "io/animation.h"

#include <algorithm>

#include "base/error.h"
#include "io/animation_writers.h"

namespace sinter {
namespace {

struct Format {
  const char* ending;
  int64_t largest_side;
  std::unique_ptr<AnimationWriter> (*open)(const std::filesystem::path&, int64_t, int64_t);
};
constexpr Format kFormats[] = {{".gif", 65535, open_gif}, {".webp", 16383, open_animated_webp}, {".mp4", 16384, open_mp4}};

const Format& checked_format(const std::filesystem::path& path, int64_t width, int64_t height) {
  std::string ending = path.extension().string();
  for (char& c : ending) c = char(std::tolower(static_cast<unsigned char>(c)));
  const auto* format = std::ranges::find(kFormats, ending, &Format::ending);
  if (format == std::end(kFormats))
    fail(Code::InvalidArgument, "{}: moving pictures are written as .gif, .webp or .mp4", path.string());
  if (std::max(width, height) > format->largest_side || std::min(width, height) < 1)
    fail(Code::InvalidArgument, "{}: at most {} pixels a side fit into the format, and this picture has {} x {}", path.string(),
         format->largest_side, width, height);
  if (ending == ".mp4") {
    if (width % 2 || height % 2)
      fail(Code::InvalidArgument, "{}: an MP4 needs an even width and height, and this picture has {} x {}", path.string(), width,
           height);
    find_ffmpeg();
  }
  return *format;
}

}  // namespace

std::unique_ptr<AnimationWriter> open_animation(const std::filesystem::path& path, int64_t width, int64_t height) {
  return checked_format(path, width, height).open(path, width, height);
}

void check_animation(const std::filesystem::path& path, int64_t width, int64_t height) { checked_format(path, width, height); }

}  // namespace sinter
