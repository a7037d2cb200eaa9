#include "shapes/search.h"

#include <algorithm>
#include <utility>

#include "shapes/coverage.h"

namespace sinter::shapes {

Effort effort_of(const Options& options) {
  Effort effort{options.climbers, options.candidates, options.mutations, options.anneal};
  if (effort.climbers == 0) effort.climbers = 64;
  if (effort.candidates == 0) effort.candidates = 12 * effort.climbers;
  if (effort.mutations == 0) effort.mutations = 240;
  return effort;
}

std::vector<Round> rounds_of(const Effort& effort) {
  // Most climbers turn out to be no good long before they stand still: half of them stay in each round, and try twice as hard.
  // Four remain, so that as many threads have something to do until the end; a number of tries instead of a number of failures
  // keeps them equally busy (3.4 of 4 threads with failures).
  constexpr int kLeast = 4;
  std::vector<Round> rounds;
  for (int climbers = effort.climbers;; climbers = std::max(climbers / 2, kLeast)) {
    rounds.push_back({climbers});
    if (climbers <= kLeast) break;
  }
  int tries = effort.mutations;
  for (size_t i = rounds.size(); i-- > 0; tries = std::max(1, tries / 2)) {
    constexpr size_t kAnneal = 2;  // where many climbers are left, annealing is of no use
    rounds[i].tries = tries;
    rounds[i].anneal = effort.anneal && i + kAnneal >= rounds.size();
  }
  return rounds;
}

int candidates_of_climber(const Effort& effort) { return (effort.candidates + effort.climbers - 1) / effort.climbers; }

int64_t scored_by_search(const Effort& effort) {
  int64_t scored = int64_t(effort.climbers) * candidates_of_climber(effort);
  for (const Round& round : rounds_of(effort)) scored += int64_t(round.climbers) * round.tries;
  return scored;
}

Search::Search(const Canvas& canvas, const Options& options, ThreadPool& pool, Simd simd)
    : canvas_(canvas),
      options_(options),
      effort_(effort_of(options)),
      rounds_(rounds_of(effort_)),
      pool_(pool),
      share_(rounds_, candidates_of_climber(effort_), pool.threads()),
      sum_spans_(span_sums(simd)) {
  scene_.kinds = options.kinds;
  spans_.resize(size_t(pool.threads()), std::vector<SpanPlaces>(size_t(canvas.height()) * kCurveSegments));
}

Paint Search::paint(const Shape& shape, int worker) {
  SpanPlaces* spans = spans_[size_t(worker)].data();
  const uint32_t stride = uint32_t(canvas_.width()) + 1;
  int count = 0;
  Sums sums;
  for_each_span(shape, {canvas_.width(), canvas_.height()}, [&](int row, int begin, int end) {
    uint32_t base = uint32_t(row) * stride;
    spans[count++] = {base + uint32_t(begin), base + uint32_t(end)};
    sums.pixels += end - begin;
  });
  sum_spans_(canvas_.table(), spans, count, sums.pixels, sums.lanes);
  return best_paint(sums, options_.alpha.low, options_.alpha.high);
}

void Search::begin(Climber& climber, int candidates, int worker) {
  for (int i = 0; i < candidates; ++i) {
    Random random(options_.seed, number_, climber.stream, climber.step++);
    Shape shape = random_shape(random, scene_);
    int64_t change = paint(shape, worker).change;
    if (i == 0 || change < climber.change) climber.change = change, climber.shape = shape;
  }
  if (candidates > 0) climber.best_change = climber.change, climber.best = climber.shape;
}

void Search::climb(Climber& climber, const Round& round, int first, int tries, int worker, const std::atomic<uint32_t>* version,
                   uint32_t wanted) {
  for (int i = 0; i < tries; ++i) {
    if (version && version->load(std::memory_order_relaxed) != wanted) return;
    Random random(options_.seed, number_, climber.stream, climber.step++);
    Shape shape = climber.shape;
    mutate(shape, random, scene_);
    int64_t change = paint(shape, worker).change;
    if (change >= climber.change + (round.anneal ? allowed_loss(climber.best_change, round.tries, first + i) : 0)) continue;
    climber.change = change, climber.shape = shape;
    ++climber.taken;
    if (round.anneal && change < climber.best_change) climber.best_change = change, climber.best = shape;
  }
}

Climber Search::climb_alone(uint32_t stream) {
  std::vector<Climber> climbers(size_t(effort_.climbers));
  for (Climber& climber : climbers) {
    climber.stream = stream++;
    begin(climber, candidates_of_climber(effort_), 0);
  }
  for (const Round& round : rounds_) {
    climbers.resize(size_t(round.climbers));
    for (Climber& climber : climbers) {
      begin_round(climber, round);
      climb(climber, round, 0, round.tries, 0);
      end_round(climber, round);
    }
    std::sort(climbers.begin(), climbers.end(), before);
  }
  return climbers.front();
}

Climber Search::climb_together(uint32_t stream) {
  share_.begin(stream);
  pool_.parallel_for(pool_.threads(), 1, [&](int64_t, int64_t, int worker) {
    share_.work([&](Climber& climber, const ClimbShare::Work& work) {
      begin(climber, work.candidates, worker);
      climb(climber, work.round, work.first, work.tries, worker, &work.version, work.wanted);
    });
  });
  return share_.best();
}

std::optional<Shape> Search::find(uint32_t number, uint32_t attempt, int32_t typical) {
  number_ = number;
  canvas_.describe(scene_);
  scene_.typical = typical;
  const uint32_t stream = attempt << 16;
  Shape best = (pool_.threads() > 1 ? climb_together(stream) : climb_alone(stream)).shape;
  scored_ += scored_by_search(effort_);
  Paint paint = this->paint(best, 0);
  if (paint.change >= 0) return std::nullopt;
  best.alpha = paint.alpha;
  std::copy(paint.color, paint.color + kChannels, best.color);
  return best;
}

CpuSearcher::CpuSearcher(Canvas canvas, const Options& options, Simd simd, uint32_t number, const RecentSizes& sizes)
    : pool_(options.threads),
      canvas_(std::move(canvas)),
      search_(canvas_, options, pool_, simd),
      number_(number),
      sizes_(sizes) {}

std::optional<Step> CpuSearcher::next() {
  Scene scene;
  canvas_.describe(scene);
  for (uint32_t attempt = 0; attempt < kAttempts; ++attempt) {
    auto found = search_.find(number_, attempt, sizes_.typical(scene));
    if (!found || !canvas_.draw_if_better(*found, pool_)) continue;
    sizes_.add(*found);
    ++number_;
    return Step{*found, canvas_.error()};
  }
  return std::nullopt;
}

}  // namespace sinter::shapes
