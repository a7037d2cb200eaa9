#pragma once
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "backends/cuda/kernels/emulation.h"
#include "backends/cuda/kernels/kernels.h"
#include "backends/cuda/test_device.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

/// Memory and kernels of what a test runs on: the emulation, where addresses are the host's, or a device.
class TestTarget : public KernelTarget {
 public:
  virtual bool emulated() const = 0;
  virtual DevicePtr upload_bytes(const void* data, int64_t bytes) = 0;
  virtual void download_bytes(void* to, DevicePtr from, int64_t bytes) = 0;

  template <class T>
  DevicePtr upload(const std::vector<T>& values) {
    return upload_bytes(values.data(), int64_t(values.size() * sizeof(T)));
  }
  template <class T>
  std::vector<T> download(DevicePtr from, size_t count) {
    std::vector<T> values(count);
    download_bytes(values.data(), from, int64_t(count * sizeof(T)));
    return values;
  }
  /// Bytes of 0xff: NaN in every type.
  DevicePtr untouched(int64_t bytes) { return upload(std::vector<uint8_t>(size_t(bytes), 0xff)); }
};

class EmulatedTarget : public TestTarget {
 public:
  bool emulated() const override { return true; }
  int multiprocessors() const override { return 3; }
  void launch(std::string_view kernel, const LaunchShape& shape, std::span<void* const> arguments) override {
    device::emulated_launch(kernel, shape, arguments);
  }
  DevicePtr upload_bytes(const void* data, int64_t bytes) override {
    // Not a byte more than asked for, so that a sanitizer sees what lies outside.
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, size_t(std::max<int64_t>(bytes, 1)))) throw std::bad_alloc();
    held_.emplace_back(memory, &std::free);
    if (bytes) std::memcpy(memory, data, size_t(bytes));
    return DevicePtr(uintptr_t(memory));
  }
  void download_bytes(void* to, DevicePtr from, int64_t bytes) override {
    std::memcpy(to, reinterpret_cast<const void*>(uintptr_t(from)), size_t(bytes));
  }

 private:
  std::vector<std::unique_ptr<void, void (*)(void*)>> held_;
};

class DeviceTarget : public TestTarget {
 public:
  explicit DeviceTarget(TestDevice& device) : device_(device), stream_(kernels_of(device), device.stream) {}
  Kernels& kernels() { return kernels_of(device_); }
  const Function& function(std::string_view kernel) { return kernels().function(kernel); }
  bool emulated() const override { return false; }
  int multiprocessors() const override { return stream_.multiprocessors(); }
  void launch(std::string_view kernel, const LaunchShape& shape, std::span<void* const> arguments) override {
    stream_.launch(kernel, shape, arguments);
  }
  DevicePtr upload_bytes(const void* data, int64_t bytes) override {
    held_.emplace_back(device_.context, bytes);
    copy_to_device(held_.back().address(), data, bytes, device_.stream);
    device_.stream.synchronize();
    return held_.back().address();
  }
  void download_bytes(void* to, DevicePtr from, int64_t bytes) override {
    copy_to_host(to, from, bytes, device_.stream);
    device_.stream.synchronize();
  }

 private:
  static Kernels& kernels_of(TestDevice& device) {
    static Kernels all(device.context);
    return all;
  }
  TestDevice& device_;
  KernelStream stream_;
  std::vector<DeviceMemory> held_;
};

/// Runs the body on the emulation, and on a device where there is one; large cases only there.
inline void on_each_target(const std::function<void(TestTarget&)>& body) {
  SUBCASE("emulated") {
    EmulatedTarget target;
    body(target);
  }
  SUBCASE("on the device") {
    if (TestDevice* device = test_device()) {
      DeviceTarget target(*device);
      body(target);
    }
  }
}

/// Values as a type's bits, and back.
inline std::vector<uint8_t> encode(const std::vector<float>& values, DType type) {
  std::vector<uint8_t> bytes(values.size() * size_t(byte_size(type)));
  convert(values.data(), DType::f32, bytes.data(), type, int64_t(values.size()));
  return bytes;
}
inline std::vector<float> decode(const std::vector<uint8_t>& bytes, DType type) {
  std::vector<float> values(bytes.size() / size_t(byte_size(type)));
  convert(bytes.data(), type, values.data(), DType::f32, int64_t(values.size()));
  return values;
}
/// As they are after a round trip through the type.
inline std::vector<float> rounded(const std::vector<float>& values, DType type) { return decode(encode(values, type), type); }

inline std::vector<float> random_values(size_t count, uint32_t seed, float spread = 1, float mean = 0) {
  std::vector<float> values(count);
  uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
  for (float& v : values) {
    float sum = 0;  // of four uniform numbers: nearly normal
    for (int i = 0; i < 4; ++i) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      sum += float(state >> 40) / float(1 << 24) - 0.5f;
    }
    v = mean + spread * sum * 1.7320508f;
  }
  return values;
}

}  // namespace sinter::cuda
