#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>
#include <optional>

#include "cli/verb.h"

namespace sinter {

/// The options of a verb, to be filled by CLI11. `sinter VERB` is the name in its help.
class Options : public CLI::App {
 public:
  explicit Options(const Verb& verb);
  /// `--json`, for verbs whose result is one JSON object.
  void add_json(bool& json);
  /// An amount of memory, see parse_bytes().
  void add_bytes(const std::string& name, std::optional<int64_t>& bytes, const std::string& what);
  /// Throws UsageError with our wording (unknown options with the nearest known one), or HelpRequest.
  void parse_arguments(Arguments arguments);
};

/// Accepts one of these words; the error lists them.
CLI::Validator one_of(std::vector<std::string> words);

/// Accepts whole numbers from 0 to 2^64 - 1: CLI11 alone takes -1 for the largest of them.
CLI::Validator whole_number();
/// Accepts numbers from `low` to `high`; the error says both. Either may be infinite.
CLI::Validator in_range(double low, double high = std::numeric_limits<double>::infinity());

}  // namespace sinter
