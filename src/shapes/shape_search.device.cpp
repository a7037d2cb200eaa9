// The search for shapes on a GPU: every round of climbing is a launch with one block for each climber; then the best shape is
// measured, drawn, and counted. All decisions are the device's, so that the host can queue many shapes ahead. What is computed
// is what search.cpp and canvas.cpp compute, number for number.
#include "backends/cuda/kernels/device.h"
#include "shapes/coverage.h"
#include "shapes/search_job.h"

namespace sinter::device {

using namespace shapes;

constexpr int kLanes = 32;
constexpr int64_t kWorst = int64_t(~uint64_t(0) >> 1);

SINTER_DEVICE_INLINE int lane_of_warp() { return thread_x() % kLanes; }
SINTER_DEVICE_INLINE int warp_of_block() { return thread_x() / kLanes; }

/// Sums over a warp of values up to 2^40 in size: their lower 20 bits and the rest by themselves.
template <int N>
SINTER_DEVICE_INLINE void warp_add(int64_t (&values)[N]) {
  constexpr int kLowBits = 20;
  int32_t parts[2 * N];
  SINTER_UNROLL
  for (int i = 0; i < N; ++i) {
    parts[2 * i] = int32_t(values[i] & ((1 << kLowBits) - 1));
    parts[2 * i + 1] = int32_t(values[i] >> kLowBits);
  }
  warp_add(parts);
  SINTER_UNROLL
  for (int i = 0; i < N; ++i) values[i] = int64_t(parts[2 * i]) + int64_t(parts[2 * i + 1]) * (1 << kLowBits);
}

SINTER_DEVICE_INLINE Scene scene_of(const SearchJob& job) {
  Scene scene;
  scene.width = job.width, scene.height = job.height;
  scene.kinds = job.kinds;
  scene.cell = job.cell, scene.columns = job.columns, scene.cells = job.cells;
  scene.map = job.map;
  scene.typical = job.state->sizes.typical(scene);
  return scene;
}

/// Alpha, colour and change of a shape, found by a warp: its lanes share out the rows.
__attribute__((noinline)) Paint paint_by_warp(const Shape& shape, const SearchJob& job) {
  const auto* table = reinterpret_cast<const Words4*>(job.table);
  int64_t sums[kSumLanes + 1] = {};
  for_each_span(shape, {job.width, job.height, lane_of_warp(), kLanes}, [&](int row, int begin, int end) {
    constexpr int kVectors = kSumLanes / 4;
    const Words4* place = table + (int64_t(row) * (job.width + 1)) * kVectors;
    SINTER_UNROLL
    for (int half = 0; half < kVectors; ++half) {
      const Words4 difference = place[end * kVectors + half] - place[begin * kVectors + half];
      SINTER_UNROLL
      for (int i = 0; i < 4; ++i) sums[4 * half + i] += int32_t(difference[i]);
    }
    sums[kSumLanes] += end - begin;
  });
  warp_add(sums);
  Sums all;
  all.pixels = sums[kSumLanes];
  SINTER_UNROLL
  for (int i = 0; i < kSumLanes; ++i) all.lanes[i] = sums[i];
  return best_paint(all, job.alpha_low, job.alpha_high);
}

SINTER_DEVICE_INLINE void set_paint(Shape& shape, const Paint& paint) {
  shape.alpha = paint.alpha;
  for (int i = 0; i < kChannels; ++i) shape.color[i] = paint.color[i];
}

/// The best of a climber's share of random shapes.
SINTER_DEVICE_INLINE Climber first_of_climber(const SearchJob& job, const Scene& scene, ClimbShared& shared) {
  const int warp = warp_of_block(), warps = threads_x() / kLanes;
  Climber climber;
  climber.stream = job.state->attempt << 16 | uint32_t(block_x());
  climber.step = uint32_t(job.candidates);
  Shape best;
  int64_t best_change = kWorst;
  uint32_t best_step = ~uint32_t(0);
  for (int i = warp; i < job.candidates; i += warps) {
    Random random(job.seed, job.state->number, climber.stream, uint32_t(i));
    Shape shape = random_shape(random, scene);
    const Paint paint = paint_by_warp(shape, job);
    if (i != warp && paint.change >= best_change) continue;
    set_paint(shape, paint);
    best = shape, best_change = paint.change, best_step = uint32_t(i);
  }
  if (lane_of_warp() == 0) shared.changes[0][warp] = best_change, shared.steps[warp] = best_step;
  barrier();
  int winner = 0;
  for (int i = 1; i < warps; ++i) {
    const int64_t change = shared.changes[0][i], other = shared.changes[0][winner];
    if (change < other || (change == other && shared.steps[i] < shared.steps[winner])) winner = i;
  }
  climber.change = shared.changes[0][winner];
  if (warp == winner && lane_of_warp() == 0) shared.shape = best;
  barrier();
  climber.shape = shared.shape;
  return climber;
}

/// The climber of the round before with as many better ones as this block's number says.
SINTER_DEVICE_INLINE Climber ranked_climber(const Climber* climbers, int count, ClimbShared& shared) {
  for (int i = thread_x(); i < count; i += threads_x()) {
    int rank = 0;
    for (int j = 0; j < count; ++j) rank += before(climbers[j], climbers[i]);
    if (rank == block_x()) shared.chosen = i;
  }
  barrier();
  return climbers[shared.chosen];
}

/// One change after the other would leave the device idle, so each warp tries one of the next changes as if those before it had
/// failed; the first that helps is taken, and the ones after it count as never tried.
SINTER_DEVICE_INLINE void climb(Climber& climber, int tries, const SearchJob& job, const Scene& scene, ClimbShared& shared) {
  const int warp = warp_of_block(), warps = threads_x() / kLanes;
  for (int tried = 0, turn = 1; tried < tries; turn ^= 1) {
    const int batch = least(warps, tries - tried);
    Shape shape = climber.shape;
    if (warp < batch) {
      Random random(job.seed, job.state->number, climber.stream, climber.step + uint32_t(warp));
      mutate(shape, random, scene);
      const Paint paint = paint_by_warp(shape, job);
      set_paint(shape, paint);
      if (lane_of_warp() == 0) shared.changes[turn][warp] = paint.change;
    }
    barrier();
    int winner = 0;
    while (winner < batch && shared.changes[turn][winner] >= climber.change) ++winner;
    int used = batch;
    if (winner < batch) {
      climber.change = shared.changes[turn][winner];
      if (warp == winner && lane_of_warp() == 0) shared.shape = shape;
      barrier();
      climber.shape = shared.shape;
      used = winner + 1;
    }
    tried += used;
    climber.step += uint32_t(used);
  }
}

/// A round: block i goes on with the climber of rank i among `count` of the round before, or begins one (count 0).
SINTER_DEVICE_KERNEL(shape_search__round, SearchJob job, int round, int count, int tries) {
  if (job.state->ended != Ended::no) return;
  auto& shared = *reinterpret_cast<ClimbShared*>(shared_memory());
  const Scene scene = scene_of(job);
  Climber climber =
      count == 0 ? first_of_climber(job, scene, shared) : ranked_climber(job.climbers[(round + 1) & 1], count, shared);
  climb(climber, tries, job, scene, shared);
  if (thread_x() == 0) job.climbers[round & 1][block_x()] = climber;
}

SINTER_DEVICE_INLINE const Climber& best_of(const Climber* climbers, int count) {
  int best = 0;
  for (int i = 1; i < count; ++i)
    if (before(climbers[i], climbers[best])) best = i;
  return climbers[best];
}

SINTER_DEVICE_INLINE Rows rows_of_warp(const SearchJob& job) {
  const int warps = threads_x() / kLanes;
  return {job.width, job.height, block_x() * warps + warp_of_block(), blocks_x() * warps};
}

SINTER_DEVICE_INLINE int32_t squared(int32_t value) { return value * value; }

/// What drawing the best climber's shape would change, with real rounding; each warp writes what its rows contribute.
SINTER_DEVICE_KERNEL(shape_search__measure, SearchJob job, int round, int count) {
  if (job.state->ended != Ended::no) return;
  const Climber& best = best_of(job.climbers[round & 1], count);
  const Shape shape = best.shape;
  const Rows rows = rows_of_warp(job);
  int64_t change[1] = {};
  if (best.change < 0)
    for_each_span(shape, rows, [&](int row, int begin, int end) {
      for (int x = begin + lane_of_warp(); x < end; x += kLanes) {
        const int64_t at = (int64_t(row) * job.width + x) * kChannels;
        SINTER_UNROLL
        for (int i = 0; i < kChannels; ++i) {
          const int target = job.target[at + i], canvas = job.canvas[at + i];
          change[0] += squared(target - blended(uint8_t(canvas), shape.color[i], shape.alpha)) - squared(target - canvas);
        }
      }
    });
  warp_add(change);
  if (lane_of_warp() == 0) job.partial[rows.first] = change[0];
}

/// The sum of what shape_search__measure wrote, for every lane. 0: the shape is not drawn.
SINTER_DEVICE_INLINE int64_t measured_change(const SearchJob& job, const Climber& best) {
  if (best.change >= 0) return 0;
  int64_t sum[1] = {};
  for (int i = lane_of_warp(); i < job.draw_warps; i += kLanes) sum[0] += job.partial[i];
  warp_add(sum);
  return sum[0] < 0 ? sum[0] : 0;
}

/// What a pixel adds to one of the running sums (see Sums).
SINTER_DEVICE_INLINE int32_t pixel_value(const uint8_t* target, const uint8_t* canvas, int sum) {
  int32_t products = 0, squares = 0, of_channel[2 * kChannels];
  SINTER_UNROLL
  for (int i = 0; i < kChannels; ++i) {
    const int32_t c = canvas[i], d = target[i] - c;
    of_channel[i] = d, of_channel[kChannels + i] = c;
    products += c * d;
    squares += c * c;
  }
  int32_t value = sum == 2 * kChannels ? products : squares;
  SINTER_UNROLL
  for (int i = 0; i < 2 * kChannels; ++i) value = sum == i ? of_channel[i] : value;
  return value;
}

/// Brings a row's sums and errors up to date from pixel `first` on. 8 lanes take the 8 sums over a quarter of the pixels each.
SINTER_DEVICE_INLINE void rebuild_row(const SearchJob& job, int row, int first) {
  const int begin = first / job.cell * job.cell, lane = lane_of_warp();
  const int sum = lane % kSumLanes, quarter = lane / kSumLanes;
  constexpr int kQuarters = kLanes / kSumLanes;
  const int length = divide_up(job.width - begin, kQuarters);
  const int from = least(begin + quarter * length, job.width), to = least(from + length, job.width);
  const uint8_t* target = job.target + int64_t(row) * job.width * kChannels;
  const uint8_t* canvas = job.canvas + int64_t(row) * job.width * kChannels;
  int32_t* table = job.table + int64_t(row) * (job.width + 1) * kSumLanes + sum;

  warp_barrier();  // other lanes drew some of the pixels
  if (begin == 0 && quarter == 0) table[0] = 0;
  uint32_t total = 0;
  for (int x = from; x < to; ++x) total += uint32_t(pixel_value(target + x * kChannels, canvas + x * kChannels, sum));
  const uint32_t neighbour = shuffle_xor(total, kSumLanes);
  const uint32_t other_half = shuffle_xor(total + neighbour, 2 * kSumLanes);
  uint32_t running = (quarter & 1 ? neighbour : 0) + (quarter & 2 ? other_half : 0);
  if (begin > 0) running += uint32_t(table[int64_t(begin) * kSumLanes]);
  for (int x = from; x < to; ++x) {
    running += uint32_t(pixel_value(target + x * kChannels, canvas + x * kChannels, sum));
    table[int64_t(x + 1) * kSumLanes] = int32_t(running);
  }
  for (int column = begin / job.cell + lane; column < job.columns; column += kLanes) {
    uint32_t error = 0;
    const int last = least((column + 1) * job.cell, job.width) * kChannels;
    for (int i = column * job.cell * kChannels; i < last; ++i) error += uint32_t(squared(target[i] - canvas[i]));
    job.cell_rows[int64_t(row) * job.columns + column] = error;
  }
}

/// Everything that is kept of a canvas, at the beginning; a warp for each row.
SINTER_DEVICE_KERNEL(shape_search__rebuild, SearchJob job) {
  const int row = block_x() * (threads_x() / kLanes) + warp_of_block();
  if (row < job.height) rebuild_row(job, row, 0);
}

/// Draws the shape if it helps. A row is one warp's alone.
SINTER_DEVICE_KERNEL(shape_search__draw, SearchJob job, int round, int count) {
  if (job.state->ended != Ended::no) return;
  const Climber& best = best_of(job.climbers[round & 1], count);
  if (measured_change(job, best) == 0) return;
  const Shape shape = best.shape;
  int drawn = -1, first = 0;  // the row at hand, and its first pixel
  for_each_span(shape, rows_of_warp(job), [&](int row, int begin, int end) {
    if (row != drawn) {
      if (drawn >= 0) rebuild_row(job, drawn, first);
      drawn = row, first = begin;
    }
    for (int x = begin + lane_of_warp(); x < end; x += kLanes) {
      uint8_t* pixel = job.canvas + (int64_t(row) * job.width + x) * kChannels;
      SINTER_UNROLL
      for (int i = 0; i < kChannels; ++i) pixel[i] = blended(pixel[i], shape.color[i], shape.alpha);
    }
  });
  if (drawn >= 0) rebuild_row(job, drawn, first);
}

/// The running sums of the cells' errors, by a block of kMapThreads threads with some cells each.
SINTER_DEVICE_INLINE void rebuild_map(const SearchJob& job, uint64_t error) {
  auto* sums = reinterpret_cast<uint32_t*>(shared_memory());
  constexpr int kEach = kMostCells / kMapThreads;
  int shift = 0;
  while ((error >> shift) >= (uint64_t(1) << 31)) ++shift;
  const int thread = thread_x();
  uint32_t values[kEach], total = 0;
  SINTER_UNROLL
  for (int i = 0; i < kEach; ++i) {
    const int cell = thread * kEach + i, line = cell / job.columns, column = cell % job.columns;
    uint64_t cell_error = 0;
    if (cell < job.cells)
      for (int row = line * job.cell; row < least((line + 1) * job.cell, job.height); ++row)
        cell_error += job.cell_rows[int64_t(row) * job.columns + column];
    values[i] = uint32_t(cell_error >> shift) + 1;  // never 0: every cell may be drawn
    total += values[i];
  }
  uint32_t sum = total;
  for (int distance = 1; distance < kMapThreads; distance *= 2) {
    sums[thread] = sum;
    barrier();
    if (thread >= distance) sum += sums[thread - distance];
    barrier();
  }
  sum -= total;
  SINTER_UNROLL
  for (int i = 0; i < kEach; ++i) {
    sum += values[i];
    if (thread * kEach + i < job.cells) job.map[thread * kEach + i] = sum;
  }
}

/// Counts the shape and tells the host. count 0: only prepares the first search.
SINTER_DEVICE_KERNEL(shape_search__count, SearchJob job, int round, int count) {
  SearchState& state = *job.state;
  if (state.ended != Ended::no) return;
  if (count == 0) return rebuild_map(job, state.error);
  const Climber& best = best_of(job.climbers[round & 1], count);
  const int64_t change = measured_change(job, best);
  const uint64_t error = state.error + uint64_t(change);
  if (change != 0) rebuild_map(job, error);
  barrier();  // all have read the state
  if (thread_x() != 0) return;
  ++state.searches;
  if (change != 0) {
    job.found[state.found] = {best.shape, error, state.searches};
    state.error = error;
    state.sizes.add(best.shape);
    ++state.found;
    ++state.number;
    state.attempt = 0;
    if (state.found == state.wanted) state.ended = Ended::all_found;
  } else if (++state.attempt == kAttempts) {
    state.ended = Ended::nothing_helps;
  }
  job.progress[state.searches % kProgressRing] = {state.found, state.searches, state.ended};
}

}  // namespace sinter::device
