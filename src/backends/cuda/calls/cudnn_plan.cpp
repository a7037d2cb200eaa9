#include <algorithm>
#include <chrono>

#include "backends/cuda/calls/cudnn.h"
#include "backends/cuda/calls/cudnn_numbers.h"
#include "backends/cuda/calls/tuning.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/spans.h"

namespace sinter::cuda {

namespace {

/// The heuristics are one thread's at a time.
std::mutex& heuristics_mutex() {
  static std::mutex mutex;
  return mutex;
}

/// What an engine says it does to numbers.
std::vector<int> numerical_notes(const CudnnCalls& calls, const CudnnObject& engine) {
  std::vector<int> found(16);
  int64_t count = 0;
  if (calls.get(engine.handle(), attribute::kEngineNumericalNotes, type::kNumericalNote, int64_t(found.size()), &count,
                found.data()))
    return {};
  found.resize(size_t(std::clamp<int64_t>(count, 0, int64_t(found.size()))));
  return found;
}

bool numerics_fit(const std::vector<int>& notes, const CudnnNumerics& numerics) {
  auto has = [&](int note) { return std::find(notes.begin(), notes.end(), note) != notes.end(); };
  if (has(kNondeterministic) || has(kFft) || has(kWinogradTile6) || has(kWinogradTile13)) return false;
  if (!numerics.f32_inputs || numerics.allow_tf32) return true;
  // With f32 inputs, matrix units mean TF32.
  return !has(kTensorCore) && !has(kDownConvertInputs) && !has(kReducedPrecisionReduction);
}

std::vector<CudnnObject> proposals(const CudnnCalls& calls, const CudnnObject& graph, int mode, const CudnnObject* device,
                                   std::string& why) {
  std::lock_guard lock(heuristics_mutex());
  const Span span("ask cuDNN");
  CudnnObject heuristics(calls, kind::kHeuristics);
  heuristics.set_object(attribute::kHeuristicGraph, graph);
  heuristics.set_number(attribute::kHeuristicMode, type::kHeuristicMode, &mode);
  if (device) heuristics.set_object(attribute::kHeuristicDevice, *device);
  why = heuristics.try_finalize();
  if (!why.empty()) return {};
  int64_t count = 0;
  if (int status = calls.get(heuristics.handle(), attribute::kHeuristicResults, type::kDescriptor, 0, &count, nullptr))
    fail_cudnn(calls, status, "asking cuDNN for engines");
  std::vector<CudnnObject> configs;
  std::vector<void*> handles;
  for (int64_t i = 0; i < count; ++i) handles.push_back(configs.emplace_back(calls, kind::kEngineConfig).handle());
  if (count > 0)
    if (int status =
            calls.get(heuristics.handle(), attribute::kHeuristicResults, type::kDescriptor, count, &count, handles.data()))
      fail_cudnn(calls, status, "asking cuDNN for engines");
  configs.resize(size_t(std::min<int64_t>(count, int64_t(configs.size()))));
  return configs;
}

}  // namespace

std::vector<CudnnObject> cudnn_configs(const CudnnCalls& calls, const CudnnObject& graph, const CudnnNumerics& numerics,
                                       const DescribedDevice* device, std::string& why_none) {
  CudnnObject properties;
  if (device) {
    properties = CudnnObject(calls, kind::kDeviceProperties);
    properties.set_text(attribute::kDeviceJson, device->json);
    properties.finalize("describing a device to cuDNN");
  }
  int refused = 0;
  for (int mode : {kModeA, kModeFallback}) {
    std::vector<CudnnObject> accepted;
    for (auto& object : proposals(calls, graph, mode, device ? &properties : nullptr, why_none)) {
      CudnnObject engine(calls, kind::kEngine);
      void* handle = engine.handle();
      int64_t count = 0;
      if (calls.get(object.handle(), attribute::kConfigEngine, type::kDescriptor, 1, &count, &handle)) continue;
      if (!numerics_fit(numerical_notes(calls, engine), numerics)) {
        ++refused;
        continue;
      }
      accepted.push_back(std::move(object));
    }
    if (!accepted.empty()) return accepted;
  }
  std::string missing = calls.nvrtc.empty() ? fmt::format(" ({})", calls.nvrtc_problem) : "";
  if (refused > 0)
    why_none = fmt::format("all {} engines of cuDNN {} round more than asked for", refused, calls.version_text());
  else
    why_none = fmt::format("cuDNN {} has no engine{}{}{}", calls.version_text(), why_none.empty() ? "" : ": ", why_none, missing);
  return {};
}

std::string cudnn_config_text(const CudnnCalls& calls, const CudnnObject& config) {
  CudnnObject engine(calls, kind::kEngine);
  void* handle = engine.handle();
  int64_t count = 0;
  if (calls.get(config.handle(), attribute::kConfigEngine, type::kDescriptor, 1, &count, &handle)) return "";
  std::string text = fmt::format("{}", engine.int64(attribute::kEngineIndex));
  // Asked for none, the library counts none.
  constexpr int64_t kMostKnobs = 64;
  std::vector<CudnnObject> knobs;
  std::vector<void*> handles;
  for (int64_t i = 0; i < kMostKnobs; ++i) handles.push_back(knobs.emplace_back(calls, kind::kKnobChoice).handle());
  if (calls.get(config.handle(), attribute::kConfigKnobs, type::kDescriptor, kMostKnobs, &count, handles.data())) return text;
  knobs.resize(size_t(std::clamp<int64_t>(count, 0, kMostKnobs)));
  for (const CudnnObject& knob : knobs) {
    int kind = 0;
    if (calls.get(knob.handle(), attribute::kKnobType, type::kKnobType, 1, &count, &kind)) return text;
    text += fmt::format(" {}={}", kind, knob.int64(attribute::kKnobValue));
  }
  return text;
}

class BoundCudnn : public BoundCall {
 public:
  BoundCudnn(std::shared_ptr<const CudnnPlan> plan, std::vector<CudnnArgument> arguments, std::vector<float> numbers,
             const Workspace& workspace)
      : plan_(std::move(plan)), numbers_(std::move(numbers)), pack_(*plan_->vendor_.cudnn(), kind::kVariantPack) {
    std::vector<int64_t> ids;
    std::vector<void*> pointers;
    size_t next = 0;
    for (const auto& a : arguments) {
      ids.push_back(a.id);
      if (!a.pointer) SINTER_ASSERT(next < numbers_.size());
      pointers.push_back(a.pointer ? a.pointer : &numbers_[next++]);
    }
    pack_.set(attribute::kPackIds, type::kInt64, ids);
    pack_.set_number(attribute::kPackPointers, type::kPointer, pointers.data(), int64_t(pointers.size()));
    void* space = reinterpret_cast<void*>(workspace.address);
    pack_.set_number(attribute::kPackWorkspace, type::kPointer, &space);
    pack_.finalize("giving cuDNN addresses");
  }

