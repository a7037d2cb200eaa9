#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "shapes/moves.h"
#include "shapes/scoring.h"
#include "shapes/shapes.h"

namespace sinter::shapes {

/// The target, the canvas so far, and what scoring reads: for each row the running sums before each pixel (Sums).
class Canvas {
 public:
  Canvas(Pixels target, Color fill);

  int width() const { return target_.width; }
  int height() const { return target_.height; }
  const Pixels& pixels() const { return canvas_; }
  const Pixels& target() const { return target_; }
  uint64_t error() const { return error_; }
  /// Groups of kSumLanes words, width() + 1 for each row, aligned to 64 bytes. A row's sums begin anywhere: only their
  /// differences mean something.
  const int32_t* table() const { return table_.get(); }

  /// Draws a shape, and brings error and sums up to date.
  void draw(const Shape& shape, ThreadPool& pool);
  /// Draws it only where that lowers the error, with real rounding; says whether.
  bool draw_if_better(const Shape& shape, ThreadPool& pool);
  /// Where the error is: running sums over square cells, for Scene.
  void describe(Scene& scene) const;

 private:
  struct Span {
    int row, begin, end;
  };
  /// Fills spans_ and rows_.
  void collect(const Shape& shape);
  /// Draws the spans and brings their rows' sums up to date; returns the change of the error.
  int64_t draw_spans(const Shape& shape, ThreadPool& pool);
  void undo_spans();
  /// After a change of the row's pixels from `begin` to before `end`.
  void rebuild_row(int row, int begin, int end);
  /// After a change of the rows from `top` to before `bottom`.
  void rebuild_map(int top, int bottom);

  struct Free {
    void operator()(int32_t* memory) const { std::free(memory); }
  };
  Pixels target_, canvas_;
  std::vector<Span> spans_;      // of the shape at hand
  std::vector<size_t> rows_;     // where the spans of each of its rows begin, and the end
  std::vector<uint8_t> before_;  // the canvas below the spans as it was
  uint64_t error_ = 0;
  std::unique_ptr<int32_t[], Free> table_;
  int32_t cell_ = 1, columns_ = 0;
  std::vector<uint64_t> cell_rows_;  // error of each cell's part of each row, row by row
  std::vector<uint64_t> cells_;      // error of each cell
  std::vector<uint32_t> map_;
};

}  // namespace sinter::shapes
