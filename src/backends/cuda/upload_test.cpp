// How weights reach a device, against the made-up driver of tests/fake_cuda, whose copies are done at once: a process of its own,
// since a process opens the driver once.
#include "backends/cuda/upload.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "backends/cuda/product_table.h"
#include "backends/cuda/schedules.h"
#include "base/error.h"
#include "base/rounding.h"
#include "device_log.h"
#include "io/safetensors.h"
#include "made_up_driver.h"
#include "models/weights.h"

namespace sinter::cuda {
namespace {

/// Bytes of which no two neighbourhoods are alike.
Tensor bytes_of(int64_t count, uint32_t seed) {
  Tensor tensor(DType::u8, {count});
  uint32_t state = seed * 2654435761u + 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525 + 1013904223;
    tensor.data()[i] = std::byte(state >> 24);
  }
  return tensor;
}

/// On a device whose memory is the host's.
bool arrived(const Tensor& tensor, DevicePtr to) {
  return std::memcmp(reinterpret_cast<const void*>(to), tensor.data(), size_t(tensor.bytes())) == 0;
}

/// More than the ring holds at a time, from single bytes to several slots, some behind each other on the device and some not.
void check_bytes_arrive(Engine& engine) {
  std::vector<Tensor> tensors;
  for (int64_t count : {int64_t(1), int64_t(300), int64_t(40) << 20, int64_t(7), int64_t(129) << 10, (int64_t(8) << 20) - 1,
                        int64_t(8) << 20, int64_t(17), int64_t(70) << 20, (int64_t(21) << 20) + 5})
    tensors.push_back(bytes_of(count, uint32_t(tensors.size())));
  for (int i = 0; i < 200; ++i) tensors.push_back(bytes_of(1 + i * 997 % 5000, uint32_t(100 + i)));
  int64_t total = 0;
  std::vector<int64_t> places;
  for (const Tensor& t : tensors) {
    places.push_back(total);
    total += t.bytes() + int64_t(places.size() % 3) * 100;
  }
  DeviceMemory memory(engine.context(), total, "weights of a test");
  for (bool overlapped : {false, true}) {
    std::memset(reinterpret_cast<void*>(memory.address()), 0, size_t(total));
    Uploader uploader(engine, overlapped);
    for (size_t i = 0; i < tensors.size(); ++i)
      uploader.rows(ChangedWeight{tensors[i].clone(), {}}, memory.address() + DevicePtr(places[i]), DType::u8);
    uploader.finish();
    bool right = true;
    for (size_t i = 0; i < tensors.size(); ++i) right = right && arrived(tensors[i], memory.address() + DevicePtr(places[i]));
    CHECK(right);
  }
}

void check_a_short_file_is_told(Engine& engine) {
  TemporaryFolder folder;
  const std::string path = (folder / "weights.safetensors").string();
  constexpr int64_t kBytes = int64_t(160) << 20;
  write_safetensors(path, {{"w", DType::u8, {kBytes}}}, {},
                    [&](const TensorDeclaration&, const TensorSink& sink) { sink(bytes_of(kBytes, 3).data(), size_t(kBytes)); });
  const Weights weights = Weights::plain(Checkpoint::open(path));
  const Tensor tensor = weights.load("w");
  std::filesystem::resize_file(path, kBytes / 4);
  DeviceMemory memory(engine.context(), kBytes, "weights of a test");
  std::string message;
  try {
    Uploader uploader(engine, true);
    uploader.rows(ChangedWeight{tensor, {}}, memory.address(), DType::u8);
    uploader.finish();
  } catch (const Error& e) {
    message = e.message();
  }
  CHECK(message.find("weights.safetensors") != std::string::npos);
}

/// Also where that is found out by a slot that was being filled while the caller went on: nobody is told then that all is there.
void check_a_short_file_is_told_again(Engine& engine) {
  constexpr int64_t kBytes = UploadRing::kSlotBytes / 2 * 3;
  TemporaryFolder folder;
  const std::string path = (folder / "weights.safetensors").string();
  write_safetensors(path, {{"w", DType::u8, {kBytes}}}, {},
                    [&](const TensorDeclaration&, const TensorSink& sink) { sink(bytes_of(kBytes, 3).data(), size_t(kBytes)); });
  const Weights weights = Weights::plain(Checkpoint::open(path));
  DeviceMemory memory(engine.context(), 4 * kBytes, "weights of a test");
  Uploader uploader(engine, true);
  Tensor tensor = weights.load("w");
  std::filesystem::resize_file(path, kBytes / 2);
  uploader.rows(ChangedWeight{tensor, {}}, memory.address(), DType::u8);
  tensor = {};
  for (int i = 0; i < 2; ++i) CHECK_THROWS_AS(uploader.finish(), Error);
  const ChangedWeight other{bytes_of(kBytes * 2, 4), {}};
  CHECK_THROWS_AS(uploader.rows(other, memory.address() + DevicePtr(kBytes), DType::u8), Error);
  for (int i = 0; i < 6; ++i) CHECK_THROWS_AS(uploader.finish(), Error);
}

/// Weights that are given in many ways, each to a place of its own.
class GivenWeights {
 public:
  /// A launch, in their order.
  struct Reader {
    std::string kernel;
    int64_t bytes;  ///< that lie at its first argument: nobody may overwrite them before it
    int64_t given;  ///< what was copied until then, this too, must be there
  };

