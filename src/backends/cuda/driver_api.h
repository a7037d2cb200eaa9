#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/error.h"

namespace sinter::cuda {

/// What driver calls return: CUresult. Only the results that we treat differently have names here.
enum class Result : int {
  Success = 0,
  OutOfMemory = 2,
  StubLibrary = 34,
  DeviceUnavailable = 46,
  NoDevice = 100,
  InvalidImage = 200,
  NoBinaryForDevice = 209,
  UncorrectableMemory = 214,
  InvalidPtx = 218,
  JitCompilerNotFound = 221,
  UnsupportedPtxVersion = 222,
  Contained = 226,
  NotFound = 500,
  NotReady = 600,
  IllegalAddress = 700,
  LaunchTimeout = 702,
  Assert = 710,
  HostMemoryAlreadyRegistered = 712,
  HardwareStackError = 714,
  IllegalInstruction = 715,
  MisalignedAddress = 716,
  InvalidAddressSpace = 717,
  InvalidProgramCounter = 718,
  LaunchFailed = 719,
  SystemNotReady = 802,
  SystemDriverMismatch = 803,
  InvalidClusterSize = 912,
  Unknown = 999,
};

/// CUlaunchAttribute and CUlaunchConfig.
struct LaunchAttribute {
  int id = 0;
  int unused = 0;
  union {
    int number;
    char bytes[64];
  } value = {};
};
struct LaunchConfig {
  unsigned grid_x = 1, grid_y = 1, grid_z = 1, block_x = 1, block_y = 1, block_z = 1, shared_bytes = 0;
  void* stream = nullptr;
  LaunchAttribute* attributes = nullptr;
  unsigned attribute_count = 0;
};

/// The entry points of libcuda that we use, by the field names of driver_calls.list. Pointers to what only the driver knows
/// (contexts, streams, events, modules, functions, graphs) are void*. Calls that only newer drivers have are null elsewhere.
struct DriverCalls {
#define SINTER_CUDA_CALL(field, symbol, ...) Result (*field)(__VA_ARGS__) = nullptr;
#define SINTER_CUDA_NEWER_CALL SINTER_CUDA_CALL
#include "backends/cuda/driver_calls.list"
#undef SINTER_CUDA_NEWER_CALL
#undef SINTER_CUDA_CALL
};

/// libcuda, opened and initialised once for the process; null without one, with the reason in `why_none` if given.
const DriverCalls* find_driver(std::string* why_none = nullptr);
/// The same where a device is there already; Code::Unsupported with the reason otherwise.
const DriverCalls& driver();

/// "CUDA_ERROR_INVALID_VALUE (invalid argument)".
std::string result_text(Result result);
/// Throws the Error for a failed call: what was attempted, the driver's name and text, and what to do where that is known.
[[noreturn]] void fail_call(Result result, const std::string& attempted);
/// Code::OutOfMemory with the bytes asked for (0: not known) and those free.
[[noreturn]] void fail_out_of_memory(const std::string& what, size_t bytes);
/// For libraries that run on the driver, and say little about why they fail: the Error of a device that is lost or has no memory
/// left, if that is the reason.
void throw_if_device_is_to_blame(const std::string& attempted);

/// Checks a driver call; the message says what was attempted, formatted only on failure.
template <class... Args>
void check(Result result, fmt::format_string<Args...> attempted, Args&&... args) {
  if (result != Result::Success) [[unlikely]]
    fail_call(result, fmt::format(attempted, std::forward<Args>(args)...));
}

}  // namespace sinter::cuda
