#pragma once
#include "io/animation.h"

namespace sinter {

// What open_animation() chooses from, one file each.
std::unique_ptr<AnimationWriter> open_gif(const std::filesystem::path& path, int64_t width, int64_t height);
std::unique_ptr<AnimationWriter> open_animated_webp(const std::filesystem::path& path, int64_t width, int64_t height);
std::unique_ptr<AnimationWriter> open_mp4(const std::filesystem::path& path, int64_t width, int64_t height);
/// The program that writes MP4, looked for in the folders of PATH. Code::NotFound, saying what to install.
std::filesystem::path find_ffmpeg();

}  // namespace sinter
