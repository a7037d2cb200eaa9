#pragma once
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace sinter {

/// Turns text into the ids of one model's vocabulary. Const calls may run on many threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// The ids of `text` (UTF-8) without start and end; Code::InvalidArgument where it is not UTF-8.
  virtual std::vector<int64_t> encode(std::string_view text) const = 0;
  /// The id in front of every sequence; none for models that have no such token.
  virtual std::optional<int64_t> start_id() const = 0;
  virtual int64_t end_id() const = 0;
  /// No id is above this; a model whose table has fewer rows does not belong to this vocabulary.
  virtual int64_t largest_id() const = 0;
};

/// Ids above this are refused when a vocabulary is read; the largest in use have a few hundred thousand.
inline constexpr int64_t kLargestTokenId = (int64_t(1) << 24) - 1;

}  // namespace sinter
