#include "backends/cuda/upload.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/product_table.h"
#include "backends/cuda/schedules.h"
#include "base/file.h"
#include "base/rounding.h"
#include "base/spans.h"

namespace sinter::cuda {
namespace {

/// What is smaller is converted here: a kernel between two copies costs the bus more.
constexpr int64_t kConvertedHere = int64_t(64) << 10;
/// Growing waits for the device, so LoRAs' factors of similar sizes should need the same; the driver takes no less.
constexpr int64_t kStagingStep = int64_t(2) << 20;

void copy_piece(const MappedFile* file, std::byte* to, const std::byte* from, int64_t bytes) {
  if (file)
    file->read(from, to, size_t(bytes));
  else
    std::memcpy(to, from, size_t(bytes));
}

bool converts_on_device(DType type) {
  return type == DType::f32 || type == DType::f16 || type == DType::bf16 || type == DType::f8e4m3 || type == DType::f8e5m2;
}

}  // namespace

void copy_bytes(ThreadPool& pool, std::byte* to, const std::byte* from, int64_t bytes) {
  const MappedFile* file = MappedFile::containing(from);
  auto copy = [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin * kUploadPiece; at < std::min(end * kUploadPiece, bytes); at += kUploadPiece)
      copy_piece(file, to + at, from + at, std::min(kUploadPiece, bytes - at));
  };
  pool.parallel_for(divide_up(bytes, kUploadPiece), 1, copy);
}

UploadRing::UploadRing(Engine& engine) {
  const int64_t page = int64_t(2) << 20, bytes = kSlots * kSlotBytes;
  memory_ = Tensor(DType::u8, {bytes});
  engine.pool().parallel_for(bytes / page, 1, [&](int64_t begin, int64_t end, int) {
    std::memset(memory_.data() + begin * page, 0, size_t((end - begin) * page));
  });
  lock_ = HostRegistration(engine.context(), memory_.data(), bytes);
  for (int i = 0; i < kSlots; ++i) sent_.push_back(std::make_unique<Event>(engine.context()));
}

int UploadRing::next() {
  const Span span("wait for a slot");
  const int next = (current_ + 1) % kSlots;
  sent_[size_t(next)]->synchronize();
  return current_ = next;
}

void UploadRing::sent(int number, const Stream& stream) { sent_[size_t(number)]->record(stream); }

Uploader::Uploader(Engine& engine, bool overlapped) : engine_(engine), stagings_(overlapped ? 2 : 1) {
  engine.context().make_current();
  if (overlapped) copy_stream_ = std::make_unique<Stream>(engine.context());
  for (Staging& staging : stagings_) staging.free = std::make_unique<Event>(engine.context());
  arrived_ = std::make_unique<Event>(engine.context());
  if (!overlapped) return;
  arrived_->record(engine.stream());  // what still runs may read what is about to be overwritten
  copy_stream_->wait(*arrived_);
}

Uploader::~Uploader() {
  try {
    finish();
  } catch (const Error&) {  // the caller is on its way out with a better reason
  }
}

void Uploader::copy(const Tensor& tensor, DevicePtr to) {
  given_ = true;
  const std::byte* from = tensor.data();
  Load& load = gathered_;
  for (int64_t left = tensor.bytes(); left > 0;) {
    if (load.copies.empty() || load.copies.back().to + DevicePtr(load.copies.back().bytes) != to)
      load.used = round_up(load.used, kBufferAlignment);
    if (load.used == UploadRing::kSlotBytes) {
      load.held.push_back(tensor);
      fill_slot();
    }
    const int64_t part = std::min(UploadRing::kSlotBytes - load.used, left);
    gather(from, part, to);
    from += part, to += DevicePtr(part), left -= part;
  }
  load.held.push_back(tensor);
}

/// Adds what fits into the slot in hand. What follows the last part on the device too becomes one copy with it.
void Uploader::gather(const std::byte* from, int64_t bytes, DevicePtr to) {
  Load& load = gathered_;
  if (!load.copies.empty() && load.copies.back().to + DevicePtr(load.copies.back().bytes) == to)
    load.copies.back().bytes += bytes;
  else
    load.copies.push_back({to, load.used, bytes});
  const MappedFile* file = MappedFile::containing(from);
  for (int64_t at = 0; at < bytes; at += kUploadPiece)
    load.pieces.push_back({from + at, std::min(kUploadPiece, bytes - at), load.used + at, file});
  load.used += bytes;
}

