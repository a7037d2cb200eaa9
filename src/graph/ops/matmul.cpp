// matmul and linear.
#include "graph/ops/product.h"
#include "graph/ops/support.h"

namespace sinter {
namespace {

Type matmul_type(const Node& n) {
  expect_inputs(n, 2);
  Value a = n.inputs[0], b = n.inputs[1];
  expect_float(a, "a");
  expect_same_dtype(n);
  if (a.rank() < 2 || a.rank() != b.rank()) fail(Code::InvalidArgument, "both inputs must have one rank, at least 2");
  for (int i = 0; i < a.rank() - 2; ++i)
    if (a.dim(i) != b.dim(i))
      fail(Code::InvalidArgument, "the leading sizes differ, {} and {} in axis {}", a.dim(i).text(), b.dim(i).text(), i);
  if (a.dim(-1) != b.dim(-2))
    fail(Code::InvalidArgument, "the inner sizes differ, {} and {}", a.dim(-1).text(), b.dim(-2).text());
  Shape shape = a.shape();
  shape.back() = b.dim(-1);
  return {a.dtype(), shape};
}

template <class T>
ProductFill rows_of(const T* data, int64_t depth) {
  return [=](int64_t line, int64_t begin, int64_t count, double* out) {
    const T* row = data + line * depth + begin;
    for (int64_t k = 0; k < count; ++k) out[k] = double(row[k]);
  };
}
template <class T>
ProductFill columns_of(const T* data, int64_t columns) {
  return [=](int64_t line, int64_t begin, int64_t count, double* out) {
    for (int64_t k = 0; k < count; ++k) out[k] = double(data[(begin + k) * columns + line]);
  };
}
template <class T>
ProductStore store_rows(T* data, int64_t columns) {
  return [=](int64_t row, int64_t column, int64_t count, const double* values) {
    T* out = data + row * columns + column;
    for (int64_t i = 0; i < count; ++i) out[i] = T(values[i]);
  };
}

Tensor matmul_reference(const Node& n, std::span<const Tensor> inputs, const Bindings& bindings) {
  Tensor result;
  with_real(n.type.dtype, [&]<class T>(T) {
    Tensor a = inputs[0].to(real_dtype<T>), b = inputs[1].to(real_dtype<T>), out(real_dtype<T>, sizes(n.type.shape, bindings));
    int64_t rows = a.dim(-2), depth = a.dim(-1), columns = b.dim(-1);
    int64_t elements = rows * columns, batches = elements > 0 ? out.count() / elements : 0;
    for (int64_t i = 0; i < batches; ++i)
      product(rows, columns, depth, rows_of(reals<T>(a) + i * rows * depth, depth),
              columns_of(reals<T>(b) + i * depth * columns, columns), store_rows(reals<T>(out) + i * rows * columns, columns));
    result = out.to(n.type.dtype);
  });
  return result;
}

Value swap_last(Value x) {
  std::vector<int64_t> order;
  for (int i = 0; i < x.rank(); ++i) order.push_back(i);
  std::swap(order[order.size() - 1], order[order.size() - 2]);
  return transpose(x, order);
}

Type linear_type(const Node& n) {
  expect_inputs(n, 2);
  Value x = n.inputs[0], w = n.inputs[1];
  expect_float(x, "x");
  expect_same_dtype(n);
  expect_rank(w, 2, "the weight");
  if (x.rank() < 1) fail(Code::InvalidArgument, "x must have at least one axis");
  if (x.dim(-1) != w.dim(1))
    fail(Code::InvalidArgument, "the inner sizes differ, {} in x and {} in the weight", x.dim(-1).text(), w.dim(1).text());
  Shape shape = x.shape();
  shape.back() = w.dim(0);
  return {x.dtype(), shape};
}

Value linear_expand(const Node& n) {
  Value x = n.inputs[0], w = n.inputs[1];
  Dim rows = 1;
  for (int i = 0; i + 1 < x.rank(); ++i) rows = rows * x.dim(i);
  return reshape(matmul(reshape(x, {rows, x.dim(-1)}), transpose(w, {1, 0})), n.type.shape);
}

Tensor linear_reference(const Node& n, std::span<const Tensor> inputs, const Bindings& bindings) {
  Tensor result;
  with_real(n.type.dtype, [&]<class T>(T) {
    Tensor x = inputs[0].to(real_dtype<T>), w = inputs[1].to(real_dtype<T>), out(real_dtype<T>, sizes(n.type.shape, bindings));
    int64_t columns = w.dim(0), depth = w.dim(1), rows = columns ? out.count() / columns : 0;
    product(rows, columns, depth, rows_of(reals<T>(x), depth), rows_of(reals<T>(w), depth), store_rows(reals<T>(out), columns));
    result = out.to(n.type.dtype);
  });
  return result;
}

}  // namespace

const OpDef matmul_op = {
    .name = "matmul",
    .summary = "The matrix product of the last two axes.",
    .infer = matmul_type,
    .reference = matmul_reference,
    .gradient = [](const Node& n, Value g) -> std::vector<Value> {
      return {matmul(g, swap_last(n.inputs[1])), matmul(swap_last(n.inputs[0]), g)};
    },
    .samples =
        [] {
          return std::vector<Sample>{{{floats({3, 5}), floats({5, 4})}, [](Inputs v) { return matmul(v[0], v[1]); }},
                                     {{floats({2, 3, 1, 7}), floats({2, 3, 7, 9})}, [](Inputs v) { return matmul(v[0], v[1]); }},
                                     {{floats({9, 300}), floats({300, 17})}, [](Inputs v) { return matmul(v[0], v[1]); }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{
              {{floats({3, 5}), floats({4, 5})}, [](Inputs v) { return matmul(v[0], v[1]); }, "the inner sizes differ, 5 and 4"},
              {{floats({2, 3, 5}), floats({3, 5, 4})},
               [](Inputs v) { return matmul(v[0], v[1]); },
               "the leading sizes differ, 2 and 3"},
              {{floats({3, 5}), floats({5})}, [](Inputs v) { return matmul(v[0], v[1]); }, "one rank"},
              {{{DType::i32, {2, 2}}, {DType::i32, {2, 2}}}, [](Inputs v) { return matmul(v[0], v[1]); }, "floating type"}};
        },
};

const OpDef linear_op = {
    .name = "linear",
    .summary = "x . w^T, with w as checkpoints keep it.",
    .infer = linear_type,
    .expand = linear_expand,
    .reference = linear_reference,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({3, 5}), floats({4, 5})}, [](Inputs v) { return linear(v[0], v[1]); }},
                                     {{floats({2, 3, 7}), floats({1, 7})}, [](Inputs v) { return linear(v[0], v[1]); }},
                                     {{floats({6}), floats({5, 6})}, [](Inputs v) { return linear(v[0], v[1]); }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{
              {{floats({3, 5}), floats({5, 4})}, [](Inputs v) { return linear(v[0], v[1]); }, "5 in x and 4 in the weight"},
              {{floats({3, 5}), floats({1, 4, 5})}, [](Inputs v) { return linear(v[0], v[1]); }, "the weight must have rank 2"}};
        },
};

Value matmul(Value a, Value b) { return a->graph->add(matmul_op, {a, b}); }
Value linear(Value x, Value w) { return x->graph->add(linear_op, {x, w}); }

}  // namespace sinter
