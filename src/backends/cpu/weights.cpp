#include "backends/cpu/weights.h"

#include "backends/cpu/calls/pack.h"

namespace sinter::cpu {
namespace {

std::vector<int64_t> constant_shape(const Type& type) {
  std::vector<int64_t> shape;
  for (const Dim& dim : type.shape) shape.push_back(dim.constant());
  return shape;
}

PanelLayout layout_of(const WeightSlot& slot, const std::vector<int64_t>& shape, const Microkernels& kernels) {
  if (slot.form == WeightSlot::matrix) return panel_layout(slot.panels, shape[0] / slot.parts, shape[1], 1, kernels);
  return conv_layout(slot.panels, shape[0], shape[1], int(shape[2]), int(shape[3]), kernels);
}

/// Plain weights of more bytes are tables of embeddings. Smaller ones are copied: a bias that stays in the file keeps megabytes
/// of the file in memory, because the kernel maps all that it cached in one piece with it.
constexpr int64_t kLargestCopy = int64_t(1) << 20;
constexpr int64_t kAlignment = 64;

}  // namespace

BoundWeights::BoundWeights(Engine& engine, const CompiledGraph& compiled) : engine_(engine) {
  add(compiled.root(), "");
  for (auto& [key, entry] : entries_) {
    const WeightSlot& slot = key.second;
    std::vector<int64_t> shape = constant_shape(entry.type);
    entry.bytes = slot.form == WeightSlot::plain ? element_count(std::span<const int64_t>(shape)) * byte_size(entry.type.dtype)
                                                 : layout_of(slot, shape, engine_.microkernels()).bytes() * slot.parts;
    entry.table = slot.form == WeightSlot::plain && entry.bytes > kLargestCopy;
    if (entry.table) {
      table_bytes_ += entry.bytes;
      continue;
    }
    entry.offset = packed_bytes_;
    packed_bytes_ += round_up(entry.bytes, kAlignment);
  }
}

int64_t BoundWeights::loading_peak_bytes(const std::function<int64_t(const std::string&)>& reading) const {
  int64_t held = 0, peak = 0;
  for (const auto& [key, entry] : entries_) {
    held += entry.bytes;
    peak = std::max(peak, held + reading(key.first));
  }
  return peak;
}

void BoundWeights::add(const Unit& unit, const std::string& prefix) {
  for (WeightSlot slot : unit.program.weights) {
    const WeightUse& use = unit.weights[size_t(slot.ordinals.at(0))];
    slot.ordinals.clear();
    entries_.try_emplace({prefix + use.name, slot}, Entry{.type = use.type});
  }
  for (const auto& callee : unit.callees) add(*callee.unit, prefix + callee.prefix);
}

void BoundWeights::fill(const Key& key, Entry& entry, const Tensor& tensor) {
  const auto& [name, slot] = key;
  std::vector<int64_t> shape = constant_shape(entry.type);
  if (tensor.count() != element_count(std::span<const int64_t>(shape)))
    fail(Code::InvalidArgument, "the weight '{}' should have the shape {}, not {}", name, shape_text(shape),
         shape_text(tensor.shape()));
  entry.ready = true;
  if (entry.table) {
    entry.rows = tensor.to(entry.type.dtype).reshaped(shape);
    return;
  }
  if (block_.empty()) block_ = Tensor(DType::u8, {packed_bytes_});
  if (slot.form == WeightSlot::plain) {
    convert(tensor.data(), tensor.dtype(), block_.data() + entry.offset, entry.type.dtype, tensor.count());
    return;
  }
  PanelLayout layout = layout_of(slot, shape, engine_.microkernels());
  int64_t part_bytes = tensor.bytes() / slot.parts;
  for (int part = 0; part < slot.parts; ++part) {
    PackSource source{tensor.data() + part * part_bytes, tensor.dtype(), 0, layout.n};
    void* to = block_.data() + entry.offset + part * layout.bytes();
    if (slot.form == WeightSlot::matrix)
      pack_matrix(layout, source, to, engine_.pool());
    else
      pack_conv(layout, source, shape[1], int(shape[2]), int(shape[3]), to, engine_.pool());
  }
}

void BoundWeights::load(const WeightReader& source, const std::function<void(const std::string&)>& done,
                        const std::function<void(double)>& progress) {
  size_t at = 0;
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    // All forms of one weight from one reading.
    const std::string& name = entry->first.first;
    Tensor tensor;
    bool table = false;
    for (; entry != entries_.end() && entry->first.first == name; ++entry, ++at) {
      if (entry->second.ready) continue;
      engine_.check_cancelled();
      if (tensor.empty()) tensor = source(name);
      fill(entry->first, entry->second, tensor);
      table = table || entry->second.table;
    }
    if (done && !tensor.empty() && !table) done(name);
    if (progress) progress(double(at) / double(entries_.size()));
  }
}

bool BoundWeights::forget(const std::set<std::string>& names) {
  for (auto& [key, entry] : entries_)
    if (names.contains(key.first)) entry.ready = false;
  return false;
}

void BoundWeights::unload(const std::function<void(const std::string&)>& done) {
  for (auto& [key, entry] : entries_) {
    entry.ready = false;
    if (!entry.table || entry.rows.empty()) continue;
    entry.rows = {};
    if (done) done(key.first);
  }
  block_ = {};
}

const void* BoundWeights::get(const std::string& name, const WeightSlot& slot) const {
  WeightSlot key = slot;
  key.ordinals.clear();
  const Entry& entry = entries_.at({name, key});
  if (!entry.ready) fail(Code::Internal, "the weight '{}' is not loaded", name);
  return entry.table ? entry.rows.data() : block_.data() + entry.offset;
}

}  // namespace sinter::cpu
