// A libcuda.so.1 for tests without a GPU: two devices, memory on the host, kernels that do nothing. It fails as it is told to:
// FAKE_CUDA_FAIL="cuMemAlloc_v2=2,cuLaunchKernel=700" makes these calls return these results.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

using Result = int;

Result told(const char* symbol) {
  const char* list = std::getenv("FAKE_CUDA_FAIL");
  const std::string text = "," + std::string(list ? list : "") + ",", entry = "," + std::string(symbol) + "=";
  const size_t at = text.find(entry);
  return at == text.npos ? 0 : std::atoi(text.c_str() + at + entry.size());
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
    default:
      return 0;
  }
}

char something;  // what handles point to

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
  *version = 11040;
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
Result cuDevicePrimaryCtxRelease_v2(int) { return 0; }
Result cuCtxGetCurrent(void** context) {
  *context = &something;
  return 0;
}
Result cuCtxSetCurrent(void*) { return 0; }
Result cuCtxSynchronize() { return told("cuCtxSynchronize"); }
Result cuMemGetInfo_v2(size_t* free, size_t* total) {
  *free = 12345;
  *total = 99999;
  return 0;
}
Result cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  *address = uint64_t(uintptr_t(std::aligned_alloc(256, (bytes + 255) / 256 * 256)));
  return told("cuMemAlloc_v2");
}
Result cuMemFree_v2(uint64_t address) {
  std::free(reinterpret_cast<void*>(uintptr_t(address)));
  return 0;
}
Result cuMemHostAlloc(void** address, size_t bytes, unsigned) {
  *address = std::malloc(bytes);
  return told("cuMemHostAlloc");
}
Result cuMemFreeHost(void* address) {
  std::free(address);
  return 0;
}
Result cuMemHostRegister_v2(void*, size_t, unsigned) { return told("cuMemHostRegister_v2"); }
Result cuMemHostUnregister(void*) { return 0; }
Result cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void*) {
  std::memcpy(reinterpret_cast<void*>(uintptr_t(to)), from, bytes);
  return told("cuMemcpyHtoDAsync_v2");
}
Result cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void*) {
  std::memcpy(to, reinterpret_cast<const void*>(uintptr_t(from)), bytes);
  return told("cuMemcpyDtoHAsync_v2");
}
Result cuMemcpyDtoDAsync_v2(uint64_t, uint64_t, size_t, void*) { return 0; }
Result cuMemsetD8Async(uint64_t, unsigned char, size_t, void*) { return 0; }
Result cuMemsetD32Async(uint64_t, unsigned, size_t, void*) { return 0; }
Result cuStreamCreate(void** stream, unsigned) {
  *stream = &something;
  return 0;
}
Result cuStreamDestroy_v2(void*) { return 0; }
Result cuStreamSynchronize(void*) { return told("cuStreamSynchronize"); }
Result cuStreamQuery(void*) { return told("cuStreamQuery"); }
Result cuStreamWaitEvent(void*, void*, unsigned) { return 0; }
Result cuStreamBeginCapture_v2(void*, int) { return 0; }
Result cuStreamEndCapture(void*, void** graph) {
  *graph = &something;
  return told("cuStreamEndCapture");
}
Result cuEventCreate(void** event, unsigned) {
  *event = &something;
  return 0;
}
Result cuEventDestroy_v2(void*) { return 0; }
Result cuEventRecord(void*, void*) { return 0; }
Result cuEventQuery(void*) { return told("cuEventQuery"); }
Result cuEventSynchronize(void*) { return 0; }
Result cuEventElapsedTime(float* milliseconds, void*, void*) {
  *milliseconds = 1;
  return 0;
}
Result cuLinkCreate_v2(unsigned count, int* options, void** values, void** state) {
  constexpr int kErrorLog = 5;
  for (unsigned i = 0; i < count; ++i)
    if (options[i] == kErrorLog) std::strcpy(static_cast<char*>(values[i]), "made-up log, line 7\n");
  *state = &something;
  return 0;
}
Result cuLinkAddData_v2(void*, int, void*, size_t, const char*, unsigned, int*, void**) { return told("cuLinkAddData_v2"); }
Result cuLinkComplete(void*, void** cubin, size_t* bytes) {
  static char image[] =
      "\x7f"
      "ELF made up";
  *cubin = image;
  *bytes = sizeof image;
  return told("cuLinkComplete");
}
Result cuLinkDestroy(void*) { return 0; }
Result cuModuleLoadData(void** module, const void*) {
  *module = &something;
  return told("cuModuleLoadData");
}
Result cuModuleUnload(void*) { return 0; }
Result cuModuleGetFunction(void** function, void*, const char*) {
  *function = &something;
  return told("cuModuleGetFunction");
}
Result cuFuncGetAttribute(int* value, int, void*) {
  *value = 0;
  return 0;
}
Result cuFuncSetAttribute(void*, int, int) { return 0; }
Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int, size_t) {
  *blocks = 1;
  return 0;
}
Result cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**) {
  return told("cuLaunchKernel");
}
Result cuGraphGetNodes(void*, void**, size_t* count) {
  *count = 3;
  return 0;
}
Result cuGraphInstantiateWithFlags(void** executable, void*, unsigned long long) {
  *executable = &something;
  return told("cuGraphInstantiateWithFlags");
}
Result cuGraphUpload(void*, void*) { return 0; }
Result cuGraphLaunch(void*, void*) { return told("cuGraphLaunch"); }
Result cuGraphDestroy(void*) { return 0; }
Result cuGraphExecDestroy(void*) { return 0; }

}  // extern "C"
