#include "compiler/layout.h"

#include <algorithm>

#include "base/rounding.h"
#include "graph/ops.h"

namespace sinter {
namespace {

int64_t aligned(int64_t bytes, int64_t alignment) { return round_up(std::max<int64_t>(bytes, 1), alignment); }

struct Interval {
  int64_t bytes;
  int32_t first, last;
  int64_t* offset;
};

/// Largest first, each at the lowest place that is free while it lives.
int64_t place_intervals(std::vector<Interval> intervals) {
  std::stable_sort(intervals.begin(), intervals.end(), [](const Interval& a, const Interval& b) { return a.bytes > b.bytes; });
  int64_t total = 0;
  std::vector<const Interval*> placed, beside;
  for (Interval& now : intervals) {
    if (now.bytes == 0) {
      *now.offset = 0;
      continue;
    }
    beside.clear();
    for (const Interval* other : placed)
      if (other->first <= now.last && now.first <= other->last) beside.push_back(other);
    std::sort(beside.begin(), beside.end(), [](const Interval* a, const Interval* b) { return *a->offset < *b->offset; });
    int64_t at = 0;
    for (const Interval* other : beside) {
      if (*other->offset - at >= now.bytes) break;
      at = std::max(at, *other->offset + other->bytes);
    }
    *now.offset = at;
    total = std::max(total, at + now.bytes);
    placed.push_back(&now);
  }
  return total;
}

}  // namespace

Layout::Layout(const CompiledGraph& compiled, const Bindings& bindings, const std::set<std::string>& kept) : bindings_(bindings) {
  const Unit& root = compiled.root();
  auto place = [&](Value v, int64_t& end) {
    int64_t at = end;
    end += aligned(element_count(v.shape()).value(bindings_) * byte_size(v.dtype()), compiled.engine().alignment());
    return at;
  };
  for (Value input : root.graph.inputs()) {
    is_kept_.push_back(kept.contains(input->attrs.as<NameAttrs>().name));
    inputs_.push_back(place(input, is_kept_.back() ? kept_bytes_ : bytes_));
  }
  input_bytes_ = bytes_;
  for (const Output& output : root.graph.outputs()) outputs_.push_back(place(output.value, bytes_));
  lay_out(root, compiled.engine());
  root_ = bytes_;
  bytes_ += units_.at(&root).bytes;
}

void Layout::lay_out(const Unit& unit, Engine& engine) {
  if (units_.contains(&unit)) return;
  for (const auto& callee : unit.callees) lay_out(*callee.unit, engine);
  const Program& program = unit.program;
  UnitLayout layout;
  layout.temporaries.resize(program.temporaries.size());
  layout.scratch.resize(program.steps.size());
  std::vector<Interval> intervals;
  auto add = [&](int64_t bytes, int32_t first, int32_t last, int64_t& offset) {
    intervals.push_back({bytes ? aligned(bytes, engine.alignment()) : 0, first, last, &offset});
  };
  for (size_t i = 0; i < program.temporaries.size(); ++i) {
    const Temporary& t = program.temporaries[i];
    int64_t bytes = t.bytes.value(bindings_);
    if (bytes < 0) fail(Code::InvalidArgument, "a buffer of {} would have {} bytes", unit.label, bytes);
    add(bytes, t.first_step, t.last_step, layout.temporaries[i]);
  }
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const auto* call = std::get_if<CallStep>(&program.steps[i]);
    int64_t bytes =
        call ? units_.at(unit.callees[size_t(call->callee)].unit).bytes : engine.scratch_bytes(unit, program.steps[i], bindings_);
    add(bytes, int32_t(i), int32_t(i), layout.scratch[i]);
  }
  layout.bytes = place_intervals(std::move(intervals));
  units_.emplace(&unit, std::move(layout));
}

}  // namespace sinter
