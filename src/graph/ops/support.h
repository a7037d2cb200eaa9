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
void expect_inputs(const Node& n, size_t count);
/// Fails where a size is negative for certain.
void expect_sizes(const Shape& shape);
/// "f32[2, 3], f32[3]": for messages.
std::string types_text(std::span<const Value> values);

// For samples and refusals.
using Inputs = std::span<const Value>;
inline Type floats(Shape shape) { return {DType::f32, std::move(shape)}; }

/// A size as a scalar, known or not.
Value size_value(Graph& graph, const Dim& dim, DType dtype);

/// Row-major strides of a shape, in elements.
std::vector<int64_t> strides_of(std::span<const int64_t> shape);
/// The values of a shape under bindings.
std::vector<int64_t> sizes(const Shape& shape, const Bindings& bindings);
/// A result tensor of the node's type.
Tensor result_of(const Node& n, const Bindings& bindings);

/// body(begin, end) over [0, count) in pieces of at most `grain` on several threads. A body must not call this again.
void in_parallel(int64_t count, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);
/// The elements offset + sum(index[i] * strides[i]) of x, for each index of `shape`; strides and offset in elements.
Tensor strided_copy(const Tensor& x, std::vector<int64_t> shape, std::span<const int64_t> strides, int64_t offset = 0);
/// All elements in double precision.
std::vector<double> doubles_of(const Tensor& t);

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