  explicit GivenWeights(Engine& engine) : memory_(engine.context(), int64_t(512) << 20, "weights of a test") {}

  const std::vector<Reader>& readers() const { return readers_; }
  int64_t bytes() const { return given_; }

  void filters(Uploader& uploader, int64_t k, int64_t c) {
    const Tensor tensor(DType::bf16, {k, c, 3, 3});
    uploader.filters({tensor, {}}, place(tensor.bytes()), DType::bf16, k, c, 9);
    given_ += tensor.bytes();
    readers_.push_back({"elements__filters_channels_last", tensor.bytes(), given_});
  }
  /// As bf16.
  void rows(Uploader& uploader, DType type, int64_t count, bool changed = false) {
    constexpr int64_t kColumns = 1280, kRank = 16;
    const Tensor tensor(type, {count, kColumns});
    ChangedWeight weight{tensor, {}};
    if (changed)
      weight.products = {
          {.up = Tensor(DType::f16, {count, kRank}), .down = Tensor(DType::f16, {kRank, kColumns}), .begin = 0, .end = count}};
    uploader.rows(weight, place(count * kColumns * 2), DType::bf16);
    given_ += tensor.bytes();
    if (changed)
      for (const Tensor& part : product_table(weight.products)) given_ += part.bytes();
    if (changed) readers_.push_back({"elements__add_products", tensor.bytes(), given_});
    if (type != DType::bf16) readers_.push_back({"elements__cast", tensor.bytes(), given_});
  }
  void many(Uploader& uploader) {
    for (int round = 0; round < 6; ++round) {
      for (int64_t k : {512, 30, 320}) filters(uploader, k, 320 + 64 * round);
      rows(uploader, DType::bf16, 1000 + 100 * round);
      rows(uploader, DType::f16, 700);
      rows(uploader, DType::bf16, 900, true);
      rows(uploader, DType::f32, 300 + 500 * round, true);
      filters(uploader, 3, 64);
    }
  }

 private:
  DevicePtr place(int64_t bytes) {
    const DevicePtr at = memory_.address() + DevicePtr(placed_);
    placed_ += round_up(bytes, kBufferAlignment);
    REQUIRE(placed_ <= memory_.bytes());
    return at;
  }

