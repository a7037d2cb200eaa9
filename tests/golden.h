#pragma once
#include <cstdlib>
#include <filesystem>
#include <optional>

namespace sinter {

/// The folder of golden data: $SINTER_GOLDEN, else `shared/golden` beside the repository, looked for from the current folder
/// upwards. Tests that need it skip by name where it is absent.
inline std::optional<std::filesystem::path> golden_folder() {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (const char* named = std::getenv("SINTER_GOLDEN"); named && fs::is_directory(named, ignored)) return named;
  for (fs::path at = fs::current_path(ignored); !at.empty(); at = at.parent_path()) {
    if (fs::path found = at / "shared" / "golden"; fs::is_directory(found, ignored)) return found;
    if (at == at.root_path()) break;
  }
  return std::nullopt;
}

}  // namespace sinter
