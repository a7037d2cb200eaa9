#pragma once
#include <deque>
#include <set>
#include <vector>

#include "backends/cuda/engine.h"

namespace sinter {
class MappedFile;
}

namespace sinter::cuda {

constexpr int64_t kUploadPiece = int64_t(128) << 10;  ///< what one thread copies at a time

/// Copies with all threads of a pool; from a mapped file by reading it.
void copy_bytes(ThreadPool& pool, std::byte* to, const std::byte* from, int64_t bytes);

/// Page-locked buffers that take turns: while the bus empties some, threads fill another one.
class UploadRing {
 public:
  // Slots that stay in the last cache while they are filled and sent: 32 MB took a fifth longer.
  static constexpr int64_t kSlotBytes = int64_t(8) << 20;
  static constexpr int kSlots = 4;

  explicit UploadRing(Engine& engine);

  /// The number of the next slot, once what it held has been sent.
  int next();
  std::byte* slot(int number) { return memory_.data() + number * kSlotBytes; }
  /// The slot's content is what was queued last.
  void sent(int number, const Stream& stream);

 private:
  Tensor memory_;
  HostRegistration lock_;
  std::vector<std::unique_ptr<Event>> sent_;
  int current_ = -1;
};

/// Brings tensors to the device: through the engine's ring, many small ones at once, and converted there where the device wants
/// another type or order. Page-locking a mapped file itself would save the copy, but on some virtual machines that never returns,
/// and all threads together keep up with the bus. What it was given is on its way after send(), and there after finish().
/// A slot is filled by the pool's other threads while the caller's goes on: it gathers what the next slot will hold, and queues
/// the copies of the one before. So what a slot costs the caller, and the driver's calls, cost nothing where filling takes
/// longer. A conversion is launched when the slot with the last of its bytes is sent, so slots are full whatever becomes of their
/// content. Errors of filling and of the driver come one call later than what they are about, at the latest in send().
class Uploader {
 public:
  /// `overlapped`: copies go on while weights that came before are converted, so nothing may be read or overwritten by others
  /// before finish(). Otherwise all follows the engine's stream.
  Uploader(Engine& engine, bool overlapped);
  ~Uploader();

  /// Conversions on the device will need so many bytes at once: taken in one piece, they need not grow.
  void expect(int64_t bytes);
  // What changes a weight is added there, before anything else becomes of it.

  /// The elements in order, as `type`.
  void rows(const ChangedWeight& weight, DevicePtr to, DType type);
  /// Rows as f8e4m3 with a factor for each. What is f8e4m3 already stays as it is.
  void e4m3_rows(const ChangedWeight& weight, DevicePtr to, DevicePtr scales, int64_t rows);
  void e4m3_rows(const ScaledRows& rows, DevicePtr to, DevicePtr scales);
  /// Values times factors, as `type`.
  void rows(const ScaledRows& rows, DevicePtr to, DType type);
  /// Convolution weights [k, c, taps] as [k, taps, c].
  void filters(const ChangedWeight& weight, DevicePtr to, DType type, int64_t k, int64_t c, int64_t taps);
  /// Convolution weights [k, c, 3, 3] as [2, 2, k, 2, 2, c], for pictures at twice their size: see WeightSlot::doubled_filters.
  void doubled_filters(const ChangedWeight& weight, DevicePtr to, DType type, int64_t k, int64_t c);
  /// Queues all that was given.
  void send();
  void finish();

 private:
  /// A part of what a slot will hold, small enough for one thread.
  struct Piece {
    const std::byte* from;
    int64_t bytes, at;  ///< at: in the slot
    const MappedFile* file;
  };
  struct Copy {
    DevicePtr to;
    int64_t at, bytes;
  };
  /// Memory where weights lie side by side as the file has them, until they are converted.
  struct Staging {
    DeviceMemory memory;
    int64_t used = 0;
    std::unique_ptr<Event> free;  ///< behind the last conversion from it that was launched
  };
  using Launch = std::function<void(KernelTarget& target)>;
  /// What one slot is to hold, and what becomes of it.
  struct Load {
    int64_t used = 0;
    std::vector<Piece> pieces;
    std::vector<Copy> copies;
    std::vector<Tensor> held;  ///< what pieces are read from
    /// Those whose last bytes it has, in order. Each is one launch, so that where one fails none is made twice.
    std::deque<Launch> conversions;
    std::set<Staging*> stagings;  ///< that these read
    int slot = -1;                ///< its number, as soon as it has one
    std::unique_ptr<ThreadPool::Job> filling;

    bool empty() const { return copies.empty() && conversions.empty(); }
  };
  void copy(const Tensor& tensor, DevicePtr to);
  void gather(const std::byte* from, int64_t bytes, DevicePtr to);
  void fill_slot();
  void send_filling();
  void await_filling();
  void send_filled();
  const Stream& copies() const { return copy_stream_ ? *copy_stream_ : engine_.stream(); }
  void grow(Staging& staging, int64_t bytes);
  Staging& staging_for(int64_t bytes);
  DevicePtr stage(const std::vector<Tensor>& parts);
  DevicePtr stage(const ChangedWeight& weight);
  void add_products(const ChangedWeight& weight, DevicePtr at, DevicePtr table);
  void convert(Launch launch);
  void launch_conversions(Load& load);

  Engine& engine_;
  std::unique_ptr<Stream> copy_stream_;  // none: the engine's
  // Three slots at a time: what is given adds to the first, workers have the second, and the third is sent.
  Load gathered_, filling_, filled_;
  bool given_ = false;             // something since finish()
  std::vector<Staging> stagings_;  // which take turns
  size_t turn_ = 0;                // whose
  std::unique_ptr<Event> arrived_;
};

}  // namespace sinter::cuda
