#include "compiler/compiled_graph.h"

#include <chrono>
#include <mutex>
#include <unordered_map>

#include "base/spans.h"
#include "graph/ops.h"

namespace sinter {
namespace {

using Named = std::pair<const Graph*, std::string>;

/// The graph and the functions that it calls, each once, callees first.
void collect(const Graph& graph, const std::string& label, std::vector<Named>& out, std::unordered_map<const Graph*, int>& seen) {
  if (seen.contains(&graph)) return;
  for (Value v : topological_order(graph))
    if (v->op == &call_op) {
      const auto& function = *v->attrs.as<CallAttrs>().function;
      collect(function.graph, function.name, out, seen);
    }
  seen.emplace(&graph, int(out.size()));
  out.emplace_back(&graph, label);
}

struct Signature {
  Digest key;
  CompileFacts facts;
};

Signature signature(const Engine& engine, const Graph& graph, const std::string& label, const CompileOptions& options) {
  std::string target = engine.target_text(), version(engine.compiler_version());
  Hasher h;
  h.add(version).add(structure_digest(graph)).add(options.fuse).add(options.fp8_width).add(target);
  if (options.fp8_keys > 0) h.add("fp8 attention").add(options.fp8_keys);
  std::string storage;
  for (Value weight : own_weights(graph)) {
    std::string type(name(weight.dtype()));
    if (storage.find(type) == std::string::npos) storage += (storage.empty() ? "" : " ") + type;
  }
  if (options.fp8_width > 0) storage += fmt::format(" (linears from width {} f8e4m3)", options.fp8_width);
  if (options.fp8_keys > 0) storage += fmt::format(" (attention from {} keys on f8e4m3)", options.fp8_keys);
  Facts facts = {{"weights", storage}, {"backend", options.fuse ? "native" : "eager"}, {"target", target}, {"compiler", version}};
  for (size_t i = 0; i < graph.inputs().size(); i++)
    facts.push_back({fmt::format("input {}", i + 1), graph.inputs()[i]->type.text()});
  return {h.digest(), {label, std::move(facts), 0}};
}

LowerOptions lowering_of(const Engine& engine, const CompileOptions& options) {
  LowerOptions lowering = engine.lowering();
  lowering.fuse = options.fuse;
  lowering.fp8_width = options.fp8_width;
  lowering.fp8_keys = options.fp8_keys;
  return lowering;
}

Blob compile(const Engine& engine, const Unit& unit, const CompileOptions& options) {
  Program program = lower(unit.graph, lowering_of(engine, options));
  engine.generate(program);
  return to_bytes(program, unit.graph);
}

void load(const Engine& engine, Unit& unit, const Blob& bytes) {
  unit.program = program_from_bytes(bytes, unit.graph);
  unit.code = unit.program.kernels.empty() ? nullptr : engine.load(unit.program);
}

/// One program to find or compile, and what becomes of it.
struct Job {
  Digest key;
  CompileFacts facts;
  std::function<Blob()> make;
  std::function<void(const Blob&)> use;

  /// A stored program that cannot be used costs time, never the run.
  Lookup run(Engine& engine) const {
    Lookup lookup;
    Blob bytes = engine.cache().find_or_compile(key, facts, make, &lookup, [&] { return engine.cancelled().load(); });
    try {
      use(bytes);
    } catch (const Error& e) {
      if (!lookup.hit || !making_anew_may_help(e)) throw;
      lookup.hit = false;
      lookup.reason = "what was stored cannot be used: " + e.message().substr(0, e.message().find('\n'));
      bytes = make();
      engine.cache().put(key, bytes, facts);
      use(bytes);
    }
    return lookup;
  }
};

}  // namespace

bool making_anew_may_help(const Error& error) {
  return error.code() != Code::OutOfMemory && error.code() != Code::Io && error.code() != Code::Cancelled;
}

bool CompileReport::count(const Digest& key) {
  if (!counted.insert(key).second) return false;
  ++needed;
  return true;
}

void CompiledGraph::foresee(Engine& engine, const Graph& graph, const CompileOptions& options, CompileReport& report) {
  std::vector<Named> graphs;
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
    Signature s = signature(engine, *g, label, options);
    count(s.key, s.facts);
  }
  for (const SharedProgram& shared : engine.shared_programs()) count(shared.key, shared.facts);
}

CompiledGraph::CompiledGraph(Engine& engine, const Graph& graph, const CompileOptions& options, CompileReport& report)
    : engine_(engine) {
  const Span span("compile a graph", options.label);
  auto start = std::chrono::steady_clock::now();
  std::vector<Named> graphs;
  std::unordered_map<const Graph*, int> seen;
  collect(graph, options.label, graphs, seen);
  LowerOptions lowering = lowering_of(engine, options);
  for (auto& [g, label] : graphs) {
    auto unit = std::make_unique<Unit>();
    unit->source = g;
    unit->label = label;
    legalise(*g, unit->graph, lowering);
    for (Value weight : own_weights(unit->graph)) unit->weights.push_back({weight->attrs.as<NameAttrs>().name, weight->type});
    for (Value v : topological_order(unit->graph))
      if (v->op == &call_op) {
        const auto& call = v->attrs.as<CallAttrs>();
        unit->callees.push_back({units_[size_t(seen.at(&call.function->graph))].get(), call.prefix});
      }
    units_.push_back(std::move(unit));
  }
  root_ = units_.back().get();
  find_programs(options, report);
  report.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void CompiledGraph::find_programs(const CompileOptions& options, CompileReport& report) {
  std::vector<Job> jobs;
  // First, because they take longest.
  for (SharedProgram& shared : engine_.shared_programs()) {
    auto make = [make = std::move(shared.make)] { return Blob(make()); };
    jobs.push_back({shared.key, std::move(shared.facts), make, std::move(shared.load)});
  }
  // Equal structures are one program, whatever their weights are called.
  std::unordered_map<Digest, std::vector<Unit*>, DigestHash> same;
  for (auto& unit : units_) {
    Signature s = signature(engine_, *unit->source, unit->label, options);
    std::vector<Unit*>& units = same[s.key];
    units.push_back(unit.get());
    if (units.size() > 1) continue;
    auto make = [&, one = unit.get()] { return compile(engine_, *one, options); };
    auto use = [&, key = s.key](const Blob& bytes) {
      for (Unit* each : same.at(key)) load(engine_, *each, bytes);
    };
    jobs.push_back({s.key, std::move(s.facts), make, use});
  }
  std::mutex mutex;
  engine_.pool().parallel_for(int64_t(jobs.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      engine_.check_cancelled();
      const Job& job = jobs[size_t(i)];
      Lookup lookup = in_context("compiling " + job.facts.label, [&] { return job.run(engine_); });
      std::lock_guard lock(mutex);
      if (!report.count(job.key)) continue;
      ++(lookup.hit ? report.cached : report.compiled);
      if (!lookup.hit) report.reasons.push_back(job.facts.label + ": " + lookup.reason);
    }
  });
}

}  // namespace sinter
