#include "backends/cuda/calls/tuning.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "backends/cuda/calls/vendor.h"
#include "base/error.h"
#include "base/spans.h"

namespace sinter::cuda {
namespace {

constexpr double kRoundMicroseconds = 300;
constexpr int kMostRepeats = 64;
/// How far behind the best a candidate may be after each round to be in the next one. Most are out after the first.
constexpr double kBehind[] = {1.1, 1.04, 1.02, 1};
/// A single run counts the host's way to the device too: what is so much slower there is not even recorded.
constexpr double kHopeless = 1.5, kWayMicroseconds = 15;
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

/// The time of a single run, the better of two: a device that has just waited for the host's way to it starts late.
double time_once(const std::function<void()>& candidate, Timer& timer) {
  candidate();  // loads the kernel
  const double first = timer.microseconds(candidate);
  return std::min(first, timer.microseconds(candidate));
}

Recorded record(const std::function<void()>& candidate, double once, Timer& timer) {
  Recorded recorded;
  recorded.repeats = int(std::clamp(kRoundMicroseconds / std::max(once, 1.0), 1.0, double(kMostRepeats)));
  Capture capture(timer.stream);
  for (int i = 0; i < recorded.repeats; ++i) candidate();
  recorded.graph = capture.finish();
  recorded.graph.upload(timer.stream);
  return recorded;
}

/// What `body` gives, or kNever for a candidate that is refused at run time.
template <class Body>
double time_or_never(Body&& body) {
  try {
    return body();
  } catch (const Error& e) {
    if (e.code() == Code::Io) throw;  // the device is lost
    return kNever;
  }
}

}  // namespace

std::vector<double> time_candidates(const Context& context, const Stream& stream,
                                    const std::vector<std::function<void()>>& candidates) {
  Timer timer(context, stream);
  std::vector<double> best(candidates.size(), kNever);
  auto least = [&] { return *std::min_element(best.begin(), best.end()); };
  {
    const Span span("first runs");
    for (size_t i = 0; i < candidates.size(); ++i) best[i] = time_or_never([&] { return time_once(candidates[i], timer); });
  }

  std::vector<Recorded> recorded(candidates.size());
  const double hopeless = least() * kHopeless + kWayMicroseconds;
  {
    const Span span("record candidates");
    for (size_t i = 0; i < candidates.size(); ++i) {
      if (best[i] > hopeless) continue;
      best[i] = time_or_never([&] { return recorded[i] = record(candidates[i], best[i], timer), best[i]; });
    }
  }
  const Span span("rounds");
  for (size_t i = 0; i < candidates.size(); ++i)
    if (recorded[i].graph) best[i] = kNever;
  for (size_t round = 0; round < std::size(kBehind); ++round) {
    for (size_t i = 0; i < candidates.size(); ++i)
      if (recorded[i].graph)
        best[i] = std::min(best[i], timer.microseconds([&] { recorded[i].graph.launch(stream); }) / recorded[i].repeats);
    size_t left = 0;
    for (size_t i = 0; i < candidates.size(); ++i) {
      if (best[i] > least() * kBehind[round]) recorded[i] = {};
      left += recorded[i].graph ? 1 : 0;
    }
    if (left < 2) break;
  }
  return best;
}

std::vector<double> time_calls(const Context& context, const Stream& stream,
                               const std::vector<std::unique_ptr<BoundCall>>& calls) {
  std::vector<std::function<void()>> candidates;
  for (const auto& call : calls) candidates.push_back([&call, &stream] { call->launch(stream); });
  return time_candidates(context, stream, candidates);
}

void note_times(std::string_view what, const std::vector<double>& microseconds) {
  if (spans_are_recorded()) Span("times", fmt::format("{}: {:.2f}", what, fmt::join(microseconds, " ")));
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
