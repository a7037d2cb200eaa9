#pragma once
#include <cstdint>

namespace sinter {

/// value / by, rounded up. Both are positive, or value is 0.
constexpr int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }
/// The least multiple of `to` that is not below value.
constexpr int64_t round_up(int64_t value, int64_t to) { return divide_up(value, to) * to; }

}  // namespace sinter
