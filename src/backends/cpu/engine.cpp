#include "backends/cpu/engine.h"

#include "backends/cpu/plan.h"

namespace sinter::cpu {
namespace {

/// Part of every signature: programs of another version are never used. Raise it when lowering or generated code change.
constexpr std::string_view kCompilerVersion = "cpu-7";

}  // namespace

KernelCode::KernelCode(const Program& program) : object(program.code) {
  for (size_t i = 0; i < program.kernels.size(); ++i) kernels.push_back(object.function<RowKernelFunction>(kernel_symbol(i)));
}

RowKernelFunction kernel_of(const Unit& unit, int32_t kernel) {
  return static_cast<const KernelCode&>(*unit.code).kernels[size_t(kernel)];
}

Engine::Engine(Cache& cache, int threads) : sinter::Engine(cache, threads), target_(host_target()) {}

std::string_view Engine::compiler_version() const { return kCompilerVersion; }

LowerOptions Engine::lowering() const { return {.bf16_dot = target_.bf16_dot}; }

void Engine::generate(Program& program) const {
  std::vector<NamedKernel> kernels;
  for (size_t i = 0; i < program.kernels.size(); ++i) kernels.push_back({kernel_symbol(i), program.kernels[i]});
  if (!kernels.empty()) program.code = code_generator().row_kernels(kernels, target_);
}

std::unique_ptr<LoadedCode> Engine::load(Program& program) const {
  auto code = std::make_unique<KernelCode>(program);
  program.code = {};
  return code;
}

SharedProgram Engine::microkernels_program() {
  return {Hasher().add("microkernels").add(kCompilerVersion).add(target_.text()).digest(),
          {"cpu/matrix kernels", {{"target", target_.text()}, {"compiler", std::string(kCompilerVersion)}}, 0},
          [this] { return code_generator().microkernels(target_); },
          [this](const Blob& object) { load_microkernels_from(object); }};
}

void Engine::load_microkernels_from(const Blob& object) {
  if (microkernels_) return;
  code_.emplace(object);
  microkernels_ = load_microkernels(*code_, target_, host_cpu());
}

std::vector<SharedProgram> Engine::shared_programs() {
  std::vector<SharedProgram> programs;
  programs.push_back(microkernels_program());
  return programs;
}

const Microkernels& Engine::microkernels() {
  if (!microkernels_) {
    SharedProgram program = microkernels_program();
    load_microkernels_from(
        cache().find_or_compile(program.key, program.facts, program.make, nullptr, [&] { return cancelled().load(); }));
  }
  return *microkernels_;
}

std::unique_ptr<sinter::BoundWeights> Engine::bind_weights(const CompiledGraph& compiled) {
  return std::make_unique<BoundWeights>(*this, compiled);
}

std::unique_ptr<sinter::Plan> Engine::plan(const CompiledGraph& compiled, const Layout& layout,
                                           const sinter::BoundWeights& weights) {
  return std::make_unique<Plan>(*this, compiled, layout, static_cast<const BoundWeights&>(weights));
}

}  // namespace sinter::cpu
