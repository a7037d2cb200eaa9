#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>

#include "tensor/tensor.h"

namespace sinter {

/// Writes a moving picture, frame by frame. The file appears when finish() returns, whole or not at all.
class AnimationWriter {
 public:
  virtual ~AnimationWriter() = default;
  /// `pixels` u8 [height, width, 3] of the size given at first, shown for so long (10 ms or more; GIF and MP4 count in 1/100 s).
  virtual void add(const Tensor& pixels, int milliseconds) = 0;
  virtual void finish() = 0;
};

/// Begins .gif, .webp or .mp4, as the name says. MP4 needs an even width and height and the program `ffmpeg`.
/// Code::InvalidArgument for other names and sizes that the format cannot hold, Code::NotFound where ffmpeg is not installed.
std::unique_ptr<AnimationWriter> open_animation(const std::filesystem::path& path, int64_t width, int64_t height);

/// Throws what open_animation() would throw, without making anything.
void check_animation(const std::filesystem::path& path, int64_t width, int64_t height);

}  // namespace sinter
