#include "planner/residency.h"

#include <algorithm>
#include <numeric>

namespace sinter {
namespace {

/// `count` of these blocks, evenly spread.
std::vector<int> spread(const std::vector<int>& blocks, size_t count) {
  std::vector<int> chosen;
  for (size_t i = 0; i < blocks.size(); ++i)
    if ((i + 1) * count / blocks.size() > i * count / blocks.size()) chosen.push_back(blocks[i]);
  return chosen;
}

std::vector<int> blocks_of_at_least(const WeightSizes& weights, int64_t bytes) {
  std::vector<int> list;
  for (size_t i = 0; i < weights.blocks.size(); ++i)
    if (weights.blocks[i] >= bytes) list.push_back(int(i));
  return list;
}

/// Small blocks among large ones save little and cost a copy each: they join when the large ones alone do not do.
std::vector<std::vector<int>> candidates(const WeightSizes& weights) {
  if (weights.blocks.empty()) return {};
  int64_t largest = *std::max_element(weights.blocks.begin(), weights.blocks.end());
  return {blocks_of_at_least(weights, std::max<int64_t>(largest / 4, 1)), blocks_of_at_least(weights, 1)};
}

}  // namespace

int64_t resident_bytes(const WeightSizes& weights, std::span<const int> streamed) {
  int64_t sum = std::accumulate(weights.blocks.begin(), weights.blocks.end(), weights.shared), largest = 0;
  for (int i : streamed) {
    sum -= weights.blocks[size_t(i)];
    largest = std::max(largest, weights.blocks[size_t(i)]);
  }
  return sum + kStreamSlots * largest;
}

std::optional<std::vector<int>> choose_streamed(const WeightSizes& weights, int64_t budget) {
  if (resident_bytes(weights, {}) <= budget) return std::vector<int>{};
  for (const std::vector<int>& some : candidates(weights))
    for (size_t count = kStreamSlots + 1; count <= some.size(); ++count) {
      std::vector<int> streamed = spread(some, count);
      if (resident_bytes(weights, streamed) <= budget) return streamed;
    }
  return {};
}

std::vector<int> least_resident(const WeightSizes& weights) {
  std::vector<int> best;
  for (const std::vector<int>& some : candidates(weights))
    if (resident_bytes(weights, some) < resident_bytes(weights, best)) best = some;
  return best;
}

}  // namespace sinter
