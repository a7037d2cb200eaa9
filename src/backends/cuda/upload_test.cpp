// How weights reach a device, against the made-up driver of tests/fake_cuda, whose copies are done at once: a process of its own,
// since a process opens the driver once.
#include "backends/cuda/upload.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/error.h"
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
      uploader.rows(ChangedWeight{tensors[i], {}}, memory.address() + DevicePtr(places[i]), DType::u8);
    uploader.finish();
    bool right = true;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const auto* there = reinterpret_cast<const std::byte*>(memory.address()) + places[i];
      right = right && std::equal(there, there + tensors[i].bytes(), tensors[i].data());
    }
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

TEST_CASE("made-up driver: uploads" * doctest::skip()) {
  Cache cache(CacheOptions{.memory_only = true});
  for (int threads : {1, 4}) {
    Engine engine(cache, threads, 1);
    check_bytes_arrive(engine);
    check_a_short_file_is_told(engine);
  }
}

TEST_CASE("all threads bring weights to their places on the device, and a file that became shorter ends that with an error") {
  run_on_made_up_driver("FAKE_CUDA_VERSION=13000", "made-up driver: uploads");
}

}  // namespace
}  // namespace sinter::cuda
