#pragma once
#include <nlohmann/json_fwd.hpp>

namespace sinter {

/// Prints the one JSON object of a verb. Bytes that are no UTF-8 (names from files) become U+FFFD.
void print_json(const nlohmann::ordered_json& object);

}  // namespace sinter
