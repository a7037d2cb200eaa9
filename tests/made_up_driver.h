#pragma once
#include <cstdlib>
#include <functional>
#include <map>
#include <string>

#include "cli.h"

namespace sinter {

using Environment = std::map<std::string, std::string>;

/// For processes that tests start: the driver of tests/fake_cuda, with more variables for it.
inline std::function<void()> on_made_up_driver(const Environment& more) {
  return [more] {
    const std::filesystem::path folder = program().parent_path().parent_path() / "fake_cuda";
    ::setenv("LD_LIBRARY_PATH", folder.c_str(), 1);
    for (const auto& [name, value] : more) ::setenv(name.c_str(), value.c_str(), 1);
  };
}

}  // namespace sinter
