#include "compiler/lowering/kernel_builder.h"

#include <doctest/doctest.h>

#include "graph/ops.h"

using namespace sinter;

namespace {

/// Every input of a graph lies dense in the parameter of its number.
BuiltKernel kernel_for(const Graph& graph, Value root) {
  Residents residents;
  residents.home = [&](const Node* n) -> std::optional<View> {
    for (size_t i = 0; i < graph.inputs().size(); ++i)
      if (graph.inputs()[i].node() == n) return dense_view({BufferRef::parameter, int32_t(i)}, n->type);
    return {};
  };
  return build_kernel(root.node(), residents, dense_view({BufferRef::result, 0}, root->type));
}

}  // namespace

TEST_CASE("a kernel that reduces rows stores one element for each row, not one for each column") {
  // Stored densely, every row would write over those behind it: right in order, wrong as soon as two threads share the rows.
  Graph graph;
  Value x = graph.input("x", {DType::f32, {Dim::symbol("rows"), 32}});
  for (Value root : {reduce_sum(x, {-1}), reduce_max(x, {-1}) * 2.0}) {
    BuiltKernel built = kernel_for(graph, root);
    const KernelOperand& stored = built.kernel.operands.back();
    CHECK(stored.written);
    CHECK(stored.column == ColumnAccess::broadcast);
    CHECK(built.use.operands.back().strides == std::vector<Dim>{1});
    CHECK(built.use.columns == Dim(32));
  }
}
