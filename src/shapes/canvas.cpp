#include "shapes/canvas.h"

#include <algorithm>
#include <cstring>

#include "shapes/coverage.h"

namespace sinter::shapes {

namespace {

constexpr int kCellsAlongSide = 32;

int squared(int value) { return value * value; }

}  // namespace

Canvas::Canvas(Pixels target, Color fill) : target_(std::move(target)), canvas_(target_) {
  for (size_t i = 0; i < canvas_.rgb.size(); ++i) canvas_.rgb[i] = fill[i % kChannels];
  error_ = squared_error(target_, canvas_);
  size_t words = size_t(width() + 1) * size_t(height()) * kSumLanes;
  table_.reset(static_cast<int32_t*>(std::aligned_alloc(64, (words * sizeof(int32_t) + 63) / 64 * 64)));
  if (!table_) fail(Code::OutOfMemory, "no memory for the sums of a picture of {} x {}", width(), height());
  cell_ = std::max(1, (std::max(width(), height()) + kCellsAlongSide - 1) / kCellsAlongSide);
  columns_ = (width() + cell_ - 1) / cell_;
  cell_rows_.resize(size_t(columns_) * size_t(height()));
  for (int row = 0; row < height(); ++row) rebuild_row(row, 0);
  rebuild_map(0, height());
}

int64_t Canvas::exact_change(const Shape& shape) const {
  int64_t change = 0;
  for_each_span(shape, {width(), height()}, [&](int row, int begin, int end) {
    size_t at = (size_t(row) * size_t(width()) + size_t(begin)) * kChannels;
    for (int x = begin; x < end; ++x)
      for (int i = 0; i < kChannels; ++i, ++at) {
        int target = target_.rgb[at], before = canvas_.rgb[at], after = blended(canvas_.rgb[at], shape.color[i], shape.alpha);
        change += squared(target - after) - squared(target - before);
      }
  });
  return change;
}

void Canvas::draw(const Shape& shape, ThreadPool& pool) {
  error_ += uint64_t(exact_change(shape));
  shapes::draw(canvas_, shape);
  std::vector<int> first(size_t(height()), width());
  int top = height(), bottom = 0;
  for_each_span(shape, {width(), height()}, [&](int row, int begin, int) {
    first[size_t(row)] = std::min(first[size_t(row)], begin);
    top = std::min(top, row), bottom = row + 1;
  });
  pool.parallel_for(bottom - top, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = top + begin; row < top + end; ++row)
      if (first[size_t(row)] < width()) rebuild_row(int(row), first[size_t(row)]);
  });
  rebuild_map(top, bottom);
}

void Canvas::rebuild_row(int row, int begin) {
  begin = begin / cell_ * cell_;
  using Lanes = uint32_t __attribute__((vector_size(kSumLanes * sizeof(uint32_t))));
  auto* place = table_.get() + (size_t(row) * size_t(width() + 1) + size_t(begin)) * kSumLanes;
  Lanes sums{};
  if (begin == 0)
    std::memcpy(place, &sums, sizeof sums);
  else
    std::memcpy(&sums, place, sizeof sums);
  const size_t at = size_t(row) * size_t(width()) * kChannels;
  const uint8_t* target = target_.rgb.data() + at;
  const uint8_t* canvas = canvas_.rgb.data() + at;
  for (int x = begin; x < width();) {
    uint32_t cell_error = 0;
    const int cell_end = std::min(x + cell_, width());
    uint64_t& cell = cell_rows_[size_t(row) * size_t(columns_) + size_t(x / cell_)];
    for (; x < cell_end; ++x) {
      place += kSumLanes;
      const int c0 = canvas[3 * x], c1 = canvas[3 * x + 1], c2 = canvas[3 * x + 2];
      const int d0 = target[3 * x] - c0, d1 = target[3 * x + 1] - c1, d2 = target[3 * x + 2] - c2;
      sums += Lanes{uint32_t(d0),
                    uint32_t(d1),
                    uint32_t(d2),
                    uint32_t(c0),
                    uint32_t(c1),
                    uint32_t(c2),
                    uint32_t(c0 * d0 + c1 * d1 + c2 * d2),
                    uint32_t(c0 * c0 + c1 * c1 + c2 * c2)};
      std::memcpy(place, &sums, sizeof sums);
      cell_error += uint32_t(squared(d0) + squared(d1) + squared(d2));
    }
    cell = cell_error;
  }
}

void Canvas::rebuild_map(int top, int bottom) {
  const int lines = (height() + cell_ - 1) / cell_;
  cells_.resize(size_t(columns_) * size_t(lines));
  map_.resize(cells_.size());
  for (int line = top / cell_; line * cell_ < bottom; ++line) {
    uint64_t* cells = cells_.data() + size_t(line) * size_t(columns_);
    std::fill(cells, cells + columns_, 0);
    for (int row = line * cell_; row < std::min((line + 1) * cell_, height()); ++row)
      for (int column = 0; column < columns_; ++column)
        cells[column] += cell_rows_[size_t(row) * size_t(columns_) + size_t(column)];
  }
  int shift = 0;
  while ((error_ >> shift) >= (uint64_t(1) << 31)) ++shift;
  uint32_t sum = 0;
  for (size_t i = 0; i < cells_.size(); ++i) {
    sum += uint32_t(cells_[i] >> shift) + 1;  // never 0: every cell may be drawn
    map_[i] = sum;
  }
}

void Canvas::describe(Scene& scene) const {
  scene.width = width(), scene.height = height();
  scene.cell = cell_, scene.columns = columns_;
  scene.cells = int32_t(map_.size());
  scene.map = map_.data();
}

}  // namespace sinter::shapes
