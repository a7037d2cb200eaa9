// A libcuda.so.1 for tests without a GPU: two devices, memory on the host, kernels that do nothing. The environment tells it how
// to fail:
//   FAKE_CUDA_FAIL="cuMemAlloc_v2=2,cuLaunchKernel=700@5"  these calls return these results, the latter from the fifth call on
//                                                          (@5-6: only the fifth and sixth call);
//                                                          after a result that loses the device every call returns that
//   FAKE_CUDA_MEMORY=BYTES                                 of each device; what is taken counts
//   FAKE_CUDA_OTHERS=BYTES@CALL                            others take so much, from the CALL-th call of cuMemAlloc_v2 on
//   FAKE_CUDA_VERSION=11080                                what cuDriverGetVersion says
//   FAKE_CUDA_DELAY=MILLISECONDS                           that cuStreamSynchronize takes
//   FAKE_CUDA_LOG=FILE                                     what streams are given and what is waited for, a line each
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>

namespace {

using Result = int;

std::mutex mutex;
int lost = 0;  // the result that lost the device
std::map<std::string, int> calls;
std::map<uint64_t, size_t> taken;

std::string variable(const char* name) {
  const char* text = std::getenv(name);
  return text ? text : "";
}

size_t number(const char* name, size_t usual) {
  const std::string text = variable(name);
  return text.empty() ? usual : size_t(std::strtoull(text.c_str(), nullptr, 10));
}

bool loses_the_device(Result result) {
  return result == 214 || result == 700 || result == 710 || (result >= 714 && result <= 719) || result == 999;
}

Result told(const char* symbol) {
  std::lock_guard lock(mutex);
  const int call = ++calls[symbol];
  if (lost) return lost;
  const std::string text = "," + variable("FAKE_CUDA_FAIL") + ",", entry = "," + std::string(symbol) + "=";
  const size_t at = text.find(entry);
  if (at == text.npos) return 0;
  char* end = nullptr;
  const int result = int(std::strtol(text.c_str() + at + entry.size(), &end, 10));
  if (*end == '@') {
    if (call < std::strtol(end + 1, &end, 10)) return 0;
    if (*end == '-' && call > std::atoi(end + 1)) return 0;
  }
  if (loses_the_device(result)) lost = result;
  return result;
}

struct FakeDevice {
  const char* name;
  size_t bytes;
  int major, minor;
};
constexpr FakeDevice kDevices[] = {{"Made-up Turing", size_t(8) << 30, 7, 5}, {"Made-up Hopper", size_t(80) << 30, 9, 0}};

int attribute(int which, const FakeDevice& d) {
  switch (which) {
    case 1:
      return 1024;  // threads of a block
    case 16:
      return 4;  // multiprocessors
    case 33:
      return 0x65;  // PCI bus
    case 38:
      return 1 << 20;  // L2
    case 75:
      return d.major;
    case 76:
      return d.minor;
    case 97:
      return 99 << 10;  // shared memory of a block
    case 113:
      return 1;  // registers memory that a process may only read
    default:
      return 0;
  }
}

char something;  // what handles point to, but those of streams, events and kernels, which the log tells apart

void* new_handle() {
  static uintptr_t last = 0;
  std::lock_guard lock(mutex);
  return reinterpret_cast<void*>(++last);
}

/// After the call has succeeded.
template <class... Words>
Result noted(Result result, const char* format, Words... words) {
  static FILE* const log = variable("FAKE_CUDA_LOG").empty() ? nullptr : std::fopen(variable("FAKE_CUDA_LOG").c_str(), "a");
  if (result || !log) return result;
  std::fprintf(log, format, words...);
  std::fflush(log);
  return result;
}

std::map<uint64_t, void*> blocks;
std::map<uintptr_t, uintptr_t> only_read;  // registered host memory that a device may not write: begin and end

bool is_only_read(const void* address) {
  std::lock_guard lock(mutex);
  const auto at = only_read.upper_bound(uintptr_t(address));
  return at != only_read.begin() && std::prev(at)->second > uintptr_t(address);
}

size_t free_bytes() {
  std::lock_guard lock(mutex);
  size_t used = 0;
  for (auto& [address, bytes] : taken) used += bytes;
  const std::string others = variable("FAKE_CUDA_OTHERS");
  if (const size_t at = others.find('@'); at != others.npos && calls["cuMemAlloc_v2"] >= std::atoi(others.c_str() + at + 1))
    used += size_t(std::strtoull(others.c_str(), nullptr, 10));
  const size_t total = number("FAKE_CUDA_MEMORY", kDevices[1].bytes);
  return total > used ? total - used : 0;
}

}  // namespace

