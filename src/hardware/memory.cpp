#include "hardware/memory.h"

#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace sinter {
namespace {

/// The number behind `key` in a file of "Key:   123 kB" lines, in bytes; 0 where there is none.
int64_t kilobytes(const char* path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  while (file >> word)
    if (word == key) {
      int64_t value = 0;
      file >> value;
      return value * 1024;
    }
  return 0;
}

int64_t number(const char* path, int64_t fallback) {
  std::ifstream file(path);
  int64_t value;
  return file >> value ? value : fallback;
}

}  // namespace

int64_t available_memory_bytes() {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  int64_t available = kilobytes("/proc/meminfo", "MemAvailable:");
  int64_t limit = number("/sys/fs/cgroup/memory.max", kNone);  // "max" is no number: no limit
  if (limit != kNone) available = std::min(available, std::max<int64_t>(0, limit - number("/sys/fs/cgroup/memory.current", 0)));
  return available;
}

int64_t peak_memory_bytes() { return kilobytes("/proc/self/status", "VmHWM:"); }
int64_t resident_memory_bytes() { return kilobytes("/proc/self/status", "VmRSS:"); }

void return_free_memory() { ::malloc_trim(0); }

int64_t program_memory_bytes() {
  return_free_memory();
  return resident_memory_bytes();
}

}  // namespace sinter
