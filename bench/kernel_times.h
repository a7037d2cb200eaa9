#pragma once
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>

#include "backends/cuda/calls/libraries.h"
#include "backends/cuda/driver.h"

// What the device itself says of how long its kernels took: the time between two events holds the gaps too.

namespace sinter {

struct KernelTimes {
  double seconds = 0;  ///< summed over kernels, fills and copies on the device
  int count = 0;
};

/// CUPTI, opened where it is installed. Only one at a time.
class KernelTimer {
 public:
  KernelTimer() {
    library_ = cuda::open_library({.what = "CUPTI",
                                   .sonames = {"libcupti.so.13", "libcupti.so.12"},
                                   .install = "the CUDA toolkit, or pip install nvidia-cuda-cupti",
                                   .problem = {}},
                                  cuda::LibraryPlaces::of_this_process());
    if (!library_.handle) return;
    resolve("cuptiActivityRegisterCallbacks", register_callbacks_);
    resolve("cuptiActivityEnable", enable_);
    resolve("cuptiActivityDisable", disable_);
    resolve("cuptiActivityFlushAll", flush_);
    resolve("cuptiActivityGetNextRecord", next_record());
  }
  /// Why measure() gives nothing, if it does.
  const std::string& why_not() const { return library_.why_none; }

  /// Of everything that `work` runs on the device; it must wait for it.
  template <class Work>
  std::optional<KernelTimes> measure(const Work& work) {
    if (!register_callbacks_ || !enable_ || !disable_ || !flush_ || !next_record()) return std::nullopt;
    if (register_callbacks_(take_buffer, give_buffer) != 0) return std::nullopt;
    for (Kind kind : {Copy, Fill, Kernel})
      if (enable_(kind) != 0) return std::nullopt;
    work();  // the first time starts the tracing
    flush_(1);
    sum() = {};
    work();
    flush_(1);
    for (Kind kind : {Copy, Fill, Kernel}) disable_(kind);
    return sum();
  }

 private:
  // Numbers and places of fields as in cupti_activity.h, unchanged since CUDA 7.
  enum Kind : uint32_t { Copy = 1, Fill = 2, Kernel = 10 };
  static constexpr uint8_t kDeviceToDevice = 8;
  static constexpr size_t kBufferBytes = size_t(8) << 20;
  using Take = void (*)(uint8_t**, size_t*, size_t*);
  using Give = void (*)(void*, uint32_t, uint8_t*, size_t, size_t);
  using NextRecord = int (*)(uint8_t*, size_t, uint8_t**);

  template <class Function>
  void resolve(const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library_.handle, name));
  }
  static KernelTimes& sum() {
    static KernelTimes times;
    return times;
  }
  static NextRecord& next_record() {
    static NextRecord function = nullptr;
    return function;
  }
  static void take_buffer(uint8_t** buffer, size_t* bytes, size_t* most_records) {
    *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
    *bytes = kBufferBytes, *most_records = 0;
  }
  static void give_buffer(void*, uint32_t, uint8_t* buffer, size_t, size_t bytes) {
    uint8_t* record = nullptr;
    while (next_record()(buffer, bytes, &record) == 0) add(record);
    std::free(buffer);
  }
  static void add(const uint8_t* record) {
    uint32_t kind = *reinterpret_cast<const uint32_t*>(record);
    if (kind != Copy && kind != Fill && kind != Kernel) return;
    if (kind == Copy && record[4] != kDeviceToDevice) return;
    const auto* times = reinterpret_cast<const uint64_t*>(record + (kind == Copy ? 8 : 16));
    sum().seconds += double(times[1] - times[0]) * 1e-9;
    ++sum().count;
  }

  cuda::OpenedLibrary library_;
  int (*register_callbacks_)(Take, Give) = nullptr;
  int (*enable_)(uint32_t) = nullptr;
  int (*disable_)(uint32_t) = nullptr;
  int (*flush_)(uint32_t) = nullptr;
};

}  // namespace sinter
