#pragma once
#include <cstdint>

namespace sinter::cpu {

/// Address space in which plans that do not run at the same time put their buffers, one over the other. Memory is taken when it
/// is touched, in huge pages.
class Arena {
 public:
  Arena();
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  /// Gives back the memory that plans have touched; what they left in it is lost.
  void release();
  char* base() const { return base_; }
  int64_t capacity() const { return capacity_; }

 private:
  char* base_ = nullptr;
  int64_t capacity_ = 0;
};

}  // namespace sinter::cpu
