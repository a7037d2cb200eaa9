#include "shapes/canvas.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/rounding.h"
#include "shapes/coverage.h"

namespace sinter::shapes {

namespace {

constexpr int kCellsAlongSide = 32;

int squared(int value) { return value * value; }

/// Draws spans of a shape: blended() in 16 bits, for many channels at once.
class SpanPainter {
 public:
  explicit SpanPainter(const Shape& shape) : rest_(uint16_t(255 - shape.alpha)) {
    for (int i = 0; i < kAtOnce; ++i) add_[i] = uint16_t(shape.color[i % kChannels] * shape.alpha + 127);
  }
  /// Keeps what it draws over; returns the change of the squared error. Spans of 2048 pixels change it by 4 * 10^8 at most.
  int32_t draw(uint8_t* canvas, const uint8_t* target, uint8_t* before, int count) const {
    int32_t change = 0;
    int at = 0;
    for (; at + kAtOnce <= count; at += kAtOnce) change += draw_some(canvas + at, target + at, before + at, kAtOnce);
    return change + draw_some(canvas + at, target + at, before + at, count - at);
  }

 private:
  static constexpr int kAtOnce = 16 * kChannels;

  __attribute__((always_inline)) int32_t draw_some(uint8_t* __restrict canvas, const uint8_t* __restrict target,
                                                   uint8_t* __restrict before, int count) const {
    int32_t change = 0;
    for (int i = 0; i < count; ++i) {
      const uint16_t old = canvas[i];
      const auto now = uint16_t(uint16_t(old * rest_ + add_[i]) / 255);  // at most 255 * 255 + 127
      before[i] = uint8_t(old), canvas[i] = uint8_t(now);
      const int to_now = target[i] - now, to_old = target[i] - old;
      change += to_now * to_now - to_old * to_old;
    }
    return change;
  }

