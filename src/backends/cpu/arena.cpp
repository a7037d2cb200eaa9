#include "backends/cpu/arena.h"

#include <sys/mman.h>

#include "base/error.h"

namespace sinter::cpu {

Arena::Arena() {
  // Only address space: pages come when they are touched.
  capacity_ = int64_t(1) << 40;
  void* base = MAP_FAILED;
  while (base == MAP_FAILED && capacity_ > (int64_t(1) << 30)) {
    base = mmap(nullptr, size_t(capacity_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) capacity_ /= 2;
  }
  if (base == MAP_FAILED) fail(Code::OutOfMemory, "no address space for the buffers of a run");
  madvise(base, size_t(capacity_), MADV_HUGEPAGE);
  base_ = static_cast<char*>(base);
}

Arena::~Arena() { munmap(base_, size_t(capacity_)); }

void Arena::release() { madvise(base_, size_t(capacity_), MADV_DONTNEED); }

}  // namespace sinter::cpu
