#include "cli/output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>

#include "base/error.h"

namespace sinter {
namespace {

double now() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

size_t columns_of(std::string_view text) {  // code points; wide characters are rare in what we print
  return size_t(std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; }));
}

bool is_number(std::string_view cell) { return cell.empty() || (cell[0] >= '0' && cell[0] <= '9') || cell == "-"; }

std::atomic<bool> interrupt_requested{false};

void on_interrupt(int signal) {
  interrupt_requested = true;
  std::signal(signal, SIG_DFL);
}

}  // namespace

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    fail(Code::Io, "standard output cannot be written");
}

void print_error(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

std::string printable(std::string_view text, size_t limit) {
  std::string out;
  size_t shown = 0;
  for (char c : text) {
    if ((c & 0xc0) != 0x80 && ++shown > limit) return out + "...";
    out += uint8_t(c) < 0x20 || c == 0x7f ? ' ' : c;
  }
  return out;
}

std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  std::vector<bool> right;
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) {
      if (i == widths.size()) widths.push_back(0), right.push_back(true);
      widths[i] = std::max(widths[i], columns_of(printable(row[i])));
      right[i] = right[i] && is_number(row[i]);
    }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      std::string cell = printable(row[i]);
      std::string fill(widths[i] - columns_of(cell), ' ');
      line += (i ? "  " : "") + (right[i] ? fill + cell : cell + fill);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string human_bytes(uint64_t bytes) {
  static constexpr std::array kUnits = {"kB", "MB", "GB", "TB"};
  if (bytes < 1000) return fmt::format("{} B", bytes);
  double value = double(bytes) / 1000;
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < kUnits.size()) value /= 1000, ++unit;
  return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : value < 100 ? 1 : 0, kUnits[unit]);
}

std::string human_count(uint64_t count) {
  if (count >= 1'000'000'000) return fmt::format("{:.2f} billion", double(count) / 1e9);
  if (count >= 1'000'000) return fmt::format("{:.1f} million", double(count) / 1e6);
  if (count >= 1000) return fmt::format("{},{:03}", count / 1000, count % 1000);
  return std::to_string(count);
}

ProgressBar::ProgressBar(std::string label, uint64_t total)
    : label_(std::move(label)), total_(total), terminal_(isatty(STDERR_FILENO) == 1), started_(now()) {}

ProgressBar::~ProgressBar() {
  if (terminal_ && shown_ > 0) print_error("\r\033[K");
}

void ProgressBar::show(uint64_t done, std::string_view note) {
  constexpr double kInterval = 0.1;
  constexpr int kWidth = 30;
  if (!terminal_ || (now() - shown_ < kInterval && done < total_)) return;
  shown_ = now();
  double fraction = total_ ? std::min(1.0, double(done) / double(total_)) : 1;
  std::string bar;
  for (int i = 0; i < kWidth; ++i) bar += i < int(fraction * kWidth) ? "█" : "░";
  double left = fraction > 0 ? (shown_ - started_) * (1 - fraction) / fraction : 0;
  print_error(fmt::format("\r{} {} {:3.0f}%  {}  {:.0f} s left\033[K", label_, bar, fraction * 100, note, left));
}

void catch_interrupts() {
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
}

bool interrupted() { return interrupt_requested; }

void throw_if_interrupted() {
  if (interrupted()) fail(Code::Cancelled, "cancelled");
}

}  // namespace sinter
