#include "base/byte_amount.h"

#include <charconv>
#include <cmath>
#include <limits>

namespace sinter {

std::optional<int64_t> parse_bytes(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  auto [unit, error] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  if (error != std::errc() || value < 0) return {};
  std::string_view rest(unit, size_t(end - unit));
  double factor = 1e9;
  if (!rest.empty()) {
    const size_t power = std::string_view("kMGT").find(rest[0] == 'K' ? 'k' : rest[0]);
    if (power == std::string_view::npos) return {};
    rest.remove_prefix(1);
    if (!rest.empty() && rest != "B" && rest != "iB") return {};
    factor = std::pow(rest == "iB" ? 1024.0 : 1000.0, double(power + 1));
  }
  const double bytes = value * factor;
  if (!(bytes < double(std::numeric_limits<int64_t>::max()))) return {};
  return int64_t(bytes);
}

}  // namespace sinter
