#include "codegen/row_kernel_stages.h"

#include <algorithm>

#include "base/error.h"

namespace sinter {
namespace {

bool is_reduction(const KernelStep& s) { return s.kind == KernelStep::reduce_sum || s.kind == KernelStep::reduce_max; }

std::vector<int> inputs(const KernelStep& s) {
  switch (s.kind) {
    case KernelStep::primitive: {
      std::vector<int> all{s.a, s.b, s.c};
      all.resize(size_t(arity(s.prim)));
      return all;
    }
    case KernelStep::reduce_sum:
    case KernelStep::reduce_max:
    case KernelStep::store:
    case KernelStep::swap_pairs:
      return {s.a};
    default:
      return {};
  }
}

void check(const RowKernel& kernel, int index) {
  const KernelStep& s = kernel.body[size_t(index)];
  for (int input : inputs(s))
    if (input < 0 || input >= index || kernel.body[size_t(input)].kind == KernelStep::store)
      fail(Code::InvalidArgument, "row kernel: step {} takes step {}, which has no value before it\n{}", index, input,
           kernel.text());
  bool memory = s.kind == KernelStep::load || s.kind == KernelStep::store;
  int count = memory ? int(kernel.operands.size()) : s.kind == KernelStep::row_index ? kernel.rank : 1;
  if ((memory || s.kind == KernelStep::row_index) && (s.operand < 0 || s.operand >= count))
    fail(Code::InvalidArgument, "row kernel: step {} names operand or dim {} of {}\n{}", index, s.operand, count, kernel.text());
  if (memory && kernel.operands[size_t(s.operand)].written != (s.kind == KernelStep::store))
    fail(Code::InvalidArgument, "row kernel: step {} loads what is written or stores what is read\n{}", index, kernel.text());
}

bool varies_by_itself(const RowKernel& kernel, const KernelStep& s) {
  if (s.kind == KernelStep::column_index) return true;
  return s.kind == KernelStep::load && kernel.operands[size_t(s.operand)].column != ColumnAccess::broadcast;
}

}  // namespace

KernelStages stages_of(const RowKernel& kernel) {
  int count = int(kernel.body.size());
  KernelStages result;
  result.varies.assign(size_t(count), false);
  std::vector<int> level(size_t(count), 0);  // how many passes must be complete before the step has a value
  int last = 0;
  for (int i = 0; i < count; ++i) {
    check(kernel, i);
    const KernelStep& s = kernel.body[size_t(i)];
    bool varies = varies_by_itself(kernel, s);
    for (int input : inputs(s)) {
      varies = varies || result.varies[size_t(input)];
      level[size_t(i)] = std::max(level[size_t(i)], level[size_t(input)]);
    }
    if (s.kind == KernelStep::store && kernel.operands[size_t(s.operand)].column == ColumnAccess::broadcast) {
      if (varies)
        fail(Code::InvalidArgument, "row kernel: step {} stores many values of a row to one place\n{}", i, kernel.text());
    } else if (s.kind == KernelStep::store) {
      varies = true;
    }
    if (is_reduction(s)) {
      varies = false;
      ++level[size_t(i)];
    }
    result.varies[size_t(i)] = varies;
    last = std::max(last, level[size_t(i)]);
  }

  std::vector<bool> done(size_t(count), false);  // row steps of earlier stages
  for (int at = 0; at <= last; ++at) {
    KernelStage stage;
    std::vector<bool> needed(size_t(count), false);
    for (int i = count - 1; i >= 0; --i) {
      const KernelStep& s = kernel.body[size_t(i)];
      bool root = is_reduction(s) ? level[size_t(i)] == at + 1 : s.kind == KernelStep::store && at == last;
      if (!root && !(needed[size_t(i)] && !is_reduction(s))) continue;
      needed[size_t(i)] = true;
      for (int input : inputs(s)) needed[size_t(input)] = true;
    }
    for (int i = 0; i < count; ++i) {
      const KernelStep& s = kernel.body[size_t(i)];
      if (!needed[size_t(i)]) continue;
      if (is_reduction(s)) {
        if (level[size_t(i)] == at + 1) stage.reductions.push_back(i);
      } else if (result.varies[size_t(i)]) {
        stage.column_steps.push_back(i);
      } else if (!done[size_t(i)]) {
        stage.row_steps.push_back(i);
        done[size_t(i)] = true;
      }
    }
    result.stages.push_back(std::move(stage));
  }
  return result;
}

}  // namespace sinter
