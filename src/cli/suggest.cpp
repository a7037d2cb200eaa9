#include "cli/suggest.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace sinter {
namespace {

/// Letters to add, drop or change (Levenshtein).
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t(0));
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      size_t changed = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string suggestion(const std::string& word, std::span<const std::string> candidates) {
  constexpr size_t kLongestWord = 64;  // nobody mistypes a name into something longer
  if (word.size() > kLongestWord) return "";
  const std::string* best = nullptr;
  size_t least = std::min(word.size(), std::max<size_t>(2, word.size() / 3) + 1);  // nothing in common is no slip
  for (const std::string& candidate : candidates)
    if (size_t distance = edit_distance(word, candidate); distance < least) least = distance, best = &candidate;
  return best ? fmt::format(" (did you mean \"{}\"?)", *best) : "";
}

}  // namespace sinter
