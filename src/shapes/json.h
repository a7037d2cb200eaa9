#pragma once
#include <string>
#include <string_view>

#include "shapes/shapes.h"

namespace sinter::shapes {

/// A result as JSON text: sizes, colours, figures and every shape with the error after it, one shape a line. docs/shapes.md
/// describes the members.
std::string to_json(const Result& result);

/// Reads what to_json() writes; `name` is used in messages only. The text may come from anywhere: Code::Corrupt where it is no
/// such JSON or a value is out of its range, Code::Unsupported for later versions; unknown members are refused.
Result from_json(std::string_view text, std::string_view name);

}  // namespace sinter::shapes
