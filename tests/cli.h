#pragma once
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "temporary_folder.h"

namespace sinter {

/// How a run of the program ended, and what it printed.
struct CliResult {
  int exit_code = -1;
  std::string out, err;
  double seconds = 0;
};

/// The program, built beside the tests.
inline std::filesystem::path program() { return std::filesystem::read_symlink("/proc/self/exe").parent_path() / "sinter"; }

/// `sinter` with these words, run inside `folder`; its data folder is there too, and its cache, unless another one is given.
/// One run at a time: what it prints goes to files in the folder.
class Cli {
 public:
  explicit Cli(const TemporaryFolder& folder, std::filesystem::path cache = {})
      : folder_(folder), cache_(cache.empty() ? folder / "cache" : std::move(cache)) {}

  /// `prepare` runs in the child, just before the program.
  pid_t start(std::vector<std::string> words, const std::function<void()>& prepare = {}) const {
    words.insert(words.begin(), program().string());
    for (const char* name : {"out.txt", "err.txt"}) std::filesystem::remove(folder_ / name);  // nobody shall read the last run's
    std::fflush(nullptr);                                                                     // or the child prints it again
    pid_t child = ::fork();
    if (child == 0) {
      ::setenv("SINTER_CACHE_DIR", cache_.c_str(), 1);
      ::setenv("SINTER_DATA_DIR", (folder_ / "data").c_str(), 1);
      bool redirected = ::chdir(folder_.path().c_str()) == 0 && std::freopen((folder_ / "out.txt").c_str(), "w", stdout) &&
                        std::freopen((folder_ / "err.txt").c_str(), "w", stderr);
      if (prepare) prepare();
      std::vector<char*> raw;
      for (std::string& word : words) raw.push_back(word.data());
      raw.push_back(nullptr);
      if (redirected) ::execv(raw[0], raw.data());
      ::_exit(99);
    }
    return child;
  }

  CliResult finish(pid_t child) const {
    CliResult result;
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE_MESSAGE(WIFEXITED(status), "ended by signal " << WTERMSIG(status));
    result.exit_code = WEXITSTATUS(status);
    result.out = read_file(folder_ / "out.txt");
    result.err = read_file(folder_ / "err.txt");
    return result;
  }

  CliResult operator()(std::vector<std::string> words, const std::function<void()>& prepare = {}) const {
    auto begin = std::chrono::steady_clock::now();
    CliResult result = finish(start(std::move(words), prepare));
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return result;
  }

  /// What the run has printed to standard error so far.
  std::string errors() const { return std::filesystem::exists(folder_ / "err.txt") ? read_file(folder_ / "err.txt") : ""; }

 private:
  const TemporaryFolder& folder_;
  std::filesystem::path cache_;
};

/// Standard output must hold one JSON object and nothing else.
inline nlohmann::json only_json(const CliResult& result) {
  nlohmann::json object = nlohmann::json::parse(result.out, nullptr, false);
  REQUIRE_MESSAGE(object.is_object(), "printed: " << result.out << "\nand: " << result.err);
  return object;
}

}  // namespace sinter
