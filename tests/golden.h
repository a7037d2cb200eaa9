#pragma once
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

namespace sinter {

/// Where the golden data is: SINTER_GOLDEN, or shared/golden beside the working directory or beside one of its parents.
inline std::optional<std::string> golden_directory() {
  if (const char* set = std::getenv("SINTER_GOLDEN")) return set;
  for (auto at = std::filesystem::current_path();; at = at.parent_path()) {
    auto candidate = at.parent_path() / "shared" / "golden";
    if (std::filesystem::is_directory(candidate)) return candidate.string();
    if (at == at.parent_path()) return std::nullopt;
  }
}

}  // namespace sinter
