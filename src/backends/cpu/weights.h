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

/// The weights of one model in the forms that its programs want. Each is read once, packed or copied, and kept; what was read
/// lets go of the pages of the file. Only tables, of which a run reads a few rows, are used where they lie.
class BoundWeights {
 public:
  explicit BoundWeights(const CompiledGraph& compiled);

  /// Bytes that are held at most once all is loaded: what is packed or copied, and tables, in the file or converted.
  int64_t bytes() const { return packed_bytes_ + table_bytes_; }
  int64_t packed_bytes() const { return packed_bytes_; }
  /// Bytes that load() holds at most at any time, where reading one weight takes `reading(name)` until it is packed.
  int64_t loading_peak_bytes(const std::function<int64_t(const std::string&)>& reading) const;
  /// Reads and packs everything that is not loaded yet. `done` is called with each name once its tensor is not needed any more
  /// (for tables: when they are unloaded), and may be empty. Errors name the weight.
  void load(const WeightReader& source, const std::function<void(const std::string&)>& done = {},
            const std::function<void(double fraction)>& progress = {});
  /// Forgets these weights, so that the next load reads them again: LoRAs were changed.
  void forget(const std::set<std::string>& names);
  /// Forgets all of them and gives their memory back. `done` as in load(), for the tables.
  void unload(const std::function<void(const std::string&)>& done = {});

  const void* get(const std::string& name, const WeightSlot& slot) const;

 private:
  struct Entry {
    Type type;
    bool table = false;
    int64_t offset = 0;  // in block_, unless it is a table
    int64_t bytes = 0;
    Tensor rows;  // of a table: in the file, or converted
    bool ready = false;
  };
  using Key = std::pair<std::string, WeightSlot>;
  void add(const CompiledGraph::Unit& unit, const std::string& prefix);
  void fill(const Key& key, Entry& entry, const Tensor& tensor);

  Engine& engine_;
  std::map<Key, Entry> entries_;  // slot.ordinal is 0 in keys
  int64_t packed_bytes_ = 0, table_bytes_ = 0;
  Tensor block_;  // all but tables, one behind the other: single allocations would each end in a half-empty huge page
};

}  // namespace sinter::cpu
