#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "compiler/cache.h"
#include "compiler/lowering/lower.h"
#include "tensor/row_product.h"

namespace sinter {

class CompiledGraph;
class Layout;
struct Unit;

/// Counts and reasons of the compiles of a run; the fields of `--json`. A program counts once, also where several networks share
/// it, as all do the matrix kernels.
struct CompileReport {
  int needed = 0, cached = 0, compiled = 0;
  double seconds = 0;
  std::vector<std::string> reasons;  ///< one for each compile
  std::set<Digest> counted;          ///< the programs in `needed`
  /// Whether this program had not been counted; it is then.
  bool count(const Digest& key);
};

/// Rows of a weight as a file keeps them, in 8 bits, with a factor for each.
struct ScaledRows {
  Tensor values;  ///< f8e4m3 or f8e5m2
  std::vector<float> scales;
};

/// A weight and what LoRAs add to it: all of it in f32, then rounded to the type of `original`.
struct ChangedWeight {
  Tensor original;
  std::vector<RowProduct> products;  ///< in order; empty: it stays as it is
};

/// Where weights come from: the tensor of a full name, in any float type, with the declared number of elements.
class WeightReader {
 public:
  WeightReader() = default;
  template <class Read>
  requires std::is_invocable_r_v<Tensor, Read, const std::string&> &&
      (!std::is_same_v<std::decay_t<Read>, WeightReader>)WeightReader(Read read)
      : read_(std::move(read)) {}  // NOLINT: most readers are a function
  /// `scaled` gives the same weight as it is kept, where that is rows with factors.
  /// `changed` gives what read() gives as the weight of the file and what changes it, where that is possible.
  WeightReader(std::function<Tensor(const std::string&)> read,
               std::function<std::optional<ScaledRows>(const std::string&)> scaled,
               std::function<std::optional<ChangedWeight>(const std::string&)> changed = {})
      : read_(std::move(read)), scaled_(std::move(scaled)), changed_(std::move(changed)) {}

  Tensor operator()(const std::string& name) const { return read_(name); }
  std::optional<ScaledRows> scaled_rows(const std::string& name) const { return scaled_ ? scaled_(name) : std::nullopt; }
  /// For a device that makes changes itself.
  ChangedWeight changed(const std::string& name) const {
    auto changed = changed_ ? changed_(name) : std::nullopt;
    return changed ? std::move(*changed) : ChangedWeight{read_(name), {}};
  }

