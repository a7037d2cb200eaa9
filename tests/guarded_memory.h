#pragma once
// Memory for tests in which touching a byte too many is a fault.

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <memory>
#include <vector>

#include "row_kernel_cases.h"

namespace sinter::row_kernel_cases {

/// Bytes between two pages that may not be touched, hard against one of them: an element read or written too far is a fault.
class Guarded {
 public:
  Guarded(const std::vector<char>& bytes, bool at_end) : count_(bytes.size()) {
    constexpr size_t kPage = 4096;
    inside_ = (count_ / kPage + 1) * kPage;
    mapping_ = static_cast<char*>(mmap(nullptr, inside_ + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(mprotect(mapping_ + kPage, inside_, PROT_READ | PROT_WRITE) == 0);
    bytes_ = mapping_ + kPage + (at_end ? inside_ - count_ : 0);
    if (count_ > 0) std::memcpy(bytes_, bytes.data(), count_);
  }
  ~Guarded() { munmap(mapping_, inside_ + 2 * 4096); }
  Guarded(const Guarded&) = delete;
  char* bytes() { return bytes_; }
  std::vector<char> copy() const { return {bytes_, bytes_ + count_}; }

 private:
  size_t count_, inside_;
  char *mapping_, *bytes_;
};

/// Calls `call` with the addresses of the operands of `c` in guarded memory, and copies back what it did.
template <class Call>
void run_guarded(Case& c, bool at_end, Call&& call) {
  std::vector<std::unique_ptr<Guarded>> guarded;
  for (const Memory& m : c.memory) guarded.push_back(std::make_unique<Guarded>(m.bytes, at_end));
  std::vector<char*> operands;
  for (size_t i = 0; i < c.memory.size(); ++i) {
    size_t home = c.shares[i] >= 0 ? size_t(c.shares[i]) : i;
    operands.push_back(guarded[home]->bytes() + c.memory[home].zero);
  }
  call(operands);
  for (size_t i = 0; i < c.memory.size(); ++i) c.memory[i].bytes = guarded[i]->copy();
}

}  // namespace sinter::row_kernel_cases