void Uploader::send() {
  if (!gathered_.empty()) fill_slot();
  send_filling();
}

/// The slot before is sent only when workers have begun with what was gathered, so that they need not wait for the driver.
void Uploader::fill_slot() {
  send_filled();  // nothing, unless the driver has refused it before
  UploadRing& ring = engine_.upload_ring();
  const int slot = ring.next();
  await_filling();
  filling_ = std::exchange(gathered_, {});
  filling_.slot = slot;
  auto fill = [&pieces = filling_.pieces, to = ring.slot(slot)](int64_t begin, int64_t end, int) {
    for (const Piece& piece : std::span(pieces).subspan(size_t(begin), size_t(end - begin)))
      copy_piece(piece.file, to + piece.at, piece.from, piece.bytes);
  };
  filling_.filling = std::make_unique<ThreadPool::Job>(engine_.pool(), int64_t(filling_.pieces.size()), 1, fill);
  send_filled();
}

/// All but what is still gathered.
void Uploader::send_filling() {
  send_filled();
  await_filling();
  send_filled();
}

/// Helps workers. A slot that could not be filled stays where it is, and everybody who asks for it is told.
void Uploader::await_filling() {
  if (!filling_.filling) return;
  const Span span("fill a slot");
  filling_.filling->finish();
  filled_ = std::exchange(filling_, {});
}

void Uploader::send_filled() {
  if (!filled_.copies.empty()) {
    for (const Copy& copy : filled_.copies)
      copy_to_device(copy.to, engine_.upload_ring().slot(filled_.slot) + copy.at, copy.bytes, copies());
    engine_.upload_ring().sent(filled_.slot, copies());
    filled_.copies.clear();
  }
  launch_conversions(filled_);
  filled_ = {};
}

/// It reads the staging memory in hand.
void Uploader::convert(Launch launch) {
  gathered_.conversions.push_back(std::move(launch));
  gathered_.stagings.insert(&stagings_[turn_]);
}

/// The bytes that they need are all on their way.
void Uploader::launch_conversions(Load& load) {
  if (load.conversions.empty()) return;
  if (copy_stream_) {
    arrived_->record(*copy_stream_);
    engine_.stream().wait(*arrived_);
  }
  for (; !load.conversions.empty(); load.conversions.pop_front()) load.conversions.front()(engine_.kernel_target());
  for (Staging* staging : load.stagings) staging->free->record(engine_.stream());
}

void Uploader::grow(Staging& staging, int64_t bytes) {
  if (staging.memory.bytes() >= bytes) return;
  finish();
  staging.memory = {};
  engine_.with_enough_memory(
      [&] { staging.memory = DeviceMemory(engine_.context(), round_up(bytes, kStagingStep), "weights on their way"); });
}

void Uploader::expect(int64_t bytes) {
  for (Staging& staging : stagings_) grow(staging, bytes);
}

/// The one in hand, or the next where that is too full.
Uploader::Staging& Uploader::staging_for(int64_t bytes) {
  if (Staging& staging = stagings_[turn_]; staging.used + bytes <= staging.memory.bytes()) return staging;
  turn_ = (turn_ + 1) % stagings_.size();
  Staging& next = stagings_[turn_];
  if (gathered_.stagings.contains(&next))
    send();
  else if (filling_.stagings.contains(&next) || filled_.stagings.contains(&next))
    send_filling();
  copies().wait(*next.free);
  next.used = 0;
  grow(next, bytes);
  return next;
}

/// Brings parts that follow each other at multiples of kBufferAlignment, and gives their address. They stay until the conversions
/// that are queued before the next stage() have run.
DevicePtr Uploader::stage(const std::vector<Tensor>& parts) {
  int64_t bytes = 0;
  for (const Tensor& part : parts) bytes += round_up(part.bytes(), kBufferAlignment);
  Staging& staging = staging_for(bytes);
  const DevicePtr begin = staging.memory.address() + DevicePtr(staging.used);
  DevicePtr to = begin;
  for (const Tensor& part : parts) {
    copy(part, to);
    to += DevicePtr(round_up(part.bytes(), kBufferAlignment));
  }
  staging.used += bytes;
  return begin;
}

void Uploader::add_products(const ChangedWeight& weight, DevicePtr at, DevicePtr table) {
  const Tensor& t = weight.original;
  const AddProductsCall call{.weight = at,
                             .type = t.dtype(),
                             .rows = t.dim(0),
                             .columns = t.count() / t.dim(0),
                             .table = table,
                             .products = int(weight.products.size())};
  convert([call](KernelTarget& target) { cuda::add_products(target, call); });
}

