#pragma once
#include <vector>

#include "backends/cuda/engine.h"

namespace sinter::cuda {

/// Copies with all threads of a pool.
void copy_bytes(ThreadPool& pool, std::byte* to, const std::byte* from, int64_t bytes);

/// Brings tensors to the device: through a ring of page-locked buffers that all threads fill while the bus empties them, and
/// converted there where the device wants another type or order. Page-locking a mapped file itself would save the copy, but on
/// some virtual machines that never returns, and all threads together keep up with the bus.
class Uploader {
 public:
  explicit Uploader(Engine& engine);
  ~Uploader();

  /// The elements in order, as `type`.
  void rows(const Tensor& tensor, DevicePtr to, DType type);
  /// Rows as f8e4m3 with a factor for each. What is f8e4m3 already stays as it is.
  void e4m3_rows(const Tensor& tensor, DevicePtr to, DevicePtr scales, int64_t rows);
  void e4m3_rows(const ScaledRows& rows, DevicePtr to, DevicePtr scales);
  /// Values times factors, as `type`.
  void rows(const ScaledRows& rows, DevicePtr to, DType type);
  /// Convolution weights [k, c, taps] as [k, taps, c].
  void filters(const Tensor& tensor, DevicePtr to, DType type, int64_t k, int64_t c, int64_t taps);
  /// Convolution weights [k, c, 3, 3] as [2, 2, k, 2, 2, c], for pictures at twice their size: see WeightSlot::doubled_filters.
  void doubled_filters(const Tensor& tensor, DevicePtr to, DType type, int64_t k, int64_t c);
  void finish();

 private:
  /// A part of the ring. What is written behind `used` may be sent; when a slot is full, its turn comes again after `sent`.
  struct Slot {
    PinnedMemory memory;
    std::unique_ptr<Event> sent;
    int64_t used = 0;
  };
  /// Raw bytes; the caller has them back when this returns.
  void copy(const std::byte* from, int64_t bytes, DevicePtr to);
  Slot& slot_with_room();
  DevicePtr staging(int64_t bytes);

  Engine& engine_;
  std::vector<Slot> ring_;
  size_t current_ = 0;
  DeviceMemory staging_;
};

}  // namespace sinter::cuda
