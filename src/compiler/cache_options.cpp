#include <pwd.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>

#include "base/error.h"
#include "base/settings.h"
#include "compiler/cache_state.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;
constexpr const char* kLimitVariable = "SINTER_CACHE_MAX_BYTES";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

fs::path default_directory() {
  if (auto dir = setting(kDirectoryVariable)) return fs::absolute(*dir);
  // The XDG base directory rules: a relative path is to be ignored.
  if (fs::path xdg = environment("XDG_CACHE_HOME"); xdg.is_absolute()) return xdg / "sinter";
  fs::path home = environment("HOME");
  if (home.empty())
    if (const passwd* user = ::getpwuid(::getuid())) home = user->pw_dir;
  return home.is_absolute() ? home / ".cache" / "sinter" : fs::path();
}

uint64_t parse_byte_size(const std::string& text, const char* variable) {
  auto refuse = [&](const char* why) {
    fail(Code::InvalidArgument, "{}=\"{}\": {}; give a number of bytes such as 4G, 512M, 100K or 1000000", variable, text, why);
  };
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) refuse("too large");
  if (error != std::errc()) refuse("not a size");
  std::string_view suffix(end, size_t(text.data() + text.size() - end));
  int shift = 0;
  if (suffix == "K" || suffix == "k")
    shift = 10;
  else if (suffix == "M" || suffix == "m")
    shift = 20;
  else if (suffix == "G" || suffix == "g")
    shift = 30;
  else if (!suffix.empty())
    refuse("not a size");
  if (value > (uint64_t(INT64_MAX) >> shift)) refuse("too large");
  return value << shift;
}

}  // namespace

CacheOptions CacheOptions::from_environment() {
  CacheOptions options;
  options.directory = default_directory();
  if (auto limit = setting(kLimitVariable)) options.max_bytes = parse_byte_size(*limit, kLimitVariable);
  return options;
}

}  // namespace sinter
