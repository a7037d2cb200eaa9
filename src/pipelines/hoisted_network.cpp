#include "pipelines/hoisted_network.h"

#include <algorithm>

#include "compiler/passes/hoist.h"
#include "graph/ops.h"
#include "hardware/memory.h"

namespace sinter {
namespace {

const std::string& name_of(Value input) { return input->attrs.as<NameAttrs>().name; }

bool same_data(const Tensor& a, const Tensor& b) {
  return a.data() == b.data() && a.dtype() == b.dtype() && a.shape() == b.shape();
}

/// These rows of a tensor, one behind the other.
Tensor gathered(const Tensor& from, const std::vector<size_t>& rows) {
  std::vector<int64_t> shape = from.shape();
  shape[0] = int64_t(rows.size());
  Tensor out(from.dtype(), shape);
  size_t bytes = size_t(from.bytes() / from.dim(0));
  for (size_t i = 0; i < rows.size(); ++i) std::copy_n(from.data() + rows[i] * bytes, bytes, out.data() + i * bytes);
  return out;
}

}  // namespace

std::vector<Digest> RowTable::keys_of(const std::vector<Tensor>& inputs) const {
  std::vector<Digest> keys;
  for (int64_t row = 0; row < inputs[0].dim(0); ++row) {
    Hasher h;
    for (const Tensor& input : inputs) {
      Tensor part = input.rows(row, row + 1);
      h.add(shape_text(part.shape())).add(part.dtype()).add(digest_of(part.data(), size_t(part.bytes())));
    }
    keys.push_back(h.digest());
  }
  return keys;
}

std::vector<Tensor> RowTable::own_inputs(const NamedTensors& inputs) const {
  std::vector<Tensor> own;
  for (Value input : network_->graph().inputs()) {
    auto at = inputs.find(name_of(input));
    if (at == inputs.end()) fail(Code::InvalidArgument, "the input '{}' is missing", name_of(input));
    const Tensor& found = at->second;
    int64_t rows = found.rank() == 0 ? 0 : found.dim(0);
    if (rows == 0 || (!own.empty() && rows != own[0].dim(0)))
      fail(Code::InvalidArgument, "the input '{}' has {} rows, where {} are needed", name_of(input), rows,
           own.empty() ? "some" : std::to_string(own[0].dim(0)));
    own.push_back(found);
  }
  return own;
}

void RowTable::compute(const std::vector<Digest>& keys, const std::vector<Tensor>& inputs) {
  std::vector<size_t> missing;
  std::set<Digest> seen;
  for (size_t i = 0; i < keys.size(); ++i)
    if (!table_.contains(keys[i]) && seen.insert(keys[i]).second) missing.push_back(i);
  if (missing.empty()) return;
  NamedTensors in;
  for (size_t i = 0; i < inputs.size(); ++i) in[name_of(network_->graph().inputs()[i])] = gathered(inputs[i], missing);
  loaded_ = true;
  auto outputs = std::make_shared<const std::vector<Tensor>>(network_->run(in));
  for (size_t i = 0; i < missing.size(); ++i) table_[keys[missing[i]]] = {outputs, int64_t(i)};
}

NamedTensors RowTable::joined(const std::vector<Digest>& keys) const {
  std::vector<Row> rows;
  for (const Digest& key : keys) rows.push_back(table_.at(key));
  bool in_a_piece = true;
  for (size_t i = 0; i < rows.size(); ++i)
    in_a_piece = in_a_piece && rows[i].outputs == rows[0].outputs && rows[i].row == rows[0].row + int64_t(i);
  NamedTensors out;
  for (size_t k = 0; k < network_->graph().outputs().size(); ++k) {
    const Tensor& first = (*rows[0].outputs)[k];
    Tensor& value = out[network_->graph().outputs()[k].name];
    if (in_a_piece) {
      value = first.rows(rows[0].row, rows[0].row + int64_t(rows.size()));
      continue;
    }
    std::vector<int64_t> shape = first.shape();
    shape[0] = int64_t(rows.size());
    value = Tensor(first.dtype(), shape);
    int64_t bytes = value.bytes() / shape[0];
    for (size_t i = 0; i < rows.size(); ++i)
      std::copy_n((*rows[i].outputs)[k].data() + rows[i].row * bytes, bytes, value.data() + int64_t(i) * bytes);
  }
  return out;
}

NamedTensors RowTable::rows(const NamedTensors& inputs) {
  std::vector<Tensor> in = own_inputs(inputs);
  if (std::equal(in.begin(), in.end(), last_inputs_.begin(), last_inputs_.end(), same_data)) return last_outputs_;
  // A sampler that never asks twice must not fill the memory.
  constexpr size_t kMostRows = 1024;
  if (table_.size() > kMostRows) table_.clear();
  std::vector<Digest> keys = keys_of(in);
  compute(keys, in);
  last_outputs_ = joined(keys);
  last_inputs_ = std::move(in);
  return last_outputs_;
}

void RowTable::prepare(const std::vector<NamedTensors>& inputs) {
  std::set<Digest> wanted;
  for (const NamedTensors& some : inputs) {
    std::vector<Tensor> in = own_inputs(some);
    std::vector<Digest> keys = keys_of(in);
    compute(keys, in);
    wanted.insert(keys.begin(), keys.end());
  }
  std::erase_if(table_, [&](const auto& entry) { return !wanted.contains(entry.first); });
  unload();
}

void RowTable::unload() {
  last_inputs_.clear();
  last_outputs_.clear();
  if (loaded_) network_->unload_weights();
  loaded_ = false;
}

void RowTable::clear() {
  table_.clear();
  unload();
}

int64_t RowTable::bytes(const Bindings& sizes) const {
  int64_t sum = 0;
  for (const Output& output : network_->graph().outputs())
    sum += element_count(output.value.shape()).value(sizes) * byte_size(output.value.dtype());
  return sum;
}

HoistedNetwork::HoistedNetwork(std::string label, std::unique_ptr<Graph> graph, const std::vector<SteadyInputs>& steady,
                               const MakeNetwork& make)
    : graph_(std::move(graph)) {
  auto rest = std::make_unique<Graph>();
  copy_graph(*graph_, *rest);
  std::set<std::string> kept;
  for (const SteadyInputs& group : steady) {
    std::set<std::string> there;
    for (Value input : rest->inputs())
      if (group.inputs.contains(name_of(input))) there.insert(name_of(input));
    Hoisted parts = hoist(*rest, there, group.name);
    rest = std::move(parts.step);
    if (parts.prelude->outputs().empty()) continue;
    if (group.for_a_run)
      for (const Output& output : parts.prelude->outputs()) kept.insert(output.name);
    tables_.push_back(std::make_unique<RowTable>(make(label + ", " + group.name, std::move(parts.prelude)), group.for_a_run));
  }
  step_ = make(label, std::move(rest));
  step_->keep_inputs(std::move(kept));
}

void HoistedNetwork::prepare(const std::vector<NamedTensors>& inputs) {
  for (auto& table : tables_) {
    const auto& wanted = table->network().graph().inputs();
    std::vector<NamedTensors> suitable;
    for (const NamedTensors& some : inputs)
      if (std::all_of(wanted.begin(), wanted.end(), [&](Value v) { return some.contains(name_of(v)); })) suitable.push_back(some);
    table->prepare(suitable);
  }
  return_free_memory();
}

std::vector<Tensor> HoistedNetwork::run(NamedTensors inputs) {
  for (auto& table : tables_) inputs.merge(table->rows(inputs));
  return step_->run(inputs);
}

void HoistedNetwork::unload_weights() {
  for (auto& table : tables_) table->clear();
  step_->unload_weights();
  return_free_memory();  // tables are many small tensors
}

void HoistedNetwork::weights_changed(const std::set<std::string>& names) {
  for (auto& table : tables_) {
    table->network().weights_changed(names);
    table->clear();
  }
  step_->weights_changed(names);
}

}  // namespace sinter
