#include "hardware/memory.h"

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <cstring>

using namespace sinter;

TEST_CASE("memory that is taken shows in what is held and in the peak, and the peak stays when it is given back") {
  constexpr int64_t kBytes = 64 << 20, kSlack = 8 << 20;
  int64_t before = resident_memory_bytes();
  void* block = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(block != MAP_FAILED);
  std::memset(block, 1, kBytes);
  int64_t held = resident_memory_bytes(), peak = peak_memory_bytes();
  ::munmap(block, kBytes);
  CHECK(held - before > kBytes - kSlack);
  CHECK(held - before < kBytes + kSlack);
  CHECK(peak >= held - kSlack);
  CHECK(resident_memory_bytes() < held - kBytes + kSlack);
  CHECK(peak_memory_bytes() >= peak - kSlack);  // the kernel counts in batches
}

TEST_CASE("some memory is available, and less than a machine can have") {
  CHECK(available_memory_bytes() > 1 << 20);
  CHECK(available_memory_bytes() < int64_t(1) << 48);
}
