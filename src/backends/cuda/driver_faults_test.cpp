// How failures of the driver are told, against the made-up driver of tests/fake_cuda: a process of its own for each, since a
// process opens the driver once.
#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>

#include "backends/cuda/driver.h"
#include "base/error.h"
#include "gpu_memory_case.h"
#include "made_up_driver.h"

namespace sinter::cuda {
namespace {

/// The header of machine code of a CUDA device, and nothing in it.
std::string smallest_image() {
  std::string image(64, '\0');
  image.replace(0, 7,
                "\x7f"
                "ELF\x02\x01\x01");
  image[18] = char(190);
  return image;
}

/// The Error that one of the steps below ends with, as "code: message"; "fine" without one.
std::string outcome(const std::string& step) {
  try {
    Context context(1);
    Stream stream(context);
    if (step == "ordinal") Context wrong(5);
    if (step == "memory") DeviceMemory memory(context, 1000, "the arena");
    if (step == "register") {
      HostRegistration registration(context, "text", 5);
      return registration.active() ? "active" : registration.why_not();
    }
    if (step == "write-registered") {
      std::vector<char> text(5);
      HostRegistration registration(context, text.data(), 5);
      DeviceMemory memory(context, 5);
      copy_to_host(text.data(), memory.address(), 5, stream);
    }
    if (step == "ptx") compile_ptx(context, ".version 7.8\n.target sm_80\n", "kernels of a test");
    if (step == "module") Module(context, smallest_image(), "a cubin");
    if (step == "cut-module") Module(context, smallest_image().substr(0, 63), "a cubin");
    if (step == "wrong-module") {
      std::string image = smallest_image();
      image[58] = 64, image[60] = 1, image[40] = 7;  // one section of 64 bytes, which begins at 7
      Module(context, image, "a cubin");
    }
    if (step == "pinned") {
      PinnedMemory memory(context, 1000);
      std::memset(memory.data(), 1, 1000);
      return memory.locked() ? "locked" : "ordinary";
    }
    if (step == "launch") Function(nullptr, "row_kernel_3").launch({{2}, {64}}, stream, {});
    if (step == "wait") stream.synchronize();
    if (step == "query") return stream.idle() ? "idle" : "busy";
    if (step == "capture") Capture(stream).finish();
    return "fine";
  } catch (const Error& e) {
    return fmt::format("{}: {}", int(e.code()), e.message());
  }
}

TEST_CASE("made-up driver: one step" * doctest::skip()) {
  const char* step = std::getenv("FAKE_CUDA_STEP");
  REQUIRE(step);
  fmt::print("[[{}]]\n", outcome(step));
}

/// What a process printed between double brackets.
std::string told(const std::string& text) {
  const size_t begin = text.find("[["), end = text.find("]]");
  REQUIRE_MESSAGE(begin != text.npos, text);
  return text.substr(begin + 2, end - begin - 2);
}

/// The outcome of a step in a process whose driver fails as told.
std::string with(const std::string& failures, const std::string& step, const std::string& more = "") {
  return told(
      run_on_made_up_driver(fmt::format("FAKE_CUDA_FAIL={} FAKE_CUDA_STEP={} {}", failures, step, more), "made-up driver: one*"));
}

bool says(const std::string& text, Code code, std::initializer_list<const char*> words) {
  bool all = text.starts_with(fmt::format("{}: ", int(code)));
  for (const char* word : words) all = all && text.find(word) != text.npos;
  if (!all) MESSAGE(text);
  return all;
}

TEST_CASE("a driver that works lets every step pass") {
  for (const char* step : {"memory", "module", "launch", "wait", "capture", "ptx"}) CHECK(with("", step) == "fine");
  CHECK(with("", "register") == "active");
  CHECK(with("", "query") == "idle");
}

TEST_CASE("memory that was page-locked takes what the device gives") { CHECK(with("", "write-registered") == "fine"); }

TEST_CASE("out of memory tells what for, the bytes asked for and those free") {
  CHECK(says(with("cuMemAlloc_v2=2", "memory", "FAKE_CUDA_MEMORY=12345"), Code::OutOfMemory,
             {"the arena", "asked for 1000 bytes", "12345"}));
}

TEST_CASE("a fault of a kernel tells that nothing more runs, and which call saw it") {
  CHECK(says(with("cuLaunchKernel=700", "launch"), Code::Internal,
             {"row_kernel_3", "2x1x1 blocks of 64x1x1", "CUDA_ERROR_ILLEGAL_ADDRESS (made-up text)", "Start the program again"}));
  CHECK(says(with("cuStreamSynchronize=716", "wait"), Code::Internal, {"waiting for the device", "A kernel that ran before"}));
}

TEST_CASE("a lost device tells where to look") {
  CHECK(says(with("cuStreamSynchronize=214", "wait"), Code::Io, {"lost", "dmesg"}));
  CHECK(says(with("cuStreamQuery=999", "query"), Code::Io, {"lost"}));
  CHECK(with("cuStreamQuery=600", "query") == "busy");
}

TEST_CASE("a driver older than the PTX names the versions and what to update") {
  CHECK(says(with("cuLinkAddData_v2=222", "ptx", "FAKE_CUDA_VERSION=11040"), Code::Unsupported,
             {"kernels of a test", "CUDA 11.4", "PTX 7.8", "update the driver to one for CUDA 11.8"}));
}

TEST_CASE("PTX that does not compile comes with the compiler's log") {
  CHECK(says(with("cuLinkComplete=218", "ptx"), Code::Internal, {"kernels of a test", "made-up log, line 7"}));
  CHECK(says(with("cuLinkAddData_v2=221", "ptx"), Code::Unsupported, {"libnvidia-ptxjitcompiler.so.1"}));
}

TEST_CASE("code for another card and damaged code are told apart, so that a cache can drop them") {
  CHECK(says(with("cuModuleLoadData=209", "module"), Code::Unsupported, {"a cubin", "another kind of device"}));
  CHECK(says(with("cuModuleLoadData=200", "module"), Code::Corrupt, {"a cubin"}));
}

TEST_CASE("an image whose sizes lead outside of it never reaches the driver") {
  CHECK(says(with("cuModuleLoadData=700", "cut-module"), Code::Corrupt, {"a cubin", "63 bytes that are no machine code"}));
  CHECK(says(with("cuModuleLoadData=700", "wrong-module"), Code::Corrupt, {"a cubin", "64 bytes that are no machine code"}));
}

TEST_CASE("where no page-locked memory is to be had, ordinary memory takes its place") {
  CHECK(with("", "pinned") == "locked");
  CHECK(with("cuMemHostAlloc=2", "pinned") == "ordinary");
}

TEST_CASE("a capture that breaks and a registration that is refused say why") {
  CHECK(says(with("cuStreamEndCapture=901", "capture"), Code::Internal, {"ending the capture"}));
  CHECK(says(with("cuGraphInstantiateWithFlags=2", "capture"), Code::OutOfMemory, {"graph of 3 nodes"}));
  CHECK(with("cuMemHostRegister_v2=801", "register").find("refuses to page-lock") != std::string::npos);
}

TEST_CASE("a device that is not there, and a driver that does not start") {
  CHECK(says(with("", "ordinal"), Code::NotFound, {"cuda:5: there are 2 CUDA devices"}));
  CHECK(says(with("cuInit=100", "wait"), Code::Unsupported, {"finds no device", "CUDA_VISIBLE_DEVICES"}));
  CHECK(says(with("cuInit=803", "wait"), Code::Unsupported, {"restart the machine"}));
}

/// Runs a small, a large and a small network; what came of each.
std::string outcomes_of_runs() {
  Cache cache{{.memory_only = true}};
  Engine engine(cache, 2, 1);
  std::vector<std::string> notes;
  engine.on_note = [&](const std::string& text) { notes.push_back(text); };
  GrowingNetwork network(engine);
  std::string all;
  for (int64_t rows : {64, 1 << 18, 64, 1 << 18, 64}) try {
      network.run(rows);
      all += "ran ";
    } catch (const Error& e) {
      all += e.code() == Code::OutOfMemory ? "short " : e.message() + " ";
    }
  return fmt::format("{}and {} notes", all, notes.size());
}

TEST_CASE("made-up driver: runs of growing size" * doctest::skip()) { fmt::print("[[{}]]\n", outcomes_of_runs()); }

TEST_CASE("an engine whose device was too full for one run works for the next, smaller one") {
  auto runs = [](const std::string& environment) { return told(run_on_made_up_driver(environment, "made-up driver: runs*")); };
  CHECK(runs("") == "ran ran ran ran ran and 0 notes");
  // Here the large one fits once the vendors' workspace, which it does not need, has been given back.
  CHECK(runs("FAKE_CUDA_MEMORY=850000000") == "ran ran ran ran ran and 1 notes");
  CHECK(runs("FAKE_CUDA_MEMORY=300000000") == "ran short ran short ran and 1 notes");
}

TEST_CASE("sinter devices lists the devices of a driver and says what they lack") {
  TemporaryFolder folder;
  Cli sinter(folder);
  auto run = [&](std::vector<std::string> words) {
    return sinter.finish(sinter.start(std::move(words), on_made_up_driver({{"FAKE_CUDA_MEMORY", "12345"}})));
  };
  CliResult result = run({"devices", "--json"});
  REQUIRE(result.exit_code == 0);
  const auto seen = nlohmann::json::parse(result.out);
  REQUIRE(seen["devices"].size() == 3);
  CHECK(seen["auto"] == "cuda:1");
  const auto &old = seen["devices"][1], &good = seen["devices"][2];
  CHECK(old["name"] == "Made-up Turing");
  CHECK(old["problem"].get<std::string>().find("7.5 is below 8.0") != std::string::npos);
  CHECK(old["not_supported"].contains("bf16"));
  CHECK(good["problem"].is_null());
  CHECK(good["free_bytes"] == 12345);
  CHECK(good["pci"] == "0000:65:00.0");
  CHECK(good["uuid"] == "GPU-a1a1a1a1-a1a1-a1a1-a1a1-a1a1a1a1a1a1");
  CHECK(seen["libraries"].size() == 2);
  result = run({"devices"});
  CHECK(result.exit_code == 0);
  for (const char* words : {"Made-up Hopper", "CUDA 11.8", "no bf16: compute capability 7.5 is below 8.0", "takes cuda:1"})
    CHECK_MESSAGE(result.out.find(words) != std::string::npos, result.out);
}

}  // namespace
}  // namespace sinter::cuda
