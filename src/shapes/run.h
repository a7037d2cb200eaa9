#pragma once
#include <functional>
#include <memory>

#include "shapes/canvas.h"
#include "shapes/moves.h"
#include "shapes/searcher.h"
#include "shapes/span_sums.h"

namespace sinter::shapes {

/// Makes what goes on from a canvas with `number` shapes, of which the last ones have `sizes`.
using MakeSearcher = std::function<std::unique_ptr<Searcher>(Canvas canvas, uint32_t number, const RecentSizes& sizes)>;

/// run() with the given searcher, for tests that compare them.
Result run_with(const MakeSearcher& make, const Image& picture, const Options& options, const Result* start = nullptr,
                const Callback& callback = {});
/// The same on the CPU with the given vector instructions.
Result run_with(Simd simd, const Image& picture, const Options& options, const Result* start = nullptr,
                const Callback& callback = {});

}  // namespace sinter::shapes