 private:
  std::function<Tensor(const std::string&)> read_;
  std::function<std::optional<ScaledRows>(const std::string&)> scaled_;
  std::function<std::optional<ChangedWeight>(const std::string&)> changed_;
};

/// What weights take where all of them stay on the device, in bytes.
struct WeightSizes {
  int64_t shared = 0;           ///< of no block, or of several
  std::vector<int64_t> blocks;  ///< of one alone, for each block that the graph calls, in order; empty: none can be streamed
};

/// Streamed blocks share so many places on the device: while one computes, the next one's weights arrive.
inline constexpr int kStreamSlots = 2;

/// The weights of one model in the forms that its programs want, where its device reads them. Each is read once and kept.
class BoundWeights {
 public:
  virtual ~BoundWeights() = default;
  /// Bytes that are held at most on the device once all is loaded.
  virtual int64_t bytes() const = 0;
  virtual WeightSizes sizes() const { return {bytes(), {}}; }
  /// From now on the weights of these blocks (ascending) stay in the host's memory and come to the device each time they are
  /// needed, through kStreamSlots places of the largest one's size; all others stay there. Unloads everything. Plans made before
  /// are of no use afterwards.
  virtual void stream(const std::vector<int>& blocks) {
    if (!blocks.empty()) fail(Code::Unsupported, "this device streams no weights");
  }
  virtual std::vector<int> streamed_blocks() const { return {}; }
  /// Why streamed weights come slower than the bus could bring them; empty where they do not. Once they are loaded.
  virtual std::string why_streams_slowly() const { return {}; }
  /// Bytes that load() holds at most at any time, where reading one weight takes `reading(name)` until it is in its place.
  virtual int64_t loading_peak_bytes(const std::function<int64_t(const std::string&)>& reading) const = 0;
  /// Reads everything that is not loaded yet. `done` is called with each name once its tensor is not needed any more (that may be
  /// when it is unloaded), and may be empty. Errors name the weight.
  virtual void load(const WeightReader& source, const std::function<void(const std::string&)>& done = {},
                    const std::function<void(double fraction)>& progress = {}) = 0;
  /// Forgets these weights, so that the next load reads them again: LoRAs were changed. Gives whether they will come to the same
  /// places, so that plans made before serve once they are loaded.
  virtual bool forget(const std::set<std::string>& names) = 0;
  /// Forgets all of them and gives their memory back. `done` as in load().
  virtual void unload(const std::function<void(const std::string&)>& done = {}) = 0;
};

/// A compiled graph bound to sizes and weights, ready to run any number of times.
class Plan {
 public:
  virtual ~Plan() = default;
  /// Copies the inputs in (by name, converted to their types), runs, and copies the outputs, in order. An input that the layout
  /// keeps is not copied if its tensor shares its data with the last run's; nobody may have written to it. Code::InvalidArgument
  /// names an input that is missing or has another shape than was bound; Code::Cancelled when the engine was cancelled.
  virtual std::vector<Tensor> run(const std::map<std::string, Tensor>& inputs) = 0;
  /// Whether runs are timed from now on, step by step.
  virtual void measure(bool on) = 0;
  /// Seconds by kind of step, of all measured runs.
  virtual std::map<std::string, double> measured() const = 0;
};

/// Machine code of a program, loaded.
class LoadedCode {
 public:
  virtual ~LoadedCode() = default;
};

/// A program that all graphs of a target need beside their own.
struct SharedProgram {
  Digest key;
  CompileFacts facts;
  std::function<std::vector<std::byte>()> make;
  std::function<void(const Blob&)> load;  ///< throws Error where the bytes are of no use
};

/// A device that graphs are compiled for and run on, and what belongs to a process and not to a model: threads, the cache.
class Engine {
 public:
  /// `threads` 0: one a core. The cache outlives the engine.
  Engine(Cache& cache, int threads) : cache_(cache), pool_(threads) {}
  virtual ~Engine() = default;

  Cache& cache() { return cache_; }
  ThreadPool& pool() { return pool_; }
  /// Set from a signal handler or another thread: the run in progress ends with Code::Cancelled before its next step.
  std::atomic<bool>& cancelled() { return cancelled_; }
  void check_cancelled() const {
    if (cancelled_.load(std::memory_order_relaxed)) fail(Code::Cancelled, "cancelled");
  }

  /// Tells once about each thing (`about`) that makes work slower than it should be: to `on_note`, else to standard error.
  void note(const std::string& about, const std::string& text);
  std::function<void(const std::string& text)> on_note;

  /// What programs are compiled for, and by which version of the compiler: both are part of every signature.
  virtual std::string target_text() const = 0;
  virtual std::string_view compiler_version() const = 0;
  virtual LowerOptions lowering() const = 0;
  /// Generates the code of a lowered program's kernels. Called on several threads at once.
  virtual void generate(Program& program) const = 0;
  /// Makes stored code callable; the program may forget its bytes. Throws Error where it cannot be used here.
  virtual std::unique_ptr<LoadedCode> load(Program& program) const = 0;
  virtual std::vector<SharedProgram> shared_programs() { return {}; }

  /// Of every buffer, in bytes; a power of two.
  virtual int64_t alignment() const = 0;
  /// Whether weights and buffers lie in the host's memory, beside pictures and files.
  virtual bool in_host_memory() const { return true; }
  /// Bytes that all plans of this engine share beside their buffers.
  virtual int64_t shared_bytes() const { return 0; }
  /// Bytes that a step needs only while it runs. Calls of other programs are not asked about.
  virtual int64_t scratch_bytes(const Unit& unit, const Step& step, const Bindings& bindings) = 0;
  virtual std::unique_ptr<BoundWeights> bind_weights(const CompiledGraph& compiled) = 0;
  /// Weights must be loaded. Plans of one engine share their buffers: only one runs at a time.
  virtual std::unique_ptr<Plan> plan(const CompiledGraph& compiled, const Layout& layout, const BoundWeights& weights) = 0;
  /// Gives back the memory of the plans' buffers; they take it again when they run.
  virtual void release_buffers() = 0;

 private:
  Cache& cache_;
  ThreadPool pool_;
  std::atomic<bool> cancelled_{false};
  std::mutex note_mutex_;
  std::set<std::string> noted_;
};

}  // namespace sinter
