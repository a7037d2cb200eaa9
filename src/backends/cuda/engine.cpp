#include "backends/cuda/engine.h"

#include <algorithm>

#include "backends/cuda/cached_module.h"
#include "backends/cuda/calls/attention.h"
#include "backends/cuda/calls/linear.h"
#include "backends/cuda/calls/own_conv.h"
#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/kernels/group_norm.h"
#include "backends/cuda/kernels/group_stats.h"
#include "backends/cuda/kernels/split_product.h"
#include "backends/cuda/plan.h"
#include "backends/cuda/schedules.h"
#include "backends/cuda/shortcut_steps.h"
#include "backends/cuda/thin_conv_steps.h"
#include "backends/cuda/upload.h"
#include "backends/cuda/weights.h"
#include "base/spans.h"
#include "compiler/kernel/code_generator.h"

namespace sinter::cuda {
namespace {

/// Part of every signature: programs of another version are never used. Raise it when lowering or generated code change.
constexpr std::string_view kCompilerVersion = "cuda-10";

std::string_view text_of(const Blob& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
Blob blob_of(std::string_view text) {
  auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return {begin, begin + text.size()};
}

}  // namespace

KernelCode::KernelCode(const Context& context, const Program& program) : module(context, text_of(program.code), "row kernels") {
  for (size_t i = 0; i < program.variants.size(); ++i) functions.push_back(module.function(kernel_symbol(i)));
}

const Function& function_of(const Unit& unit, int32_t variant) {
  return static_cast<const KernelCode&>(*unit.code).functions[size_t(variant)];
}

DevicePtr GrowingMemory::at_least(int64_t bytes, int64_t least) {
  if (memory_.bytes() >= (short_ ? least : bytes)) return memory_.address();
  release();
  try {
    memory_ = DeviceMemory(context_, short_ ? least : bytes, what_);
  } catch (const Error& e) {
    if (e.code() != Code::OutOfMemory || short_ || least == bytes) throw;
    short_ = true;
    memory_ = DeviceMemory(context_, least, what_);
  }
  return memory_.address();
}

void GrowingMemory::release() {
  context_.synchronize();
  memory_ = {};
  ++version_;
}

Engine::Engine(Cache& cache, int threads, int ordinal, EngineOptions options)
    : sinter::Engine(cache, threads),
      options_(options),
      opening_(std::async(std::launch::async,
                          [] {
                            find_cublaslt();
                            find_cudnn();
                          })),
      context_(ordinal),
      target_(gpu_target(context_.device().capability())),
      stream_(context_),
      vendor_(context_, &cache, {}, &kernels_),
      kernels_(context_, [this](const Context&, std::string_view ptx, std::string_view name) { return load_fixed(ptx, name); }),
      kernel_stream_(kernels_, stream_),
      arena_(context_, "the buffers of a run"),
      workspace_(context_, "the workspace of cuBLASLt and cuDNN"),
      free_at_start_(context_.free_bytes()),
      products_begun_(std::async(std::launch::async, [this] { begin_products(vendor_); })) {}

Engine::~Engine() = default;

UploadRing& Engine::upload_ring() {
  if (!upload_ring_) upload_ring_ = std::make_unique<UploadRing>(*this);
  return *upload_ring_;
}

int64_t Engine::shared_bytes() const {
  constexpr int64_t kCode = int64_t(36) << 20;  // 30 to 40 MB on an H200 with cuBLASLt 13.1 and cuDNN 9.19
  return vendor_.limits().workspace_bytes + kCode;
}

void Engine::note_memory() { taken_ = std::max(taken_, free_at_start_ - context_.free_bytes()); }

std::string Engine::target_text() const { return fmt::format("cuda {} on {}", target_.text(), context_.device().capability()); }
std::string_view Engine::compiler_version() const { return kCompilerVersion; }
LowerOptions Engine::lowering() const {
  const bool has_tiles = context_.device().capability() == 90;
  return {.vendor = true, .gated = has_tiles, .doubled_bias = has_tiles};
}
int64_t Engine::alignment() const { return kBufferAlignment; }

void Engine::generate(Program& program) const {
  begin_modules(program);  // while row kernels are made
  const Span span("generate code");
  schedule_kernels(program);
  if (program.variants.empty()) return;
  std::vector<NamedGpuKernel> kernels;
  for (size_t i = 0; i < program.variants.size(); ++i) {
    const KernelVariant& variant = program.variants[i];
    kernels.push_back({kernel_symbol(i), program.kernels[size_t(variant.kernel)], variant.schedule});
  }
  context_.make_current();
  program.code = blob_of(compile_ptx(context_, code_generator().gpu_row_kernels(kernels, target_), "row kernels"));
}

std::unique_ptr<LoadedCode> Engine::load(Program& program) const {
  context_.make_current();
  auto code = std::make_unique<KernelCode>(context_, program);
  begin_modules(program);
  program.code = {};
  return code;
}

/// Whether it is attention of a picture's tokens to each other, as they are.
static bool is_among_tokens(const AttentionStep& step) {
  return step.queries == step.keys && step.d.is_constant() && !step.causal && !step.biased && step.in == step.out_type;
}

void Engine::begin_modules(const Program& program) const {
  Kernels& kernels = *vendor_.kernels();
  ForeseenKernels foreseen(kernels);
  // What weights are brought by; the rest of the small ones depends on sizes, and is begun when a run is planned.
  cast(foreseen, {.from_type = DType::f16, .to_type = DType::bf16, .count = 1});
  for (size_t i = 0; i < program.steps.size(); ++i) begin_shortcut_modules(program, i);
  for (const Step& step : program.steps) {
    if (std::holds_alternative<GroupStatsStep>(step)) GroupNormLimits::begin(kernels);
    if (const auto* conv = std::get_if<ConvStep>(&step)) {
      const FiltersCall filters{.k = 1, .c = 1, .taps = 9};
      conv->doubled ? filters_doubled(foreseen, filters) : filters_channels_last(foreseen, filters);
      const WindowKind kind = conv->doubled ? WindowKind::Doubles : WindowKind::Plain;
      if (thin_conv_module(*conv, context_.device()).empty())
        for (const std::string& module : tile_window_modules(conv->in_type, conv->out_c, kind, context_.device()))
          kernels.begin_module(module);
      const int64_t products = (conv->doubled ? 4 : conv->kernel_h * conv->kernel_w) * conv->c;
      for (const std::string& module : split_modules(conv->out_c, products, conv->in_type, kind, context_.device()))
        kernels.begin_module(module);
    }
    if (const auto* attention = std::get_if<AttentionStep>(&step); attention && is_among_tokens(*attention)) {
      const std::string module = self_attention_module(attention->in, attention->d.constant(), context_.device());
      if (!module.empty()) kernels.begin_module(module);
    }
    const auto* linear = std::get_if<LinearStep>(&step);
    if (!linear) continue;
    const VendorTail& tail = *linear->tail;
    for (const std::string& kernel : tile_kernels(linear->a_type, tail.gated, tail.adds, options_.tune, context_.device()))
      kernels.begin_kernel(kernel);
    if (options_.tune && !tail.gated)
      for (const std::string& module : split_modules(linear->n, linear->k, linear->a_type, WindowKind::Plain, context_.device()))
        kernels.begin_module(module);
  }
  if (options_.many_sizes) begin_modules_of_other_sizes(program);
}

/// Tiles that use the device well at one size may waste places at another. Begun behind all that this one needs.
void Engine::begin_modules_of_other_sizes(const Program& program) const {
  for (const Step& step : program.steps)
    if (const auto* conv = std::get_if<ConvStep>(&step);
        conv && !conv->doubled && thin_conv_module(*conv, context_.device()).empty())
      for (const std::string& module : tile_taps_modules(conv->in_type, conv->out_c, context_.device()))
        vendor_.kernels()->begin_module(module);
}

void Engine::begin_shortcut_modules(const Program& program, size_t step) const {
  const auto steps = shortcut_steps(program, step);
  if (!steps) return;
  const ConvStep& conv = *steps->conv;
  const DeviceInfo& device = context_.device();
  const int64_t products = conv.kernel_h * conv.kernel_w * conv.c + steps->linear->k;
  for (const std::string& module : tile_window_modules(conv.in_type, conv.out_c, WindowKind::WithShortcut, device))
    vendor_.kernels()->begin_module(module);
  for (const std::string& module : split_modules(conv.out_c, products, conv.in_type, WindowKind::WithShortcut, device))
    vendor_.kernels()->begin_module(module);
}

/// The fixed kernels' machine code is kept like a program's.
Module Engine::load_fixed(std::string_view ptx, std::string_view name) {
  Digest key = Hasher().add("fixed kernels").add(ptx).add(target_text()).digest();
  CompileFacts facts{
      fmt::format("cuda/{} kernels", name), {{"target", target_text()}, {"compiler", std::string(kCompilerVersion)}}, 0};
  return cached_module(
      context_, cache(), key, facts, [&] { return compile_ptx(context_, ptx, name); }, name);
}

DevicePtr Engine::group_stats_counters() {
  if (!counters_.address()) {
    counters_ = DeviceMemory(context_, kGroupStatsCounters * 4, "counters of group statistics");
    fill_words(counters_.address(), 0, kGroupStatsCounters, stream_);
  }
  return counters_.address();
}

DevicePtr Engine::fp8_attention_numbers() {
  if (!fp8_attention_numbers_.address()) {
    // Probabilities are stored as at most 256, a power of two, which shifts their digits and loses none.
    const float numbers[5] = {1, 256, 1.f / 256, 0, 0};
    fp8_attention_numbers_ = DeviceMemory(context_, sizeof numbers, "numbers of fp8 attention");
    copy_to_device(fp8_attention_numbers_.address(), numbers, sizeof numbers, stream_);
    stream_.synchronize();
  }
  return fp8_attention_numbers_.address();
}

std::string Engine::why_no_fp8_attention() const {
  const DeviceInfo& device = context_.device();
  if (!device.has_fp8_attention())
    return fmt::format("it needs compute capability 9.0, and {} has {}.{}", device.name, device.capability_major,
                       device.capability_minor);
  if (!vendor_.cudnn()) return "it needs cuDNN: " + vendor_.why_no_cudnn();
  return {};
}

void Engine::release_buffers() {
  context_.make_current();
  arena_.release();
  workspace_.release();
}

void Engine::give_back_memory(const Error& why) {
  const int64_t before = context_.free_bytes();
  release_buffers();
  for (MemoryHolder* holder : holders_) holder->give_back_memory();
  constexpr double kMiB = 1 << 20;
  const double given = double(context_.free_bytes() - before) / kMiB;
  if (given < 1) return;
  note(
      "memory",
      fmt::format("device memory became short: {:.0f} MiB of buffers and recorded steps were given back, and are made again when "
                  "they are needed ({})",
                  given, why.message().substr(0, why.message().find('\n'))));
}

std::unique_ptr<sinter::BoundWeights> Engine::bind_weights(const CompiledGraph& compiled) {
  return std::make_unique<BoundWeights>(*this, compiled);
}

std::unique_ptr<sinter::Plan> Engine::plan(const CompiledGraph& compiled, const Layout& layout,
                                           const sinter::BoundWeights& weights) {
  return std::make_unique<Plan>(*this, compiled, layout, static_cast<const BoundWeights&>(weights));
}

}  // namespace sinter::cuda
