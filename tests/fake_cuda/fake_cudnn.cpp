// A libcudnn.so.9 that only counts: every description is accepted, and every question is answered with one engine, of which it
// says nothing. The environment tells it:
//   FAKE_CUDNN_DELAY=MILLISECONDS  that a question takes
//   FAKE_CUDNN_FAIL=1              nothing can be described, nor a handle be made
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "backends/cuda/calls/cudnn_numbers.h"

namespace {

using namespace sinter::cuda;

constexpr int kFails = 1008, kNotSupported = 3000;
std::atomic<int> questions = 0, answers = 0, handles_made = 0, handles_gone = 0;

bool fails() { return std::getenv("FAKE_CUDNN_FAIL") != nullptr; }

}  // namespace

extern "C" {
// For tests, who look them up by name.
int made_up_cudnn_questions() { return questions; }
int made_up_cudnn_answers() { return answers; }
int made_up_cudnn_handles_made() { return handles_made; }
int made_up_cudnn_handles_gone() { return handles_gone; }

size_t cudnnGetVersion() { return 91900; }
size_t cudnnGetCudartVersion() { return 13000; }
const char* cudnnGetErrorString(int) { return "a made-up status"; }
void cudnnGetLastErrorString(char* text, size_t size) {
  if (size) *text = 0;
}

int cudnnCreate(void** handle) {
  if (fails()) return kFails;
  ++handles_made;
  *handle = new char;
  return 0;
}
int cudnnDestroy(void* handle) {
  ++handles_gone;
  delete static_cast<char*>(handle);
  return 0;
}
int cudnnSetStream(void*, void*) { return 0; }

/// A descriptor is its kind.
int cudnnBackendCreateDescriptor(int kind, void** descriptor) {
  if (fails()) return kFails;
  *descriptor = new int(kind);
  return 0;
}
int cudnnBackendDestroyDescriptor(void* descriptor) {
  delete static_cast<int*>(descriptor);
  return 0;
}
int cudnnBackendSetAttribute(void*, int, int, int64_t, const void*) { return 0; }
int cudnnBackendGetAttribute(void*, int attribute, int, int64_t, int64_t* count, void*) {
  if (attribute != attribute::kHeuristicResults && attribute != attribute::kConfigEngine) return kNotSupported;
  *count = 1;
  return 0;
}
int cudnnBackendFinalize(void* descriptor) {
  if (*static_cast<int*>(descriptor) != kind::kHeuristics) return 0;
  ++questions;
  if (const char* delay = std::getenv("FAKE_CUDNN_DELAY"))
    std::this_thread::sleep_for(std::chrono::milliseconds(std::atoi(delay)));
  ++answers;
  return 0;
}
int cudnnBackendExecute(void*, void*, void*) { return kNotSupported; }
}
