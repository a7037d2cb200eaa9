#pragma once
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "backends/cpu/engine.h"

namespace sinter::cpu {

/// The weights of one model in the forms that its programs want. Each is read once, packed and kept; what was packed lets go of
/// the pages of the file it was read from.
class BoundWeights final : public sinter::BoundWeights {
 public:
  BoundWeights(Engine& engine, const CompiledGraph& compiled);

  int64_t bytes() const override { return packed_bytes_; }
  void load(const WeightReader& source, const std::function<void(const std::string&)>& done = {},
            const std::function<void(double fraction)>& progress = {}) override;
  void forget(const std::set<std::string>& names) override;
  void unload() override;

  const void* get(const std::string& name, const WeightSlot& slot) const;

 private:
  struct Entry {
    Type type;
    int64_t offset = 0, bytes = 0;  // in block_, of packed forms
    Tensor plain;                   // of the others: in the file, or converted
    bool ready = false;
  };
  using Key = std::pair<std::string, WeightSlot>;
  void add(const Unit& unit, const std::string& prefix);
  void fill(const Key& key, Entry& entry, const Tensor& tensor);

  Engine& engine_;
  std::map<Key, Entry> entries_;  // slots in keys have no ordinals
  int64_t packed_bytes_ = 0;
  Tensor block_;  // all packed forms, one behind the other: single allocations would each end in a half-empty huge page
};

}  // namespace sinter::cpu