  DeviceMemory memory_;
  int64_t placed_ = 0, given_ = 0;
  std::vector<Reader> readers_;
};

/// Each kernel once, behind the bytes that it reads, and these stay until it has run. Copies are queued in the order of weights.
void check_order(const DeviceLog& log, const std::vector<GivenWeights::Reader>& readers) {
  using Work = DeviceLog::Work;
  std::vector<Work> copies, kernels;
  for (const Work& work : log.work()) (work.kernel.empty() ? copies : kernels).push_back(work);
  REQUIRE(kernels.size() == readers.size());
  int early = 0, overwritten = 0;
  for (size_t i = 0; i < kernels.size(); ++i) {
    CHECK(kernels[i].kernel == readers[i].kernel);
    int64_t there = 0;
    for (const Work& copy : copies) {
      const bool before = DeviceLog::ends_before(copy, kernels[i]);
      const bool same_place =
          copy.address < kernels[i].address + uint64_t(readers[i].bytes) && kernels[i].address < copy.address + copy.bytes;
      if (before) there += int64_t(copy.bytes);
      overwritten += same_place && !before && !DeviceLog::ends_before(kernels[i], copy);
    }
    early += there < readers[i].given;
  }
  CHECK(early == 0);
  CHECK(overwritten == 0);
}

std::string log_path() { return std::getenv("FAKE_CUDA_LOG"); }

/// `expected` bytes for conversions.
void check_conversions(Engine& engine, bool overlapped, int64_t expected) {
  CAPTURE(overlapped);
  CAPTURE(expected);
  const size_t before = DeviceLog(log_path()).lines();
  GivenWeights weights(engine);
  Uploader uploader(engine, overlapped);
  uploader.expect(expected);
  weights.many(uploader);
  uploader.finish();
  const DeviceLog log(log_path(), before);
  check_order(log, weights.readers());
  // The host waits once for each slot that it fills. Places are aligned in them, which may take one more.
  const bool side_by_side = overlapped && expected >= 2 * UploadRing::kSlotBytes;
  if (side_by_side) CHECK(log.waits_for_events() <= divide_up(weights.bytes(), UploadRing::kSlotBytes) + 1);
}

TEST_CASE("made-up driver: conversions" * doctest::skip()) {
  Cache cache(CacheOptions{.memory_only = true});
  Engine engine(cache, 4, 1);
  for (bool overlapped : {false, true})
    for (int64_t megabytes : {0, 5, 16, 64}) check_conversions(engine, overlapped, megabytes << 20);
}

/// The second launch fails.
TEST_CASE("made-up driver: a failing conversion" * doctest::skip()) {
  Cache cache(CacheOptions{.memory_only = true});
  Engine engine(cache, 4, 1);
  GivenWeights weights(engine);
  Uploader uploader(engine, true);
  uploader.expect(UploadRing::kSlotBytes);
  const size_t before = DeviceLog(log_path()).lines();
  weights.filters(uploader, 64, 64);
  weights.rows(uploader, DType::f16, 300, true);
  weights.rows(uploader, DType::bf16, 300, true);
  CHECK_THROWS_AS(uploader.finish(), Error);
  uploader.finish();
  check_order(DeviceLog(log_path(), before), weights.readers());
}

/// Whoever gives goes on while a slot is filled; it is sent when the next one is gathered, and nothing waits for more after
/// send().
TEST_CASE("made-up driver: slots on their way" * doctest::skip()) {
  constexpr int64_t kSlot = UploadRing::kSlotBytes;
  Cache cache(CacheOptions{.memory_only = true});
  Engine engine(cache, 4, 1);
  for (bool overlapped : {false, true}) {
    DeviceMemory memory(engine.context(), 8 * kSlot, "weights of a test");
    Uploader uploader(engine, overlapped);
    const size_t before = DeviceLog(log_path()).lines();
    DevicePtr to = memory.address();
    int64_t given = 0;
    auto give = [&](int64_t bytes) {
      uploader.rows(ChangedWeight{bytes_of(bytes, 5), {}}, to, DType::u8);
      to += DevicePtr(bytes), given += bytes;
    };
    auto sent = [&] {
      int64_t bytes = 0;
      const DeviceLog log(log_path(), before);
      for (const DeviceLog::Work& work : log.work()) bytes += int64_t(work.bytes);
      return bytes;
    };
    give(kSlot);
    give(1000);  // the first slot is full
    CHECK(sent() == 0);
    give(kSlot);
    CHECK(sent() == kSlot);
    uploader.send();
    CHECK(sent() == given);
    give(3000);
    CHECK(sent() == given - 3000);
    uploader.send();
    CHECK(sent() == given);
    uploader.finish();
  }
}

/// Copies, launches and waits are refused, whoever gives is told, gives that weight again, and goes on.
void check_refused_calls(int64_t expected) {
  Cache cache(CacheOptions{.memory_only = true});
  Engine engine(cache, 4, 1);
  std::vector<Tensor> tensors;
  for (int i = 0; i < 12; ++i) tensors.push_back(bytes_of((int64_t(3 + i % 5) << 20) + i * 333, uint32_t(i)));
  DeviceMemory memory(engine.context(), int64_t(12) << 23, "weights of a test");
  GivenWeights weights(engine);
  Uploader uploader(engine, true);
  uploader.expect(expected);
  const size_t before = DeviceLog(log_path()).lines();
  int told = 0;
  auto insist = [&](const std::function<void()>& call) {
    for (int i = 0; i < 20; ++i) try {
        return call();
      } catch (const Error&) {
        ++told;
      }
    FAIL("still refused");
  };
  for (size_t i = 0; i < tensors.size(); ++i) {
    insist([&] { uploader.rows(ChangedWeight{tensors[i].clone(), {}}, memory.address() + DevicePtr(i << 23), DType::u8); });
    insist([&] { weights.filters(uploader, 300 + 10 * int64_t(i), 320); });
    insist([&] { weights.rows(uploader, DType::f16, 500, i % 2 == 0); });
  }
  insist([&] { uploader.finish(); });
  CHECK(told >= 9);
  for (size_t i = 0; i < tensors.size(); ++i) CHECK(arrived(tensors[i], memory.address() + DevicePtr(i << 23)));
  check_order(DeviceLog(log_path(), before), weights.readers());
}

TEST_CASE("made-up driver: refused calls with large staging" * doctest::skip()) {
  check_refused_calls(2 * UploadRing::kSlotBytes);
}
TEST_CASE("made-up driver: refused calls with small staging" * doctest::skip()) {
  check_refused_calls(UploadRing::kSlotBytes / 2);
}

TEST_CASE("made-up driver: uploads" * doctest::skip()) {
  Cache cache(CacheOptions{.memory_only = true});
  for (int threads : {1, 4}) {
    Engine engine(cache, threads, 1);
    check_bytes_arrive(engine);
    check_a_short_file_is_told(engine);
    check_a_short_file_is_told_again(engine);
  }
}

TEST_CASE("all threads bring weights to their places on the device, and a file that became shorter ends that with an error") {
  run_on_made_up_driver("FAKE_CUDA_VERSION=13000", "made-up driver: uploads");
}

/// Runs a test case that reads the log.
void run_with_log(const std::string& environment, const std::string& test_case) {
  TemporaryFolder folder;
  run_on_made_up_driver(fmt::format("FAKE_CUDA_VERSION=13000 FAKE_CUDA_LOG='{}' {}", (folder / "log").string(), environment),
                        test_case);
}

TEST_CASE("slots are full across conversions, each of which has all its bytes before it runs and keeps them until it has run") {
  run_with_log("", "made-up driver: conversions");
}

TEST_CASE("a conversion that fails is made when the upload is finished once more, and none that was made before it again") {
  run_with_log("FAKE_CUDA_FAIL='cuLaunchKernel=1@2-2'", "made-up driver: a failing conversion");
}

TEST_CASE("weights are gathered while a slot is filled, and all are on their way after send()") {
  run_with_log("", "made-up driver: slots on their way");
}

TEST_CASE("after calls that the driver refused all bytes arrive, and each conversion is made once") {
  for (const char* staging : {"large", "small"})
    run_with_log("FAKE_CUDA_FAIL='cuMemcpyHtoDAsync_v2=1@4-9,cuLaunchKernel=1@5-6,cuEventSynchronize=1@8-10'",
                 fmt::format("made-up driver: refused calls with {} staging", staging));
}

}  // namespace
}  // namespace sinter::cuda
