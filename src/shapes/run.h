#pragma once
#include "shapes/shapes.h"
#include "shapes/span_sums.h"

namespace sinter::shapes {

/// run() with the given vector instructions, for tests that compare them.
Result run_with(Simd simd, const Image& picture, const Options& options, const Result* start = nullptr,
                const Callback& callback = {});

}  // namespace sinter::shapes
