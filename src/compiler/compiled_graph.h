#pragma once
#include <memory>
#include <string>
#include <vector>

#include "compiler/engine.h"

namespace sinter {

struct CompileOptions {
  bool fuse = true;       ///< false: the eager backend
  int64_t fp8_width = 0;  ///< as in LowerOptions, like the next
  int64_t fp8_keys = 0;
  std::string label = "model";  ///< of the graph itself, for people; blocks have their own
};

/// One block, compiled.
struct Unit {
  const Graph* source = nullptr;  ///< of whoever gave the graph; not used after compiling
  std::string label;
  Graph graph;  ///< legalised; weights and calls are numbered as it lists them
  Program program;
  std::unique_ptr<LoadedCode> code;  ///< none if the program has no kernels
  struct Callee {
    const Unit* unit;
    std::string prefix;
  };
  std::vector<Callee> callees;
  std::vector<WeightUse> weights;  ///< own ones, names relative to the call
};

/// Whether stored code that failed to load so is worth compiling again: not where memory or the device is gone, or somebody asked
/// to stop.
bool making_anew_may_help(const Error& error);

/// A graph with the programs of all its blocks, ready to be bound to sizes and weights.
class CompiledGraph {
 public:
  /// Finds every program in the engine's cache, and compiles what is missing on all threads.
  CompiledGraph(Engine& engine, const Graph& graph, const CompileOptions& options, CompileReport& report);
  /// What compiling would take beside what the report has already: needed, cached, seconds expected. Compiles nothing.
  static void foresee(Engine& engine, const Graph& graph, const CompileOptions& options, CompileReport& report);

  const Unit& root() const { return *root_; }
  Engine& engine() const { return engine_; }

 private:
  void find_programs(const CompileOptions& options, CompileReport& report);

  Engine& engine_;
  std::vector<std::unique_ptr<Unit>> units_;
  const Unit* root_ = nullptr;
};

}  // namespace sinter
