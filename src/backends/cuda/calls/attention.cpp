#include "backends/cuda/calls/attention.h"

#include <chrono>

#include "backends/cuda/calls/attention_graph.h"
#include "backends/cuda/calls/contest.h"
#include "backends/cuda/calls/own_call.h"
#include "backends/cuda/calls/tuning.h"
#include "backends/cuda/kernels/resident_attention.h"
#include "backends/cuda/kernels/tile_attention.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

std::string strides_text(const HeadStrides& s) { return fmt::format("{},{},{}", s.b, s.t, s.h); }

std::string known_refusal(const AttentionShape& s, int capability) {
  if (s.b < 1 || s.heads < 1 || s.queries < 1 || s.keys < 1 || s.d < 1) return "attention over nothing";
  if (capability < 80) return "cuDNN's attention needs compute capability 8.0";
  int64_t step = 16 / byte_size(s.type);
  for (const HeadStrides& t : {s.q, s.k, s.v, s.out})
    if (t.b % step || t.t % step || t.h % step)
      return fmt::format("strides {} are no multiples of {} elements", strides_text(t), step);
  if (s.d % 8) return fmt::format("head size {} is no multiple of 8", s.d);
  if (s.bias && s.bias->type != DType::f32 && s.bias->type != s.type)
    return fmt::format("a bias of {} with tensors of {}", name(s.bias->type), name(s.type));
  return {};
}

std::string known_fp8_refusal(const AttentionShape& s, int capability) {
  if (s.type != DType::f8e4m3) return fmt::format("fp8 attention of {}", name(s.type));
  if (s.bias || s.causal) return "fp8 attention has neither bias nor mask";
  if (capability < 90) return "fp8 attention needs compute capability 9.0";
  if (s.d % 16 || s.d > 256) return fmt::format("fp8 attention needs a head size in multiples of 16 up to 256, not {}", s.d);
  return known_refusal(s, capability);
}

/// With more keys, those that are held at once leave fewer blocks to a multiprocessor: no longer taken untimed, nor timed.
constexpr int64_t kMostResidentKeys = 160, kMostResidentKeysTimed = 256;

/// Part of what choices between the library's attention and ours are stored under: raise it when our kernels change.
constexpr std::string_view kOwnAttention = "5";

/// Tiles of fewer keys are mostly empty.
constexpr int64_t kLeastTiledKeys = 128;

TileKind tile_kind(OwnAttention own) { return own == OwnAttention::FewTiles ? TileKind::Few : TileKind::Any; }

std::string own_module(OwnAttention own, const AttentionCall& call) {
  return own == OwnAttention::Resident ? resident_module(call) : tile_attention_module(call, tile_kind(own));
}

struct ResidentAttention {
  AttentionCall call;
  void launch(KernelTarget& target) const { resident_attention(target, call); }
};

template <class Plan, class Buffers>
Planned<Plan> plan_with(Vendor& vendor, const AttentionShape& s, CudnnRequest& request, const TuneOn<Buffers>* tune) {
  std::optional<CudnnTuning> tuning;
  if (tune) tuning.emplace(CudnnTuning{tune->stream, tune->workspace, tune->candidates});
  auto planned = plan_cudnn(vendor, request, tuning ? &*tuning : nullptr);
  if (!planned) return {nullptr, planned.why_none};
  return {std::make_shared<Plan>(s, planned.plan), {}};
}

class AttentionPlanner {
 public:
  AttentionPlanner(Vendor& vendor, const AttentionShape& shape, const TuneOn<AttentionBuffers>* tune)
      : vendor_(vendor),
        s_(shape),
        tune_(tune),
        why_no_library_(vendor.cudnn() ? known_refusal(shape, device().capability()) : vendor.why_no_cudnn()),
        why_no_own_(vendor.kernels() ? why_no_own_attention(shape, device()) : "kernels of ours are not asked for"),
        ours_(why_no_own_.empty() ? own_attentions(shape, device()) : std::vector<OwnAttention>()),
        contest_(vendor, "own attention", s_.text(), cudnn_contest_facts(vendor, "own attention", kOwnAttention),
                 fmt::format("own attention of {} heads, {}", s_.heads, attention_family(s_))) {
    // On a machine that has never done so, the library compiles each candidate 0.3 to 1 s long, one at a time, and 33 ms later:
    // more than it could win where ours should.
    if (why_no_own_.empty() && own_attention_should_win(shape, device())) why_no_library_ = "ours should win";
  }