/// The same of a weight, which what changes it is added to.
DevicePtr Uploader::stage(const ChangedWeight& weight) {
  std::vector<Tensor> parts{weight.original};
  if (weight.products.empty()) return stage(parts);
  std::vector<Tensor> table = product_table(weight.products);
  parts.insert(parts.end(), table.begin(), table.end());
  const DevicePtr raw = stage(parts);
  add_products(weight, raw, raw + DevicePtr(round_up(weight.original.bytes(), kBufferAlignment)));
  return raw;
}

void Uploader::rows(const ChangedWeight& weight, DevicePtr to, DType type) {
  const Tensor& tensor = weight.original;
  if (tensor.bytes() == 0) return;
  const bool changes = !weight.products.empty();
  if (tensor.dtype() == type) {
    copy(tensor, to);
    if (changes) add_products(weight, to, stage(product_table(weight.products)));
    return;
  }
  if (!changes && (!converts_on_device(tensor.dtype()) || !converts_on_device(type) || tensor.bytes() <= kConvertedHere))
    return copy(tensor.to(type), to);
  const CastCall call{.from = stage(weight), .to = to, .from_type = tensor.dtype(), .to_type = type, .count = tensor.count()};
  convert([call](KernelTarget& target) { cast(target, call); });
}

void Uploader::e4m3_rows(const ChangedWeight& weight, DevicePtr to, DevicePtr scales, int64_t rows) {
  const Tensor& tensor = weight.original;
  if (tensor.bytes() == 0) return;
  if (tensor.dtype() == DType::f8e4m3) {
    copy(tensor, to);
    return fill_normal(engine_.kernel_target(), scales, DType::f32, rows, 0, 1, 0);
  }
  if (!converts_on_device(tensor.dtype())) return e4m3_rows({tensor.to(DType::f32), {}}, to, scales, rows);
  const QuantiseRowsCall call{
      .x = stage(weight), .type = tensor.dtype(), .rows = rows, .columns = tensor.count() / rows, .to = to, .scales = scales};
  convert([call](KernelTarget& target) { quantise_rows(target, call); });
}

void Uploader::e4m3_rows(const ScaledRows& rows, DevicePtr to, DevicePtr scales) {
  copy(rows.values, to);
  copy(Tensor::of({int64_t(rows.scales.size())}, rows.scales), scales);
}

void Uploader::rows(const ScaledRows& rows, DevicePtr to, DType type) {
  const int64_t count = rows.values.count();
  if (count == 0) return;
  const std::vector<Tensor> parts{rows.values, Tensor::of({int64_t(rows.scales.size())}, rows.scales)};
  const DevicePtr raw = stage(parts);
  CastCall widen{.from = raw, .to = to, .from_type = rows.values.dtype(), .to_type = type, .count = count};
  widen.row_scales = raw + DevicePtr(round_up(rows.values.bytes(), kBufferAlignment));
  widen.columns = count / int64_t(rows.scales.size());
  convert([widen](KernelTarget& target) { cast(target, widen); });
}

void Uploader::filters(const ChangedWeight& weight, DevicePtr to, DType type, int64_t k, int64_t c, int64_t taps) {
  const Tensor& tensor = weight.original;
  if (!converts_on_device(tensor.dtype())) return filters({tensor.to(type), {}}, to, type, k, c, taps);
  const FiltersCall call{
      .from = stage(weight), .to = to, .from_type = tensor.dtype(), .to_type = type, .k = k, .c = c, .taps = taps};
  convert([call](KernelTarget& target) { filters_channels_last(target, call); });
}

void Uploader::doubled_filters(const ChangedWeight& weight, DevicePtr to, DType type, int64_t k, int64_t c) {
  const Tensor& tensor = weight.original;
  if (!converts_on_device(tensor.dtype())) return doubled_filters({tensor.to(type), {}}, to, type, k, c);
  const FiltersCall call{.from = stage(weight), .to = to, .from_type = tensor.dtype(), .to_type = type, .k = k, .c = c};
  convert([call](KernelTarget& target) { filters_doubled(target, call); });
}

void Uploader::finish() {
  if (!given_) return;
  send();
  if (copy_stream_) {
    arrived_->record(*copy_stream_);
    engine_.stream().wait(*arrived_);
  }
  engine_.stream().synchronize();
  given_ = false;
}

}  // namespace sinter::cuda
