#include "base/settings.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/error.h"

namespace sinter {

std::span<const Setting> settings() {
#define SINTER_SETTING(name, meaning) Setting{#name, meaning},
  static constexpr std::array kSettings = {
#include "base/settings.list"
  };
#undef SINTER_SETTING
  return kSettings;
}

std::optional<std::string> setting(std::string_view name) {
  if (std::ranges::find(settings(), name, &Setting::name) == settings().end())
    fail(Code::Internal, "settings.list lacks {}", name);
  const char* value = std::getenv(std::string(name).c_str());
  if (!value || !*value) return std::nullopt;
  return value;
}

}  // namespace sinter
