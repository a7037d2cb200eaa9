#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace sinter {

/// "8G" and "8GB" are 8e9, "8GiB" 8 * 2^30; kB, MB and TB alike, and a number alone counts GB. Nothing for anything else.
std::optional<int64_t> parse_bytes(const std::string& text);

}  // namespace sinter
