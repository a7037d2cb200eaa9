#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sinter {

/// To standard output. Code::Io where it cannot take it (a full disk).
void print(std::string_view text);
/// To standard error, as far as it takes it.
void print_error(std::string_view text);

/// Rows of cells as columns two blanks apart; columns whose cells are all numbers are aligned to the right. Control characters
/// are replaced: cells may come from files.
std::string table(const std::vector<std::vector<std::string>>& rows);
/// Text from a file made fit for a terminal: no control characters, at most `limit` characters.
std::string printable(std::string_view text, size_t limit = 200);

std::string human_bytes(uint64_t bytes);  ///< "6.94 GB"
std::string human_count(uint64_t count);  ///< "2.57 billion", "860 million", "12,345"

/// A line on a terminal's standard error that shows how far something long is; nothing where that is no terminal.
class ProgressBar {
 public:
  ProgressBar(std::string label, uint64_t total);
  ~ProgressBar();  ///< removes the line
  ProgressBar(const ProgressBar&) = delete;
  /// `note` stands behind the bar: "3.1 GB/s".
  void show(uint64_t done, std::string_view note = {});

 private:
  std::string label_;
  uint64_t total_;
  bool terminal_;
  double started_, shown_ = 0;
};

/// From now on Ctrl-C and a request to end set a flag that long work looks at; a second one ends the program at once.
void catch_interrupts();
bool interrupted();
/// Code::Cancelled if so.
void throw_if_interrupted();

}  // namespace sinter
