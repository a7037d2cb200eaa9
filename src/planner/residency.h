#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "compiler/engine.h"

namespace sinter {

/// The device memory that weights take in which these blocks (ascending) are streamed.
int64_t resident_bytes(const WeightSizes& weights, std::span<const int> streamed);

/// The blocks to stream so that all weights fit into `budget` bytes: as few as possible, evenly spread, so that every copy has
/// the same time to hide in. Empty where all fit; nothing where no choice does.
std::optional<std::vector<int>> choose_streamed(const WeightSizes& weights, int64_t budget);

/// The choice that takes the least memory.
std::vector<int> least_resident(const WeightSizes& weights);

}  // namespace sinter
