#pragma once
#include <stdint.h>

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
};

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
  int32_t draw_warps = 0;         ///< of the launches that measure and draw
  int64_t* partial = nullptr;     ///< parts of a change of the error, one for each warp that draws
  SearchState* state = nullptr;
  FoundShape* found = nullptr;         ///< host memory
  SearchProgress* progress = nullptr;  ///< host memory, kProgressRing of them
};

constexpr int kMostCells = 1024;
constexpr int kMapThreads = 256;
constexpr int kMostWarps = 32;
/// Warps of a block that measures or draws.
constexpr int kDrawWarps = 8;

/// The shared memory of a block that climbs.
struct ClimbShared {
  int64_t changes[2][kMostWarps];
  uint32_t steps[kMostWarps];
  int32_t chosen;
  Shape shape;
};

}  // namespace sinter::shapes
