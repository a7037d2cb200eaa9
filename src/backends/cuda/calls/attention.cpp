#include "backends/cuda/calls/attention.h"

#include <chrono>
#include <limits>

#include "backends/cuda/calls/contest.h"
#include "backends/cuda/calls/own_call.h"
#include "backends/cuda/calls/tuning.h"
#include "backends/cuda/kernels/resident_attention.h"
#include "backends/cuda/kernels/tile_attention.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

/// Ids of the tensors in memory; they are part of stored plans.
enum Id : int64_t {
  kQ = 1,
  kK = 2,
  kV = 3,
  kOut = 4,
  kScale = 5,
  kBias = 6,
  kMasked = 7,
  kDescaleQ = 10,
  kDescaleK = 11,
  kDescaleV = 12,
  kScaleS = 13,
  kDescaleS = 14,
  kScaleOut = 15,
  kLargestS = 16,
  kLargestOut = 17
};

std::string strides_text(const HeadStrides& s) { return fmt::format("{},{},{}", s.b, s.t, s.h); }

/// Builds the graph of one attention; the library recognises it by its form.
class Builder {
 public:
  Builder(const AttentionShape& shape, CudnnGraph& graph) : s_(shape), g_(graph) {}

  void sixteen_or_thirty_two_bits() {
    int q = in_memory(kQ, s_.q, s_.queries), v = in_memory(kV, s_.v, s_.keys), out = in_memory(kOut, s_.out, s_.queries);
    int scores = product_of_q_and_k(q);
    if (s_.bias) scores = joined(Pointwise::Add, scores, bias());
    if (s_.causal) scores = causal(scores);
    int p = probabilities(scores, cudnn_type(s_.type));
    g_.matmul(p, v, out);
  }

  void fp8() {
    int q = in_memory(kQ, s_.q, s_.queries), v = in_memory(kV, s_.v, s_.keys), out = in_memory(kOut, s_.out, s_.queries);
    int scores = product_of_q_and_k(q);
    scores = joined(Pointwise::Multiply, scores, factor(kDescaleQ));
    scores = joined(Pointwise::Multiply, scores, factor(kDescaleK));
    int p = probabilities(scores, CudnnType::F32);
    g_.reduce(Reduction::AbsoluteMax, p, factor(kLargestS));
    int stored = g_.intermediate(score_sizes(), CudnnType::F8E4M3);
    g_.pointwise(Pointwise::Multiply, p, factor(kScaleS), stored);
    int o = result();
    g_.matmul(stored, v, o);
    for (Id id : {kDescaleS, kDescaleV}) {
      int next = result();
      g_.pointwise(Pointwise::Multiply, o, factor(id), next);
      o = next;
    }
    g_.pointwise(Pointwise::Multiply, o, factor(kScaleOut), out);
    g_.reduce(Reduction::AbsoluteMax, o, factor(kLargestOut));
  }

 private:
  std::vector<int64_t> score_sizes() const { return {s_.b, s_.heads, s_.queries, s_.keys}; }

  int in_memory(Id id, const HeadStrides& strides, int64_t tokens) {
    return g_.tensor({.id = id,
                      .sizes = {s_.b, s_.heads, tokens, s_.d},
                      .strides = {strides.b, strides.h, strides.t, 1},
                      .type = cudnn_type(s_.type)});
  }

  int product_of_q_and_k(int q) {
    // Transposed by its strides.
    int k = g_.tensor({.id = kK,
                       .sizes = {s_.b, s_.heads, s_.d, s_.keys},
                       .strides = {s_.k.b, s_.k.h, 1, s_.k.t},
                       .type = cudnn_type(s_.type)});
    int scores = g_.intermediate(score_sizes());
    g_.matmul(q, k, scores);
    return joined(Pointwise::Multiply, scores, g_.number(kScale));
  }

  int joined(Pointwise mode, int scores, int with) {
    int out = g_.intermediate(score_sizes());
    g_.pointwise(mode, scores, with, out);
    return out;
  }

  int factor(Id id) { return g_.tensor({.id = id, .sizes = {1, 1, 1, 1}, .strides = {1, 1, 1, 1}}); }

  int result() {
    // Heads side by side, as the result is stored.
    std::vector<int64_t> strides{s_.heads * s_.queries * s_.d, s_.d, s_.heads * s_.d, 1};
    return g_.intermediate({s_.b, s_.heads, s_.queries, s_.d}, CudnnType::F32, strides);
  }

