#pragma once
#include <list>
#include <memory>
#include <vector>

#include "backends/cuda/engine.h"

namespace sinter::cuda {

/// Bytes in the host's memory and where they go in a slot.
struct StreamedBytes {
  const std::byte* from = nullptr;
  int64_t bytes = 0;
  int64_t offset = 0;  ///< from the beginning of the slot
};

/// Blocks' weights on their way from the host's memory, on a stream of their own: while one block computes, the next one's
/// weights arrive. Blocks are numbered as they follow each other in a run; block i uses slot i modulo kStreamSlots. Between runs
/// the first block's weights lie ready. All of it can be captured.
class WeightStream {
 public:
  WeightStream(Engine& engine, std::vector<DevicePtr> slots) : engine_(engine), slots_(std::move(slots)) {}
  ~WeightStream();
  WeightStream(const WeightStream&) = delete;
  WeightStream& operator=(const WeightStream&) = delete;

  /// The next block; `parts` must stay where they are. They come at the bus's speed only from page-locked memory.
  void add(std::vector<StreamedBytes> parts);
  int64_t bytes() const;  ///< of a run
  int count() const { return int(blocks_.size()); }

  /// Brings the first block, if it does not lie ready. Not within a capture. Until the run has ended well it does not count as
  /// ready.
  void begin_run();
  void end_run() { ready_ = true; }

  // What a run queues, in this order: open(), then for each block before(i), its launches, after(i); at last close().
  void open();
  void before(int i);
  void after(int i);
  void close();

 private:
  struct Block {
    std::vector<StreamedBytes> parts;
    std::unique_ptr<Event> arrived, free;
  };
  void bring(int i, const Stream& stream);

  Engine& engine_;
  std::vector<DevicePtr> slots_;
  std::vector<Block> blocks_;
  std::unique_ptr<Stream> copies_;
  std::unique_ptr<Event> opened_;
  bool ready_ = false;
};

}  // namespace sinter::cuda
