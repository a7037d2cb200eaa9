#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace sinter {

/// Typed, shaped, dense row-major data in host memory, or mapped from a file. Copies share the data; a tensor that nobody else
/// writes is a value. Bytes mapped from a file are read-only and may be unaligned.
class Tensor {
 public:
  Tensor() = default;
  /// Zero-filled. Code::InvalidArgument for a negative size, Code::OutOfMemory where there is not enough.
  Tensor(DType dtype, std::vector<int64_t> shape);
  /// A view of memory that `owner` keeps alive.
  Tensor(DType dtype, std::vector<int64_t> shape, std::byte* data, std::shared_ptr<const void> owner);
  static Tensor of(std::vector<int64_t> shape, std::span<const float> values);
  static Tensor of_ints(std::vector<int64_t> shape, std::span<const int64_t> values);

  DType dtype() const { return dtype_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  /// The size of one axis; negative axes count from the end.
  int64_t dim(int axis) const;
  int rank() const { return int(shape_.size()); }
  int64_t count() const;
  int64_t bytes() const { return count() * byte_size(dtype_); }
  bool empty() const { return data_ == nullptr; }

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  /// The elements as floats; Code::Internal unless the dtype is f32 and the data are aligned, which to() sees to.
  std::span<float> f32();
  std::span<const float> f32() const;
  std::span<const int64_t> i64() const;

  /// Converted element by element; shares the data if it is of that type already and aligned for it. The result is always
  /// aligned.
  Tensor to(DType dtype) const;
  /// The same data under another shape of as many elements.
  Tensor reshaped(std::vector<int64_t> shape) const;
  Tensor clone() const;
  /// Rows [begin, end) of the first axis, sharing the data.
  Tensor rows(int64_t begin, int64_t end) const;

 private:
  bool is_aligned() const;

  DType dtype_ = DType::f32;
  std::vector<int64_t> shape_;
  std::byte* data_ = nullptr;
  std::shared_ptr<const void> owner_;
};

int64_t element_count(std::span<const int64_t> shape);   ///< Code::InvalidArgument where it overflows or a size is negative
std::string shape_text(std::span<const int64_t> shape);  ///< "[2, 77, 768]"
/// ||a - b|| / ||b|| over all elements in double precision; infinity where either holds NaN or the shapes differ.
double relative_error(const Tensor& a, const Tensor& b);

}  // namespace sinter
