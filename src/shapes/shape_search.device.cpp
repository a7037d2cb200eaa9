// The search for shapes on a GPU: every round of climbing is a launch with one block for each climber; then the best shape is
// measured, drawn, and counted. All decisions are the device's, so that the host can queue many shapes ahead. What is computed
// is what search.cpp and canvas.cpp compute, number for number.
#include "backends/cuda/kernels/device.h"
#include "shapes/coverage_by_row.h"
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

/// Calls sink(row, begin, end) for the spans of a stroke. Each piece of its path has some lanes, which share that piece's rows
/// and write what it covers of them; then the spans of a row are put together. kRows of 1: all lanes do that for the same rows,
/// those of `rows`. Else each lane does it for other rows, kRows of them in turn, and all rows are taken.
template <int kRows, class Sink>
SINTER_DEVICE_INLINE void stroke_by_warp(const Shape& shape, const Rows& rows, StrokeRow* memory, Sink&& sink) {
  const int count = stroke_pieces(shape), lane = lane_of_warp();
  const int shift = count == 1 ? 5 : count == 2 ? 4 : count <= 4 ? 3 : 2, lanes_each = 1 << shift;
  const int index = lane >> shift, part = lane & (lanes_each - 1);
  StrokePiece piece;
  if (index < count) piece = StrokePiece(stroke_point(shape, index), stroke_point(shape, index + 1), shape.width, rows.height);
  const int top = warp_min(index < count ? piece.top : rows.height), bottom = -warp_min(index < count ? -piece.bottom : 0);
  const int step = kRows == 1 ? rows.stride : kRows;
  for (int base = top + (kRows == 1 ? rows.first : 0); base < bottom; base += step) {
    const int used = least(kRows, bottom - base);
    for (int row = lane; row < used; row += kLanes) {
      SINTER_UNROLL
      for (int i = 0; i < kCurveSegments; ++i) memory[row].pieces[i] = StrokePiece::kNone;
    }
    warp_barrier();
    const int last = least(piece.bottom - base, used);  // 0 or less where there is no piece
    for (int row = most(piece.top - base, 0) + part; row < last; row += lanes_each)
      memory[row].pieces[index] = piece.row(base + row, rows.width);
    warp_barrier();
    for (int row = kRows == 1 ? 0 : lane; row < used; row += kLanes) {
      int32_t pieces[kCurveSegments];
      SINTER_UNROLL
      for (int i = 0; i < kCurveSegments; ++i) pieces[i] = memory[row].pieces[i];
      united_spans(pieces, base + row, sink);
    }
    warp_barrier();
  }
}

/// for_each_span() by a warp; kRows as for stroke_by_warp().
template <int kRows, class Sink>
SINTER_DEVICE_INLINE void spans_by_warp(const Shape& shape, const Rows& rows, StrokeRow* memory, Sink&& sink) {
  if (is_stroke(shape.kind))
    stroke_by_warp<kRows>(shape, rows, memory, sink);
  else
    spans_by_row(shape, rows, sink);
}

/// Alpha, colour and change of a shape, found by a warp: its lanes share out the rows.
SINTER_DEVICE_INLINE Paint paint_by_warp(const Shape& shape, const SearchJob& job, StrokeRow* memory) {
  const auto* table = reinterpret_cast<const Words4*>(job.table);
  // Sums of c and d over 2048 x 2048 pixels fit into 32 bits; those of products go as 20 lower bits and the rest.
  constexpr int kPlain = 2 * kChannels, kProducts = kSumLanes - kPlain, kLowBits = 20;
  int32_t words[kPlain + 1 + 2 * kProducts] = {};
  int64_t products[kProducts] = {};
  spans_by_warp<kClimbingStrokeRows>(shape, {job.width, job.height, lane_of_warp(), kLanes}, memory,
                                     [&](int row, int begin, int end) SINTER_INLINE_LAMBDA {
                                       constexpr int kVectors = kSumLanes / 4;
                                       const Words4* place = table + row * (job.width + 1) * kVectors;
                                       const Words4 first = place[end * kVectors] - place[begin * kVectors];
                                       const Words4 second = place[end * kVectors + 1] - place[begin * kVectors + 1];
                                       SINTER_UNROLL
                                       for (int i = 0; i < kPlain; ++i) words[i] += int32_t(i < 4 ? first[i & 3] : second[i & 3]);
                                       SINTER_UNROLL
                                       for (int i = 0; i < kProducts; ++i) products[i] += int32_t(second[kPlain - 4 + i]);
                                       words[kPlain] += end - begin;
                                     });
  SINTER_UNROLL
  for (int i = 0; i < kProducts; ++i) {
    words[kPlain + 1 + 2 * i] = int32_t(products[i] & ((1 << kLowBits) - 1));
    words[kPlain + 2 + 2 * i] = int32_t(products[i] >> kLowBits);
  }
  warp_add(words);
  Sums all;
  all.pixels = words[kPlain];
  SINTER_UNROLL
  for (int i = 0; i < kPlain; ++i) all.lanes[i] = words[i];
  SINTER_UNROLL
  for (int i = 0; i < kProducts; ++i)
    all.lanes[kPlain + i] = int64_t(words[kPlain + 1 + 2 * i]) + int64_t(words[kPlain + 2 + 2 * i]) * (1 << kLowBits);
  return best_paint(all, job.alpha_low, job.alpha_high);
}

