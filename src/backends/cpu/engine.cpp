#include "backends/cpu/engine.h"

#include <chrono>
#include <mutex>
#include <unordered_map>

#include "backends/cpu/lower.h"
#include "graph/ops.h"

namespace sinter::cpu {
namespace {

/// Part of every signature: programs of another version are never used. Raise it when lowering or generated code change.
constexpr std::string_view kCompilerVersion = "cpu-4";

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Signature {
  Digest key;
  CompileFacts facts;
};

Signature signature(const Graph& graph, const std::string& label, const CompileOptions& options, const CpuTarget& target) {
  Digest structure = structure_digest(graph);
  Hasher h;
  h.add(kCompilerVersion).add(structure).add(options.fuse).add(target.text());
  std::string types;
  for (Value input : graph.inputs()) types += (types.empty() ? "" : ", ") + input->type.text();
  std::string storage;
  for (Value weight : own_weights(graph)) {
    std::string type(name(weight.dtype()));
    if (storage.find(type) == std::string::npos) storage += (storage.empty() ? "" : " ") + type;
  }
  return {h.digest(),
          {label,
           {{"inputs", types},
            {"weights", storage},
            {"backend", options.fuse ? "native" : "eager"},
            {"target", target.text()},
            {"compiler", std::string(kCompilerVersion)}},
           0}};
}

/// The graph and the functions that it calls, each once, callees first.
void collect(const Graph& graph, const std::string& label, std::vector<std::pair<const Graph*, std::string>>& out,
             std::unordered_map<const Graph*, int>& seen) {
  if (seen.contains(&graph)) return;
  for (Value v : topological_order(graph))
    if (v->op == &call_op) {
      const auto& function = *v->attrs.as<CallAttrs>().function;
      collect(function.graph, function.name, out, seen);
    }
  seen.emplace(&graph, int(out.size()));
  out.emplace_back(&graph, label);
}

Blob compile(const CompiledGraph::Unit& unit, const CompileOptions& options, const CpuTarget& target) {
  Program program = lower(unit.graph, {options.fuse, target.bf16_dot});
  std::vector<NamedKernel> kernels;
  for (size_t i = 0; i < program.kernels.size(); ++i) kernels.push_back({kernel_symbol(i), program.kernels[i]});
  if (!kernels.empty()) program.code = code_generator().row_kernels(kernels, target);
  return to_bytes(program, unit.graph);
}

void load(CompiledGraph::Unit& unit, const Blob& bytes) {
  unit.program = program_from_bytes(bytes, unit.graph);
  unit.kernels.clear();
  if (unit.program.kernels.empty()) return;
  unit.code.emplace(unit.program.code);
  for (size_t i = 0; i < unit.program.kernels.size(); ++i)
    unit.kernels.push_back(unit.code->function<RowKernelFunction>(kernel_symbol(i)));
  unit.program.code = {};
}

}  // namespace

bool CompileReport::count(const Digest& key) {
  if (!counted.insert(key).second) return false;
  ++needed;
  return true;
}

Engine::Engine(Cache& cache, int threads) : cache_(cache), pool_(threads), target_(host_target()) {}

Digest Engine::microkernels_key() const {
  return Hasher().add("microkernels").add(kCompilerVersion).add(target_.text()).digest();
}

CompileFacts Engine::microkernels_facts() const {
  return {"cpu/matrix kernels", {{"target", target_.text()}, {"compiler", std::string(kCompilerVersion)}}, 0};
}

const Microkernels& Engine::microkernels(Lookup* lookup) {
  if (lookup) *lookup = {.hit = true};
  if (!microkernels_) {
    auto make = [&] { return code_generator().microkernels(target_); };
    Blob object =
        cache_.find_or_compile(microkernels_key(), microkernels_facts(), make, lookup, [&] { return cancelled().load(); });
    code_.emplace(object);
    microkernels_ = load_microkernels(*code_, target_, host_cpu());
  }
  return *microkernels_;
}

CompiledGraph::~CompiledGraph() = default;
CompiledGraph::CompiledGraph(CompiledGraph&&) noexcept = default;

void CompiledGraph::foresee(Engine& engine, const Graph& graph, const CompileOptions& options, CompileReport& report) {
  std::vector<std::pair<const Graph*, std::string>> graphs;
  std::unordered_map<const Graph*, int> seen;
  collect(graph, options.label, graphs, seen);
  auto count = [&](const Digest& key, const CompileFacts& facts) {
    if (!report.count(key)) return;
    if (engine.cache().contains(key))
      ++report.cached;
    else
      report.seconds += engine.cache().expected_seconds(facts);
  };
  for (auto& [g, label] : graphs) {
    Signature s = signature(*g, label, options, engine.target());
    count(s.key, s.facts);
  }
  count(engine.microkernels_key(), engine.microkernels_facts());
}

CompiledGraph::CompiledGraph(Engine& engine, const Graph& graph, const CompileOptions& options, CompileReport& report)
    : engine_(engine) {
  auto start = std::chrono::steady_clock::now();
  std::vector<std::pair<const Graph*, std::string>> graphs;
  std::unordered_map<const Graph*, int> seen;
  collect(graph, options.label, graphs, seen);
  std::vector<Signature> signatures;
  for (auto& [g, label] : graphs) {
    auto unit = std::make_unique<Unit>();
    unit->source = g;
    unit->label = label;
    legalise(*g, unit->graph);
    for (Value weight : own_weights(unit->graph)) unit->weights.push_back({weight->attrs.as<NameAttrs>().name, weight->type});
    for (Value v : topological_order(unit->graph))
      if (v->op == &call_op) {
        const auto& call = v->attrs.as<CallAttrs>();
        unit->callees.push_back({units_[size_t(seen.at(&call.function->graph))].get(), call.prefix});
      }
    signatures.push_back(signature(*g, label, options, engine.target()));
    units_.push_back(std::move(unit));
  }
  root_ = units_.back().get();

  // Equal structures are one program, whatever their weights are called.
  std::unordered_map<Digest, std::vector<size_t>, DigestHash> by_key;
  std::vector<Digest> keys;
  for (size_t i = 0; i < units_.size(); ++i) {
    auto& same = by_key[signatures[i].key];
    if (same.empty()) keys.push_back(signatures[i].key);
    same.push_back(i);
  }
  std::mutex mutex;
  auto count = [&](const Digest& key, const Lookup& lookup, const std::string& reason) {
    std::lock_guard lock(mutex);
    if (!report.count(key)) return;
    ++(lookup.hit ? report.cached : report.compiled);
    if (!lookup.hit) report.reasons.push_back(reason);
  };
  engine.pool().parallel_for(int64_t(keys.size()) + 1, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t k = begin; k < end; ++k) {
      engine.check_cancelled();
      if (k == 0) {  // first, because it takes longest
        Lookup lookup;
        engine.microkernels(&lookup);
        count(engine.microkernels_key(), lookup, "cpu/matrix kernels: first compile for this target");
        continue;
      }
      const std::vector<size_t>& same = by_key.at(keys[size_t(k - 1)]);
      const Signature& s = signatures[same[0]];
      Lookup lookup;
      auto make = [&] { return compile(*units_[same[0]], options, engine.target()); };
      auto get = [&] {
        return engine.cache().find_or_compile(s.key, s.facts, make, &lookup, [&] { return engine.cancelled().load(); });
      };
      Blob bytes = in_context("compiling " + s.facts.label, get);
      for (size_t i : same) {
        try {
          load(*units_[i], bytes);
        } catch (const Error&) {
          // A stored program that cannot be loaded costs time, never the run.
          bytes = compile(*units_[i], options, engine.target());
          engine.cache().put(s.key, bytes, s.facts);
          load(*units_[i], bytes);
        }
      }
      count(s.key, lookup, s.facts.label + ": " + lookup.reason);
    }
  });
  report.seconds += seconds_since(start);
}

}  // namespace sinter::cpu
