#include "backends/cuda/calls/tuning.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace sinter::cuda {
namespace {

constexpr int kRounds = 4;
constexpr double kRoundMicroseconds = 400;
constexpr int kMostRepeats = 64;
constexpr double kNever = std::numeric_limits<double>::infinity();

struct Timer {
  const Stream& stream;
  Event begin, end;
  Timer(const Context& context, const Stream& s)
      : stream(s), begin(context, Event::Timing::Yes), end(context, Event::Timing::Yes) {}
  double microseconds(const std::function<void()>& body) {
    begin.record(stream);
    body();
    end.record(stream);
    end.synchronize();
    return 1000 * end.milliseconds_since(begin);
  }
};

struct Recorded {
  CapturedGraph graph;
  int repeats = 1;
};

Recorded record(const std::function<void()>& candidate, Timer& timer) {
  candidate();  // loads the kernel
  double once = timer.microseconds(candidate);
  Recorded recorded;
  recorded.repeats = int(std::clamp(kRoundMicroseconds / std::max(once, 1.0), 1.0, double(kMostRepeats)));
  Capture capture(timer.stream);
  for (int i = 0; i < recorded.repeats; ++i) candidate();
  recorded.graph = capture.finish();
  return recorded;
}

}  // namespace

std::vector<double> time_candidates(const Context& context, const Stream& stream,
                                    const std::vector<std::function<void()>>& candidates) {
  Timer timer(context, stream);
  std::vector<double> best(candidates.size(), kNever);
  std::vector<Recorded> recorded(candidates.size());
  for (size_t i = 0; i < candidates.size(); ++i) {
    try {
      recorded[i] = record(candidates[i], timer);
      recorded[i].graph.launch(stream);
    } catch (const Error& e) {
      if (e.code() == Code::Io) throw;  // the device is lost
      recorded[i] = {};                 // refused at run time: it is no candidate
    }
  }
  for (int round = 0; round < kRounds; ++round)
    for (size_t i = 0; i < candidates.size(); ++i) {
      if (!recorded[i].graph) continue;
      double time = timer.microseconds([&] { recorded[i].graph.launch(stream); }) / recorded[i].repeats;
      best[i] = std::min(best[i], time);
    }
  return best;
}

int best_candidate(const std::vector<double>& microseconds) {
  if (microseconds.empty()) return -1;
  double least = *std::min_element(microseconds.begin(), microseconds.end());
  if (std::isinf(least)) return -1;
  for (size_t i = 0; i < microseconds.size(); ++i)
    if (microseconds[i] <= least * 1.01) return int(i);
  return -1;
}

}  // namespace sinter::cuda
