#pragma once
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "backends/cuda/engine.h"
#include "compiler/layout.h"
#include "graph/graph.h"
#include "hardware/device_choice.h"

namespace sinter {

/// Which of the backends runs a graph: compiled and fused, compiled op by op, or interpreted.
enum class Backend { Native, Eager, Reference };
/// "native" (or "inductor"), "eager", "reference". Code::InvalidArgument lists them.
Backend parse_backend(const std::string& text);
std::string_view name(Backend backend);

struct SessionOptions {
  Backend backend = Backend::Native;
  bool dynamic = true;  ///< false: programs are compiled for the sizes of each run
  int threads = 0;      ///< 0: one a core
  DeviceChoice device{};
  cuda::EngineOptions cuda{};  ///< of a CUDA device
};

/// What all networks of one process share: threads, buffers, the cache, and the counts that are reported.
class Session {
 public:
  explicit Session(SessionOptions options, CacheOptions cache = CacheOptions::from_environment());

  const SessionOptions& options() const { return options_; }
  Cache& cache() { return cache_; }
  Engine& engine() { return *engine_; }
  /// Memory that a run may take on the device, now.
  int64_t available_bytes();
  /// The most that was taken so far: of the host's memory by this process, of a GPU's by this session.
  int64_t measured_peak_bytes();
  CompileReport& compiled() { return compiled_; }
  const CompileReport& compiled() const { return compiled_; }

 private:
  SessionOptions options_;
  Cache cache_;
  std::unique_ptr<Engine> engine_;
  CompileReport compiled_;
};

/// A graph on the session's backend: compiled at first use, weights loaded once, one plan for each set of sizes (the last few are
/// kept). `fp8_width` and `fp8_keys` as in LowerOptions.
class Network {
 public:
  Network(Session& session, std::string label, std::unique_ptr<Graph> graph, WeightReader weights,
          std::function<void(const std::string&)> done_with_weight = {}, int64_t fp8_width = 0, int64_t fp8_keys = 0);
  ~Network();
  Network(Network&&) = delete;

  const Graph& graph() const { return *graph_; }
  /// Adds what compiling for these sizes would take, without compiling.
  void foresee(const Bindings& bindings, CompileReport& report);
  /// Compiles or finds the programs for these sizes.
  void compile(const Bindings& bindings);
  /// Bytes of loaded weights, and of buffers for one run at these sizes; 0 on the reference backend, which plans
  /// nothing.
  WeightSizes weight_sizes(const Bindings& bindings);
  int64_t arena_bytes(const Bindings& bindings);
  /// Bytes of inputs that are kept until the weights are unloaded.
  int64_t kept_bytes(const Bindings& bindings);
  /// Bytes that loading the weights holds at most at any time, where reading one takes `reading(name)` until it is packed.
  int64_t loading_peak_bytes(const Bindings& bindings, const std::function<int64_t(const std::string& name)>& reading);
  /// These blocks' weights are streamed from now on, see BoundWeights::stream; weights that are loaded otherwise are unloaded.
  void stream_weights(const Bindings& bindings, const std::vector<int>& blocks);
  /// See BoundWeights.
  std::string why_streams_slowly() const;
  void load_weights(const std::function<void(double fraction)>& progress = {});
  /// Gives the memory of all weights back, and that of the session's buffers.
  void unload_weights();
  /// These weights have other values now.
  void weights_changed(const std::set<std::string>& names);

  /// These inputs stay where the device reads them, in memory of their own: another run with a tensor that shares its data with
  /// the last one's does not copy it again, so nobody may write to it. Before the first run.
  void keep_inputs(std::set<std::string> names) { kept_inputs_ = std::move(names); }
  /// The outputs in the order of the graph's; symbols are bound by the shapes of the inputs.
  std::vector<Tensor> run(const std::map<std::string, Tensor>& inputs);
  /// Seconds by kind of step since measure(true).
  void measure(bool on) { measuring_ = on; }
  std::map<std::string, double> measured() const;

 private:
  struct Compiled;
  CompileOptions compile_options() const;
  Compiled& compiled_for(const Bindings& bindings);
  std::vector<Tensor> interpret_run(const std::map<std::string, Tensor>& inputs, const Bindings& bindings);

  Session& session_;
  std::string label_;
  std::unique_ptr<Graph> graph_;
  WeightReader weights_;
  std::function<void(const std::string&)> done_;
  std::vector<std::unique_ptr<Compiled>> compiled_;  // one if dynamic, else one for each set of sizes
  int64_t fp8_width_ = 0, fp8_keys_ = 0;
  std::set<std::string> kept_inputs_;
  bool measuring_ = false;
};

/// The sizes that these inputs give to the symbols of a graph.
Bindings sizes_of(const Graph& graph, const std::map<std::string, Tensor>& inputs);

}  // namespace sinter
