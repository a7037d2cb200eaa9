#pragma once
#include <stdint.h>

#include "shapes/coverage.h"
#include "shapes/moves.h"
#include "shapes/scoring.h"
#include "shapes/shape.h"

// What the search's kernels and the host tell each other. Compiled for GPUs as it stands.

namespace sinter::shapes {

/// Attempts with other random numbers before a search ends for want of a shape that helps.
constexpr uint32_t kAttempts = 4;

/// A shape on its way to a better one.
struct Climber {
  uint32_t stream = 0;
  uint32_t step = 0;  ///< random numbers used
  int64_t change = 0;
  Shape shape;
  uint32_t taken = 0;  ///< changes of the shape
  /// In a round that anneals: the best shape so far; `shape` may be worse.
  int64_t best_change = 0;
  Shape best;
};

/// Annealing: how much worse than what it changes a shape may be, and is taken nevertheless. Over the tries of a round this falls
/// from 1/128 of what the climber's best shape brings to nothing.
constexpr int64_t allowed_loss(int64_t best_change, int tries, int tried) {
  return best_change >= 0 ? 0 : floor_div(-best_change >> 7, tries) * (tries - tried);
}

/// Better ones first; no two have one stream.
constexpr bool before(const Climber& a, const Climber& b) {
  return a.change != b.change ? a.change < b.change : a.stream < b.stream;
}

enum class Ended : int32_t { no, all_found, nothing_helps };

/// What changes from shape to shape, in the device's memory.
struct SearchState {
  uint32_t number = 0;   ///< of the shape that is searched
  uint32_t attempt = 0;  ///< at it
  int64_t found = 0, wanted = 0;
  int64_t searches = 0;  ///< attempts, counted over all shapes
  int64_t measured = 0;  ///< what the best shape at hand would change
  uint64_t error = 0;
  RecentSizes sizes;
  Ended ended = Ended::no;
};

/// A shape that was drawn, in memory that the host sees.
struct FoundShape {
  Shape shape;
  uint64_t error = 0;    ///< after it
  int64_t searches = 0;  ///< SearchState's, so far
};

/// What came of a search; the host looks at it when the work it was queued with is done.
struct SearchProgress {
  int64_t found = 0, searches = 0;  ///< SearchState's, after it
  Ended ended = Ended::no;
};

/// So many searches are queued as one, so many times ahead of what the host has seen: few enough that a run that is told to stop
/// wastes little, enough that the device never waits.
constexpr int kSearchesAtOnce = 16, kRepetitionsAhead = 3;
/// Progress is kept by the number of the search, in a ring: nothing is written that the host may be reading.
constexpr int kProgressRing = kSearchesAtOnce * (kRepetitionsAhead + 1);

/// The same for all kernels of a search; addresses are the device's.
struct SearchJob {
  uint64_t seed = 0;
  KindSet kinds = 0;
  int32_t width = 0, height = 0;
  int32_t cell = 1, columns = 0, cells = 0;  ///< of the map, see Scene; at most kMostCells cells
  int32_t candidates = 0;                    ///< of each climber of the first round
  uint8_t alpha_low = 0, alpha_high = 0;
  const uint8_t* target = nullptr;
  uint8_t* canvas = nullptr;
  int32_t* table = nullptr;       ///< as Canvas::table()
  uint32_t* cell_rows = nullptr;  ///< [row][column]: the error of a cell's part of a row
  uint32_t* map = nullptr;        ///< Scene::map
  Climber* climbers[2] = {};      ///< of even and odd rounds
  SearchState* state = nullptr;
  FoundShape* found = nullptr;         ///< host memory
  SearchProgress* progress = nullptr;  ///< host memory, kProgressRing of them
};

constexpr int kMostCells = 1024;
constexpr int kMapThreads = kMostCells;
constexpr int kMostWarps = 32;
static_assert(kMapThreads == 32 * 32);
/// Warps of a block that measures or draws.
constexpr int kDrawWarps = 8;

/// What tells climbers apart.
struct RankedClimber {
  int64_t change;
  uint32_t stream;
  constexpr bool before(int64_t of_change, uint32_t of_stream) const {
    return change != of_change ? change < of_change : stream < of_stream;
  }
};
constexpr int kRankedAtOnce = 256;

/// Which pixels of a row the pieces of a stroke cover (StrokePiece::row()); a part of a block's shared memory.
struct alignas(16) StrokeRow {
  int32_t pieces[kCurveSegments];
};
constexpr int kClimbingStrokeRows = 64;

/// The shared memory of a block that climbs; behind it lie kClimbingStrokeRows of StrokeRow for each warp.
struct alignas(16) ClimbShared {
  Shape shape;              ///< the climber's
  Shape best;               ///< where the round anneals, the climber's best
  Shape tried[kMostWarps];  ///< by each warp
  int64_t changes[2][kMostWarps];
  RankedClimber ranked[kRankedAtOnce];
  int32_t chosen;
};
constexpr int64_t climbing_shared_bytes(int warps) {
  return int64_t(sizeof(ClimbShared)) + int64_t(warps) * kClimbingStrokeRows * int64_t(sizeof(StrokeRow));
}
constexpr uint32_t kDrawingSharedBytes = kDrawWarps * sizeof(StrokeRow);
constexpr uint32_t kCountingSharedBytes = 32 * sizeof(uint32_t);

}  // namespace sinter::shapes
