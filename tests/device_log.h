#pragma once
#include <algorithm>
#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace sinter {

/// What streams were given, as FAKE_CUDA_LOG of tests/fake_cuda tells it, and what of it must have ended before what else begins:
/// by the order of a stream, by events, and by the host's waiting. The made-up driver itself does everything at once, so wrong
/// orders do not show in its results.
class DeviceLog {
 public:
  struct Work {
    std::string stream, kernel;        ///< no kernel: a copy to the device
    uint64_t address = 0;              ///< that it writes to, or a kernel's first argument
    uint64_t bytes = 0;                ///< of a copy
    std::map<std::string, int> after;  ///< how many of each stream have ended when it begins
    int number = 0;                    ///< in its stream, from 1
  };

  /// Without what a line before `first` says, but for the order that it makes.
  explicit DeviceLog(const std::string& path, size_t first = 0) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line); ++lines_) read(line, lines_ >= first);
  }

  const std::vector<Work>& work() const { return work_; }
  size_t lines() const { return lines_; }
  int waits_for_events() const { return waits_for_events_; }  ///< of the host

  static bool ends_before(const Work& a, const Work& b) {
    auto at = b.after.find(a.stream);
    return at != b.after.end() && at->second >= a.number;
  }

 private:
  using Clock = std::map<std::string, int>;
  static void join(Clock& clock, const Clock& other) {
    for (const auto& [stream, number] : other) clock[stream] = std::max(clock[stream], number);
  }

  void read(const std::string& line, bool counts) {
    std::istringstream words(line);
    std::string what, first, second;
    words >> what >> first;
    if (what == "synchronize-event") {
      waits_for_events_ += counts;
      return join(host_, events_[first]);
    }
    if (what == "synchronize-stream") return join(host_, streams_[first]);
    Clock& stream = streams_[first];
    if (what == "wait") {
      words >> second;
      return join(stream, events_[second]);
    }
    join(stream, host_);
    if (what == "record") {
      words >> second;
      events_[second] = stream;
      return;
    }
    Work work{.stream = first};
    what == "copy" ? words >> work.address >> work.bytes : words >> work.kernel >> work.address;
    work.after = stream;
    work.number = ++stream[first];
    if (counts) work_.push_back(std::move(work));
  }

  std::vector<Work> work_;
  std::map<std::string, Clock> streams_, events_;
  Clock host_;
  size_t lines_ = 0;
  int waits_for_events_ = 0;
};

}  // namespace sinter
