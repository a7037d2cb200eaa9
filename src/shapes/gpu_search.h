#pragma once
#include <cstdint>
#include <functional>
#include <memory>

#include "backends/cuda/kernels/kernels.h"
#include "shapes/canvas.h"
#include "shapes/search.h"
#include "shapes/search_job.h"
#include "shapes/searcher.h"

namespace sinter::cuda {
extern const std::string_view shape_search_ptx;  ///< made from shape_search.device.cpp
}

namespace sinter::shapes {

/// What the search's kernels run on: a GPU, or the emulation of tests. Memory lives as long as this.
class SearchMachine : public cuda::KernelTarget {
 public:
  virtual cuda::DevicePtr allocate(int64_t bytes) = 0;
  /// Host memory that kernels write too, filled with zeros.
  virtual void* allocate_on_host(int64_t bytes) = 0;
  virtual void upload(cuda::DevicePtr to, const void* from, int64_t bytes) = 0;
  /// How many warps a climber's block may have, at most kMostWarps. It changes the time, not the result.
  virtual int climbing_warps() = 0;
  /// Queues what `launches` launches; it must be the same each time.
  virtual void repeat(const std::function<void()>& launches) = 0;
  /// Waits for the oldest repetition that was not waited for.
  virtual void wait() = 0;
};

/// The machine of one run on a device.
std::unique_ptr<SearchMachine> machine_of(const std::shared_ptr<Gpu>& gpu);

/// Searches on a machine, beginning with a canvas and the shapes drawn there. `number` of shapes, of which the last ones have
/// `sizes`. cuda_shapes_test.cpp checks that it finds what the CPU finds.
class GpuSearcher final : public Searcher {
 public:
  GpuSearcher(std::unique_ptr<SearchMachine> machine, const Canvas& canvas, const Options& options, uint32_t number,
              const RecentSizes& sizes);
  std::optional<Step> next() override;
  int64_t scored() const override { return searches_ * scored_by_search_; }

 private:
  void queue_search();
  void queue();
  void look();

  std::unique_ptr<SearchMachine> machine_;
  SearchJob job_;
  std::vector<Round> rounds_;
  int warps_ = 0, draw_blocks_ = 0, searches_at_once_ = 0, repetitions_queued_ = 0;
  int64_t scored_by_search_ = 0;
  int64_t queued_searches_seen_ = 0, taken_ = 0, searches_ = 0;
  SearchProgress seen_;
};

}  // namespace sinter::shapes
