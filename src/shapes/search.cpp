#include "shapes/search.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "shapes/coverage.h"

namespace sinter::shapes {

Effort effort_of(const Options& options) {
  Effort effort{options.climbers, options.candidates, options.mutations};
  if (effort.climbers == 0) effort.climbers = 32;
  if (effort.candidates == 0) effort.candidates = 1024;
  if (effort.mutations == 0) effort.mutations = 100;
  return effort;
}

Search::Search(const Canvas& canvas, const Options& options, ThreadPool& pool, Simd simd)
    : canvas_(canvas), options_(options), effort_(effort_of(options)), pool_(pool), sum_spans_(span_sums(simd)) {
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
  scored_.fetch_add(candidates, std::memory_order_relaxed);
}

void Search::climb(Climber& climber, int failures, int worker) {
  int64_t scored = 0;
  for (int failed = 0; failed < failures; ++scored) {
    Random random(options_.seed, number_, climber.stream, climber.step++);
    Shape shape = climber.shape;
    mutate(shape, random, scene_);
    int64_t change = paint(shape, worker).change;
    if (change < climber.change)
      climber.change = change, climber.shape = shape, failed = 0;
    else
      ++failed;
  }
  scored_.fetch_add(scored, std::memory_order_relaxed);
}

std::optional<Shape> Search::find(uint32_t number, uint32_t attempt, int32_t typical) {
  number_ = number;
  canvas_.describe(scene_);
  scene_.typical = typical;
  static const std::vector<int> plan = [] {
    std::vector<int> v;
    const char* e = getenv("TUNE");
    std::string t = e ? e : "10 8 40 2 100";
    for (char* p = t.data(); *p;) {
      v.push_back(int(strtol(p, &p, 10)));
      while (*p == ' ') ++p;
    }
    return v;
  }();
  std::vector<Climber> climbers(size_t(effort_.climbers));
  for (size_t i = 0; i < climbers.size(); ++i) climbers[i].stream = attempt << 16 | uint32_t(i);
  const int each = std::max(1, effort_.candidates / effort_.climbers);
  pool_.parallel_for(int64_t(climbers.size()), 1, [&](int64_t first, int64_t last, int worker) {
    for (int64_t i = first; i < last; ++i) {
      begin(climbers[size_t(i)], each, worker);
      climb(climbers[size_t(i)], plan[0], worker);
    }
  });
  auto better = [](const Climber& a, const Climber& b) {
    return a.change != b.change ? a.change < b.change : a.stream < b.stream;
  };
  for (size_t r = 1; r + 1 < plan.size(); r += 2) {
    std::sort(climbers.begin(), climbers.end(), better);
    if (climbers.size() > size_t(plan[r])) climbers.resize(size_t(plan[r]));
    pool_.parallel_for(int64_t(climbers.size()), 1, [&](int64_t first, int64_t last, int worker) {
      for (int64_t i = first; i < last; ++i) climb(climbers[size_t(i)], plan[r + 1], worker);
    });
  }
  std::sort(climbers.begin(), climbers.end(), better);
  Climber& best = climbers.front();
  Paint paint = this->paint(best.shape, 0);
  if (paint.change >= 0) return std::nullopt;
  best.shape.alpha = paint.alpha;
  std::copy(paint.color, paint.color + kChannels, best.shape.color);
  return best.shape;
}

}  // namespace sinter::shapes
