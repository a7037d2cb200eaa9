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
    const auto device = name.substr(name.find('(') + 1, name.find(')') - name.find('(') - 1);
    const char* version = device == "sm_80" ? "7.1" : device == "sm_90a" ? "8.0" : "8.1";
    CHECK(text.find(fmt::format(".version {}\n", version)) != text.npos);
    CHECK(text.find(fmt::format(".target {}\n", device)) != text.npos);
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
      if (std::string_view(target) < name.substr(name.find('(') + 1, 5)) continue;
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

TEST_CASE("kernels that are launched to begin early wait before they touch memory, but for filters, each of them") {
  for (const auto& [name, text] : Kernels::all_ptx()) {
    if (!name.ends_with("(sm_90)")) continue;
    CAPTURE(name);
    std::string_view rest = text;
    for (size_t at = rest.find(".entry"); at != rest.npos; at = rest.find(".entry")) {
      rest.remove_prefix(at + 1);
      const std::string_view kernel = rest.substr(0, rest.find(".entry"));
      const size_t wait = kernel.find("griddepcontrol.wait");
      REQUIRE(wait != kernel.npos);
      for (const char* access : {"st.global", "atom.", "\tst.b", "\tst.u", "\tst.v"}) CHECK(kernel.find(access) > wait);
      if (name.starts_with("thin_conv")) continue;
      for (const char* access : {"ld.global", "\tld.b", "\tld.u", "\tld.v"}) CHECK(kernel.find(access) > wait);
    }
  }
}

}  // namespace
}  // namespace sinter::cuda