  int bias() {
    const HeadStrides& s = s_.bias->strides;
    std::vector<int64_t> sizes{s.b ? s_.b : 1, s.h ? s_.heads : 1, s.t ? s_.queries : 1, s_.keys};
    // The stride of a size of 1 means nothing, but must not be 0.
    int64_t row = s.t ? s.t : s_.keys, head = s.h ? s.h : row * sizes[2], entry = s.b ? s.b : head * sizes[1];
    return g_.tensor({.id = kBias, .sizes = sizes, .strides = {entry, head, row, 1}, .type = cudnn_type(s_.bias->type)});
  }

  int causal(int scores) {
    int row = g_.intermediate(score_sizes(), CudnnType::I32), column = g_.intermediate(score_sizes(), CudnnType::I32);
    g_.index(2, scores, row);
    g_.index(3, scores, column);
    int seen = g_.intermediate(score_sizes(), CudnnType::Boolean);
    g_.pointwise(Pointwise::GreaterOrEqual, row, column, seen);
    int out = g_.intermediate(score_sizes());
    g_.select(seen, scores, g_.number(kMasked), out);
    return out;
  }

  int probabilities(int scores, CudnnType type) {
    std::vector<int64_t> row_sizes{s_.b, s_.heads, s_.queries, 1};
    auto row = [&] { return g_.intermediate(row_sizes, CudnnType::F32, {s_.heads * s_.queries, s_.queries, 1, 1}); };
    int largest = row(), sum = row(), log = row(), statistics = row();
    g_.reduce(Reduction::Max, scores, largest);
    int difference = joined(Pointwise::Subtract, scores, largest);
    int power = g_.intermediate(score_sizes());
    g_.unary(Pointwise::Exp, difference, power);
    g_.reduce(Reduction::Add, power, sum);
    // Unused here, but without these two the library does not know the form.
    g_.unary(Pointwise::Log, sum, log);
    g_.pointwise(Pointwise::Add, largest, log, statistics);
    int p = g_.intermediate(score_sizes(), type);
    g_.pointwise(Pointwise::Divide, power, sum, p);
    return p;
  }

  const AttentionShape& s_;
  CudnnGraph& g_;
};

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

std::string family_of(const AttentionShape& s) {
  std::string keys = s.keys == s.queries ? "own" : fmt::format("{}", s.keys);  // a prompt's: they stay as many
  return fmt::format("heads of {}, {} keys {}{}{}{}", s.d, keys, name(s.type), s.bias ? " bias" : "", s.causal ? " causal" : "",
                     s.allow_tf32 ? " tf32" : "");
}

/// With more keys, those that are held at once leave fewer blocks to a multiprocessor: no longer taken untimed, nor timed.
constexpr int64_t kMostResidentKeys = 160, kMostResidentKeysTimed = 256;

CudnnRequest request_for(const AttentionShape& s) {
  return {.kind = "attention",
          .shape = s.text(),
          .family = family_of(s),
          .numerics = {.f32_inputs = s.type == DType::f32, .allow_tf32 = s.allow_tf32},
          .candidates = s.keys > kMostResidentKeys ? 1 : 3,  // with many keys its first was its best for every head size
          .build = [s](CudnnGraph& graph) { Builder(s, graph).sixteen_or_thirty_two_bits(); }};
}

CudnnRequest fp8_request_for(const AttentionShape& s) {
  CudnnRequest request = request_for(s);
  request.kind = "fp8 attention";
  request.build = [s](CudnnGraph& graph) { Builder(s, graph).fp8(); };
  return request;
}

/// Collects the arguments of a call and checks them.
struct Arguments {
  std::vector<CudnnArgument> list;
  void add(Id id, DevicePtr address, uint64_t alignment, const char* what) {
    if (address == 0) fail(Code::InvalidArgument, "attention: no address for {}", what);
    if (address % alignment) fail(Code::InvalidArgument, "attention: {} is not aligned to {} bytes", what, alignment);
    list.push_back({id, reinterpret_cast<void*>(address)});
  }
  void add_number(Id id) { list.push_back({id, nullptr}); }
};

std::pair<std::vector<CudnnArgument>, std::vector<float>> arguments_of(const AttentionShape& s, const AttentionBuffers& b) {
  Arguments a;
  a.add(kQ, b.q, 16, "q");
  a.add(kK, b.k, 16, "k");
  a.add(kV, b.v, 16, "v");
  a.add(kOut, b.out, 16, "out");
  if (s.bias) a.add(kBias, b.bias, 16, "the bias");
  std::vector<float> numbers{b.scale};
  a.add_number(kScale);
  if (s.causal) {
    a.add_number(kMasked);
    numbers.push_back(-std::numeric_limits<float>::infinity());
  }
  return {std::move(a.list), std::move(numbers)};
}