extern "C" {

// The signatures are those that the program calls with.
#define SINTER_CUDA_CALL(field, symbol, ...) Result symbol(__VA_ARGS__);
#define SINTER_CUDA_NEWER_CALL(field, symbol, ...)  // an old driver
#include "backends/cuda/driver_calls.list"
#undef SINTER_CUDA_NEWER_CALL
#undef SINTER_CUDA_CALL

Result cuInit(unsigned) { return told("cuInit"); }
Result cuDriverGetVersion(int* version) {
  *version = int(number("FAKE_CUDA_VERSION", 11080));
  return 0;
}
Result cuGetErrorName(Result result, const char** name) {
  *name = result == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : result == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_MADE_UP";
  return 0;
}
Result cuGetErrorString(Result, const char** text) {
  *text = "made-up text";
  return 0;
}
Result cuDeviceGetCount(int* count) {
  *count = int(std::size(kDevices));
  return 0;
}
Result cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return 0;
}
Result cuDeviceGetName(char* name, int length, int device) {
  std::strncpy(name, kDevices[device].name, size_t(length));
  return 0;
}
Result cuDeviceGetUuid(uint8_t* uuid, int device) {
  std::memset(uuid, 0xa0 + device, 16);
  return 0;
}
Result cuDeviceTotalMem_v2(size_t* bytes, int device) {
  *bytes = kDevices[device].bytes;
  return 0;
}
Result cuDeviceGetAttribute(int* value, int which, int device) {
  *value = attribute(which, kDevices[device]);
  return 0;
}
Result cuDevicePrimaryCtxRetain(void** context, int) {
  *context = &something;
  return told("cuDevicePrimaryCtxRetain");
}
Result cuDevicePrimaryCtxRelease_v2(int) { return told("cuDevicePrimaryCtxRelease_v2"); }
Result cuCtxGetCurrent(void** context) {
  *context = &something;
  return 0;
}
Result cuCtxSetCurrent(void*) { return 0; }
Result cuCtxSynchronize() { return told("cuCtxSynchronize"); }
Result cuMemGetInfo_v2(size_t* free, size_t* total) {
  *total = number("FAKE_CUDA_MEMORY", kDevices[1].bytes);
  *free = free_bytes();
  return told("cuMemGetInfo_v2");
}
Result cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  if (Result result = told("cuMemAlloc_v2")) return result;
  if (bytes > free_bytes()) return 2;
  // Zeros, so that networks whose kernels do nothing give numbers; pages that nobody touches cost nothing.
  void* memory = std::calloc(1, bytes + 256);
  *address = (uint64_t(uintptr_t(memory)) + 255) / 256 * 256;
  std::lock_guard lock(mutex);
  taken[*address] = bytes;
  blocks[*address] = memory;
  return 0;
}
Result cuMemFree_v2(uint64_t address) {
  std::lock_guard lock(mutex);
  std::free(blocks[address]);
  blocks.erase(address);
  taken.erase(address);
  return lost;
}
Result cuMemHostAlloc(void** address, size_t bytes, unsigned) {
  if (Result result = told("cuMemHostAlloc")) return result;
  *address = std::calloc(1, bytes);
  return 0;
}
Result cuMemFreeHost(void* address) {
  std::free(address);
  return 0;
}
Result cuMemHostRegister_v2(void* memory, size_t bytes, unsigned flags) {
  constexpr unsigned kReadOnly = 8;
  const Result result = told("cuMemHostRegister_v2");
  std::lock_guard lock(mutex);
  if (!result && flags & kReadOnly) only_read[uintptr_t(memory)] = uintptr_t(memory) + bytes;
  return result;
}
Result cuMemHostUnregister(void* memory) {
  {
    std::lock_guard lock(mutex);
    only_read.erase(uintptr_t(memory));
  }
  return told("cuMemHostUnregister");
}
Result cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
  std::memcpy(reinterpret_cast<void*>(uintptr_t(to)), from, bytes);
  return noted(told("cuMemcpyHtoDAsync_v2"), "copy %p %llu %zu\n", stream, static_cast<unsigned long long>(to), bytes);
}
Result cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void*) {
  if (is_only_read(to)) return 1;
  std::memcpy(to, reinterpret_cast<const void*>(uintptr_t(from)), bytes);
  return told("cuMemcpyDtoHAsync_v2");
}
Result cuMemcpyDtoDAsync_v2(uint64_t, uint64_t, size_t, void*) { return told("cuMemcpyDtoDAsync_v2"); }
Result cuMemsetD8Async(uint64_t, unsigned char, size_t, void*) { return told("cuMemsetD8Async"); }
Result cuMemsetD32Async(uint64_t, unsigned, size_t, void*) { return told("cuMemsetD32Async"); }
Result cuStreamCreate(void** stream, unsigned) {
  *stream = new_handle();
  return told("cuStreamCreate");
}
Result cuStreamDestroy_v2(void*) { return told("cuStreamDestroy_v2"); }
Result cuStreamSynchronize(void* stream) {
  std::this_thread::sleep_for(std::chrono::milliseconds(number("FAKE_CUDA_DELAY", 0)));
  return noted(told("cuStreamSynchronize"), "synchronize-stream %p\n", stream);
}
Result cuStreamQuery(void*) { return told("cuStreamQuery"); }
Result cuStreamWaitEvent(void* stream, void* event, unsigned) {
  return noted(told("cuStreamWaitEvent"), "wait %p %p\n", stream, event);
}
Result cuStreamBeginCapture_v2(void*, int) { return told("cuStreamBeginCapture_v2"); }
Result cuStreamEndCapture(void*, void** graph) {
  *graph = &something;
  return told("cuStreamEndCapture");
}
Result cuEventCreate(void** event, unsigned) {
  *event = new_handle();
  return told("cuEventCreate");
}
Result cuEventDestroy_v2(void*) { return told("cuEventDestroy_v2"); }
Result cuEventRecord(void* event, void* stream) { return noted(told("cuEventRecord"), "record %p %p\n", stream, event); }
Result cuEventQuery(void*) { return told("cuEventQuery"); }
Result cuEventSynchronize(void* event) { return noted(told("cuEventSynchronize"), "synchronize-event %p\n", event); }
Result cuEventElapsedTime(float* milliseconds, void*, void*) {
  *milliseconds = 1;
  return told("cuEventElapsedTime");
}
Result cuLinkCreate_v2(unsigned count, int* options, void** values, void** state) {
  constexpr int kErrorLog = 5;
  for (unsigned i = 0; i < count; ++i)
    if (options[i] == kErrorLog) std::strcpy(static_cast<char*>(values[i]), "made-up log, line 7\n");
  *state = &something;
  return told("cuLinkCreate_v2");
}
Result cuLinkAddData_v2(void*, int, void*, size_t, const char*, unsigned, int*, void**) { return told("cuLinkAddData_v2"); }
Result cuLinkComplete(void*, void** cubin, size_t* bytes) {
  static unsigned char image[64] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
  image[18] = 190;  // the machine
  *cubin = image;
  *bytes = sizeof image;
  return told("cuLinkComplete");
}
Result cuLinkDestroy(void*) { return told("cuLinkDestroy"); }
Result cuModuleLoadData(void** module, const void*) {
  *module = &something;
  return told("cuModuleLoadData");
}
Result cuModuleUnload(void*) { return told("cuModuleUnload"); }
Result cuLibraryLoadData(void** library, const void*, int*, void**, unsigned, int*, void**, unsigned) {
  *library = &something;
  return told("cuLibraryLoadData");
}
Result cuLibraryUnload(void*) { return told("cuLibraryUnload"); }
Result cuLibraryGetModule(void** module, void*) {
  *module = &something;
  return told("cuLibraryGetModule");
}
Result cuModuleGetFunction(void** function, void*, const char* name) {
  static std::set<std::string> names;
  {
    std::lock_guard lock(mutex);
    *function = const_cast<char*>(names.insert(name).first->c_str());
  }
  return told("cuModuleGetFunction");
}
Result cuFuncGetAttribute(int* value, int, void*) {
  *value = 0;
  return told("cuFuncGetAttribute");
}
Result cuFuncSetAttribute(void*, int, int) { return told("cuFuncSetAttribute"); }
Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int, size_t) {
  *blocks = 1;
  return told("cuOccupancyMaxActiveBlocksPerMultiprocessor");
}
/// The log says a kernel's first argument where that is an address, as in all of `elements`.
Result cuLaunchKernel(void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void* stream,
                      void** arguments, void**) {
  const std::string name = function ? static_cast<const char*>(function) : "none";
  unsigned long long first = 0;
  if (name.starts_with("elements__")) std::memcpy(&first, arguments[0], sizeof first);
  return noted(told("cuLaunchKernel"), "launch %p %s %llu\n", stream, name.c_str(), first);
}
/// Whether it is an array that the real one describes to the copying unit.
static bool can_be_copied(unsigned rank, uint64_t address, const uint64_t* sizes, const uint64_t* strides,
                          const unsigned* steps) {
  bool right = address % 16 == 0 && address != 0;
  for (unsigned i = 0; i < rank && right; ++i)
    right = sizes[i] > 0 && sizes[i] <= uint64_t(1) << 32 && steps[i] >= 1 && steps[i] <= 8;
  for (unsigned i = 0; i + 1 < rank && right; ++i)
    right = strides[i] % 16 == 0 && strides[i] < uint64_t(1) << 40 && (i == 0 || strides[i] % strides[i - 1] == 0);
  return right;
}
/// What the real one refuses, it refuses too.
Result cuTensorMapEncodeTiled(void*, int, unsigned rank, uint64_t address, const uint64_t* sizes, const uint64_t* strides,
                              const unsigned* box, const unsigned* steps, int, int, int, int) {
  bool right = rank >= 1 && rank <= 5 && can_be_copied(rank, address, sizes, strides, steps);
  for (unsigned i = 0; i < rank && right; ++i) right = box[i] >= 1 && box[i] <= 256;
  return right ? told("cuTensorMapEncodeTiled") : 1;
}
Result cuTensorMapEncodeIm2col(void*, int, unsigned rank, uint64_t address, const uint64_t* sizes, const uint64_t* strides,
                               const int* lower, const int* upper, unsigned channels, unsigned pixels, const unsigned* steps, int,
                               int, int, int) {
  bool right = rank == 4 && channels >= 1 && channels <= 64 && pixels >= 1 && pixels <= 1024 &&
               can_be_copied(rank, address, sizes, strides, steps);
  for (unsigned i = 0; i + 2 < rank && right; ++i)
    right = lower[i] >= -128 && lower[i] <= 127 && upper[i] >= -128 && upper[i] <= 127 &&
            lower[i] <= int64_t(sizes[i + 1]) - 1 + upper[i];
  return right ? told("cuTensorMapEncodeIm2col") : 1;
}
Result cuGraphGetNodes(void*, void**, size_t* count) {
  *count = 3;
  return told("cuGraphGetNodes");
}
Result cuGraphInstantiateWithFlags(void** executable, void*, unsigned long long) {
  *executable = &something;
  return told("cuGraphInstantiateWithFlags");
}
Result cuGraphUpload(void*, void*) { return told("cuGraphUpload"); }
Result cuGraphLaunch(void*, void*) { return told("cuGraphLaunch"); }
Result cuGraphDestroy(void*) { return told("cuGraphDestroy"); }
Result cuGraphExecDestroy(void*) { return told("cuGraphExecDestroy"); }

}  // extern "C"
