#include "planner/residency.h"

#include <doctest/doctest.h>

#include <random>

using namespace sinter;

TEST_CASE("weights that fit are not streamed") {
  WeightSizes weights{50, std::vector<int64_t>(10, 100)};
  CHECK(choose_streamed(weights, 1050)->empty());
  CHECK_FALSE(choose_streamed(weights, 1049)->empty());
}

TEST_CASE("streaming takes as few blocks as fit, evenly spread") {
  WeightSizes weights{0, std::vector<int64_t>(12, 100)};
  auto streamed = choose_streamed(weights, 1000);  // two slots cost what two of the blocks give
  CHECK(*streamed == std::vector<int>{2, 5, 8, 11});
  CHECK(resident_bytes(weights, *streamed) == 1000);
}

TEST_CASE("with the least budget every block is streamed, and below it nothing fits") {
  WeightSizes weights{300, std::vector<int64_t>(57, 226)};
  for (int i = 0; i < 19; ++i) weights.blocks[size_t(i)] = 453;
  const int64_t least = 300 + kStreamSlots * 453;
  CHECK(choose_streamed(weights, least)->size() == 57);
  CHECK_FALSE(choose_streamed(weights, least - 1).has_value());
  CHECK(resident_bytes(weights, least_resident(weights)) == least);
}

TEST_CASE("without blocks nothing can be streamed") {
  WeightSizes weights{300, {}};
  CHECK_FALSE(choose_streamed(weights, 299).has_value());
  CHECK(least_resident(weights).empty());
}

TEST_CASE("small blocks stay while streaming the large ones is enough") {
  WeightSizes weights{0, {1000, 10, 1000, 10, 1000, 10, 1000, 10}};
  CHECK(*choose_streamed(weights, 2040) == std::vector<int>{0, 2, 4, 6});
  CHECK(choose_streamed(weights, 2039)->size() == 8);
}

TEST_CASE("a choice always fits its budget and never asks for more than it must") {
  std::mt19937 random(1);
  int chosen = 0;
  for (int round = 0; round < 300; ++round) {
    WeightSizes weights{int64_t(random() % 500), std::vector<int64_t>(random() % 30 + 1)};
    for (int64_t& b : weights.blocks) b = 100 + random() % 50;
    int64_t budget = resident_bytes(weights, {}) * int64_t(random() % 100) / 100;
    auto streamed = choose_streamed(weights, budget);
    CHECK(streamed.has_value() == (budget >= resident_bytes(weights, least_resident(weights))));
    if (!streamed) continue;
    ++chosen;
    CHECK(resident_bytes(weights, *streamed) <= budget);
    CHECK(std::is_sorted(streamed->begin(), streamed->end()));
  }
  CHECK(chosen > 50);
}
