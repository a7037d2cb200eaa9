#include "backends/cuda/weights.h"

#include <cmath>

#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/schedules.h"
#include "backends/cuda/upload.h"
#include "graph/ops.h"

namespace sinter::cuda {
namespace {

DType type_of(const WeightSlot& slot) {
  if (slot.form == WeightSlot::e4m3_rows) return DType::f8e4m3;
  return slot.panels == PanelType::f32 ? DType::f32 : slot.panels == PanelType::f16 ? DType::f16 : DType::bf16;
}

int64_t aligned(int64_t bytes) { return (bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment; }

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

}  // namespace

BoundWeights::BoundWeights(Engine& engine, const CompiledGraph& compiled) : engine_(engine) {
  add(compiled.root(), "");
  for (auto& [key, entry] : entries_) {
    // Joined weights follow each other without gaps.
    for (size_t i = 0; i < entry.pieces.size(); ++i) {
      Piece& piece = entry.pieces[i];
      piece.offset = bytes_;
      bytes_ += stored_count(entry.slot.form, piece.type) * byte_size(entry.dtype);
      by_name_[piece.name].emplace_back(&entry, i);
    }
    if (entry.slot.form == WeightSlot::e4m3_rows) place_scales(entry);
    bytes_ = aligned(bytes_);
  }
}

/// The factors follow the rows of all pieces.
void BoundWeights::place_scales(Entry& entry) {
  bytes_ = aligned(bytes_);
  for (Piece& piece : entry.pieces) {
    piece.scales = bytes_;
    bytes_ += rows_of(piece.type) * int64_t(sizeof(float));
  }
}

BoundWeights::Key BoundWeights::key_of(const Unit& unit, const std::string& prefix, const WeightSlot& slot) {
  Key key{{}, slot};
  for (int32_t ordinal : slot.ordinals) key.first.push_back(prefix + unit.weights[size_t(ordinal)].name);
  key.second.ordinals.clear();
  return key;
}

void BoundWeights::add(const Unit& unit, const std::string& prefix) {
  for (const WeightSlot& slot : unit.program.weights) {
    auto [at, fresh] = entries_.try_emplace(key_of(unit, prefix, slot));
    if (!fresh) continue;
    Entry& entry = at->second;
    entry.slot = at->first.second;
    entry.dtype = slot.form == WeightSlot::plain ? unit.weights[size_t(slot.ordinals[0])].type.dtype : type_of(slot);
    for (int32_t ordinal : slot.ordinals)
      entry.pieces.push_back({prefix + unit.weights[size_t(ordinal)].name, unit.weights[size_t(ordinal)].type});
  }
  for (const auto& callee : unit.callees) add(*callee.unit, prefix + callee.prefix);
}

void BoundWeights::load(const WeightReader& source, const std::function<void(const std::string&)>& done,
                        const std::function<void(double)>& progress) {
  take_block();
  Uploader uploader(engine_);
  size_t at = 0;
  for (auto& [name, uses] : by_name_) {
    engine_.check_cancelled();
    Tensor tensor;
    std::optional<ScaledRows> scaled;
    for (auto [entry, index] : uses) {
      Piece& piece = entry->pieces[index];
      if (piece.ready) continue;
      if (!scaled && tensor.empty()) scaled = source.scaled_rows(name);
      if (scaled && put(uploader, *entry, piece, *scaled)) {
        piece.ready = true;
        continue;
      }
      if (tensor.empty()) tensor = source(name);
      if (tensor.count() != count_of(piece.type))
        fail(Code::InvalidArgument, "the weight '{}' should have the shape {}, not {}", name, piece.type.text(),
             shape_text(tensor.shape()));
      put(uploader, *entry, piece, tensor);
      piece.ready = true;
    }
    if (done && (scaled || !tensor.empty())) done(name);
    if (progress) progress(double(++at) / double(by_name_.size()));
  }
  uploader.finish();
  engine_.note_memory();
}

void BoundWeights::put(Uploader& uploader, const Entry& entry, const Piece& piece, const Tensor& tensor) {
  DevicePtr to = block_.address() + DevicePtr(piece.offset);
  if (entry.slot.form == WeightSlot::filters) {
    const Shape& s = piece.type.shape;
    uploader.filters(tensor, to, entry.dtype, s[0].constant(), s[1].constant(), s[2].constant() * s[3].constant());
  } else if (entry.slot.form == WeightSlot::doubled_filters) {
    uploader.doubled_filters(tensor, to, entry.dtype, rows_of(piece.type), piece.type.shape[1].constant());
  } else if (entry.slot.form == WeightSlot::e4m3_rows) {
    uploader.e4m3_rows(tensor, to, block_.address() + DevicePtr(piece.scales), rows_of(piece.type));
  } else {
    uploader.rows(tensor, to, entry.dtype);
  }
}

/// Without the way through wider numbers; false for forms that lie in another order, or need other numbers.
bool BoundWeights::put(Uploader& uploader, const Entry& entry, const Piece& piece, const ScaledRows& rows) {
  if (rows.values.count() != count_of(piece.type)) return false;  // read whole, it is reported
  DevicePtr to = block_.address() + DevicePtr(piece.offset);
  if (entry.slot.form == WeightSlot::e4m3_rows && rows.values.dtype() == DType::f8e4m3) {
    uploader.e4m3_rows(rows, to, block_.address() + DevicePtr(piece.scales));
    return true;
  }
  if (entry.slot.form != WeightSlot::rows) return false;
  uploader.rows(rows, to, entry.dtype);
  return true;
}

void BoundWeights::take_block() {
  if (bytes_ > 0 && !block_.address()) block_ = DeviceMemory(engine_.context(), bytes_, "the weights");
}

void BoundWeights::fill_random(uint64_t seed) {
  take_block();
  engine_.kernels().load("elements");
  for (auto& [key, entry] : entries_)
    for (Piece& piece : entry.pieces) {
      bool scales = piece.type.shape.size() < 2 && piece.name.ends_with("weight");
      bool e4m3 = entry.slot.form == WeightSlot::e4m3_rows;
      constexpr float kSpread = 100;  // of numbers in e4m3: few go beyond its end at 448
      KernelTarget& target = engine_.kernel_target();
      fill_normal(target, block_.address() + DevicePtr(piece.offset), entry.dtype, stored_count(entry.slot.form, piece.type),
                  seed++, scales ? 1.f : 0.f, e4m3 ? kSpread : spread_of(piece.type));
      if (e4m3)
        fill_normal(target, block_.address() + DevicePtr(piece.scales), DType::f32, rows_of(piece.type), 0,
                    spread_of(piece.type) / kSpread, 0);
      piece.ready = true;
    }
  engine_.stream().synchronize();
}

void BoundWeights::forget(const std::set<std::string>& names) {
  for (const std::string& name : names)
    if (auto at = by_name_.find(name); at != by_name_.end())
      for (auto [entry, index] : at->second) entry->pieces[index].ready = false;
}

void BoundWeights::unload(const std::function<void(const std::string&)>&) {
  for (auto& [key, entry] : entries_)
    for (Piece& piece : entry.pieces) piece.ready = false;
  engine_.stream().synchronize();
  block_ = {};
}

const BoundWeights::Entry& BoundWeights::loaded(const Unit& unit, const std::string& prefix, int32_t slot) const {
  const Entry& entry = entries_.at(key_of(unit, prefix, unit.program.weights[size_t(slot)]));
  for (const Piece& piece : entry.pieces)
    if (!piece.ready) fail(Code::Internal, "the weight '{}' is not loaded", piece.name);
  return entry;
}

DevicePtr BoundWeights::get(const Unit& unit, const std::string& prefix, int32_t slot) const {
  return block_.address() + DevicePtr(loaded(unit, prefix, slot).pieces[0].offset);
}

DevicePtr BoundWeights::row_scales(const Unit& unit, const std::string& prefix, int32_t slot) const {
  return block_.address() + DevicePtr(loaded(unit, prefix, slot).pieces[0].scales);
}

}  // namespace sinter::cuda
