#include "base/spans.h"

#include <doctest/doctest.h>

#include <thread>

namespace sinter {
namespace {

TEST_CASE("spans are kept from when they are asked for, with their threads and what was added to them") {
  { Span before("before"); }
  record_spans();
  {
    Span outer("outer", "one");
    std::thread([] { Span other("inner", "two"); }).join();
    outer.add(", more");
  }
  const auto spans = recorded_spans();
  REQUIRE(spans.size() == 2);
  CHECK(spans[0].kind == std::string("inner"));
  CHECK(spans[1].detail == "one, more");
  CHECK(spans[0].thread != spans[1].thread);
  CHECK(spans[1].begin <= spans[0].begin);
  CHECK(spans[0].end <= spans[1].end);
}

TEST_CASE("sums of spans count time that several share once where they say what is covered") {
  const std::vector<SpanRecord> spans{
      {"a", "", 0, 0, 2}, {"b", "", 0, 0, 1}, {"a", "", 1, 1, 3}, {"a", "", 0, 5, 6}, {"a", "", 2, 1, 2}};
  const auto sums = sums_of(spans);
  REQUIRE(sums.size() == 2);
  CHECK(sums[0].kind == "a");
  CHECK(sums[0].count == 4);
  CHECK(sums[0].seconds == 6);
  CHECK(sums[0].covered == 4);
  CHECK(sums[0].longest == 2);
  CHECK(sums[1].covered == 1);
}

}  // namespace
}  // namespace sinter