  Planned<AttentionPlan> plan() {
    if (!why_no_own_.empty()) return why_no_library_.empty() ? library() : Planned<AttentionPlan>{nullptr, why_no_library_};
    if (const auto stored = contest_.find(); stored && (stored->is_own() || why_no_library_.empty())) {
      contest_.note_good(stored->form);
      return stored->is_own() ? own(own_of(stored->form), stored->choice) : library();
    }
    if (tokens_do_not_matter(Known::Now)) return own(good_one());
    if (!tune_ && !why_no_library_.empty()) return own();
    if (tune_)
      for (OwnAttention which : ours_) vendor_.kernels()->begin_module(own_module(which, own_call(s_)));
    const Planned<AttentionPlan> theirs = why_no_library_.empty() ? library() : Planned<AttentionPlan>{nullptr, why_no_library_};
    if (tune_) return fastest(theirs);
    return theirs ? theirs : own();
  }

  /// Whether the library's candidates are to be timed beside ours, or alone.
  bool times_library() {
    if (!why_no_library_.empty()) return false;
    if (!why_no_own_.empty()) return true;
    const auto stored = contest_.find();
    return stored ? !stored->is_own() : !tokens_do_not_matter(Known::Before);
  }

 private:
  const DeviceInfo& device() const { return vendor_.context().device(); }

  Planned<AttentionPlan> own(OwnAttention which, const Choice& choice = {}) {
    return {std::make_shared<AttentionPlan>(s_, which, *vendor_.kernels(), choice), {}};
  }
  Planned<AttentionPlan> own() { return own(ours_.front()); }

  /// What a stored choice names; the first where there is no such kernel for it.
  OwnAttention own_of(int form) const {
    for (OwnAttention which : ours_)
      if (int(which) == form) return which;
    return ours_.front();
  }
  /// The first that was fastest with other numbers of tokens.
  OwnAttention good_one() const {
    const std::set<int> good = contest_.good();
    for (OwnAttention which : ours_)
      if (good.contains(int(which))) return which;
    return ours_.front();
  }

  Planned<AttentionPlan> library() {
    CudnnRequest request = attention_request(s_);
    if (tune_) std::tie(request.arguments, request.numbers) = attention_arguments(s_, tune_->buffers);
    return plan_with<AttentionPlan>(vendor_, s_, request, tune_);
  }

  /// Of the library's fastest, if there is one, and ours.
  Planned<AttentionPlan> fastest(const Planned<AttentionPlan>& theirs) {
    std::vector<Planned<AttentionPlan>> plans;
    for (OwnAttention which : ours_) plans.push_back(own(which));
    if (theirs && theirs->workspace_bytes() <= tune_->workspace.bytes) plans.push_back(theirs);
    if (plans.size() == 1) {
      contest_.note_good(int(ours_.front()));  // at other numbers of tokens too
      return plans.front();
    }
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::unique_ptr<BoundCall>> calls;
    for (const auto& plan : plans) calls.push_back(plan->bind(tune_->buffers, tune_->workspace));
    const std::vector<double> times = time_calls(vendor_.context(), tune_->stream, calls);
    note_times("attention, ours first, " + s_.text(), times);
    const size_t best = size_t(std::max(best_candidate(times), 0));
    const auto& plan = plans[best];
    const int candidates = int(ours_.size()) + (theirs ? theirs->choice().candidates : 0);
    const Winner winner{.form = plan->is_own() ? int(plan->own()) : Winner::kLibrary,
                        .choice = {.microseconds = times[best], .candidates = candidates}};
    contest_.note_good(winner.form);
    contest_.keep(winner, start);  // which of theirs is kept by itself
    return winner.is_own() ? own(plan->own(), winner.choice) : theirs;
  }

