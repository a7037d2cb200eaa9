#pragma once
// What the files of ops share: checks, reading attributes back, and loops for reference implementations.
#include <charconv>

#include "graph/formula.h"
#include "graph/ops.h"

namespace sinter {

/// An axis counted from the front; fails where it does not exist.
int64_t normal_axis(int64_t axis, int rank);
void expect_rank(Value v, int rank, std::string_view what);
void expect_float(Value v, std::string_view what);
void expect_same_dtype(const Node& n);

/// Row-major strides of a shape, in elements.
std::vector<int64_t> strides_of(std::span<const int64_t> shape);
/// The values of a shape under bindings.
std::vector<int64_t> sizes(const Shape& shape, const Bindings& bindings);
/// A result tensor of the node's type.
Tensor result_of(const Node& n, const Bindings& bindings);

/// Runs body(T()) with T = double for f64 and float for every other type: the type in which a reference computes.
template <class Body>
void with_real(DType dtype, Body body) {
  if (dtype == DType::f64)
    body(double());
  else
    body(float());
}
template <class T>
constexpr DType real_dtype = std::is_same_v<T, double> ? DType::f64 : DType::f32;
template <class T>
const T* reals(const Tensor& t) {
  return reinterpret_cast<const T*>(t.data());
}
template <class T>
T* reals(Tensor& t) {
  return reinterpret_cast<T*>(t.data());
}

// Reading fields back from texts.
Dim parse_dim(std::string_view text);
struct FieldReader {
  const AttrTexts& texts;
  const std::string& text(const char* name) const;
  void operator()(const char* name, int64_t& value) const;
  void operator()(const char* name, double& value) const;
  void operator()(const char* name, bool& value) const;
  void operator()(const char* name, std::string& value) const;
  void operator()(const char* name, DType& value) const;
  void operator()(const char* name, Dim& value) const;
  void operator()(const char* name, Shape& value) const;
  void operator()(const char* name, std::vector<int64_t>& value) const;
};
template <class T>
Attrs read_attrs(const AttrTexts& texts) {
  T value;
  FieldReader reader{texts};
  value.fields(reader);
  return Attrs::of(std::move(value));
}

}  // namespace sinter
