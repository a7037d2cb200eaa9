#pragma once
#include <map>
#include <string>
#include <vector>

#include "backends/cuda/weight_stream.h"

namespace sinter::cuda {

class Uploader;

/// The weights of one model in the forms that its programs want: one block of device memory, each form at its own offset. Those
/// of streamed blocks lie in slots at its end while they are in use, and otherwise in the host's memory: in the file, where they
/// have the form that is wanted there, or in a copy.
class BoundWeights final : public sinter::BoundWeights {
 public:
  BoundWeights(Engine& engine, const CompiledGraph& compiled);

  int64_t bytes() const override { return bytes_; }
  WeightSizes sizes() const override;
  void stream(const std::vector<int>& blocks) override;
  std::vector<int> streamed_blocks() const override { return streamed_; }
  std::string why_streams_slowly() const override { return why_slow_; }
  /// What is read passes through page-locked buffers; device memory is taken at once.
  int64_t loading_peak_bytes(const std::function<int64_t(const std::string&)>&) const override { return bytes_; }
  void load(const WeightReader& source, const std::function<void(const std::string&)>& done = {},
            const std::function<void(double fraction)>& progress = {}) override;
  /// Random numbers of the usual size instead, made on the device: for benchmarks of models that are not there. Streamed blocks
  /// of one size share a few copies in the host's memory.
  void fill_random(uint64_t seed);
  bool forget(const std::set<std::string>& names) override;
  void unload(const std::function<void(const std::string&)>& done = {}) override;

  DevicePtr get(const Unit& unit, const std::string& prefix, int32_t slot) const;
  /// The factors of the rows of a slot of form `e4m3_rows`.
  DevicePtr row_scales(const Unit& unit, const std::string& prefix, int32_t slot) const;

  /// How the streamed blocks come; none where nothing is streamed.
  WeightStream* stream() const { return stream_.get(); }
  /// The number in that stream of the graph's block `block`; -1: it stays on the device.
  int streamed(int block) const;

 private:
  static constexpr int kShared = -1;
  /// One weight within a form.
  struct Piece {
    std::string name;
    Type type;
    int64_t offset = 0;  ///< in memory_; of streamed blocks, in their slot
    int64_t scales = 0;  ///< of e4m3_rows: the same of its rows' factors
    bool ready = false;
  };
  struct Entry {
    WeightSlot slot;  ///< without ordinals
    DType dtype = DType::f32;
    std::vector<Piece> pieces;
    int64_t bytes = 0;
    int block = kShared;  ///< that alone uses it, as the graph calls them; kShared: none, or several
  };
  using Key = std::pair<std::vector<std::string>, WeightSlot>;
  void add(const Unit& unit, const std::string& prefix, int block);
  static Key key_of(const Unit& unit, const std::string& prefix, const WeightSlot& slot);
  void place();
  static int64_t stored_bytes(const Entry& entry, const Piece& piece);
  static int64_t place(Entry& entry, int64_t at);
  DevicePtr base(const Entry& entry) const;
  void take_memory();
  int64_t most_staging_bytes() const;
  void read_all(const WeightReader& source, Uploader& uploader, std::vector<Piece*>& given, std::vector<const std::string*>& read,
                const std::function<void(double)>& progress);
  void put(Uploader& uploader, const Entry& entry, const Piece& piece, const ChangedWeight& weight);
  bool put(Uploader& uploader, const Entry& entry, const Piece& piece, const ScaledRows& rows);
  struct Image {
    Tensor bytes;
    HostRegistration lock;
  };
  Tensor& image_of(int streamed);
  void lock_images();
  void keep_image(const Entry& entry, const Piece& piece);
  void fill_random(const Entry& entry, const Piece& piece, uint64_t seed);
  void make_stream();
  const Entry& loaded(const Unit& unit, const std::string& prefix, int32_t slot) const;

  Engine& engine_;
  std::map<Key, Entry> entries_;
  std::map<std::string, std::vector<std::pair<Entry*, size_t>>> by_name_;  // entry and piece
  int blocks_ = 0;                                                         // that the graph calls
  std::vector<int> streamed_;                                              // of these, ascending
  std::vector<int64_t> ends_;                                              // of what these take in their slots
  int64_t bytes_ = 0, resident_ = 0, slot_bytes_ = 0;
  DeviceMemory memory_;
  std::vector<Image> images_;  // of the streamed blocks
  std::string why_slow_;
  std::unique_ptr<WeightStream> stream_;
};

}  // namespace sinter::cuda
