#include "tensor/tensor.h"

#include <sys/mman.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include "base/error.h"

namespace sinter {
namespace {

constexpr size_t kHugePage = size_t(2) << 20;

/// Zeroed memory, 64-byte aligned; large blocks ask for huge pages, because faulting 4 KiB pages costs more than reading a file.
std::shared_ptr<std::byte> allocate(size_t bytes) {
  bytes = std::max<size_t>(bytes, 1);
  if (bytes < kHugePage) {
    void* data = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!data) fail(Code::OutOfMemory, "no memory for {} bytes", bytes);
    std::memset(data, 0, bytes);
    return {static_cast<std::byte*>(data), [](std::byte* p) { std::free(p); }};
  }
  size_t length = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* data = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) fail(Code::OutOfMemory, "no memory for {} bytes", bytes);
  madvise(data, length, MADV_HUGEPAGE);
  return {static_cast<std::byte*>(data), [length](std::byte* p) { munmap(p, length); }};
}

}  // namespace

int64_t element_count(std::span<const int64_t> shape) {
  int64_t count = 1;
  for (int64_t size : shape) {
    if (size < 0) fail(Code::InvalidArgument, "the shape {} has a negative size", shape_text(shape));
    if (__builtin_mul_overflow(count, size, &count))
      fail(Code::InvalidArgument, "the shape {} has too many elements to count", shape_text(shape));
  }
  return count;
}

std::string shape_text(std::span<const int64_t> shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

Tensor::Tensor(DType dtype, std::vector<int64_t> shape) : dtype_(dtype), shape_(std::move(shape)) {
  int64_t bytes;
  if (__builtin_mul_overflow(element_count(shape_), byte_size(dtype), &bytes))
    fail(Code::InvalidArgument, "a tensor {} of {} has too many bytes to count", shape_text(shape_), name(dtype));
  auto memory = allocate(size_t(bytes));
  data_ = memory.get();
  owner_ = std::move(memory);
}

Tensor::Tensor(DType dtype, std::vector<int64_t> shape, std::byte* data, std::shared_ptr<const void> owner)
    : dtype_(dtype), shape_(std::move(shape)), data_(data), owner_(std::move(owner)) {}

Tensor Tensor::of(std::vector<int64_t> shape, std::span<const float> values) {
  Tensor t(DType::f32, std::move(shape));
  SINTER_ASSERT(t.count() == int64_t(values.size()));
  std::copy(values.begin(), values.end(), t.f32().begin());
  return t;
}

Tensor Tensor::of_ints(std::vector<int64_t> shape, std::span<const int64_t> values) {
  Tensor t(DType::i64, std::move(shape));
  SINTER_ASSERT(t.count() == int64_t(values.size()));
  std::memcpy(t.data(), values.data(), values.size_bytes());
  return t;
}

int64_t Tensor::dim(int axis) const {
  SINTER_ASSERT(axis >= -rank() && axis < rank());
  return shape_[size_t(axis < 0 ? axis + rank() : axis)];
}

int64_t Tensor::count() const { return element_count(std::span<const int64_t>(shape_)); }

std::span<float> Tensor::f32() {
  SINTER_ASSERT(dtype_ == DType::f32 && is_aligned());
  return {reinterpret_cast<float*>(data_), size_t(count())};
}
std::span<const float> Tensor::f32() const {
  SINTER_ASSERT(dtype_ == DType::f32 && is_aligned());
  return {reinterpret_cast<const float*>(data_), size_t(count())};
}
std::span<const int64_t> Tensor::i64() const {
  SINTER_ASSERT(dtype_ == DType::i64 && is_aligned());
  return {reinterpret_cast<const int64_t*>(data_), size_t(count())};
}

bool Tensor::is_aligned() const { return reinterpret_cast<uintptr_t>(data_) % uintptr_t(byte_size(dtype_)) == 0; }

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_ && is_aligned()) return *this;
  Tensor out(dtype, shape_);
  convert(data_, dtype_, out.data(), dtype, count());
  return out;
}

Tensor Tensor::reshaped(std::vector<int64_t> shape) const {
  if (element_count(std::span<const int64_t>(shape)) != count())
    fail(Code::InvalidArgument, "reshape: {} has another number of elements than {}", shape_text(shape), shape_text(shape_));
  Tensor out = *this;
  out.shape_ = std::move(shape);
  return out;
}

Tensor Tensor::clone() const {
  Tensor out(dtype_, shape_);
  if (bytes() > 0) std::memcpy(out.data_, data_, size_t(bytes()));
  return out;
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  SINTER_ASSERT(rank() > 0 && 0 <= begin && begin <= end && end <= shape_[0]);
  Tensor out = *this;
  int64_t row_bytes = shape_[0] ? bytes() / shape_[0] : 0;
  out.data_ = data_ + begin * row_bytes;
  out.shape_[0] = end - begin;
  return out;
}

double relative_error(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape()) return std::numeric_limits<double>::infinity();
  Tensor x = a.to(DType::f64), y = b.to(DType::f64);
  auto* p = reinterpret_cast<const double*>(x.data());
  auto* q = reinterpret_cast<const double*>(y.data());
  double difference = 0, size = 0;
  for (int64_t i = 0; i < x.count(); ++i) {
    difference += (p[i] - q[i]) * (p[i] - q[i]);
    size += q[i] * q[i];
  }
  if (!std::isfinite(difference) || !std::isfinite(size)) return std::numeric_limits<double>::infinity();
  if (size == 0) return difference == 0 ? 0 : std::numeric_limits<double>::infinity();
  return std::sqrt(difference / size);
}

}  // namespace sinter
