#include "shapes/growth.h"

#include <algorithm>

#include "io/animation.h"
#include "shapes/render.h"

namespace sinter::shapes {

std::vector<int64_t> growth_frames(int64_t shapes) {
  constexpr int64_t kMost = 100;
  const int64_t last = std::min(shapes, kMost);
  std::vector<int64_t> counts{0};
  for (int64_t i = 1; i <= last; ++i) counts.push_back(std::max(counts.back() + 1, shapes * i * i / (last * last)));
  return counts;
}

void write_growth(const std::filesystem::path& path, const Result& result, int64_t width, int64_t height, ThreadPool& pool,
                  const std::function<void()>& before_frame) {
  constexpr int kFrame = 80, kHold = 2000;  // milliseconds
  auto writer = open_animation(path, width, height);
  Renderer renderer(result, width, height, pool);
  std::span<const Step> steps = result.steps;
  int64_t drawn = 0;
  for (int64_t count : growth_frames(int64_t(steps.size()))) {
    if (before_frame) before_frame();
    renderer.draw(steps.subspan(size_t(drawn), size_t(count - drawn)));
    drawn = count;
    writer->add(renderer.pixels(), count == int64_t(steps.size()) ? kHold : kFrame);
  }
  writer->finish();
}

}  // namespace sinter::shapes
