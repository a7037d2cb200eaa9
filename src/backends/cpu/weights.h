#pragma once
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "backends/cpu/engine.h"

namespace sinter::cpu {

/// Where weights come from: the tensor of a full name, in any float type, with the declared number of elements.
using WeightReader = std::function<Tensor(const std::string& name)>;

/// The weights of one model in the forms that its programs want. Each is read once, packed and kept; what was packed lets go of
/// the pages of the file it was read from.
class BoundWeights {
 public:
  explicit BoundWeights(const CompiledGraph& compiled);

  /// Bytes that load() will keep, not counting weights used where they lie in the file.
  int64_t packed_bytes() const { return packed_bytes_; }
  /// Reads and packs everything that is not loaded yet. `done` is called with each name once its tensor is not needed any more,
  /// and may be empty. Errors name the weight.
  void load(const WeightReader& source, const std::function<void(const std::string&)>& done = {},
            const std::function<void(double fraction)>& progress = {});
  /// Forgets these weights, so that the next load reads them again: LoRAs were changed.
  void forget(const std::set<std::string>& names);
  /// Forgets all of them and gives their memory back.
  void unload();

  const void* get(const std::string& name, const WeightSlot& slot) const;

 private:
  struct Entry {
    Type type;
    int64_t offset = 0, bytes = 0;  // in block_, of packed forms
    Tensor plain;                   // of the others: in the file, or converted
    bool ready = false;
  };
  using Key = std::pair<std::string, WeightSlot>;
  void add(const CompiledGraph::Unit& unit, const std::string& prefix);
  void fill(const Key& key, Entry& entry, const Tensor& tensor);

  Engine& engine_;
  std::map<Key, Entry> entries_;  // slot.ordinal is 0 in keys
  int64_t packed_bytes_ = 0;
  Tensor block_;  // all packed forms, one behind the other: single allocations would each end in a half-empty huge page
};

}  // namespace sinter::cpu
