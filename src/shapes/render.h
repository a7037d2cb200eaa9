#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "shapes/shapes.h"

namespace sinter::shapes {

/// Draws shapes at any size with smooth edges: a pixel that a shape covers in part takes that part of its opacity.
///
/// The covered area is exact for the outline (outline.h) and kept in 1/255. A pixel becomes the nearest 8-bit value of
/// canvas + (colour - canvas) * alpha * area, halves up: where the area is whole, what the search draws (shapes::draw). A picture
/// depends on result and size alone, not on the number of threads.
class Renderer {
 public:
  /// A canvas of `width` x `height` pixels filled with the result's colour; the compute picture is stretched over it.
  Renderer(const Result& result, int64_t width, int64_t height, ThreadPool& pool);
  ~Renderer();

  /// Draws these on top of what there is.
  void draw(std::span<const Step> steps);
  const Tensor& pixels() const { return pixels_; }  ///< u8 [height, width, 3]

 private:
  struct Worker;
  ThreadPool& pool_;
  double across_, down_;
  Tensor pixels_;
  std::vector<Worker> workers_;
};

/// The whole result.
Tensor render(const Result& result, int64_t width, int64_t height, ThreadPool& pool);

}  // namespace sinter::shapes
