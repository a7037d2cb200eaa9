#pragma once
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <string>

#include "cli.h"
#include "temporary_folder.h"

namespace sinter {

using Environment = std::map<std::string, std::string>;

/// Where a library of tests/fake_cuda lies, by its name there.
inline std::string made_up_library(const char* name) { return (program().parent_path().parent_path() / name).string(); }

/// Where the loader looks: for the driver in tests/fake_cuda first.
inline std::string made_up_library_path() {
  const char* others = std::getenv("LD_LIBRARY_PATH");
  return others && *others ? fmt::format("{}:{}", made_up_library("fake_cuda"), others) : made_up_library("fake_cuda");
}

/// What this program prints when it runs one of its skipped test cases on the made-up driver, with more variables as a shell sets
/// them. A process of its own, since a process opens libraries once; checks that it passes.
inline std::string run_on_made_up_driver(const std::string& environment, const std::string& test_case) {
  TemporaryFolder folder;
  const std::string out = (folder / "out.txt").string();
  const std::string command = fmt::format("LD_LIBRARY_PATH='{}' {} /proc/{}/exe --no-skip -tc='{}' > {} 2>&1",
                                          made_up_library_path(), environment, ::getpid(), test_case, out);
  const int status = std::system(command.c_str());
  const std::string text = read_file(out);
  CHECK_MESSAGE((WIFEXITED(status) && WEXITSTATUS(status) == 0), text);
  const size_t count = text.find("test cases:");
  CHECK_MESSAGE((count != text.npos && std::atoi(text.c_str() + count + 11) > 0), "no test case is called ", test_case);
  return text;
}

/// For processes that tests start: the driver of tests/fake_cuda, with more variables for it.
inline std::function<void()> on_made_up_driver(const Environment& more) {
  return [more] {
    ::setenv("LD_LIBRARY_PATH", made_up_library_path().c_str(), 1);
    for (const auto& [name, value] : more) ::setenv(name.c_str(), value.c_str(), 1);
  };
}

}  // namespace sinter
