#include "backends/cuda/weights.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/schedules.h"
#include "backends/cuda/upload.h"
#include "base/rounding.h"
#include "graph/ops.h"

namespace sinter::cuda {
namespace {

DType type_of(const WeightSlot& slot) {
  if (slot.form == WeightSlot::e4m3_rows) return DType::f8e4m3;
  return slot.panels == PanelType::f32 ? DType::f32 : slot.panels == PanelType::f16 ? DType::f16 : DType::bf16;
}

int64_t aligned(int64_t bytes) { return round_up(bytes, kBufferAlignment); }

int64_t count_of(const Type& type) { return element_count(type.shape).constant(); }
/// Only `doubled_filters` has another number of elements than the file.
int64_t stored_count(WeightSlot::Form form, const Type& type) {
  constexpr int64_t kTaps = 9, kDoubledTaps = 16;
  return form == WeightSlot::doubled_filters ? count_of(type) / kTaps * kDoubledTaps : count_of(type);
}
int64_t rows_of(const Type& type) { return type.shape[0].constant(); }

/// How large a layer's weights are drawn: so that a sum over its inputs keeps their size.
float spread_of(const Type& type) {
  if (type.shape.size() < 2) return 0;
  int64_t inputs = count_of(type) / std::max<int64_t>(1, type.shape[0].constant());
  return 1 / std::sqrt(float(std::max<int64_t>(1, inputs)));
}

/// Memory that shares no page with anything else, so that it can be page-locked.
Tensor new_image(int64_t bytes) {
  constexpr int64_t kOwnPages = int64_t(2) << 20;
  return Tensor(DType::u8, {std::max(bytes, kOwnPages)});
}

}  // namespace

BoundWeights::BoundWeights(Engine& engine, const CompiledGraph& compiled) : engine_(engine) {
  const Unit& root = compiled.root();
  add(root, "", kShared);
  for (const Step& step : root.program.steps)
    if (const auto* call = std::get_if<CallStep>(&step)) {
      const auto& callee = root.callees[size_t(call->callee)];
      add(*callee.unit, callee.prefix, blocks_++);
    }
  for (auto& [key, entry] : entries_) {
    for (size_t i = 0; i < entry.pieces.size(); ++i) by_name_[entry.pieces[i].name].emplace_back(&entry, i);
    entry.bytes = place(entry, 0);
  }
  place();
}

/// What stays comes first, then the slots.
void BoundWeights::place() {
  resident_ = slot_bytes_ = 0;
  ends_.assign(streamed_.size(), 0);
  for (auto& [key, entry] : entries_) {
    int s = streamed(entry.block);
    int64_t& end = s < 0 ? resident_ : ends_[size_t(s)];
    end = place(entry, end);
  }
  for (int64_t end : ends_) slot_bytes_ = std::max(slot_bytes_, end);
  bytes_ = resident_ + (streamed_.empty() ? 0 : kStreamSlots * slot_bytes_);
}

int64_t BoundWeights::stored_bytes(const Entry& entry, const Piece& piece) {
  return stored_count(entry.slot.form, piece.type) * byte_size(entry.dtype);
}

/// Joined weights follow each other without gaps, and the factors of rows all of these. Gives the end.
int64_t BoundWeights::place(Entry& entry, int64_t at) {
  for (Piece& piece : entry.pieces) {
    piece.offset = at;
    at += stored_bytes(entry, piece);
  }
  if (entry.slot.form == WeightSlot::e4m3_rows) {
    at = aligned(at);
    for (Piece& piece : entry.pieces) {
      piece.scales = at;
      at += rows_of(piece.type) * int64_t(sizeof(float));
    }
  }
  return aligned(at);
}

WeightSizes BoundWeights::sizes() const {
  WeightSizes sizes{0, std::vector<int64_t>(size_t(blocks_), 0)};
  for (const auto& [key, entry] : entries_) {
    int64_t& bytes = entry.block == kShared ? sizes.shared : sizes.blocks[size_t(entry.block)];
    bytes += entry.bytes;
  }
  return sizes;
}

void BoundWeights::stream(const std::vector<int>& blocks) {
  unload();
  streamed_ = blocks;
  place();
}

int BoundWeights::streamed(int block) const {
  auto at = std::lower_bound(streamed_.begin(), streamed_.end(), block);
  return at != streamed_.end() && *at == block ? int(at - streamed_.begin()) : -1;
}

DevicePtr BoundWeights::base(const Entry& entry) const {
  int s = streamed(entry.block);
  return memory_.address() + (s < 0 ? 0 : DevicePtr(resident_ + s % kStreamSlots * slot_bytes_));
}

BoundWeights::Key BoundWeights::key_of(const Unit& unit, const std::string& prefix, const WeightSlot& slot) {
  Key key{{}, slot};
  for (int32_t ordinal : slot.ordinals) key.first.push_back(prefix + unit.weights[size_t(ordinal)].name);
  key.second.ordinals.clear();
  return key;
}

void BoundWeights::add(const Unit& unit, const std::string& prefix, int block) {
  for (const WeightSlot& slot : unit.program.weights) {
    auto [at, fresh] = entries_.try_emplace(key_of(unit, prefix, slot));
    Entry& entry = at->second;
    if (!fresh) {
      if (entry.block != block) entry.block = kShared;
      continue;
    }
    entry.slot = at->first.second;
    entry.block = block;
    entry.dtype = slot.form == WeightSlot::plain ? unit.weights[size_t(slot.ordinals[0])].type.dtype : type_of(slot);
    for (int32_t ordinal : slot.ordinals)
      entry.pieces.push_back({prefix + unit.weights[size_t(ordinal)].name, unit.weights[size_t(ordinal)].type});
  }
  if (block == kShared) return;  // the graph itself: its calls are blocks
  for (const auto& callee : unit.callees) add(*callee.unit, prefix + callee.prefix, block);
}

void BoundWeights::load(const WeightReader& source, const std::function<void(const std::string&)>& done,
                        const std::function<void(double)>& progress) {
  take_memory();
  Uploader uploader(engine_, streamed_.empty());
  std::vector<Piece*> given;  // but not certainly there
  auto finish = [&] {
    uploader.finish();
    for (Piece* piece : given) piece->ready = true;
  };
  std::vector<const std::string*> read;
  try {
    uploader.expect(most_staging_bytes());
    read_all(source, uploader, given, read, progress);
  } catch (const Error&) {
    try {
      finish();
    } catch (const Error&) {  // that one is read again
    }
    throw;
  }
  finish();
  // Not one by one: unmapping what lies around each costs more than copying it.
  if (done)
    for (const std::string* name : read) done(*name);
  if (!streamed_.empty() && !stream_) make_stream();
  engine_.note_memory();
}

/// What the device needs to bring one weight of a usual file into its form.
int64_t BoundWeights::most_staging_bytes() const {
  int64_t most = 0;
  for (const auto& [key, entry] : entries_)
    for (const Piece& piece : entry.pieces)
      if (!piece.ready && entry.slot.form != WeightSlot::plain && entry.slot.form != WeightSlot::rows)
        most = std::max(most, count_of(piece.type) * byte_size(DType::bf16));
  return most;
}

void BoundWeights::read_all(const WeightReader& source, Uploader& uploader, std::vector<Piece*>& given,
                            std::vector<const std::string*>& read, const std::function<void(double)>& progress) {
  size_t at = 0;
  for (auto& [name, uses] : by_name_) {
    engine_.check_cancelled();
    ChangedWeight weight;
    std::optional<ScaledRows> scaled;
    for (auto [entry, index] : uses) {
      Piece& piece = entry->pieces[index];
      if (piece.ready) continue;
      if (!scaled && weight.original.empty()) scaled = source.scaled_rows(name);
      if (!scaled || !put(uploader, *entry, piece, *scaled)) {
        if (weight.original.empty()) weight = source.changed(name);
        if (weight.original.count() != count_of(piece.type))
          fail(Code::InvalidArgument, "the weight '{}' should have the shape {}, not {}", name, piece.type.text(),
               shape_text(weight.original.shape()));
        put(uploader, *entry, piece, weight);
      }
      given.push_back(&piece);
    }
    if (scaled || !weight.original.empty()) read.push_back(&name);
    if (progress) progress(double(++at) / double(by_name_.size()));
  }
}

void BoundWeights::put(Uploader& uploader, const Entry& entry, const Piece& piece, const ChangedWeight& weight) {
  const Tensor& tensor = weight.original;
  const bool as_it_is = weight.products.empty() && (entry.slot.form == WeightSlot::plain || entry.slot.form == WeightSlot::rows);
  if (int s = streamed(entry.block); s >= 0 && as_it_is && tensor.dtype() == entry.dtype)
    return copy_bytes(engine_.pool(), image_of(s).data() + piece.offset, tensor.data(), tensor.bytes());
  DevicePtr to = base(entry) + DevicePtr(piece.offset);
  if (entry.slot.form == WeightSlot::filters) {
    const Shape& s = piece.type.shape;
    uploader.filters(weight, to, entry.dtype, s[0].constant(), s[1].constant(), s[2].constant() * s[3].constant());
  } else if (entry.slot.form == WeightSlot::doubled_filters) {
    uploader.doubled_filters(weight, to, entry.dtype, rows_of(piece.type), piece.type.shape[1].constant());
  } else if (entry.slot.form == WeightSlot::e4m3_rows) {
    uploader.e4m3_rows(weight, to, base(entry) + DevicePtr(piece.scales), rows_of(piece.type));
  } else {
    uploader.rows(weight, to, entry.dtype);
  }
  if (streamed(entry.block) >= 0) uploader.send();
  keep_image(entry, piece);
}

/// Without the way through wider numbers; false for forms that lie in another order, or need other numbers.
bool BoundWeights::put(Uploader& uploader, const Entry& entry, const Piece& piece, const ScaledRows& rows) {
  if (rows.values.count() != count_of(piece.type)) return false;  // read whole, it is reported
  DevicePtr to = base(entry) + DevicePtr(piece.offset);
  if (entry.slot.form == WeightSlot::e4m3_rows && rows.values.dtype() == DType::f8e4m3)
    uploader.e4m3_rows(rows, to, base(entry) + DevicePtr(piece.scales));
  else if (entry.slot.form == WeightSlot::rows)
    uploader.rows(rows, to, entry.dtype);
  else
    return false;
  if (streamed(entry.block) >= 0) uploader.send();
  keep_image(entry, piece);
  return true;
}

Tensor& BoundWeights::image_of(int streamed) {
  stream_.reset();  // the image changes
  images_.resize(streamed_.size());
  Tensor& image = images_[size_t(streamed)].bytes;
  if (image.empty()) image = new_image(ends_[size_t(streamed)]);
  return image;
}

/// Takes what a streamed block's slot now holds of a piece into the host's memory.
void BoundWeights::keep_image(const Entry& entry, const Piece& piece) {
  const int s = streamed(entry.block);
  if (s < 0) return;
  Tensor& image = image_of(s);
  auto take = [&](int64_t offset, int64_t bytes) {
    copy_to_host(image.data() + offset, base(entry) + DevicePtr(offset), bytes, engine_.stream());
  };
  take(piece.offset, stored_bytes(entry, piece));
  if (entry.slot.form == WeightSlot::e4m3_rows) take(piece.scales, rows_of(piece.type) * int64_t(sizeof(float)));
}

void BoundWeights::make_stream() {
  std::vector<std::vector<StreamedBytes>> parts(streamed_.size());
  for (auto& [key, entry] : entries_) {
    const int s = streamed(entry.block);
    if (s < 0) continue;
    const std::byte* image = images_[size_t(s)].bytes.data();
    for (const Piece& piece : entry.pieces) {
      parts[size_t(s)].push_back({image + piece.offset, stored_bytes(entry, piece), piece.offset});
      if (entry.slot.form == WeightSlot::e4m3_rows)
        parts[size_t(s)].push_back({image + piece.scales, rows_of(piece.type) * int64_t(sizeof(float)), piece.scales});
    }
  }
  std::vector<DevicePtr> slots;
  for (int i = 0; i < kStreamSlots; ++i) slots.push_back(memory_.address() + DevicePtr(resident_ + i * slot_bytes_));
  stream_ = std::make_unique<WeightStream>(engine_, std::move(slots));
  for (auto& block : parts) stream_->add(std::move(block));
  lock_images();
}

/// Once they are filled: pages that many threads have touched are locked several times sooner.
void BoundWeights::lock_images() {
  // A machine whose memory is mostly locked pages cannot breathe.
  int64_t most = int64_t(sysconf(_SC_PHYS_PAGES)) / 2 * int64_t(sysconf(_SC_PAGESIZE));
  std::set<const std::byte*> locked;
  why_slow_.clear();
  for (Image& image : images_) {
    if (image.bytes.empty() || !locked.insert(image.bytes.data()).second) continue;
    most -= image.bytes.bytes();
    if (image.lock.active()) continue;
    if (most >= 0) image.lock = HostRegistration(engine_.context(), image.bytes.data(), image.bytes.bytes());
    if (!image.lock.active()) why_slow_ = most < 0 ? "half of the host's memory is page-locked already" : image.lock.why_not();
  }
}

void BoundWeights::take_memory() {
  if (bytes_ == 0 || memory_.address()) return;
  engine_.with_enough_memory([&] { memory_ = DeviceMemory(engine_.context(), bytes_, "the weights"); });
}

void BoundWeights::fill_random(uint64_t seed) {
  constexpr size_t kImages = 4;  // of one size: enough that no cache sees the same bytes twice in a short time
  take_memory();
  images_.resize(streamed_.size());
  std::map<int64_t, std::vector<Tensor>> shared;
  for (size_t s = 0; s < streamed_.size(); ++s) {
    auto& same = shared[ends_[s]];
    images_[s].bytes = same.size() < kImages ? new_image(ends_[s]) : same[s % kImages];
    same.push_back(images_[s].bytes);
  }
  for (auto& [key, entry] : entries_)
    for (Piece& piece : entry.pieces) {
      fill_random(entry, piece, seed++);
      keep_image(entry, piece);
      piece.ready = true;
    }
  engine_.stream().synchronize();
  if (!streamed_.empty()) make_stream();
}

void BoundWeights::fill_random(const Entry& entry, const Piece& piece, uint64_t seed) {
  constexpr float kSpread = 100;  // of numbers in e4m3: few go beyond its end at 448
  const bool is_scale = piece.type.shape.size() < 2 && (piece.name.ends_with("weight") || piece.name.ends_with("scale"));
  const bool e4m3 = entry.slot.form == WeightSlot::e4m3_rows;
  KernelTarget& target = engine_.kernel_target();
  fill_normal(target, base(entry) + DevicePtr(piece.offset), entry.dtype, stored_count(entry.slot.form, piece.type), seed,
              is_scale ? 1.f : 0.f, e4m3 ? kSpread : spread_of(piece.type));
  if (e4m3)
    fill_normal(target, base(entry) + DevicePtr(piece.scales), DType::f32, rows_of(piece.type), 0,
                spread_of(piece.type) / kSpread, 0);
}

bool BoundWeights::forget(const std::set<std::string>& names) {
  for (const std::string& name : names)
    if (auto at = by_name_.find(name); at != by_name_.end())
      for (auto [entry, index] : at->second) entry->pieces[index].ready = false;
  return streamed_.empty();  // a new image is a new stream
}

void BoundWeights::unload(const std::function<void(const std::string&)>&) {
  engine_.stream().synchronize();
  stream_.reset();
  images_.clear();
  why_slow_.clear();
  for (auto& [key, entry] : entries_)
    for (Piece& piece : entry.pieces) piece.ready = false;
  memory_ = {};
}

const BoundWeights::Entry& BoundWeights::loaded(const Unit& unit, const std::string& prefix, int32_t slot) const {
  const Entry& entry = entries_.at(key_of(unit, prefix, unit.program.weights[size_t(slot)]));
  for (const Piece& piece : entry.pieces)
    if (!piece.ready) fail(Code::Internal, "the weight '{}' is not loaded", piece.name);
  return entry;
}

DevicePtr BoundWeights::get(const Unit& unit, const std::string& prefix, int32_t slot) const {
  const Entry& entry = loaded(unit, prefix, slot);
  return base(entry) + DevicePtr(entry.pieces[0].offset);
}

DevicePtr BoundWeights::row_scales(const Unit& unit, const std::string& prefix, int32_t slot) const {
  const Entry& entry = loaded(unit, prefix, slot);
  return base(entry) + DevicePtr(entry.pieces[0].scales);
}

}  // namespace sinter::cuda