  /// What timing finds hardly depends on the number of tokens, and a plan of the library's takes 33 ms.
  bool tokens_do_not_matter(Known known) const {
    const std::set<int> good = contest_.good(known);
    return !good.empty() && !good.contains(Winner::kLibrary);
  }

  Vendor& vendor_;
  const AttentionShape& s_;
  const TuneOn<AttentionBuffers>* tune_;
  std::string why_no_library_, why_no_own_;
  std::vector<OwnAttention> ours_;
  Contest contest_;
};

}  // namespace

std::string AttentionShape::text() const {
  std::string t = fmt::format("{}x{} heads of {}, {} on {} {} strides q {} k {} v {} out {}", b, heads, d, queries, keys,
                              name(type), strides_text(q), strides_text(k), strides_text(v), strides_text(out));
  if (bias) t += fmt::format(" bias {} {}", name(bias->type), strides_text(bias->strides));
  if (causal) t += " causal";
  if (allow_tf32) t += " tf32";
  return t;
}

AttentionPlan::AttentionPlan(const AttentionShape& shape, OwnAttention own, Kernels& kernels, const Choice& choice)
    : shape_(shape), kernels_(&kernels), own_(own), choice_(choice) {
  kernels.begin_module(own_module(own_, own_call(shape_)));
}

std::unique_ptr<BoundCall> AttentionPlan::bind(const AttentionBuffers& buffers, const Workspace& workspace) const {
  auto [arguments, numbers] = attention_arguments(shape_, buffers);
  if (is_own()) {
    const AttentionCall call = own_call(shape_, buffers);
    // Asked for here, because it must not be first inside a capture.
    if (own_ != OwnAttention::Resident) {
      TileAttention made = tile_attention(call, tile_kind(own_), kernels_->context().device().multiprocessors);
      kernels_->function(made.kernel);
      return std::make_unique<OwnCall<TileAttention>>(*kernels_, made);
    }
    kernels_->function(resident_kernel(call));
    return std::make_unique<OwnCall<ResidentAttention>>(*kernels_, ResidentAttention{call});
  }
  return plan_->bind(std::move(arguments), std::move(numbers), workspace);
}

AttentionCall own_call(const AttentionShape& s, const AttentionBuffers& buffers) {
  AttentionCall c{.b = s.b, .heads = s.heads, .queries = s.queries, .keys = s.keys, .d = s.d, .scale = buffers.scale};
  c.causal = s.causal, c.type = s.type;
  c.q = buffers.q, c.k = buffers.k, c.v = buffers.v, c.out = buffers.out;
  c.q_strides = s.q, c.k_strides = s.k, c.v_strides = s.v, c.out_strides = s.out;
  if (s.bias) c.bias = buffers.bias, c.bias_type = s.bias->type, c.bias_strides = s.bias->strides;
  return c;
}

std::unique_ptr<BoundCall> Fp8AttentionPlan::bind(const Fp8AttentionBuffers& buffers, const Workspace& workspace) const {
  auto [arguments, numbers] = attention_arguments(buffers);
  return plan_->bind(std::move(arguments), std::move(numbers), workspace);
}

Planned<AttentionPlan> plan_attention(Vendor& vendor, const AttentionShape& s, const TuneOn<AttentionBuffers>* tune) {
  return AttentionPlanner(vendor, s, tune).plan();
}

std::string why_no_own_attention(const AttentionShape& s, OwnAttention own, const DeviceInfo& device) {
  if (s.bias) return "our kernels have no bias";
  return own == OwnAttention::Resident ? why_no_resident_attention(own_call(s), device)
                                       : why_no_tile_attention(own_call(s), tile_kind(own), device);
}

std::string why_no_own_attention(const AttentionShape& s, const DeviceInfo& device) {
  const std::string why = why_no_own_attention(s, OwnAttention::Resident, device),
                    why_no_tiles = why_no_own_attention(s, OwnAttention::Tiles, device);
  if (why.empty() || why_no_tiles.empty()) return {};
  return s.bias ? why : fmt::format("{}; {}", why, why_no_tiles);
}