std::pair<std::vector<CudnnArgument>, std::vector<float>> arguments_of(const Fp8AttentionBuffers& b) {
  Arguments a;
  a.add(kQ, b.q, 16, "q");
  a.add(kK, b.k, 16, "k");
  a.add(kV, b.v, 16, "v");
  a.add(kOut, b.out, 16, "out");
  a.add_number(kScale);
  a.add(kDescaleQ, b.descale_q, 4, "descale_q");
  a.add(kDescaleK, b.descale_k, 4, "descale_k");
  a.add(kDescaleV, b.descale_v, 4, "descale_v");
  a.add(kScaleS, b.scale_s, 4, "scale_s");
  a.add(kDescaleS, b.descale_s, 4, "descale_s");
  a.add(kScaleOut, b.scale_out, 4, "scale_out");
  a.add(kLargestS, b.largest_s, 4, "largest_s");
  a.add(kLargestOut, b.largest_out, 4, "largest_out");
  return {std::move(a.list), {b.scale}};
}

/// Part of what choices between the library's attention and ours are stored under: raise it when our kernels change.
constexpr std::string_view kOwnAttention = "4";

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
  if (tune) tuning.emplace(tune->stream, tune->workspace, tune->candidates);
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
        contest_(vendor, "own attention", s_.text(), fmt::format("own attention of {} heads, {}", s_.heads, family_of(s_)),
                 cudnn_contest_facts(vendor, "own attention", kOwnAttention)) {
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
    CudnnRequest request = request_for(s_);
    if (tune_) std::tie(request.arguments, request.numbers) = arguments_of(s_, tune_->buffers);
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
  bool tokens_do_not_matter(Known known) const { return contest_.only_ours_are_good(known); }

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

AttentionPlan::AttentionPlan(AttentionShape shape, OwnAttention own, Kernels& kernels, const Choice& choice)
    : shape_(std::move(shape)), kernels_(&kernels), own_(own), choice_(choice) {
  kernels.begin_module(own_module(own_, own_call(shape_)));
}

std::unique_ptr<BoundCall> AttentionPlan::bind(const AttentionBuffers& buffers, const Workspace& workspace) const {
  auto [arguments, numbers] = arguments_of(shape_, buffers);
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
  auto [arguments, numbers] = arguments_of(buffers);
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

/// Measured with cuDNN 9.14, batch 2. As many keys as queries, on an H100: 0.71 of its time with 4096 and heads of 40, 0.73 with
/// 1024 and heads of 80, 0.74 with 1024 and 0.97 with 4096 and heads of 64. 77 keys, heads of 40 to 80: 0.52 to 0.56. Held at
/// once, on an H200, 64 to 4096 queries, heads of 40 to 160: 0.56 to 0.79 with 77 keys, 0.7 to 1.0 with 154, 0.9 to 1.3 with 231.
bool own_attention_should_win(const AttentionShape& s, const DeviceInfo& device) {
  constexpr int64_t kLeastOfMany = 1024;
  if (!why_no_own_attention(s, device).empty()) return false;
  return own_attentions(s, device).front() == OwnAttention::Tiles ? s.keys >= kLeastOfMany : s.keys <= kMostResidentKeys;
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
  CudnnRequest request = fp8_request_for(s);
  if (tune) std::tie(request.arguments, request.numbers) = arguments_of(tune->buffers);
  return plan_with<Fp8AttentionPlan>(vendor, s, request, tune);
}

Prepared prepare_attention(Vendor& vendor, const AttentionShape& s) {
  if (vendor.kernels() && why_no_own_attention(s, vendor.context().device()).empty())
    for (OwnAttention which : own_attentions(s, vendor.context().device()))
      vendor.kernels()->begin_module(own_module(which, own_call(s)));
  return AttentionPlanner(vendor, s, nullptr).times_library() ? prepare_cudnn(vendor, request_for(s)) : nullptr;
}

Prepared prepare_fp8_attention(Vendor& vendor, const AttentionShape& s) {
  if (!known_fp8_refusal(s, vendor.context().device().capability()).empty()) return nullptr;
  return prepare_cudnn(vendor, fp8_request_for(s));
}

std::string why_no_attention(const CudnnCalls& calls, const AttentionShape& s, int capability) {
  if (std::string why = known_refusal(s, capability); !why.empty()) return why;
  return why_unsupported(calls, request_for(s), DescribedDevice::of(capability));
}

std::string why_no_fp8_attention(const CudnnCalls& calls, const AttentionShape& s, int capability) {
  if (std::string why = known_fp8_refusal(s, capability); !why.empty()) return why;
  return why_unsupported(calls, fp8_request_for(s), DescribedDevice::of(capability));
}

}  // namespace sinter::cuda
