#include "base/spans.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>

namespace sinter {
namespace {

double now_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::atomic<bool> recording{false};
std::atomic<int> threads{0};

struct Kept {
  std::mutex mutex;
  double start = 0;
  std::vector<SpanRecord> spans;
};
Kept& kept() {
  static Kept all;
  return all;
}

int this_thread() {
  thread_local const int number = threads++;
  return number;
}

}  // namespace

void record_spans() {
  std::lock_guard lock(kept().mutex);
  kept().start = now_seconds();
  kept().spans.clear();
  recording = true;
}

bool spans_are_recorded() { return recording.load(std::memory_order_relaxed); }

std::vector<SpanRecord> recorded_spans() {
  std::lock_guard lock(kept().mutex);
  return kept().spans;
}

std::vector<SpanSum> sums_of(const std::vector<SpanRecord>& spans) {
  std::map<std::string, std::vector<std::pair<double, double>>> times;
  for (const SpanRecord& s : spans) times[s.kind].emplace_back(s.begin, s.end);
  std::vector<SpanSum> sums;
  for (auto& [kind, parts] : times) {
    SpanSum sum{.kind = kind, .count = int(parts.size())};
    std::sort(parts.begin(), parts.end());
    double reached = parts.front().first;
    for (const auto& [begin, end] : parts) {
      sum.seconds += end - begin;
      sum.longest = std::max(sum.longest, end - begin);
      sum.covered += std::max(0.0, end - std::max(begin, reached));
      reached = std::max(reached, end);
    }
    sums.push_back(std::move(sum));
  }
  std::stable_sort(sums.begin(), sums.end(), [](const SpanSum& a, const SpanSum& b) { return a.covered > b.covered; });
  return sums;
}

Span::Span(const char* kind, std::string_view detail) {
  if (!spans_are_recorded()) return;
  kind_ = kind;
  detail_ = detail;
  begin_ = now_seconds();
}

Span::~Span() {
  if (!kind_) return;
  const double end = now_seconds();
  const int thread = this_thread();
  std::lock_guard lock(kept().mutex);
  if (begin_ < kept().start) return;  // of a recording before
  kept().spans.push_back({kind_, std::move(detail_), thread, begin_ - kept().start, end - kept().start});
}

}  // namespace sinter
