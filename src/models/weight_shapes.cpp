#include "models/weight_shapes.h"

#include <nlohmann/json.hpp>

namespace sinter {

int64_t WeightShapes::size(std::string_view name, int rank, int axis) const {
  auto found = shapes.find(name);
  if (found == shapes.end()) fail(Code::Unsupported, "{}: the weight {} is missing", subject, name);
  const std::vector<int64_t>& shape = found->second;
  if (int(shape.size()) != rank)
    fail(Code::Unsupported, "{}: {} should have {} axes, not the shape {}", subject, name, rank, shape_text(shape));
  return shape[size_t(axis)];
}

int64_t WeightShapes::count_blocks(std::string_view prefix) const {
  for (int64_t count = 0;; ++count) {
    std::string block = std::string(prefix) + std::to_string(count) + ".";
    auto found = shapes.lower_bound(block);
    if (found == shapes.end() || !found->first.starts_with(block)) return count;
  }
}

WeightShapes weight_shapes(const Checkpoint& checkpoint) {
  WeightShapes result{checkpoint.path().string(), {}};
  for (const std::string& name : checkpoint.names()) result.shapes.emplace(name, checkpoint.find(name)->shape);
  return result;
}

WeightShapes weight_shapes(const Graph& graph, const std::string& subject) {
  WeightShapes result{subject, {}};
  for (const WeightUse& use : weights_of(graph)) {
    std::vector<int64_t> shape;
    for (const Dim& dim : use.type.shape) shape.push_back(dim.constant());
    result.shapes.emplace(use.name, std::move(shape));
  }
  return result;
}

namespace {
std::vector<int64_t> numbers(const nlohmann::json& entry, const std::string& name) {
  std::vector<int64_t> out;
  for (const nlohmann::json& item : entry.is_array() ? entry : nlohmann::json::array({entry})) {
    if (!item.is_number_integer())
      fail(Code::Corrupt, "the metadata tiny_config should give whole numbers for {}, not {}", name, item.dump());
    out.push_back(item.get<int64_t>());
  }
  return out;
}
}  // namespace

ConfigOverrides config_overrides(const Metadata& metadata, const std::string& component) {
  ConfigOverrides overrides;
  auto found = metadata.find("tiny_config");
  if (found == metadata.end()) return overrides;
  auto json = nlohmann::json::parse(found->second, nullptr, false);
  if (!json.is_object()) fail(Code::Corrupt, "the metadata tiny_config is not a JSON object");
  auto part = json.find(component);
  if (part == json.end()) return overrides;
  if (!part->is_object()) fail(Code::Corrupt, "the metadata tiny_config has no JSON object for {}", component);
  for (auto& [name, entry] : part->items()) overrides.emplace(name, numbers(entry, component + "." + name));
  return overrides;
}

}  // namespace sinter
