#include <cstring>

#include "graph/ops/support.h"

namespace sinter {
namespace {

Type infer(const Node& n) {
  expect_inputs(n, 2);
  Value table = n.inputs[0], indices = n.inputs[1];
  expect_rank(table, 2, "the table");
  if (indices.dtype() != DType::i64) fail(Code::InvalidArgument, "indices must be i64, not {}", name(indices.dtype()));
  Shape shape = indices.shape();
  shape.push_back(table.dim(1));
  return {table.dtype(), shape};
}

Tensor reference(const Node& n, std::span<const Tensor> inputs, const Bindings& bindings) {
  const Tensor& table = inputs[0];
  Tensor out = result_of(n, bindings);
  int64_t row_bytes = table.dim(1) * byte_size(table.dtype());
  std::byte* to = out.data();
  for (int64_t index : inputs[1].i64()) {
    if (index < 0 || index >= table.dim(0))
      fail(Code::InvalidArgument, "embedding: the index {} is outside the table of {} rows", index, table.dim(0));
    if (row_bytes) std::memcpy(to, table.data() + index * row_bytes, size_t(row_bytes));
    to += row_bytes;
  }
  return out;
}

std::vector<Value> gradient(const Node& n, Value g) {
  Value table = n.inputs[0], indices = n.inputs[1];
  if (!is_float(table.dtype())) return {Value(), Value()};
  // A matrix of ones where an index names a row: its product with the gradient adds up what each row gave.
  Dim rows = table.dim(0), count = element_count(indices.shape());
  Value row = iota(*n.graph, {rows, count}, 0, DType::i64), index = broadcast(reshape(indices, {count}), {rows, count});
  Value differs = elementwise("less_than", {row, index}) + elementwise("less_than", {index, row});
  Value names = -cast(differs, g.dtype()) + 1.0;
  return {matmul(names, reshape(g, {count, table.dim(1)})), Value()};
}

}  // namespace

const OpDef embedding_op = {
    .name = "embedding",
    .summary = "Rows of a table, by index.",
    .infer = infer,
    .reference = reference,
    .gradient = gradient,
    .samples =
        [] {
          return std::vector<Sample>{
              {{floats({5, 3}), {DType::i64, {2, 4}}}, [](Inputs v) { return embedding(v[0], v[1]); }, 0, 4.99},
              {{floats({5, 2}), {DType::i64, {}}}, [](Inputs v) { return embedding(v[0], v[1]); }, 0, 4.99}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{
              {{floats({5, 3}), {DType::i32, {2}}},
               [](Inputs v) { return embedding(v[0], v[1]); },
               "indices must be i64, not i32"},
              {{floats({5}), {DType::i64, {2}}}, [](Inputs v) { return embedding(v[0], v[1]); }, "the table must have rank 2"}};
        },
};

Value embedding(Value table, Value indices) { return table->graph->add(embedding_op, {table, indices}); }

}  // namespace sinter
