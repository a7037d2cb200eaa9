#pragma once
#include <doctest/doctest.h>

#include <memory>
#include <vector>

#include "backends/cuda/driver.h"

namespace sinter::cuda {

/// The device that tests run on: cuda:0, opened once for the test program.
struct TestDevice {
  Context context{0};
  Stream stream{context};

  template <class T>
  DeviceMemory upload(const std::vector<T>& values) {
    DeviceMemory memory(context, int64_t(values.size() * sizeof(T)));
    copy_to_device(memory.address(), values.data(), memory.bytes(), stream);
    stream.synchronize();
    return memory;
  }
  template <class T>
  std::vector<T> download(DevicePtr from, size_t count) {
    std::vector<T> values(count);
    copy_to_host(values.data(), from, int64_t(count * sizeof(T)), stream);
    stream.synchronize();
    return values;
  }
};

/// Null without a device, after saying so: the test is skipped by name.
inline TestDevice* test_device() {
  static std::string why;
  static const std::unique_ptr<TestDevice> device = devices(&why).empty() ? nullptr : std::make_unique<TestDevice>();
  if (!device) MESSAGE("skipped: no CUDA device (" << why << ")");
  if (device) device->context.make_current();
  return device.get();
}

/// The test device where it does what `why_not` gives no reason against; null after saying what is missing.
template <class WhyNot>
TestDevice* test_device_that(const WhyNot& why_not) {
  TestDevice* device = test_device();
  if (!device) return nullptr;
  const std::string why = why_not(device->context.device());
  if (!why.empty()) MESSAGE("skipped: " << why);
  return why.empty() ? device : nullptr;
}

/// What rules ask of a device that is not there.
inline DeviceInfo hopper() {
  DeviceInfo device;
  device.name = "a Hopper";
  device.capability_major = 9;
  device.multiprocessors = 132;
  device.cuda_version = 13000;
  return device;
}

/// Checks what is said against a good call on hopper() once `change` has changed the call or the device.
template <class Call>
auto refusals(const Call& good, std::string (*why_not)(const Call&, const DeviceInfo&)) {
  return [=](auto change, std::string_view why) {
    Call call = good;
    DeviceInfo device = hopper();
    change(call, device);
    const std::string said = why_not(call, device);
    CHECK_MESSAGE(said.find(why) != said.npos, said);
  };
}

}  // namespace sinter::cuda
