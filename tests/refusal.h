#pragma once
#include <string>

#include "base/error.h"

namespace sinter {

/// What `body` says when it refuses; "accepted" where it does not.
template <class Body>
std::string refusal(Body&& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.message();
  }
  return "accepted";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace sinter