  void launch(const Stream& stream) const override {
    const CudnnCalls& calls = *plan_->vendor_.cudnn();
    if (int status = calls.execute(plan_->vendor_.cudnn_handle(stream), plan_->executable_.object.handle(), pack_.handle()))
        [[unlikely]]
      fail_cudnn(calls, status, plan_->name_);
  }

 private:
  std::shared_ptr<const CudnnPlan> plan_;
  std::vector<float> numbers_;
  CudnnObject pack_;
};

std::unique_ptr<BoundCall> CudnnPlan::bind(std::vector<CudnnArgument> arguments, std::vector<float> numbers,
                                           const Workspace& workspace) const {
  if (workspace.bytes < workspace_bytes())
    fail(Code::InvalidArgument, "{}: {} bytes of workspace, {} are needed", name_, workspace.bytes, workspace_bytes());
  return std::make_unique<BoundCudnn>(shared_from_this(), std::move(arguments), std::move(numbers), workspace);
}

namespace {

/// How far behind the best a configuration may be to be tried at other sizes too.
constexpr double kPromising = 1.1;

class CudnnPlanner {
 public:
  CudnnPlanner(Vendor& vendor, const CudnnRequest& request)
      : vendor_(vendor), calls_(*vendor.cudnn()), request_(request), facts_(vendor.key_facts("cudnn", vendor.cudnn()->version)) {}