std::vector<OwnAttention> own_attentions(const AttentionShape& s, const DeviceInfo& device) {
  auto can = [&](OwnAttention which) { return why_no_own_attention(s, which, device).empty(); };
  const bool resident = can(OwnAttention::Resident), tiles = can(OwnAttention::Tiles);
  const bool resident_first = resident && (s.keys <= kMostResidentKeys || !tiles);
  std::vector<OwnAttention> all;
  if (can(OwnAttention::FewTiles)) all.push_back(OwnAttention::FewTiles);
  if (resident_first) all.push_back(OwnAttention::Resident);
  if (tiles && (!resident_first || s.keys >= kLeastTiledKeys)) all.push_back(OwnAttention::Tiles);
  if (resident && !resident_first && s.keys <= kMostResidentKeysTimed) all.push_back(OwnAttention::Resident);
  return all;
}

/// Measured with cuDNN 9.14 and 9.19 on an H100, batch 2. As many keys as queries: 0.55 to 0.73 of its time with heads of 40, 80
/// and 160, 0.74 with 1024 and 0.97 with 4096 of 64, 0.83 to 0.98 with heads of 128. 77 keys, heads of 40 to 80: 0.52 to 0.56.
/// Held at once, on an H200, 64 to 4096 queries, heads of 40 to 160: 0.56 to 0.79 with 77 keys, 0.7 to 1.0 with 154, 0.9 to 1.3
/// with 231.
bool own_attention_should_win(const AttentionShape& s, const DeviceInfo& device) {
  if (!why_no_own_attention(s, device).empty()) return false;
  return own_attentions(s, device).front() != OwnAttention::Resident || s.keys <= kMostResidentKeys;
}

std::string self_attention_module(DType type, int64_t d, const DeviceInfo& device) {
  constexpr int64_t kMany = 4096;
  AttentionShape s{.queries = kMany, .keys = kMany, .d = d, .type = type};
  s.q = s.k = s.v = s.out = {kMany * d, d, d};
  const AttentionCall call = own_call(s);
  return why_no_tile_attention(call, TileKind::Any, device).empty() ? tile_attention_module(call, TileKind::Any) : "";
}

Planned<Fp8AttentionPlan> plan_fp8_attention(Vendor& vendor, const AttentionShape& s, const TuneOn<Fp8AttentionBuffers>* tune) {
  if (std::string why = known_fp8_refusal(s, vendor.context().device().capability()); !why.empty()) return {nullptr, why};
  CudnnRequest request = fp8_attention_request(s);
  if (tune) std::tie(request.arguments, request.numbers) = attention_arguments(tune->buffers);
  return plan_with<Fp8AttentionPlan>(vendor, s, request, tune);
}

Prepared prepare_attention(Vendor& vendor, const AttentionShape& s) {
  if (vendor.kernels() && why_no_own_attention(s, vendor.context().device()).empty())
    for (OwnAttention which : own_attentions(s, vendor.context().device()))
      vendor.kernels()->begin_module(own_module(which, own_call(s)));
  return AttentionPlanner(vendor, s, nullptr).times_library() ? prepare_cudnn(vendor, attention_request(s)) : nullptr;
}

Prepared prepare_fp8_attention(Vendor& vendor, const AttentionShape& s) {
  if (!known_fp8_refusal(s, vendor.context().device().capability()).empty()) return nullptr;
  return prepare_cudnn(vendor, fp8_attention_request(s));
}

std::string why_no_attention(const CudnnCalls& calls, const AttentionShape& s, int capability) {
  if (std::string why = known_refusal(s, capability); !why.empty()) return why;
  return why_unsupported(calls, attention_request(s), DescribedDevice::of(capability));
}

std::string why_no_fp8_attention(const CudnnCalls& calls, const AttentionShape& s, int capability) {
  if (std::string why = known_fp8_refusal(s, capability); !why.empty()) return why;
  return why_unsupported(calls, fp8_attention_request(s), DescribedDevice::of(capability));
}

}  // namespace sinter::cuda
