#pragma once
#include <cmath>
#include <random>
#include <vector>

#include "backends/cuda/calls/vendor.h"
#include "backends/cuda/test_device.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

/// A test device with the vendor libraries, a cache in memory and a workspace; null without a device or without `library`, after
/// saying so.
struct TestVendor {
  TestDevice& device;
  Cache cache{CacheOptions{.memory_only = true}};
  Kernels kernels{device.context};
  Vendor vendor{device.context, &cache, {}, &kernels};
  DeviceMemory workspace_memory{device.context, int64_t(512) << 20, "the tests' workspace"};
  Workspace workspace{workspace_memory.address(), workspace_memory.bytes()};

  const Stream& stream() { return device.stream; }
  void run(const BoundCall& call) {
    call.launch(stream());
    stream().synchronize();
  }
};

enum class NeedsLibrary { CublasLt, Cudnn };

inline TestVendor* test_vendor(NeedsLibrary library) {
  TestDevice* device = test_device();
  if (!device) return nullptr;
  static TestVendor vendor{*device};
  bool cublaslt = library == NeedsLibrary::CublasLt;
  if (cublaslt ? vendor.vendor.cublaslt() != nullptr : vendor.vendor.cudnn() != nullptr) return &vendor;
  MESSAGE("skipped: " << (cublaslt ? vendor.vendor.why_no_cublaslt() : vendor.vendor.why_no_cudnn()));
  return nullptr;
}

inline std::mt19937& device_test_bits() {
  static std::mt19937 bits(7);
  return bits;
}

/// Numbers on the device in a type, and what they are after rounding to it.
struct DeviceTensor {
  DType type;
  std::vector<float> values;
  DeviceMemory memory;

  DevicePtr at(int64_t element = 0) const { return memory.address() + DevicePtr(element * byte_size(type)); }
};

inline DeviceTensor upload(TestDevice& device, const std::vector<float>& values, DType type) {
  DeviceTensor tensor{type, std::vector<float>(values.size()), {}};
  std::vector<char> stored(values.size() * size_t(byte_size(type)));
  convert(values.data(), DType::f32, stored.data(), type, int64_t(values.size()));
  convert(stored.data(), type, tensor.values.data(), DType::f32, int64_t(values.size()));
  tensor.memory = device.upload(stored);
  return tensor;
}

inline DeviceTensor random_tensor(TestDevice& device, int64_t count, DType type, float deviation = 1) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = normal(device_test_bits());
  return upload(device, values, type);
}

/// All bits set: NaN in every float type, so that what was not written shows.
inline DeviceTensor poisoned_tensor(TestDevice& device, int64_t count, DType type) {
  DeviceTensor tensor{type, {}, DeviceMemory(device.context, count * byte_size(type))};
  fill_bytes(tensor.memory.address(), 0xff, tensor.memory.bytes(), device.stream);
  device.stream.synchronize();
  return tensor;
}

inline std::vector<float> download(TestDevice& device, const DeviceTensor& tensor) {
  int64_t count = tensor.memory.bytes() / byte_size(tensor.type);
  auto stored = device.download<char>(tensor.memory.address(), size_t(tensor.memory.bytes()));
  std::vector<float> values(static_cast<size_t>(count));
  convert(stored.data(), tensor.type, values.data(), DType::f32, count);
  return values;
}

/// Half the distance of neighbouring numbers of a type, relative to them.
inline double rounding(DType type) {
  switch (type) {
    case DType::bf16:
      return 0x1p-8;
    case DType::f16:
      return 0x1p-11;
    case DType::f8e4m3:
      return 0x1p-4;
    default:
      return 0x1p-24;
  }
}

/// The largest error, once the rounding of the result to its type is allowed for, in units of the largest value that the sum of
/// its terms can have.
struct DeviceErrorMeter {
  DType out;
  double worst = 0;
  void add(double got, double expected, double scale) {
    double error = std::max(0.0, std::abs(got - expected) - 1.01 * rounding(out) * std::abs(expected));
    worst = std::isfinite(got) ? std::max(worst, error / std::max(scale, 1e-30)) : 1e9;
  }
};

}  // namespace sinter::cuda
