#pragma once
#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "shapes/canvas.h"
#include "shapes/climb_share.h"
#include "shapes/search_job.h"
#include "shapes/searcher.h"
#include "shapes/span_sums.h"

namespace sinter::shapes {

/// How hard one shape is searched for.
struct Effort {
  int climbers = 0, candidates = 0, mutations = 0;
  bool anneal = false;
};
/// The options', with the defaults where they say 0.
Effort effort_of(const Options& options);

/// The rounds of one shape: each keeps the best climbers of the one before.
std::vector<Round> rounds_of(const Effort& effort);
int candidates_of_climber(const Effort& effort);
/// Candidates that are scored for one shape.
int64_t scored_by_search(const Effort& effort);

/// Finds shapes for a canvas. What it finds depends on canvas, options, `typical` and the number of the shape alone.
class Search {
 public:
  Search(const Canvas& canvas, const Options& options, ThreadPool& pool, Simd simd);

  /// The best shape that it comes upon, with alpha and colour; none where nothing lowers the error. `typical`: Scene.
  std::optional<Shape> find(uint32_t number, uint32_t attempt, int32_t typical);
  int64_t scored() const { return scored_; }

  /// Alpha, colour and change of one shape. `worker`: whose memory to use.
  Paint paint(const Shape& shape, int worker);

 private:
  void begin(Climber& climber, int candidates, int worker);
  /// The tries of a round from the one numbered `first` on. Gives up as soon as *version is another than wanted.
  void climb(Climber& climber, const Round& round, int first, int tries, int worker,
             const std::atomic<uint32_t>* version = nullptr, uint32_t wanted = 0);
  Climber climb_alone(uint32_t stream);
  Climber climb_together(uint32_t stream);

  const Canvas& canvas_;
  Options options_;
  Effort effort_;
  std::vector<Round> rounds_;
  ThreadPool& pool_;
  ClimbShare share_;
  SumSpans sum_spans_;
  Scene scene_;
  uint32_t number_ = 0;
  std::vector<std::vector<SpanPlaces>> spans_;  // of each worker
  int64_t scored_ = 0;
};

/// Searches on the CPU, beginning with a canvas and the shapes drawn there: `number` of them, of which the last ones have
/// `sizes`.
class CpuSearcher final : public Searcher {
 public:
  CpuSearcher(Canvas canvas, const Options& options, Simd simd, uint32_t number, const RecentSizes& sizes);
  std::optional<Step> next() override;
  int64_t scored() const override { return search_.scored(); }

 private:
  ThreadPool pool_;
  Canvas canvas_;
  Search search_;
  uint32_t number_;
  RecentSizes sizes_;
};

}  // namespace sinter::shapes
