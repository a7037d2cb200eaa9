#pragma once
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "backends/cuda/driver.h"

namespace sinter::cuda {

class BoundCall;

/// Microseconds of one run of each candidate, the best of several rounds; infinite for one that throws. The candidates take
/// turns, so that a clock that falls meanwhile falls for all; what is clearly behind is timed no further. Each is recorded
/// several times in a graph, so that short ones are not measured by the host's pace.
std::vector<double> time_candidates(const Context& context, const Stream& stream,
                                    const std::vector<std::function<void()>>& candidates);

/// The same of calls.
std::vector<double> time_calls(const Context& context, const Stream& stream,
                               const std::vector<std::unique_ptr<BoundCall>>& calls);

/// Keeps what candidates of a call took as a span (base/spans.h), for people who wonder about a choice.
void note_times(std::string_view what, const std::vector<double>& microseconds);

/// The index of the best; the library's own order decides between times within 1 %. -1 where none ran.
int best_candidate(const std::vector<double>& microseconds);

}  // namespace sinter::cuda