  Planned<CudnnPlan> plan(const CudnnTuning* tuning) {
    Vendor::PlanningHandle handle(vendor_);
    handle_ = handle.get();
    if (auto stored = find(true)) return {stored, {}};
    if (!tuning)
      if (auto stored = find(false)) return {stored, {}};
    auto start = std::chrono::steady_clock::now();
    std::string why;
    std::vector<CudnnExecutable> built;
    if (tuning && tuning->candidates)
      built = std::move(*std::static_pointer_cast<Candidates>(tuning->candidates));
    else
      built = build(tuning ? request_.candidates : 1, why);
    if (built.empty()) return {nullptr, why};
    auto plan = tuning ? fastest(std::move(built), *tuning) : made(std::move(built.front()));
    if (!plan) return {nullptr, fmt::format("no engine of cuDNN {} ran", calls_.version_text())};
    store(*plan, tuning != nullptr, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    return {plan, {}};
  }

  Prepared prepare() {
    if (vendor_.cache() && vendor_.cache()->contains(key(true))) return nullptr;
    known_ = Known::Before;
    Vendor::PlanningHandle handle(vendor_);
    handle_ = handle.get();
    std::string why;
    auto built = std::make_shared<Candidates>(build(request_.candidates, why));
    return built->empty() ? nullptr : built;
  }

 private:
  using Candidates = std::vector<CudnnExecutable>;

  std::string name() const { return fmt::format("{} {}", request_.kind, request_.shape); }
  std::shared_ptr<CudnnPlan> made(CudnnExecutable executable) {
    json_ = executable.object.text(attribute::kPlanJson);
    return std::make_shared<CudnnPlan>(vendor_, std::move(executable), name());
  }

  /// At a further size of the picture, only what won or came near at the sizes before: building and timing the others takes most
  /// of the time, and they hardly ever win.
  void leave_promising(std::vector<CudnnObject>& configs) const {
    const std::set<std::string> promising = vendor_.promising(family(), known_);
    auto is_promising = [&](const CudnnObject& config) { return promising.contains(cudnn_config_text(calls_, config)); };
    if (std::any_of(configs.begin(), configs.end(), is_promising))
      std::erase_if(configs, [&](const CudnnObject& config) { return !is_promising(config); });
  }
  std::string family() const { return fmt::format("{} {}", request_.kind, request_.family); }

  /// The first `count` configurations that build, those that need little workspace before others.
  Candidates build(int count, std::string& why) {
    const int64_t most_workspace = vendor_.limits().workspace_bytes;
    CudnnGraph graph(calls_);
    CudnnObject described;
    try {
      request_.build(graph);
      described = graph.finish(handle_);
    } catch (const Error& e) {
      why = e.message();  // a graph that the library does not even accept
      return {};
    }
    Candidates fitting, hungry;
    std::string refusal;
    auto configs = cudnn_configs(calls_, described, request_.numerics, nullptr, why);
    if (count > 1) leave_promising(configs);
    for (auto& config : configs) {
      CudnnExecutable plan{CudnnObject(calls_, kind::kPlan)};
      plan.config = cudnn_config_text(calls_, config);
      plan.object.set_object(attribute::kPlanConfig, config);
      plan.object.set_number(attribute::kPlanHandle, type::kHandle, &handle_);
      const Span span("build a plan", fmt::format("{}: {}", name(), plan.config));
      if (std::string problem = plan.object.try_finalize(); !problem.empty()) {
        refusal = problem;
        continue;
      }
      plan.workspace_bytes = plan.object.int64(attribute::kPlanWorkspace);
      (plan.workspace_bytes <= most_workspace ? fitting : hungry).push_back(std::move(plan));
      if (int(fitting.size()) == count) break;
    }
    if (fitting.empty() && !hungry.empty()) {
      auto least = std::min_element(hungry.begin(), hungry.end(),
                                    [](const auto& a, const auto& b) { return a.workspace_bytes < b.workspace_bytes; });
      fitting.push_back(std::move(*least));
    }
    if (fitting.empty() && why.empty())
      why = fmt::format("no engine of cuDNN {} could be built: {}", calls_.version_text(), refusal);
    return fitting;
  }

  std::shared_ptr<CudnnPlan> fastest(Candidates built, const CudnnTuning& tuning) {
    const Stream& stream = tuning.stream;
    const Workspace& workspace = tuning.workspace;
    vendor_.prepare(stream);
    std::vector<std::shared_ptr<CudnnPlan>> plans;
    std::vector<std::string> texts;
    std::vector<std::unique_ptr<BoundCall>> calls;
    if (built.size() == 1 && built.front().workspace_bytes > workspace.bytes) return made(std::move(built.front()));
    std::erase_if(built, [&](const auto& executable) { return executable.workspace_bytes > workspace.bytes; });
    for (auto& executable : built) {
      plans.push_back(made(std::move(executable)));
      texts.push_back(std::move(json_));
      calls.push_back(plans.back()->bind(request_.arguments, request_.numbers, workspace));
    }
    std::vector<double> times = time_calls(vendor_.context(), stream, calls);
    note_times(name(), times);
    int best = best_candidate(times);
    if (best < 0) return nullptr;
    for (size_t i = 0; i < times.size(); ++i)
      if (times[i] <= times[size_t(best)] * kPromising) vendor_.note_promising(family(), plans[i]->config());
    json_ = std::move(texts[size_t(best)]);
    plans[size_t(best)]->note_choice({.microseconds = times[size_t(best)], .candidates = int(times.size())});
    return plans[size_t(best)];
  }

  /// Stored: time in microseconds, how many were timed, then the library's JSON of the plan with its compiled kernel.
  void store(const CudnnPlan& plan, bool was_timed, double seconds) {
    if (!vendor_.cache()) return;
    ByteWriter writer;
    writer.put(plan.choice().microseconds);
    writer.put(int32_t(plan.choice().candidates));
    writer.put(std::string_view(json_));
    vendor_.cache()->put(key(was_timed), writer.take(), facts_of(was_timed, seconds));
  }

  std::shared_ptr<CudnnPlan> find(bool was_timed) {
    if (!vendor_.cache()) return nullptr;
    // A search for what was never timed is no miss; the other one is.
    if (was_timed && !vendor_.cache()->contains(key(true))) return nullptr;
    auto stored = vendor_.cache()->find(key(was_timed), facts_of(was_timed));
    if (!stored) return nullptr;
    try {
      ByteReader reader(*stored);
      CudnnExecutable plan{CudnnObject(calls_, kind::kPlan)};
      plan.choice = {.microseconds = reader.get<double>(), .candidates = reader.get<int32_t>(), .from_cache = true};
      std::span<const std::byte> json = reader.get_bytes();
      plan.object.set_text(attribute::kPlanJson, {reinterpret_cast<const char*>(json.data()), json.size()});
      plan.object.set_number(attribute::kPlanHandle, type::kHandle, &handle_);
      plan.object.finalize("loading a stored plan");
      plan.workspace_bytes = plan.object.int64(attribute::kPlanWorkspace);
      return std::make_shared<CudnnPlan>(vendor_, std::move(plan), name());
    } catch (const Error&) {
      return nullptr;  // of another version, or damaged: planned anew
    }
  }

  Digest key(bool was_timed) const { return choice_key(request_.kind, request_.shape, facts_, was_timed); }
  CompileFacts facts_of(bool was_timed, double seconds = 0) const {
    return choice_facts(request_.kind, request_.shape, facts_, was_timed, seconds);
  }

  Vendor& vendor_;
  const CudnnCalls& calls_;
  const CudnnRequest& request_;
  Facts facts_;
  void* handle_ = nullptr;
  std::string json_;  // of the plan made last
  Known known_ = Known::Now;
};

}  // namespace

Planned<CudnnPlan> plan_cudnn(Vendor& vendor, const CudnnRequest& request, const CudnnTuning* tuning) {
  if (!vendor.cudnn()) return {nullptr, vendor.why_no_cudnn()};
  return CudnnPlanner(vendor, request).plan(tuning);
}

Prepared prepare_cudnn(Vendor& vendor, const CudnnRequest& request) {
  return vendor.cudnn() ? CudnnPlanner(vendor, request).prepare() : nullptr;
}

std::string why_unsupported(const CudnnCalls& calls, const CudnnRequest& request, const DescribedDevice& device) {
  try {
    CudnnGraph graph(calls);
    request.build(graph);
    CudnnObject described = graph.finish(nullptr);
    std::string why;
    return cudnn_configs(calls, described, request.numerics, &device, why).empty() ? why : "";
  } catch (const Error& e) {
    return e.message();
  }
}

}  // namespace sinter::cuda
