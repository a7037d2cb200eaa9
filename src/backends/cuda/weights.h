#pragma once
#include <map>
#include <string>
#include <vector>

#include "backends/cuda/engine.h"

namespace sinter::cuda {

class Uploader;

/// The weights of one model in device memory, in the forms that its programs want: one block, each form at its own offset.
class BoundWeights final : public sinter::BoundWeights {
 public:
  BoundWeights(Engine& engine, const CompiledGraph& compiled);

  int64_t bytes() const override { return bytes_; }
  /// What is read passes through page-locked buffers; device memory is taken at once.
  int64_t loading_peak_bytes(const std::function<int64_t(const std::string&)>&) const override { return bytes_; }
  void load(const WeightReader& source, const std::function<void(const std::string&)>& done = {},
            const std::function<void(double fraction)>& progress = {}) override;
  /// Random numbers of the usual size instead, made on the device: for benchmarks of models that are not there.
  void fill_random(uint64_t seed);
  void forget(const std::set<std::string>& names) override;
  void unload(const std::function<void(const std::string&)>& done = {}) override;

  DevicePtr get(const Unit& unit, const std::string& prefix, int32_t slot) const;
  /// The factors of the rows of a slot of form `e4m3_rows`.
  DevicePtr row_scales(const Unit& unit, const std::string& prefix, int32_t slot) const;

 private:
  /// One weight within a form.
  struct Piece {
    std::string name;
    Type type;
    int64_t offset = 0;  ///< in block_
    int64_t scales = 0;  ///< of e4m3_rows: the same of its rows' factors
    bool ready = false;
  };
  struct Entry {
    WeightSlot slot;  ///< without ordinals
    DType dtype = DType::f32;
    std::vector<Piece> pieces;
  };
  using Key = std::pair<std::vector<std::string>, WeightSlot>;
  void add(const Unit& unit, const std::string& prefix);
  static Key key_of(const Unit& unit, const std::string& prefix, const WeightSlot& slot);
  void place_scales(Entry& entry);
  void take_block();
  void put(Uploader& uploader, const Entry& entry, const Piece& piece, const Tensor& tensor);
  bool put(Uploader& uploader, const Entry& entry, const Piece& piece, const ScaledRows& rows);
  const Entry& loaded(const Unit& unit, const std::string& prefix, int32_t slot) const;

  Engine& engine_;
  std::map<Key, Entry> entries_;
  std::map<std::string, std::vector<std::pair<Entry*, size_t>>> by_name_;  // entry and piece
  int64_t bytes_ = 0;
  DeviceMemory block_;
};

}  // namespace sinter::cuda
