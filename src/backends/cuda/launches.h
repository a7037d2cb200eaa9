#pragma once
#include <any>
#include <atomic>
#include <functional>
#include <future>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "backends/cuda/calls/attention.h"
#include "backends/cuda/calls/conv.h"
#include "backends/cuda/calls/linear.h"
#include "backends/cuda/kernels/gemm.h"
#include "backends/cuda/kernels/group_norm.h"
#include "backends/cuda/weights.h"
#include "compiler/layout.h"

namespace sinter::cuda {

/// One thing that is queued on the engine's stream, with all its addresses.
struct Launch {
  const char* kind;    ///< "linear", "conv", "attention", "kernel", ...
  std::string detail;  ///< its shape, for people
  std::function<void()> run;
  double seconds = 0;  ///< of all measured runs
};

/// Walks the steps of programs at one binding of sizes and makes their launches.
class LaunchBuilder {
 public:
  LaunchBuilder(Engine& engine, const Layout& layout, const BoundWeights& weights)
      : engine_(engine), layout_(layout), weights_(weights) {}
  ~LaunchBuilder() { stopped_ = true; }

  /// The launches of a graph whose temporaries begin at `base`.
  void add(const Unit& root, DevicePtr base, const std::vector<DevicePtr>& inputs, const std::vector<DevicePtr>& outputs);
  /// Takes the workspace that the vendors' calls turned out to need, and gives all launches and the memory of constants.
  void finish(std::vector<Launch>& launches, std::vector<DeviceMemory>& constants);

 private:
  struct Instance;
  template <class Shape, class Buffers, class Plan>
  using Planner = Planned<Plan> (*)(Vendor&, const Shape&, const TuneOn<Buffers>*);
  template <class Shape>
  using Preparer = std::type_identity_t<Prepared (*)(Vendor&, const Shape&)>;
  /// Why a vendor has no such call; or, but for the first walk, its plan.
  template <class Plan>
  struct Added {
    std::string why_none;
    std::shared_ptr<const Plan> plan;
  };
  using Bind = std::function<std::function<void()>(const Workspace&)>;

  /// The same of a unit, with its weights named by `prefix`.
  void add(const Unit& unit, const std::string& prefix, DevicePtr base, std::vector<DevicePtr> parameters,
           std::vector<DevicePtr> results);
  void add_step(const Instance& in, const RowStep& step);
  void add_step(const Instance& in, const LinearStep& step);
  /// Its alignment is what offsets leave of the buffers'.
  std::pair<LinearShape, LinearBuffers> linear_call(const Instance& in, const LinearStep& step);
  void add_step(const Instance& in, const ConvStep& step);
  ConvShape conv_shape(const Instance& in, const ConvStep& step);
  ConvBuffers conv_buffers(const Instance& in, const ConvStep& step);
  /// By the kernels for few channels; false, and nothing is added, where they do not make it.
  bool add_thin_conv(const Instance& in, const ConvStep& step);
  /// The convolution and the next step, where that is its shortcut, as one launch; false, and nothing is added, where it is none,
  /// or two are faster.
  bool add_shortcut(const Instance& in);
  struct ShortcutCandidates;
  bool shortcut_is_faster(const ShortcutCandidates& candidates);
  void add_step(const Instance& in, const MatmulStep& step);
  void add_step(const Instance& in, const AttentionStep& step);
  void add_step(const Instance& in, const GroupStatsStep& step);
  GroupStatsCall group_stats_call(const Instance& in, const GroupStatsStep& step);  // but for where its result goes
  /// The step of statistics and the next one as one launch; false, and nothing is added, where they are none.
  bool add_group_norm(const Instance& in);
  void add_step(const Instance& in, const EmbeddingStep& step);
  void add_step(const Instance& in, const QuantiseStep& step);
  void add_step(const Instance& in, const CallStep& step);

  /// Adds a vendor's call, its candidates timed if `tune`, which are prepared ahead where `preparer` is not null.
  template <class Shape, class Buffers, class Plan>
  Added<Plan> add_vendor_call(const char* kind, const Shape& shape, const Buffers& buffers, Planner<Shape, Buffers, Plan> planner,
                              Preparer<Shape> preparer, bool tune);
  /// A vendor's plan, but in the first walk.
  template <class Shape, class Buffers, class Plan>
  Planned<Plan> vendor_plan(const char* kind, const Shape& shape, const Buffers& buffers, Planner<Shape, Buffers, Plan> planner,
                            bool tune);
  void enlarge(const ConvShape& whole, const ConvBuffers& from, DevicePtr picture, DevicePtr filters);
  void add_places(const ConvCall& whole, std::string detail);
  /// A product in the library's form or one of ours.
  void add_linear(const LinearShape& shape, const LinearBuffers& buffers);
  /// By the kernel for machines without the library.
  void add_own_linear(const LinearShape& shape, const LinearBuffers& buffers);
  void add_fp8_linear(const Instance& in, const LinearStep& step, LinearShape shape, LinearBuffers buffers);
  void add_fp8_attention(const Instance& in, const AttentionStep& step, const AttentionShape& shape);

  DevicePtr address(const Instance& in, const BufferRef& buffer);
  DevicePtr address(const Instance& in, const Place& place, DType type);
  DevicePtr constant(const Unit& unit, int32_t index);
  void launch(const char* kind, std::string detail, std::function<void()> run);
  /// Of fixed kernels of ours, whose compiling is begun; in the first walk that is all.
  void launch_own(const char* kind, std::string detail, std::function<void(KernelTarget&)> run);
  /// Begins to compile what `run` would launch.
  void foresee(const std::function<void(KernelTarget&)>& run);
  /// A call that needs `bytes` of the shared workspace, bound when that is there.
  void call(const char* kind, std::string detail, int64_t bytes, Bind bind);
  /// Vendor calls read and write what they like while candidates are timed: random numbers, not zeros, in everything.
  Workspace tuning_workspace();

  Engine& engine_;
  const Layout& layout_;
  const BoundWeights& weights_;
  std::vector<Launch> launches_;
  std::vector<std::pair<size_t, Bind>> unbound_;
  int64_t workspace_bytes_ = 0;
  std::map<std::pair<const Unit*, int32_t>, DeviceMemory> constants_;
  std::optional<GroupNormLimits> group_norm_limits_;
  int depth_ = 0, blocks_ = 0;  // of calls; of those by the graph itself, so far
  /// A vendor's plan for all calls of one shape. A first walk collects what can be made ahead, on any thread.
  struct VendorCall {
    std::function<void(VendorCall&)> ahead;
    std::promise<void> made;
    std::future<void> made_ahead;  // valid until somebody has waited for it
    Prepared candidates;
    std::any planned;
  };
  /// Starts what is made ahead on as many threads as the engine has. The second walk waits for what it needs.
  void plan_ahead();
  bool collecting_ = false;  // the first walk: launches of it are dropped
  std::map<std::string, VendorCall> vendor_calls_;
  std::vector<VendorCall*> ahead_;
  std::atomic<size_t> next_ahead_ = 0;
  std::atomic<bool> stopped_ = false;
  std::vector<std::future<void>> helpers_;  // who use all of the above
};

}  // namespace sinter::cuda
