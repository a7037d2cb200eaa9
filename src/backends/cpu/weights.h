#pragma once
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "backends/cpu/engine.h"

namespace sinter::cpu {

/// The weights of one model in the forms that its programs want. Each is read once, packed or copied, and kept; what was read
/// lets go of the pages of the file. Only tables, of which a run reads a few rows, are used where they lie.
class BoundWeights final : public sinter::BoundWeights {
 public:
  BoundWeights(Engine& engine, const CompiledGraph& compiled);

  int64_t bytes() const override { return packed_bytes_ + table_bytes_; }
  int64_t packed_bytes() const { return packed_bytes_; }
  int64_t loading_peak_bytes(const std::function<int64_t(const std::string&)>& reading) const override;
  void load(const WeightReader& source, const std::function<void(const std::string&)>& done = {},
            const std::function<void(double fraction)>& progress = {}) override;
  bool forget(const std::set<std::string>& names) override;
  void unload(const std::function<void(const std::string&)>& done = {}) override;

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
  void add(const Unit& unit, const std::string& prefix);
  void fill(const Key& key, Entry& entry, const Tensor& tensor);

  Engine& engine_;
  std::map<Key, Entry> entries_;  // slots in keys have no ordinals
  int64_t packed_bytes_ = 0, table_bytes_ = 0;
  Tensor block_;  // all but tables, one behind the other: single allocations would each end in a half-empty huge page
};

}  // namespace sinter::cpu
