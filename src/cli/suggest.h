#pragma once
#include <span>
#include <string>

namespace sinter {

/// ` (did you mean "seed"?)` for the candidate that differs from `word` by a slip of the finger; empty where none does.
std::string suggestion(const std::string& word, std::span<const std::string> candidates);

}  // namespace sinter
