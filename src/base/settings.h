#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace sinter {

/// An environment variable that the program reads.
struct Setting {
  std::string_view name;
  std::string_view meaning;
};

/// All of them, from settings.list; sorted by name.
std::span<const Setting> settings();

/// The value of a setting; none where it is not set or empty. Code::Internal for a name that settings.list lacks: what the
/// program reads is listed.
std::optional<std::string> setting(std::string_view name);

}  // namespace sinter
