#include "shapes/gpu_search.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "shapes/search.h"

namespace sinter::shapes {

namespace {

using cuda::DevicePtr;

template <class T>
T* pointer(DevicePtr address) {
  return reinterpret_cast<T*>(uintptr_t(address));
}

template <class T>
T* uploaded(SearchMachine& machine, const T* from, int64_t count) {
  const int64_t bytes = count * int64_t(sizeof(T));
  DevicePtr to = machine.allocate(bytes);
  machine.upload(to, from, bytes);
  return pointer<T>(to);
}

}  // namespace

GpuSearcher::GpuSearcher(std::unique_ptr<SearchMachine> machine, const Canvas& canvas, const Options& options, uint32_t number,
                         const RecentSizes& sizes)
    : machine_(std::move(machine)) {
  const Effort effort = effort_of(options);
  rounds_ = rounds_of(effort);
  Scene scene;
  canvas.describe(scene);
  SINTER_ASSERT(scene.cells <= kMostCells);
  const int64_t width = canvas.width(), height = canvas.height();
  SearchMachine& m = *machine_;
  job_.seed = options.seed, job_.kinds = options.kinds;
  job_.width = canvas.width(), job_.height = canvas.height();
  job_.cell = scene.cell, job_.columns = scene.columns, job_.cells = scene.cells;
  job_.candidates = candidates_of_climber(effort);
  job_.alpha_low = options.alpha.low, job_.alpha_high = options.alpha.high;
  job_.target = uploaded(m, canvas.target().rgb.data(), width * height * kChannels);
  job_.canvas = uploaded(m, canvas.pixels().rgb.data(), width * height * kChannels);
  job_.table = pointer<int32_t>(m.allocate((width + 1) * height * kSumLanes * int64_t(sizeof(int32_t))));
  job_.cell_rows = pointer<uint32_t>(m.allocate(height * scene.columns * int64_t(sizeof(uint32_t))));
  job_.map = pointer<uint32_t>(m.allocate(scene.cells * int64_t(sizeof(uint32_t))));
  for (auto& climbers : job_.climbers) climbers = pointer<Climber>(m.allocate(effort.climbers * int64_t(sizeof(Climber))));
  constexpr int kMostDrawBlocks = 64;  // a warp for each row at 512 px
  draw_blocks_ = std::min(m.multiprocessors(), kMostDrawBlocks);
  SearchState state;
  state.number = number, state.wanted = options.shapes;
  state.error = canvas.error(), state.sizes = sizes;
  job_.state = uploaded(m, &state, 1);
  job_.found = static_cast<FoundShape*>(m.allocate_on_host(options.shapes * int64_t(sizeof(FoundShape))));
  job_.progress = static_cast<SearchProgress*>(m.allocate_on_host(kProgressRing * int64_t(sizeof(SearchProgress))));

  warps_ = m.climbing_warps();
  searches_at_once_ = int(std::min<int64_t>(kSearchesAtOnce, options.shapes));
  scored_by_search_ = scored_by_search(effort);
  constexpr int kLanes = 32, kRows = 8;
  m("shape_search__rebuild", {{uint32_t((height + kRows - 1) / kRows)}, {kRows * kLanes}}, job_);
  m("shape_search__count", {{1}, {kMapThreads}, kCountingSharedBytes}, job_, 0, 0);
}

/// The launches of one search, each reading what the one before wrote.
void GpuSearcher::queue_search() {
  constexpr uint32_t kLanes = 32;
  SearchMachine& m = *machine_;
  int count = 0, last = int(rounds_.size()) - 1;
  for (int i = 0; i <= last; ++i) {
    const Round& round = rounds_[size_t(i)];
    m("shape_search__round", {{uint32_t(round.climbers)}, {uint32_t(warps_) * kLanes}, uint32_t(climbing_shared_bytes(warps_))},
      job_, i, count, round.tries, int(round.anneal));
    count = round.climbers;
  }
  m("shape_search__measure", {{uint32_t(draw_blocks_)}, {kDrawWarps * kLanes}, kDrawingSharedBytes}, job_, last, count);
  m("shape_search__draw", {{uint32_t(draw_blocks_)}, {kDrawWarps * kLanes}, kDrawingSharedBytes}, job_, last, count);
  m("shape_search__count", {{1}, {kMapThreads}, kCountingSharedBytes}, job_, last, count);
}

void GpuSearcher::queue() {
  for (; seen_.ended == Ended::no && repetitions_queued_ < kRepetitionsAhead; ++repetitions_queued_)
    machine_->repeat([this] {
      for (int i = 0; i < searches_at_once_; ++i) queue_search();
    });
}

/// Reads what the oldest repetition did, when that is done.
void GpuSearcher::look() {
  machine_->wait();
  --repetitions_queued_;
  queued_searches_seen_ += searches_at_once_;
  while (seen_.ended == Ended::no && seen_.searches < queued_searches_seen_) {
    const int64_t number = seen_.searches + 1;
    const SearchProgress& now = job_.progress[number % kProgressRing];
    if (now.searches != number)
      fail(Code::Internal, "the search on the GPU stands still after {} shapes; give --device cpu", seen_.found);
    seen_ = now;
  }
}

std::optional<Step> GpuSearcher::next() {
  while (taken_ == seen_.found) {
    if (seen_.ended == Ended::nothing_helps) searches_ = seen_.searches;
    if (seen_.ended != Ended::no) return std::nullopt;
    queue();
    look();
  }
  queue();
  const FoundShape& found = job_.found[taken_++];
  searches_ = found.searches;
  return Step{found.shape, found.error};
}

}  // namespace sinter::shapes
