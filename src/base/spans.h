#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace sinter {

/// A part of what a program did, for people who ask where its time went.
struct SpanRecord {
  const char* kind;    ///< "compile", "heuristics", ...
  std::string detail;  ///< of what
  int thread;          ///< counted from 0 in the order of their first spans
  double begin, end;   ///< seconds since record_spans()
};

/// Spans are kept from now on, those of all threads; before, they cost nothing.
void record_spans();
bool spans_are_recorded();
std::vector<SpanRecord> recorded_spans();

/// What becomes of spans of one kind: how long they took together, and for how long there was at least one.
struct SpanSum {
  std::string kind;
  int count = 0;
  double seconds = 0, covered = 0, longest = 0;
};
/// By kind, that which covers most first.
std::vector<SpanSum> sums_of(const std::vector<SpanRecord>& spans);

/// Lasts as long as this object. `kind` is a literal.
class Span {
 public:
  explicit Span(const char* kind, std::string_view detail = {});
  ~Span();
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;
  /// Says more, known at its end.
  void add(std::string_view more) {
    if (kind_) detail_ += more;
  }

 private:
  const char* kind_ = nullptr;  // null: not kept
  std::string detail_;
  double begin_ = 0;
};

}  // namespace sinter
