#pragma once
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "patience.h"
#include "tiny_model.h"

namespace sinter {

/// Starts a long run, presses Ctrl-C `milliseconds` after `sign` is on its standard error (waiting for that for at most
/// `most_seconds`), and checks that it ends within a second, with 130 and without a file.
inline void check_interrupted(const TinyModel& tiny, const std::string& sign, int most_seconds, int milliseconds,
                              const std::vector<std::string>& words) {
  std::vector<std::string> more{"--steps", "10000", "--out", "bad.png"};
  more.insert(more.end(), words.begin(), words.end());
  pid_t child = tiny.sinter.start(tiny.words(more));
  for (int i = 0; i < 100 * most_seconds && !has(tiny.sinter.errors(), sign); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
  const auto pressed = std::chrono::steady_clock::now();
  ::kill(child, SIGINT);
  CliResult result = tiny.sinter.finish(child);
  CHECK(std::chrono::steady_clock::now() - pressed < std::chrono::seconds(1) * kPatience);
  CHECK(result.exit_code == 130);
  CHECK(only_json(result)["error"]["code"] == "cancelled");
  CHECK(tiny.left("bad").empty());
}

}  // namespace sinter
