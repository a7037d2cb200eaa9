// What happens on a real GPU where memory is gone, a kernel fails, or a run is interrupted.
#include <sys/wait.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <thread>

#include "backends/cuda/test_device.h"
#include "gpu_memory_case.h"
#include "interrupted.h"
#include "tiny_model.h"

namespace sinter::cuda {
namespace {

constexpr const char* kStoreToNowhere = R"(.version 7.1
.target sm_80
.address_size 64
.visible .entry nowhere() {
  .reg .b64 %at;
  .reg .b32 %value;
  mov.u64 %at, 8;
  mov.u32 %value, 1;
  st.global.u32 [%at], %value;
  ret;
}
)";

void check_sums(const Tensor& sums) {
  const double expected = 256 / (1 + std::exp(-1.0));
  for (float sum : sums.f32()) REQUIRE(sum == doctest::Approx(expected).epsilon(1e-3));
}

/// The message of the Error that `body` must end with.
template <class Body>
std::string failure(Body&& body, Code code) {
  try {
    body();
  } catch (const Error& e) {
    CHECK_MESSAGE(int(e.code()) == int(code), e.message());
    return e.message();
  }
  FAIL("no error");
  return {};
}

TEST_CASE("with device memory taken by others a run fails clearly, a smaller one works, and the large one when it is back") {
  if (!test_device()) return;
  Cache cache{{.memory_only = true}};
  Engine engine(cache, 4, 0);
  GrowingNetwork network(engine);
  const int64_t small = 64, large = int64_t(1) << 20;
  std::vector<std::string> notes;
  engine.on_note = [&](const std::string& text) { notes.push_back(text); };
  check_sums(network.run(small));
  std::vector<DeviceMemory> others;
  constexpr int64_t kLeft = int64_t(400) << 20;
  REQUIRE(network.bytes(large) > 2 * kLeft);
  // The system's own pieces are larger than what is asked for, so the rest goes bit by bit.
  for (int64_t piece = engine.context().free_bytes() - kLeft; piece > (32 << 20); piece = engine.context().free_bytes() - kLeft)
    others.emplace_back(engine.context(), piece, "others");
  for (int i = 0; i < 2; ++i) {
    const std::string message = failure([&] { network.run(large); }, Code::OutOfMemory);
    for (const char* words : {"the buffers of a run", "asked for", "are free"})
      CHECK_MESSAGE(message.find(words) != std::string::npos, message);
    for (int j = 0; j < 3; ++j) check_sums(network.run(small));
  }
  CHECK(notes.size() <= 1);
  others.clear();
  for (int i = 0; i < 3; ++i) check_sums(network.run(large));
}

TEST_CASE("for a process of its own: a failed kernel" * doctest::skip()) {
  Cache cache{{.memory_only = true}};
  Engine engine(cache, 4, 0);
  GrowingNetwork network(engine);
  for (int i = 0; i < 3; ++i) check_sums(network.run(64));
  Module module(engine.context(), compile_ptx(engine.context(), kStoreToNowhere, "a test"), "a test");
  module.function("nowhere").launch({{1}, {1}}, engine.stream(), {});
  // The launch list, its replay, new sizes, memory, code: all say the same.
  for (int i = 0; i < 2; ++i) fmt::print("[[{}]]\n", failure([&] { network.run(64); }, Code::Internal));
  fmt::print("[[{}]]\n", failure([&] { network.run(128); }, Code::Internal));
  fmt::print("[[{}]]\n", failure([&] { GrowingNetwork another(engine); }, Code::Internal));
  fmt::print("[[{}]]\n", failure([&] { engine.context().free_bytes(); }, Code::Internal));
  std::fflush(stdout);
}

TEST_CASE("after a kernel that failed every call says so, and the process ends in order") {
  if (!test_device()) return;
  TemporaryFolder folder;
  const std::string out = (folder / "out.txt").string();
  const int status = std::system(
      fmt::format("timeout 60 /proc/{}/exe --no-skip -tc='for a process of its own: a failed kernel' > {} 2>&1", ::getpid(), out)
          .c_str());
  const std::string text = read_file(out);
  CHECK_MESSAGE((WIFEXITED(status) && WEXITSTATUS(status) == 0), text);
  size_t messages = 0, told = 0;
  for (size_t at = text.find("[["); at != text.npos; at = text.find("[[", at + 1)) {
    ++messages;
    told += text.substr(at, text.find("]]", at) - at).find("nothing more can be run there in this process") != text.npos;
  }
  CHECK_MESSAGE(messages == 5, text);
  CHECK_MESSAGE(told == messages, text);
}

TEST_CASE("Ctrl-C on a GPU ends sampling within a second, with 130 and without a file, replayed or not") {
  if (!test_device()) return;
  TinyModel& tiny = TinyModel::get();
  tiny.run({"--device", "cuda", "--out", "warm_gpu.png"});  // compiles
  for (int milliseconds : {0, 300, 1000}) check_interrupted(tiny, "memory: ", 30, milliseconds, {"--device", "cuda"});
}

TEST_CASE("a cache with damaged and foreign machine code costs compiling again, and the GPU's picture is the same") {
  if (!test_device()) return;
  TinyModel& tiny = TinyModel::get();
  REQUIRE(tiny.run({"--device", "cuda", "--out", "good.png"})["images"].size() == 1);
  TemporaryFolder other;
  std::filesystem::copy(tiny.folder / "cache", other / "cache", std::filesystem::copy_options::recursive);
  int number = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(other / "cache" / "entries")) {
    if (!entry.is_regular_file()) continue;
    std::string bytes = read_file(entry.path());
    if (number % 2 == 0) bytes[bytes.size() / 2] ^= 1;
    if (number++ % 5 == 0) bytes.resize(bytes.size() / 3);
    write_atomically(entry.path(), bytes);
  }
  Cli sinter(tiny.folder, other / "cache");
  CliResult result = sinter(tiny.words({"--device", "cuda", "--out", "mended.png"}));
  REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  CHECK(only_json(result)["compile"]["compiled"] > 0);
  CHECK(tiny.bytes("mended.png") == tiny.bytes("good.png"));
}

}  // namespace
}  // namespace sinter::cuda