SINTER_DEVICE_INLINE void set_paint(Shape& shape, const Paint& paint) {
  shape.alpha = paint.alpha;
  for (int i = 0; i < kChannels; ++i) shape.color[i] = paint.color[i];
}

/// Which climber of the round before has as many better ones as this block's number says.
SINTER_DEVICE_INLINE int ranked_climber(const Climber* climbers, int count, ClimbShared& shared) {
  for (int from = 0; from < count; from += threads_x()) {
    const int own = from + thread_x();
    const int64_t change = own < count ? climbers[own].change : kWorst;
    const uint32_t stream = own < count ? climbers[own].stream : 0;
    int rank = 0;
    for (int others = 0; others < count; others += kRankedAtOnce) {
      barrier();
      const int here = least(kRankedAtOnce, count - others);
      for (int i = thread_x(); i < here; i += threads_x())
        shared.ranked[i] = {climbers[others + i].change, climbers[others + i].stream};
      barrier();
      for (int i = 0; i < here; ++i) rank += shared.ranked[i].before(change, stream);
    }
    if (own < count && rank == block_x()) shared.chosen = own;
  }
  barrier();
  return shared.chosen;
}

/// Of a batch of random shapes the best, of a batch of changes the first that is better than `change`, or worse by less than this
/// lane's `allowed`: the number of the warp that has it, or kMostWarps.
SINTER_DEVICE_INLINE int winner_of(const int64_t* changes, int batch, int64_t change, int64_t allowed, bool beginning) {
  const int lane = lane_of_warp();
  const int64_t own = lane < batch ? changes[lane] : kWorst;
  int64_t wanted = change + allowed;
  if (beginning) {
    for (int i = 0; i < batch; ++i) wanted = least(wanted, changes[i]);
    if (wanted == change) return kMostWarps;
    ++wanted;
  }
  return warp_min(own < wanted ? lane : kMostWarps);
}

/// A random shape, in memory of its own: there are few, and making one takes much code.
__attribute__((noinline)) Shape random_shape_of(uint64_t seed, uint32_t number, uint32_t stream, uint32_t step, Scene scene) {
  Random random(seed, number, stream, step);
  return random_shape(random, scene);
}

