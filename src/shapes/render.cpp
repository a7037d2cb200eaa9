#include "shapes/render.h"

#include <algorithm>
#include <array>

#include "shapes/outline.h"
#include "shapes/scanlines.h"
#include "shapes/scoring.h"

namespace sinter::shapes {
namespace {

constexpr int64_t kBandRows = 16;
constexpr size_t kBatch = 512;  // outlines made before they are drawn

uint8_t* row_of(Tensor& pixels, int64_t y) { return reinterpret_cast<uint8_t*>(pixels.data()) + y * pixels.dim(1) * 3; }

/// Draws on runs of pixels that are covered whole, sixteen at a time.
class WholeRuns {
 public:
  explicit WholeRuns(const Shape& shape) : shape_(shape) {
    for (size_t i = 0; i < added_.size(); ++i) added_[i] = uint16_t(shape.color[i % 3] * shape.alpha + 128);
  }

  void draw(uint8_t* to, int64_t pixels) const {
    for (; pixels >= kPixels; pixels -= kPixels, to += kBytes) {
      const uint16_t kept = uint16_t(255 - shape_.alpha);
      for (int i = 0; i < kBytes; ++i) {
        auto sum = uint16_t(to[i] * kept + added_[size_t(i)]);
        to[i] = uint8_t(uint16_t(sum + (sum >> 8)) >> 8);  // the nearest to (sum - 128) / 255
      }
    }
    for (; pixels > 0; --pixels, to += 3)
      for (int i = 0; i < 3; ++i) to[i] = blended(to[i], shape_.color[i], shape_.alpha);
  }

 private:
  static constexpr int kPixels = 16, kBytes = 3 * kPixels;
  const Shape& shape_;
  std::array<uint16_t, kBytes> added_;
};

void draw_part(uint8_t* to, int64_t pixels, const Shape& shape, int area) {
  constexpr uint32_t kFull = 255 * 255;
  uint32_t weight = uint32_t(shape.alpha) * uint32_t(area);
  for (; pixels > 0; --pixels, to += 3)
    for (int i = 0; i < 3; ++i) to[i] = uint8_t((to[i] * (kFull - weight) + shape.color[i] * weight + kFull / 2) / kFull);
}

}  // namespace

struct Renderer::Worker {
  Scanlines scanlines;
};

Renderer::Renderer(const Result& result, int64_t width, int64_t height, ThreadPool& pool)
    : pool_(pool),
      across_(double(width) / result.width),
      down_(double(height) / result.height),
      pixels_(DType::u8, {height, width, 3}) {
  auto* to = row_of(pixels_, 0);
  for (int64_t i = 0; i < width * height * 3; ++i) to[i] = result.fill[size_t(i % 3)];
  for (int i = 0; i < pool.threads(); ++i) workers_.push_back({Scanlines(width, kBandRows)});
}

Renderer::~Renderer() = default;

void Renderer::draw(std::span<const Step> steps) {
  const int64_t height = pixels_.dim(0), bands = (height + kBandRows - 1) / kBandRows;
  std::vector<Outline> outlines(std::min(steps.size(), kBatch));
  for (; !steps.empty(); steps = steps.subspan(std::min(steps.size(), kBatch))) {
    std::span<const Step> batch = steps.first(std::min(steps.size(), kBatch));
    pool_.parallel_for(int64_t(batch.size()), 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) outlines[size_t(i)] = outline_of(batch[size_t(i)].shape, {across_, down_});
    });
    pool_.parallel_for(bands, 1, [&](int64_t begin, int64_t end, int worker) {
      Scanlines& scanlines = workers_[size_t(worker)].scanlines;
      for (int64_t band = begin; band < end; ++band) {
        const int64_t top = band * kBandRows, bottom = std::min(height, top + kBandRows);
        for (size_t i = 0; i < batch.size(); ++i) {
          const Outline& outline = outlines[i];
          if (outline.bottom <= top << kCornerBits || outline.top >= bottom << kCornerBits) continue;
          const Shape& shape = batch[i].shape;
          WholeRuns whole(shape);
          scanlines.add(outline, top);
          scanlines.sweep(outline.even_odd, [&](int64_t y, int64_t from, int64_t to, int area) {
            if (top + y >= bottom) return;
            uint8_t* at = row_of(pixels_, top + y) + from * 3;
            if (area == 255)
              whole.draw(at, to - from);
            else
              draw_part(at, to - from, shape, area);
          });
        }
      }
    });
  }
}

Tensor render(const Result& result, int64_t width, int64_t height, ThreadPool& pool) {
  Renderer renderer(result, width, height, pool);
  renderer.draw(result.steps);
  return renderer.pixels();
}

}  // namespace sinter::shapes
