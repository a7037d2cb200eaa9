#include "backends/cuda/upload.h"

#include <algorithm>
#include <cstring>

#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/schedules.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

// Slots that stay in the last cache while they are filled and sent: 32 MB took a fifth longer.
constexpr int64_t kSlotBytes = int64_t(8) << 20;
constexpr size_t kSlots = 4;
constexpr int64_t kPiece = int64_t(256) << 10;  // of one thread

bool converts_on_device(DType type) {
  return type == DType::f32 || type == DType::f16 || type == DType::bf16 || type == DType::f8e4m3 || type == DType::f8e5m2;
}

}  // namespace

void copy_bytes(ThreadPool& pool, std::byte* to, const std::byte* from, int64_t bytes) {
  auto copy = [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin * kPiece; at < std::min(end * kPiece, bytes); at += kPiece)
      std::memcpy(to + at, from + at, size_t(std::min(kPiece, bytes - at)));
  };
  pool.parallel_for(divide_up(bytes, kPiece), 1, copy);
}

Uploader::Uploader(Engine& engine) : engine_(engine) {
  engine.context().make_current();
  engine.kernels().load("elements");
}

Uploader::~Uploader() {
  try {
    finish();
  } catch (const Error&) {  // the caller is on its way out with a better reason
  }
}

/// The slot in hand; when that is full, the next one, once what it holds has been sent.
Uploader::Slot& Uploader::slot_with_room() {
  constexpr int64_t kLeast = 4096;
  if (!ring_.empty() && ring_[current_].used + kLeast <= kSlotBytes) return ring_[current_];
  if (!ring_.empty()) {
    ring_[current_].sent->record(engine_.stream());
    current_ = (current_ + 1) % kSlots;
  }
  if (current_ == ring_.size())
    ring_.push_back({PinnedMemory(engine_.context(), kSlotBytes), std::make_unique<Event>(engine_.context())});
  else
    ring_[current_].sent->synchronize();
  ring_[current_].used = 0;
  return ring_[current_];
}

void Uploader::copy(const std::byte* from, int64_t bytes, DevicePtr to) {
  while (bytes > 0) {
    Slot& slot = slot_with_room();
    const int64_t part = std::min(kSlotBytes - slot.used, bytes);
    copy_bytes(engine_.pool(), slot.memory.data() + slot.used, from, part);
    copy_to_device(to, slot.memory.data() + slot.used, part, engine_.stream());
    slot.used = round_up(slot.used + part, kBufferAlignment);
    from += part, to += DevicePtr(part), bytes -= part;
  }
}

DevicePtr Uploader::staging(int64_t bytes) {
  if (staging_.bytes() < bytes) {
    engine_.stream().synchronize();
    staging_ = {};
    staging_ = DeviceMemory(engine_.context(), bytes, "a weight on its way");
  }
  return staging_.address();
}

void Uploader::rows(const Tensor& tensor, DevicePtr to, DType type) {
  if (tensor.bytes() == 0) return;
  if (tensor.dtype() == type) return copy(tensor.data(), tensor.bytes(), to);
  if (!converts_on_device(tensor.dtype()) || !converts_on_device(type)) return rows(tensor.to(type), to, type);
  DevicePtr raw = staging(tensor.bytes());
  copy(tensor.data(), tensor.bytes(), raw);
  cast(engine_.kernel_target(), {.from = raw, .to = to, .from_type = tensor.dtype(), .to_type = type, .count = tensor.count()});
}

void Uploader::e4m3_rows(const Tensor& tensor, DevicePtr to, DevicePtr scales, int64_t rows) {
  if (tensor.bytes() == 0) return;
  KernelTarget& target = engine_.kernel_target();
  if (tensor.dtype() == DType::f8e4m3) {
    copy(tensor.data(), tensor.bytes(), to);
    return fill_normal(target, scales, DType::f32, rows, 0, 1, 0);
  }
  if (!converts_on_device(tensor.dtype())) return e4m3_rows(tensor.to(DType::f32), to, scales, rows);
  DevicePtr raw = staging(tensor.bytes());
  copy(tensor.data(), tensor.bytes(), raw);
  quantise_rows(target,
                {.x = raw, .type = tensor.dtype(), .rows = rows, .columns = tensor.count() / rows, .to = to, .scales = scales});
}

void Uploader::e4m3_rows(const ScaledRows& rows, DevicePtr to, DevicePtr scales) {
  copy(rows.values.data(), rows.values.bytes(), to);
  copy(reinterpret_cast<const std::byte*>(rows.scales.data()), int64_t(rows.scales.size() * sizeof(float)), scales);
}

void Uploader::rows(const ScaledRows& rows, DevicePtr to, DType type) {
  const int64_t count = rows.values.count(), scale_bytes = int64_t(rows.scales.size() * sizeof(float));
  if (count == 0) return;
  const int64_t values_bytes = round_up(rows.values.bytes(), kBufferAlignment);
  DevicePtr raw = staging(values_bytes + scale_bytes), scales = raw + DevicePtr(values_bytes);
  copy(rows.values.data(), rows.values.bytes(), raw);
  copy(reinterpret_cast<const std::byte*>(rows.scales.data()), scale_bytes, scales);
  CastCall widen{.from = raw, .to = to, .from_type = rows.values.dtype(), .to_type = type, .count = count};
  widen.row_scales = scales, widen.columns = count / int64_t(rows.scales.size());
  cast(engine_.kernel_target(), widen);
}

void Uploader::filters(const Tensor& tensor, DevicePtr to, DType type, int64_t k, int64_t c, int64_t taps) {
  if (!converts_on_device(tensor.dtype())) return filters(tensor.to(type), to, type, k, c, taps);
  DevicePtr raw = staging(tensor.bytes());
  copy(tensor.data(), tensor.bytes(), raw);
  filters_channels_last(engine_.kernel_target(),
                        {.from = raw, .to = to, .from_type = tensor.dtype(), .to_type = type, .k = k, .c = c, .taps = taps});
}

void Uploader::doubled_filters(const Tensor& tensor, DevicePtr to, DType type, int64_t k, int64_t c) {
  if (!converts_on_device(tensor.dtype())) return doubled_filters(tensor.to(type), to, type, k, c);
  DevicePtr raw = staging(tensor.bytes());
  copy(tensor.data(), tensor.bytes(), raw);
  filters_doubled(engine_.kernel_target(),
                  {.from = raw, .to = to, .from_type = tensor.dtype(), .to_type = type, .k = k, .c = c, .taps = 9});
}

void Uploader::finish() { engine_.stream().synchronize(); }

}  // namespace sinter::cuda