/// A round: block i goes on with the climber of rank i among `count` of the round before, or begins one (count 0). One change
/// after the other would leave the device idle, so each warp tries one of the next changes as if those before it had failed; the
/// first that helps is taken, and the ones after it count as never tried.
SINTER_DEVICE_KERNEL(shape_search__round, SearchJob job, int round, int count, int tries, int annealing) {
  if (job.state->ended != Ended::no) return;
  auto& shared = *reinterpret_cast<ClimbShared*>(shared_memory());
  const int warp = warp_of_block(), lane = lane_of_warp(), warps = threads_x() / kLanes;
  StrokeRow* memory = reinterpret_cast<StrokeRow*>(shared_memory() + sizeof(ClimbShared)) + warp * kClimbingStrokeRows;
  Scene scene;  // as far as changes need it
  scene.width = job.width, scene.height = job.height;
  const uint32_t number = job.state->number;
  uint32_t stream = job.state->attempt << 16 | uint32_t(block_x()), step = 0;
  int64_t change = kWorst;
  int random_left = job.candidates;
  if (count > 0) {
    const Climber& climber = job.climbers[(round + 1) & 1][ranked_climber(job.climbers[(round + 1) & 1], count, shared)];
    stream = climber.stream, step = climber.step, change = climber.change;
    random_left = 0;
    if (thread_x() == 0) shared.shape = shared.best = climber.shape;
    barrier();
  }
  int64_t best_change = change;
  const int all_tries = tries;
  for (int turn = 0; random_left + tries > 0; turn ^= 1) {
    const bool beginning = random_left > 0;
    const int batch = least(warps, beginning ? random_left : tries);
    Paint paint;
    if (warp < batch) {
      Shape shape;
      if (beginning) {
        shape = random_shape_of(job.seed, number, stream, step + uint32_t(warp), scene_of(job));
      } else {
        Random random(job.seed, number, stream, step + uint32_t(warp));
        shape = shared.shape;
        mutate(shape, random, scene);
      }
      if (lane == 0) shared.tried[warp] = shape;  // not to be kept in registers
      paint = paint_by_warp(shape, job, memory);
      if (lane == 0) shared.changes[turn][warp] = paint.change;
    }
    barrier();
    const int64_t allowed = annealing != 0 && !beginning ? allowed_loss(best_change, all_tries, all_tries - tries + lane) : 0;
    const int winner = winner_of(shared.changes[turn], batch, change, allowed, beginning);
    int used = batch;
    if (winner < batch) {
      change = shared.changes[turn][winner];
      if (warp == winner && lane == 0) {
        shared.shape = shared.tried[warp];
        set_paint(shared.shape, paint);
        if (change < best_change) shared.best = shared.shape;
      }
      best_change = least(best_change, change);
      barrier();
      if (!beginning) used = winner + 1;
    }
    (beginning ? random_left : tries) -= used;
    step += uint32_t(used);
  }
  if (thread_x() == 0) {
    Climber& climber = job.climbers[round & 1][block_x()];
    climber.stream = stream, climber.step = step, climber.change = best_change, climber.shape = shared.best;
  }
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

SINTER_DEVICE_INLINE StrokeRow* stroke_row_of_warp() { return reinterpret_cast<StrokeRow*>(shared_memory()) + warp_of_block(); }

SINTER_DEVICE_INLINE int32_t squared(int32_t value) { return value * value; }

/// What drawing the best climber's shape would change, with real rounding.
SINTER_DEVICE_KERNEL(shape_search__measure, SearchJob job, int round, int count) {
  if (job.state->ended != Ended::no) return;
  const Climber& best = best_of(job.climbers[round & 1], count);
  const Shape shape = best.shape;
  const Rows rows = rows_of_warp(job);
  int64_t change[1] = {};
  if (best.change < 0)
    spans_by_warp<1>(shape, rows, stroke_row_of_warp(), [&](int row, int begin, int end) SINTER_INLINE_LAMBDA {
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
  if (lane_of_warp() == 0 && change[0] != 0) add_to(&job.state->measured, change[0]);
}

/// What shape_search__measure found. 0: the shape is not drawn.
SINTER_DEVICE_INLINE int64_t measured_change(const SearchJob& job) { return least(job.state->measured, int64_t(0)); }

/// Adds a pixel to running sums (see Sums), which may wrap around.
SINTER_DEVICE_INLINE void add_pixel(uint32_t (&sums)[kSumLanes], const uint8_t* target, const uint8_t* canvas) {
  SINTER_UNROLL
  for (int i = 0; i < kChannels; ++i) {
    const int32_t c = canvas[i], d = target[i] - c;
    sums[i] += uint32_t(d), sums[kChannels + i] += uint32_t(c);
    sums[2 * kChannels] += uint32_t(c * d), sums[2 * kChannels + 1] += uint32_t(c * c);
  }
}

/// Brings a row's sums and errors up to date from pixel `first` on: each lane takes as many pixels, once to sum them up and once,
/// when it knows what the lanes before it have, to write the running sums.
SINTER_DEVICE_INLINE void rebuild_row(const SearchJob& job, int row, int first) {
  const int begin = first / job.cell * job.cell, lane = lane_of_warp();
  const int length = divide_up(job.width - begin, kLanes);
  const int from = least(begin + lane * length, job.width), to = least(from + length, job.width);
  const uint8_t* target = job.target + int64_t(row) * job.width * kChannels;
  const uint8_t* canvas = job.canvas + int64_t(row) * job.width * kChannels;
  int32_t* table = job.table + int64_t(row) * (job.width + 1) * kSumLanes;

  warp_barrier();  // other lanes drew some of the pixels
  uint32_t group[kSumLanes] = {}, running[kSumLanes] = {};
  for (int x = from; x < to; ++x) add_pixel(group, target + x * kChannels, canvas + x * kChannels);
  SINTER_UNROLL
  for (int i = 0; i < kSumLanes; ++i) {
    if (begin > 0) running[i] = uint32_t(table[begin * kSumLanes + i]);
    SINTER_UNROLL
    for (int lanes = 1; lanes < kLanes; lanes *= 2) {
      const uint32_t others = shuffle_xor(group[i], lanes);
      running[i] += lane & lanes ? others : 0;
      group[i] += others;
    }
  }
  if (begin == 0 && lane < kSumLanes) table[lane] = 0;
  for (int x = from; x < to; ++x) {
    add_pixel(running, target + x * kChannels, canvas + x * kChannels);
    auto* place = reinterpret_cast<Words4*>(table + (x + 1) * kSumLanes);
    place[0] = Words4{running[0], running[1], running[2], running[3]};
    place[1] = Words4{running[4], running[5], running[6], running[7]};
  }
  for (int column = begin / job.cell + lane; column < job.columns; column += kLanes) {
    uint32_t error = 0;
    const int end = least((column + 1) * job.cell, job.width);
    for (int x = column * job.cell; x < end; ++x) {
      SINTER_UNROLL
      for (int i = 0; i < kChannels; ++i) error += uint32_t(squared(target[x * kChannels + i] - canvas[x * kChannels + i]));
    }
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
  if (measured_change(job) == 0) return;
  const Shape shape = best.shape;
  const Rows rows = rows_of_warp(job);
  for (int first = rows.first; first < job.height; first += rows.stride) {
    int drawn = -1, from = 0;  // the row, and its first pixel
    const int no_other = job.height;
    spans_by_warp<1>(shape, {job.width, job.height, first, no_other}, stroke_row_of_warp(),
                     [&](int row, int begin, int end) SINTER_INLINE_LAMBDA {
                       if (drawn < 0) drawn = row, from = begin;
                       for (int x = begin + lane_of_warp(); x < end; x += kLanes) {
                         uint8_t* pixel = job.canvas + (int64_t(row) * job.width + x) * kChannels;
                         SINTER_UNROLL
                         for (int i = 0; i < kChannels; ++i) pixel[i] = blended(pixel[i], shape.color[i], shape.alpha);
                       }
                     });
    if (drawn >= 0) rebuild_row(job, drawn, from);
  }
}

/// Sums over the lanes up to this one.
SINTER_DEVICE_INLINE uint32_t running_sum(uint32_t value) {
  uint32_t group = value;
  SINTER_UNROLL
  for (int lanes = 1; lanes < kLanes; lanes *= 2) {
    const uint32_t others = shuffle_xor(group, lanes);
    value += lane_of_warp() & lanes ? others : 0;
    group += others;
  }
  return value;
}

/// The running sums of the cells' errors, by a block with a thread for each cell.
SINTER_DEVICE_INLINE void rebuild_map(const SearchJob& job, uint64_t error) {
  auto* sums = reinterpret_cast<uint32_t*>(shared_memory());
  int shift = 0;
  while ((error >> shift) >= (uint64_t(1) << 31)) ++shift;
  const int cell = thread_x(), line = cell / job.columns, column = cell % job.columns;
  uint64_t cell_error = 0;
  if (cell < job.cells) {
    const int first = line * job.cell, last = least(first + job.cell, job.height);
    for (int row = first; row < last; ++row) cell_error += job.cell_rows[int64_t(row) * job.columns + column];
  }
  uint32_t sum = running_sum(uint32_t(cell_error >> shift) + 1);  // never 0: every cell may be drawn
  if (lane_of_warp() == kLanes - 1) sums[warp_of_block()] = sum;
  barrier();
  if (warp_of_block() == 0) sums[lane_of_warp()] = running_sum(sums[lane_of_warp()]);
  barrier();
  if (warp_of_block() > 0) sum += sums[warp_of_block() - 1];
  if (cell < job.cells) job.map[cell] = sum;
}

/// Counts the shape and tells the host. count 0: only prepares the first search.
SINTER_DEVICE_KERNEL(shape_search__count, SearchJob job, int round, int count) {
  SearchState& state = *job.state;
  if (state.ended != Ended::no) return;
  if (count == 0) {
    rebuild_map(job, state.error);
    return;
  }
  const Climber& best = best_of(job.climbers[round & 1], count);
  const int64_t change = measured_change(job);
  const uint64_t error = state.error + uint64_t(change);
  if (change != 0) rebuild_map(job, error);
  barrier();  // all have read the state
  if (thread_x() != 0) return;
  ++state.searches;
  state.measured = 0;
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
