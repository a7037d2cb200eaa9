#pragma once
#include <atomic>
#include <memory>
#include <optional>
#include <set>

#include "backends/cpu/microkernels.h"
#include "backends/cpu/program.h"
#include "base/thread_pool.h"
#include "compiler/cache.h"

namespace sinter::cpu {

/// What belongs to a process and not to a model: threads, the target, the matrix kernels, the cache.
class Engine {
 public:
  /// `threads` 0: one a core. The cache outlives the engine.
  Engine(Cache& cache, int threads = 0);

  Cache& cache() { return cache_; }
  ThreadPool& pool() { return pool_; }
  const CpuTarget& target() const { return target_; }
  /// Compiled, or read from the cache, at the first call; `lookup` tells which.
  const Microkernels& microkernels(Lookup* lookup = nullptr);
  /// Of the matrix kernels, under which the cache keeps them.
  Digest microkernels_key() const;
  CompileFacts microkernels_facts() const;

  /// Set from a signal handler or another thread: the run in progress ends with Code::Cancelled before its next step.
  std::atomic<bool>& cancelled() { return cancelled_; }
  void check_cancelled() const {
    if (cancelled_.load(std::memory_order_relaxed)) fail(Code::Cancelled, "cancelled");
  }

 private:
  Cache& cache_;
  ThreadPool pool_;
  CpuTarget target_;
  std::optional<ObjectCode> code_;
  std::optional<Microkernels> microkernels_;
  std::atomic<bool> cancelled_{false};
};

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

struct CompileOptions {
  bool fuse = true;             ///< false: the eager backend
  std::string label = "model";  ///< of the graph itself, for people; blocks have their own
};

/// A graph with the programs of all its blocks, ready to be bound to sizes and weights.
class CompiledGraph {
 public:
  /// Finds every program in the engine's cache, and compiles what is missing on all threads.
  CompiledGraph(Engine& engine, const Graph& graph, const CompileOptions& options, CompileReport& report);
  /// What compiling would take beside what the report has already: needed, cached, seconds expected. Compiles nothing.
  static void foresee(Engine& engine, const Graph& graph, const CompileOptions& options, CompileReport& report);
  ~CompiledGraph();
  CompiledGraph(CompiledGraph&&) noexcept;

  struct Unit;
  const Unit& root() const { return *root_; }
  Engine& engine() const { return engine_; }

 private:
  Engine& engine_;
  std::vector<std::unique_ptr<Unit>> units_;
  const Unit* root_ = nullptr;
};

/// One block, compiled.
struct CompiledGraph::Unit {
  const Graph* source = nullptr;  ///< of whoever gave the graph; not used after compiling
  std::string label;
  Graph graph;  ///< legalised; weights and calls are numbered as it lists them
  Program program;
  std::optional<ObjectCode> code;
  std::vector<RowKernelFunction> kernels;
  struct Callee {
    const Unit* unit;
    std::string prefix;
  };
  std::vector<Callee> callees;
  std::vector<WeightUse> weights;  ///< own ones, names relative to the call
};

}  // namespace sinter::cpu
