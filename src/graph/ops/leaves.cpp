#include <numeric>

#include "graph/ops/support.h"

namespace sinter {
namespace {

Type declared_type(const Node& n) {
  expect_inputs(n, 0);
  const auto& attrs = n.attrs.as<NameAttrs>();
  expect_sizes(attrs.shape);
  return attrs.type();
}

Type constant_type(const Node& n) {
  expect_inputs(n, 0);
  const Tensor& value = n.attrs.as<ConstantAttrs>().value;
  return {value.dtype(), Shape(value.shape().begin(), value.shape().end())};
}

Type iota_type(const Node& n) {
  expect_inputs(n, 0);
  const auto& attrs = n.attrs.as<IotaAttrs>();
  expect_sizes(attrs.shape);
  if (attrs.axis < 0 || attrs.axis >= int64_t(attrs.shape.size()))
    fail(Code::InvalidArgument, "axis {} does not exist in {}", attrs.axis, text(attrs.shape));
  return {attrs.dtype, attrs.shape};
}

Tensor iota_reference(const Node& n, std::span<const Tensor>, const Bindings& bindings) {
  std::vector<int64_t> shape = sizes(n.type.shape, bindings), strides(shape.size());
  size_t axis = size_t(n.attrs.as<IotaAttrs>().axis);
  std::vector<int64_t> line = std::vector<int64_t>(size_t(shape[axis]));
  std::iota(line.begin(), line.end(), int64_t(0));
  strides[axis] = 1;
  return strided_copy(Tensor::of_ints({shape[axis]}, line).to(n.type.dtype), shape, strides);
}

std::vector<Value> no_gradient(const Node&, Value) { return {}; }

}  // namespace

const OpDef input_op = {
    .name = "input",
    .summary = "A value given at each run, by name.",
    .infer = declared_type,
    .gradient = no_gradient,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({2, 3})}, [](Inputs v) { return v[0]; }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{
              {{floats({1})}, [](Inputs v) { return v[0]->graph->input("bad", floats({-1})); }, "negative size"}};
        },
    .read_attrs = read_attrs<NameAttrs>,
};

const OpDef weight_op = {
    .name = "weight",
    .summary = "A parameter of the model, by name.",
    .infer = declared_type,
    .gradient = no_gradient,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({2, 3})}, [](Inputs v) { return v[0] * v[0]->graph->weight("w", v[0]->type); }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{floats({1})},
                                       [](Inputs v) {
                                         return v[0]->graph->weight("bad", floats({2, -1}));
                                       },
                                       "negative size"}};
        },
    .read_attrs = read_attrs<NameAttrs>,
};

const OpDef constant_op = {
    .name = "constant",
    .summary = "Numbers that are part of the graph.",
    .infer = constant_type,
    .reference = [](const Node& n, std::span<const Tensor>, const Bindings&) { return n.attrs.as<ConstantAttrs>().value; },
    .gradient = no_gradient,
    .samples =
        [] {
          return std::vector<Sample>{
              {{floats({3})},
               [](Inputs v) {
                 return v[0] * cast(constant(*v[0]->graph, Tensor::of({3}, std::vector<float>{1, -2, 0.5f})), v[0].dtype());
               }},
              {{floats({2, 2})}, [](Inputs v) { return v[0] + 3.0; }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{
              {{floats({1})},
               [](Inputs v) { return v[0]->graph->add(constant_op, {v[0]}, Attrs::of(ConstantAttrs{Tensor(DType::f32, {1})})); },
               "takes 0 inputs"}};
        },
};

const OpDef iota_op = {
    .name = "iota",
    .summary = "0, 1, 2, ... along one axis.",
    .infer = iota_type,
    .reference = iota_reference,
    .gradient = no_gradient,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({2, 5})},
                                      [](Inputs v) {
                                        return v[0] + iota(*v[0]->graph, {2, 5}, -1, v[0].dtype());
                                      }},
                                     {{floats({3, 1, 2})}, [](Inputs v) {
                                        return v[0] * iota(*v[0]->graph, {3, 1, 2}, 0, v[0].dtype());
                                      }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{floats({1})},
                                       [](Inputs v) {
                                         return iota(*v[0]->graph, {2, 5}, 2, DType::f32);
                                       },
                                       "axis 2 does not exist"}};
        },
    .read_attrs = read_attrs<IotaAttrs>,
};

Value constant(Graph& graph, const Tensor& value) { return graph.add(constant_op, {}, Attrs::of(ConstantAttrs{value})); }

Value scalar(Graph& graph, double value, DType dtype) {
  Tensor number(DType::f64, {});
  *reals<double>(number) = value;
  return constant(graph, number.to(dtype));
}

Value iota(Graph& graph, Shape shape, int axis, DType dtype) {
  int64_t at = normal_axis(axis, int(shape.size()));
  return graph.add(iota_op, {}, Attrs::of(IotaAttrs{dtype, std::move(shape), at}));
}

}  // namespace sinter
