#include <doctest/doctest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>

#include "backends/cuda/kernels/kernels.h"
#include "base/file.h"
#include "temporary_folder.h"

namespace sinter::cuda {
namespace {

namespace fs = std::filesystem;

/// The vendor's assembler, where its toolkit is installed.
std::string find_ptxas() {
  for (const char* place : {"/usr/local/cuda/bin/ptxas", "/usr/bin/ptxas", "/opt/cuda/bin/ptxas"})
    if (fs::exists(place)) return place;
  return {};
}

TEST_CASE("every built-in module is PTX for its architecture and of the version that its oldest driver knows") {
  for (const auto& [name, text] : Kernels::all_ptx()) {
    CAPTURE(name);
    const bool hopper = name.ends_with("(sm_90a)"), newer = name.ends_with("(sm_89)");
    CHECK(text.find(hopper ? ".version 8.0\n" : newer ? ".version 8.1\n" : ".version 7.1\n") != text.npos);
    CHECK(text.find(hopper ? ".target sm_90a\n" : newer ? ".target sm_89\n" : ".target sm_80\n") != text.npos);
    // What the device cannot inline it would have to call: nothing here may depend on a library.
    CHECK(text.find(".extern .func") == text.npos);
  }
}

TEST_CASE("every built-in module assembles for the devices that it may run on, without spilling") {
  const std::string ptxas = find_ptxas();
  if (ptxas.empty()) {
    MESSAGE("skipped: ptxas not found");
    return;
  }
  TemporaryFolder folder;
  for (const auto& [name, text] : Kernels::all_ptx()) {
    write_atomically(folder / "in.ptx", text);
    for (const char* target : {"sm_80", "sm_86", "sm_89", "sm_90", "sm_90a"}) {
      if (name.ends_with("(sm_90a)") != (target == std::string_view("sm_90a"))) continue;
      if (name.ends_with("(sm_89)") && std::string_view(target) < "sm_89") continue;
      CAPTURE(name);
      CAPTURE(target);
      const std::string command = fmt::format("{} -arch {} -v {} -o {} > {} 2>&1", ptxas, target, (folder / "in.ptx").string(),
                                              (folder / "out.cubin").string(), (folder / "log.txt").string());
      const int status = std::system(command.c_str());
      const std::string log = read_file(folder / "log.txt");
      CHECK_MESSAGE((WIFEXITED(status) && WEXITSTATUS(status) == 0), log);
      for (size_t at = log.find("bytes spill stores"); at != log.npos; at = log.find("bytes spill stores", at + 1))
        CHECK_MESSAGE(log.substr(at - 2, 2) == "0 ", log);
      CHECK_MESSAGE(log.find("Potential Performance Loss") == log.npos, log);
    }
  }
}

}  // namespace
}  // namespace sinter::cuda
