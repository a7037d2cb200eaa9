#pragma once
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace sinter {

/// Machine code from an ELF relocatable object, loaded without LLVM: the CodeGenerator's result, perhaps from the cache. Code is
/// mapped read-execute and constants read-only; nothing is ever writable and executable. The object must stand alone: no outside
/// symbols, no writable data. Everything is checked against the buffer: Code::Corrupt, never a crash.
class ObjectCode {
 public:
  explicit ObjectCode(std::span<const std::byte> object);
  ~ObjectCode();
  ObjectCode(ObjectCode&& other) noexcept;
  ObjectCode& operator=(ObjectCode&&) = delete;

  /// The address of an exported function. Code::NotFound names it.
  void* symbol(std::string_view name) const;
  template <class Function>
  Function function(std::string_view name) const {
    return reinterpret_cast<Function>(symbol(name));
  }
  size_t bytes() const { return size_; }  ///< of memory mapped

 private:
  ObjectCode(char* base, size_t size) : base_(base), size_(size) {}
  void swap(ObjectCode& other) noexcept;

  char* base_ = nullptr;
  size_t size_ = 0;
  std::map<std::string, size_t, std::less<>> symbols_;  // offset from base_
};

}  // namespace sinter