  uint16_t rest_, add_[kAtOnce];
};

/// The running sums before one pixel.
using Lanes = uint32_t __attribute__((vector_size(kSumLanes * sizeof(uint32_t)), may_alias));

/// Sums over a part of a row, going right from the sums before its first pixel, or left from those behind its last. Returns its
/// squared error.
template <int kDirection>
inline uint32_t sum_cell(const uint8_t* target, const uint8_t* canvas, Lanes* sums, int begin, int end, Lanes& sum) {
  uint32_t error = 0;
  for (int i = 0; i < end - begin; ++i) {
    const int x = kDirection > 0 ? begin + i : end - 1 - i;
    const int c0 = canvas[3 * x], c1 = canvas[3 * x + 1], c2 = canvas[3 * x + 2];
    const int d0 = target[3 * x] - c0, d1 = target[3 * x + 1] - c1, d2 = target[3 * x + 2] - c2;
    const Lanes pixel = {uint32_t(d0),
                         uint32_t(d1),
                         uint32_t(d2),
                         uint32_t(c0),
                         uint32_t(c1),
                         uint32_t(c2),
                         uint32_t(c0 * d0 + c1 * d1 + c2 * d2),
                         uint32_t(c0 * c0 + c1 * c1 + c2 * c2)};
    if (kDirection > 0)
      sum += pixel, sums[x + 1] = sum;
    else
      sum -= pixel, sums[x] = sum;
    error += uint32_t(squared(d0) + squared(d1) + squared(d2));
  }
  return error;
}

}  // namespace

Canvas::Canvas(Pixels target, Color fill) : target_(std::move(target)), canvas_(target_) {
  for (size_t i = 0; i < canvas_.rgb.size(); ++i) canvas_.rgb[i] = fill[i % kChannels];
  error_ = squared_error(target_, canvas_);
  size_t words = size_t(width() + 1) * size_t(height()) * kSumLanes;
  table_.reset(static_cast<int32_t*>(std::aligned_alloc(64, size_t(round_up(int64_t(words * sizeof(int32_t)), 64)))));
  if (!table_) fail(Code::OutOfMemory, "no memory for the sums of a picture of {} x {}", width(), height());
  cell_ = std::max(1, int(divide_up(std::max(width(), height()), kCellsAlongSide)));
  columns_ = int32_t(divide_up(width(), cell_));
  cell_rows_.resize(size_t(columns_) * size_t(height()));
  before_.resize(canvas_.rgb.size());
  for (int row = 0; row < height(); ++row) {
    std::fill_n(table_.get() + size_t(row) * size_t(width() + 1) * kSumLanes, kSumLanes, 0);
    rebuild_row(row, 0, width());
  }
  rebuild_map(0, height());
}

void Canvas::collect(const Shape& shape) {
  spans_.clear(), rows_.clear();
  for_each_span(shape, {width(), height()}, [&](int row, int begin, int end) {
    if (spans_.empty() || spans_.back().row != row) rows_.push_back(spans_.size());
    spans_.push_back({row, begin, end});
  });
  rows_.push_back(spans_.size());
}

int64_t Canvas::draw_spans(const Shape& shape, ThreadPool& pool) {
  constexpr int64_t kRowsAtLeast = 8;  // a microsecond
  const SpanPainter painter(shape);
  const auto rows = int64_t(rows_.size()) - 1;
  std::atomic<int64_t> change{0};
  pool.parallel_for(rows, std::max(rows / (3 * pool.threads()), kRowsAtLeast), [&](int64_t first, int64_t last, int) {
    int64_t part = 0;
    for (int64_t row = first; row < last; ++row) {
      const size_t begin = rows_[size_t(row)], end = rows_[size_t(row) + 1];
      for (size_t i = begin; i < end; ++i) {
        const Span& span = spans_[i];
        const size_t at = (size_t(span.row) * size_t(width()) + size_t(span.begin)) * kChannels;
        part += painter.draw(canvas_.rgb.data() + at, target_.rgb.data() + at, before_.data() + at,
                             (span.end - span.begin) * kChannels);
      }
      rebuild_row(spans_[begin].row, spans_[begin].begin, spans_[end - 1].end);
    }
    change += part;
  });
  return change;
}

void Canvas::undo_spans() {
  for (const Span& span : spans_) {
    const size_t at = (size_t(span.row) * size_t(width()) + size_t(span.begin)) * kChannels;
    std::memcpy(canvas_.rgb.data() + at, before_.data() + at, size_t(span.end - span.begin) * kChannels);
    rebuild_row(span.row, span.begin, span.end);
  }
}

void Canvas::draw(const Shape& shape, ThreadPool& pool) {
  collect(shape);
  error_ += uint64_t(draw_spans(shape, pool));
  if (!spans_.empty()) rebuild_map(spans_.front().row, spans_.back().row + 1);
}

bool Canvas::draw_if_better(const Shape& shape, ThreadPool& pool) {
  collect(shape);
  const int64_t change = draw_spans(shape, pool);
  if (change >= 0) {
    undo_spans();
    return false;
  }
  error_ += uint64_t(change);
  rebuild_map(spans_.front().row, spans_.back().row + 1);
  return true;
}

/// Only differences of a row's sums are ever read, so the sums on one side of the change keep their values and those on the other
/// side change by one amount; it is the shorter side.
void Canvas::rebuild_row(int row, int begin, int end) {
  begin = begin / cell_ * cell_;
  end = std::min(int(round_up(end, cell_)), width());
  Lanes* sums = reinterpret_cast<Lanes*>(table_.get()) + size_t(row) * size_t(width() + 1);
  const size_t at = size_t(row) * size_t(width()) * kChannels;
  const uint8_t* target = target_.rgb.data() + at;
  const uint8_t* canvas = canvas_.rgb.data() + at;
  uint64_t* cells = cell_rows_.data() + size_t(row) * size_t(columns_);
  const bool rightwards = width() - end <= begin;
  const int last = rightwards ? end : begin;
  Lanes sum = sums[rightwards ? begin : end];
  const Lanes before = sums[last];
  for (int done = begin; done < end;) {
    // The cells between begin and end, from the side that keeps its sums.
    const int x = rightwards ? done : (begin + end - done - 1) / cell_ * cell_;
    const int cell_end = std::min(x + cell_, width());
    cells[x / cell_] =
        rightwards ? sum_cell<1>(target, canvas, sums, x, cell_end, sum) : sum_cell<-1>(target, canvas, sums, x, cell_end, sum);
    done += cell_end - x;
  }
  const Lanes more = sum - before;
  for (int x = rightwards ? end + 1 : 0, stop = rightwards ? width() + 1 : begin; x < stop; ++x) sums[x] += more;
}

void Canvas::rebuild_map(int top, int bottom) {
  const int lines = int(divide_up(height(), cell_));
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
