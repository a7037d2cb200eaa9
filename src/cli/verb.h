#pragma once
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace sinter {

using Arguments = std::span<const std::string>;

/// Exit codes of the program.
inline constexpr int kSuccess = 0, kFailure = 1, kUsage = 2, kCancelled = 130;

/// One command of `sinter`.
struct Verb {
  std::string_view name;
  std::string_view summary;  ///< one line of `sinter --help`
  /// Takes what stands behind the verb and gives the exit code. An Error that leaves it is printed by main().
  int (*run)(Arguments arguments);
};

/// Sorted by name.
std::span<const Verb* const> verbs();

/// The command line asks for something that there is not; main() exits with kUsage.
class UsageError : public Error {
 public:
  explicit UsageError(std::string message) : Error(Code::InvalidArgument, std::move(message)) {}
};

/// Thrown by parse() where --help was given; main() prints the text and exits with kSuccess.
struct HelpRequest {
  std::string text;
};

#define SINTER_VERB(name) extern const Verb name##_verb;
#include "cli/verbs.list"
#undef SINTER_VERB

}  // namespace sinter
