#include "backends/cuda/weights.h"

#include <cmath>

#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/schedules.h"
#include "backends/cuda/upload.h"
#include "graph/ops.h"

namespace sinter::cuda {
namespace {

DType type_of(PanelType panels) {
  return panels == PanelType::f32 ? DType::f32 : panels == PanelType::f16 ? DType::f16 : DType::bf16;
}

int64_t count_of(const Type& type) { return element_count(type.shape).constant(); }

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
      bytes_ += count_of(piece.type) * byte_size(entry.dtype);
      by_name_[piece.name].emplace_back(&entry, i);
    }
    bytes_ = (bytes_ + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
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
    entry.dtype = slot.form == WeightSlot::plain ? unit.weights[size_t(slot.ordinals[0])].type.dtype : type_of(slot.panels);
    for (int32_t ordinal : slot.ordinals)
      entry.pieces.push_back({prefix + unit.weights[size_t(ordinal)].name, unit.weights[size_t(ordinal)].type});
  }
  for (const auto& callee : unit.callees) add(*callee.unit, prefix + callee.prefix);
}

void BoundWeights::load(const WeightReader& source, const std::function<void(const std::string&)>& done,
                        const std::function<void(double)>& progress) {
  if (bytes_ > 0 && !block_.address()) block_ = DeviceMemory(engine_.context(), bytes_, "the weights");
  Uploader uploader(engine_);
  size_t at = 0;
  for (auto& [name, uses] : by_name_) {
    engine_.check_cancelled();
    Tensor tensor;
    for (auto [entry, index] : uses) {
      Piece& piece = entry->pieces[index];
      if (piece.ready) continue;
      if (tensor.empty()) tensor = source(name);
      if (tensor.count() != count_of(piece.type))
        fail(Code::InvalidArgument, "the weight '{}' should have the shape {}, not {}", name, piece.type.text(),
             shape_text(tensor.shape()));
      DevicePtr to = block_.address() + DevicePtr(piece.offset);
      if (entry->slot.form == WeightSlot::filters) {
        const Shape& s = piece.type.shape;
        uploader.filters(tensor, to, entry->dtype, s[0].constant(), s[1].constant(), s[2].constant() * s[3].constant());
      } else {
        uploader.rows(tensor, to, entry->dtype);
      }
      piece.ready = true;
    }
    if (done && !tensor.empty()) done(name);
    if (progress) progress(double(++at) / double(by_name_.size()));
  }
  uploader.finish();
  engine_.note_memory();
}

void BoundWeights::fill_random(uint64_t seed) {
  if (bytes_ > 0 && !block_.address()) block_ = DeviceMemory(engine_.context(), bytes_, "the weights");
  engine_.kernels().load("elements");
  for (auto& [key, entry] : entries_)
    for (Piece& piece : entry.pieces) {
      bool scales = piece.type.shape.size() < 2 && piece.name.ends_with("weight");
      fill_normal(engine_.kernel_target(), block_.address() + DevicePtr(piece.offset), entry.dtype, count_of(piece.type), seed++,
                  scales ? 1.f : 0.f, spread_of(piece.type));
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

DevicePtr BoundWeights::get(const Unit& unit, const std::string& prefix, int32_t slot) const {
  const Entry& entry = entries_.at(key_of(unit, prefix, unit.program.weights[size_t(slot)]));
  for (const Piece& piece : entry.pieces)
    if (!piece.ready) fail(Code::Internal, "the weight '{}' is not loaded", piece.name);
  return block_.address() + DevicePtr(entry.pieces[0].offset);
}

}  // namespace sinter::cuda
