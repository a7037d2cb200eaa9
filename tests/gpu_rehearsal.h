#pragma once
// A GPU played by a CPU: runs the functions of CodeGenerator::gpu_rehearsal block by block, each thread of a block as a
// coroutine that others continue while it waits in a shuffle or at a barrier.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <vector>

#include "compiler/kernel/gpu_row_kernel.h"

namespace sinter {

class RehearsedGpu {
 public:
  /// Runs all blocks of `launch`, whose addresses are set. Throws if threads wait for others that have ended.
  void run(GpuRehearsalFunction kernel, const GpuLaunch& launch) {
    kernel_ = kernel;
    arguments_ = launch.arguments.data();
    threads_.resize(size_t(launch.threads));
    for (int64_t block = 0; block < launch.blocks; ++block) run_block(uint32_t(block));
  }

 private:
  struct Thread {
    GpuRehearsal machine;  // first: the kernel hands it back
    RehearsedGpu* gpu = nullptr;
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    float published[2] = {};  // the last two values shuffled: the partner may be one shuffle behind
    int64_t shuffles = 0, barriers = 0;
    bool ended = false;
  };
  static constexpr size_t kStackBytes = 64 << 10;

  void run_block(uint32_t block) {
    shared_.assign(16384, NAN);
    for (size_t t = 0; t < threads_.size(); ++t) start(t, block);
    bool all_ended = false;
    while (!all_ended) {
      all_ended = true;
      progress_ = false;
      for (Thread& t : threads_) {
        if (t.ended) continue;
        swapcontext(&scheduler_, &t.context);
        all_ended = all_ended && t.ended;
      }
      if (!all_ended && !progress_) throw std::runtime_error("threads of a rehearsed GPU kernel wait for ones that never come");
    }
  }

  void start(size_t number, uint32_t block) {
    Thread& t = threads_[number];
    t.machine = {uint32_t(number), block, shared_.data(), shuffle, barrier, exp2_like_hardware};
    t.gpu = this;
    t.shuffles = t.barriers = 0;
    t.ended = false;
    if (!t.stack) t.stack = std::make_unique<char[]>(kStackBytes);
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack.get();
    t.context.uc_stack.ss_size = kStackBytes;
    t.context.uc_link = &scheduler_;
    auto address = reinterpret_cast<uintptr_t>(&t);
    makecontext(&t.context, reinterpret_cast<void (*)()>(&enter), 2, unsigned(address), unsigned(address >> 32));
  }

  static void enter(unsigned low, unsigned high) {
    auto* t = reinterpret_cast<Thread*>(uintptr_t(low) | uintptr_t(high) << 32);
    t->gpu->kernel_(t->gpu->arguments_, &t->machine);
    t->ended = true;
    t->gpu->progress_ = true;
  }

  static Thread& of(GpuRehearsal* machine) { return *reinterpret_cast<Thread*>(machine); }

  template <class Ready>
  void wait(Thread& self, Ready&& ready) {
    progress_ = true;  // this thread has come here
    while (!ready()) {
      swapcontext(&self.context, &scheduler_);
      if (ready()) progress_ = true;
    }
  }

  static float shuffle(GpuRehearsal* machine, float value, uint32_t distance) {
    Thread& self = of(machine);
    RehearsedGpu& gpu = *self.gpu;
    self.published[self.shuffles % 2] = value;
    int64_t mine = self.shuffles++;
    size_t warp = machine->thread / 32 * 32;
    gpu.wait(self, [&] {
      for (size_t t = warp; t < warp + 32; ++t)
        if (gpu.threads_[t].shuffles <= mine) return false;
      return true;
    });
    return gpu.threads_[machine->thread ^ distance].published[mine % 2];
  }

  static void barrier(GpuRehearsal* machine) {
    Thread& self = of(machine);
    RehearsedGpu& gpu = *self.gpu;
    int64_t mine = self.barriers++;
    gpu.wait(self, [&] {
      return std::all_of(gpu.threads_.begin(), gpu.threads_.end(), [&](const Thread& t) { return t.barriers > mine; });
    });
  }

  /// As the instruction of a GPU: subnormal results become 0, the last place or two may differ.
  static float exp2_like_hardware(float x) {
    float value = float(std::exp2(double(x)) * (1 + 0x1p-23));
    return value < 0x1p-126f ? 0 : value;
  }

  GpuRehearsalFunction kernel_ = nullptr;
  const int64_t* arguments_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<float> shared_;
  ucontext_t scheduler_;
  bool progress_ = false;
};

}  // namespace sinter
