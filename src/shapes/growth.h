#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "base/thread_pool.h"
#include "shapes/shapes.h"

namespace sinter::shapes {

/// How many shapes each frame of a growing picture shows: from none to all, at most 101 frames, closer together at the beginning,
/// where a shape changes most.
std::vector<int64_t> growth_frames(int64_t shapes);

/// Writes .gif, .webp or .mp4 (io/animation.h) in which the shapes come one after the other; 80 ms a frame, the last one 2 s.
/// `before_frame` is called before each; what it throws ends the work and leaves no file.
void write_growth(const std::filesystem::path& path, const Result& result, int64_t width, int64_t height, ThreadPool& pool,
                  const std::function<void()>& before_frame = {});

}  // namespace sinter::shapes
