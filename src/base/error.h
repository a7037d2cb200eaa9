#pragma once
#include <fmt/core.h>

#include <exception>
#include <string>
#include <utility>

namespace sinter {

/// What kind of failure an Error is; callers that react to failures react to this, never to the words.
enum class Code { InvalidArgument, NotFound, Corrupt, Unsupported, OutOfMemory, Io, Cancelled, Internal };

/// The one exception type. Its message names the thing, what was expected, what was found and what to do.
class Error : public std::exception {
 public:
  Error(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  Code code() const { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }
  const std::string& message() const { return message_; }

 private:
  Code code_;
  std::string message_;
};

template <class... Args>
[[noreturn]] void fail(Code code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

/// Runs `body`; an Error that leaves it gains the line "  while <where>".
template <class Body>
decltype(auto) in_context(const std::string& where, Body&& body) {
  try {
    return body();
  } catch (const Error& e) {
    throw Error(e.code(), fmt::format("{}\n  while {}", e.message(), where));
  }
}

/// A promise of ours that is broken; never used for input from outside.
#define SINTER_ASSERT(condition)                                                                                             \
  do {                                                                                                                       \
    if (!(condition)) ::sinter::fail(::sinter::Code::Internal, "{}:{}: broken promise: {}", __FILE__, __LINE__, #condition); \
  } while (0)

}  // namespace sinter
