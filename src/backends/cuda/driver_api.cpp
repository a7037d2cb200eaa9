#include "backends/cuda/driver_api.h"

#include <dlfcn.h>

#include <initializer_list>

namespace sinter::cuda {
namespace {

/// The driver as it was found when somebody first asked; a process asks once, since a failed cuInit stays failed.
struct FoundDriver {
  DriverCalls calls;
  bool usable = false;
  std::string why_none;
};

/// Windows' subsystem for Linux keeps its libcuda outside the loader's path.
constexpr const char* kNames[] = {"libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"};

std::string reason_of_failed_init(Result result) {
  switch (result) {
    case Result::NoDevice:
      return "the NVIDIA driver finds no device (or CUDA_VISIBLE_DEVICES hides them all)";
    case Result::StubLibrary:
      return "the libcuda.so.1 that was found is the toolkit's stub for linking, not the driver; remove its folder from "
             "LD_LIBRARY_PATH";
    case Result::SystemDriverMismatch:
      return "libcuda.so.1 and the NVIDIA kernel module have different versions; restart the machine after a driver update";
    case Result::SystemNotReady:
      return "the NVIDIA driver is not ready (is the fabric manager running?)";
    case Result::Unknown:
      return "the NVIDIA driver cannot be initialised (is its kernel module loaded? try nvidia-smi)";
    default:
      return "the NVIDIA driver cannot be initialised";
  }
}

FoundDriver open_driver() {
  FoundDriver found;
  void* library = nullptr;
  for (const char* name : kNames)
    if (!library) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    found.why_none = "there is no NVIDIA driver: libcuda.so.1 was not found";
    return found;
  }
  // Suffixed names are the ABI that these signatures describe; a driver keeps every one that it ever had.
#define SINTER_CUDA_CALL(field, symbol, ...)                                              \
  found.calls.field = reinterpret_cast<Result (*)(__VA_ARGS__)>(dlsym(library, #symbol)); \
  if (!found.calls.field && found.why_none.empty())                                       \
    found.why_none = "the NVIDIA driver is too old: it has no " #symbol "; install version 470 or newer";
#define SINTER_CUDA_NEWER_CALL(field, symbol, ...) \
  found.calls.field = reinterpret_cast<Result (*)(__VA_ARGS__)>(dlsym(library, #symbol));
#include "backends/cuda/driver_calls.list"
#undef SINTER_CUDA_NEWER_CALL
#undef SINTER_CUDA_CALL
  if (!found.why_none.empty()) return found;
  if (Result result = found.calls.init(0); result != Result::Success) {
    const char* name = nullptr;
    found.calls.error_name(result, &name);
    found.why_none = fmt::format("{} ({} from cuInit)", reason_of_failed_init(result), name ? name : "unknown error");
    return found;
  }
  found.usable = true;
  return found;
}

const FoundDriver& found_driver() {
  static const FoundDriver found = open_driver();
  return found;
}

bool is_one_of(Result result, std::initializer_list<Result> list) {
  for (Result r : list)
    if (r == result) return true;
  return false;
}

/// After these the context answers every call with the same error.
bool is_fault_of_a_kernel(Result result) {
  return is_one_of(result,
                   {Result::IllegalAddress, Result::Assert, Result::HardwareStackError, Result::IllegalInstruction,
                    Result::MisalignedAddress, Result::InvalidAddressSpace, Result::InvalidProgramCounter, Result::LaunchFailed});
}

bool is_lost_device(Result result) {
  return is_one_of(result, {Result::UncorrectableMemory, Result::Contained, Result::DeviceUnavailable, Result::Unknown});
}

}  // namespace

const DriverCalls* find_driver(std::string* why_none) {
  const FoundDriver& found = found_driver();
  if (!found.usable && why_none) *why_none = found.why_none;
  return found.usable ? &found.calls : nullptr;
}

const DriverCalls& driver() {
  const FoundDriver& found = found_driver();
  if (!found.usable) fail(Code::Unsupported, "CUDA cannot be used: {}", found.why_none);
  return found.calls;
}

std::string result_text(Result result) {
  const char *name = nullptr, *text = nullptr;
  if (const DriverCalls* calls = find_driver()) {
    calls->error_name(result, &name);
    calls->error_string(result, &text);
  }
  if (!name) return fmt::format("CUDA error {}", int(result));
  return fmt::format("{} ({})", name, text ? text : "no text");
}

void fail_call(Result result, const std::string& attempted) {
  const std::string text = fmt::format("{}: {}", attempted, result_text(result));
  if (result == Result::OutOfMemory) fail_out_of_memory(attempted, 0);
  // Errors of kernels are reported by whatever call comes next, so the attempted one need not be to blame.
  if (is_fault_of_a_kernel(result))
    fail(Code::Internal,
         "{}\n  A kernel that ran before this call failed on the device; nothing more can be run there in this process. Start "
         "the program again, and please report this.",
         text);
  if (result == Result::LaunchTimeout)
    fail(Code::Internal, "{}\n  The system's watchdog ended a kernel. A GPU that drives a display allows a few seconds.", text);
  if (is_lost_device(result))
    fail(Code::Io,
         "{}\n  The device is lost to this process: look at the kernel's log (dmesg, lines with Xid) and nvidia-smi, then start "
         "the program again.",
         text);
  if (result == Result::InvalidImage) throw Error(Code::Corrupt, text);
  if (result == Result::NoBinaryForDevice)
    fail(Code::Unsupported, "{}\n  The code was compiled for another kind of device than this one.", text);
  throw Error(Code::Internal, text);
}

void fail_out_of_memory(const std::string& what, size_t bytes) {
  size_t free = 0, total = 0;
  constexpr double kMiB = 1 << 20;
  const std::string asked =
      bytes == 0 ? std::string("an unknown amount") : fmt::format("{} bytes ({:.1f} MiB)", bytes, double(bytes) / kMiB);
  if (driver().memory_info(&free, &total) != Result::Success)
    fail(Code::OutOfMemory, "{}: {} of device memory is not free", what, asked);
  fail(Code::OutOfMemory, "{}: asked for {} of device memory, but only {} ({:.1f} MiB) of {} are free", what, asked, free,
       double(free) / kMiB, total);
}

void throw_if_device_is_to_blame(const std::string& attempted) {
  const DriverCalls* calls = find_driver();
  size_t free = 0, total = 0;
  if (!calls) return;
  Result result = calls->memory_info(&free, &total);
  if (is_fault_of_a_kernel(result) || is_lost_device(result)) fail_call(result, attempted);
  // What a library loads at its first call is some tens of megabytes.
  constexpr size_t kLittle = size_t(64) << 20;
  if (result == Result::Success && free < kLittle) fail_out_of_memory(attempted, 0);
}

}  // namespace sinter::cuda
