#pragma once
#include <optional>
#include <span>
#include <vector>

#include "graph/graph.h"

namespace sinter {

/// Where a program's data lives. What an index means depends on the space: parameter, result, weight as the graph lists it in
/// own_weights (in one of its forms), constant or temporary of the program.
struct BufferRef {
  enum Space : uint8_t { parameter, result, weight, constant, temporary } space = parameter;
  int32_t index = 0;
  auto operator<=>(const BufferRef&) const = default;
};

/// A value as elements of a buffer: element [i0, i1, ...] lies at offset + sum of (i_d * numerator_d / denominator_d) *
/// stride_d, in elements. Only nearest-neighbour resizing has other scales than 1/1.
struct View {
  struct Scale {
    Dim numerator = 1, denominator = 1;
    bool operator==(const Scale&) const = default;
  };
  BufferRef buffer;
  DType dtype = DType::f32;
  Dim offset = 0;
  Shape shape;
  std::vector<Dim> strides;
  std::vector<Scale> scales;  ///< empty: all 1/1

  bool scaled() const { return !scales.empty(); }
  /// Along the last axis, which row kernels walk by a stride alone.
  bool scaled_columns() const { return scaled() && !(scales.back() == Scale{}); }
};

View dense_view(BufferRef buffer, const Type& type);
/// True if the elements lie in row-major order without gaps; with `rows`, gaps are allowed before each row (last axis).
bool is_dense(const View& view);
/// The distance of rows if all axes but the last can be walked as one: the view is rows of dense elements; else nothing.
std::optional<Dim> row_stride(const View& view);

/// The same elements in another shape; nothing where strides cannot say it.
std::optional<View> reshaped(const View& view, const Shape& shape);
/// What a movement op (reshape, transpose, broadcast, slice, resize_nearest) makes of a view of its input; nothing where
/// strides cannot say it.
std::optional<View> moved(const Node& op, const View& view);
bool is_movement(const Node& node);

}  // namespace sinter
