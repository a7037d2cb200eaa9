#include <algorithm>

#include "graph/ops/elementwise.h"

namespace sinter {
namespace {
std::vector<const OpDef*> make_list() {
  std::vector<const OpDef*> list = elementwise_ops();
#define SINTER_OP(name) list.push_back(&name##_op);
#include "graph/ops.list"
#undef SINTER_OP
  std::sort(list.begin(), list.end(), [](const OpDef* a, const OpDef* b) { return a->name < b->name; });
  return list;
}
}  // namespace

std::span<const OpDef* const> all_ops() {
  static const std::vector<const OpDef*> list = make_list();
  return list;
}

const OpDef* find_op(std::string_view name) {
  auto ops = all_ops();
  auto at = std::lower_bound(ops.begin(), ops.end(), name, [](const OpDef* op, std::string_view n) { return op->name < n; });
  return at != ops.end() && (*at)->name == name ? *at : nullptr;
}

}  // namespace sinter
