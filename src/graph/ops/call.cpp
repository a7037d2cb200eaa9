// call and result: blocks. Interpreter and autodiff enter the function themselves, so these have neither reference nor gradient.
#include "graph/ops/support.h"

namespace sinter {
namespace {

Type call_type(const Node& n) {
  const auto& function = n.attrs.as<CallAttrs>().function;
  SINTER_ASSERT(function);
  const auto& parameters = function->graph.inputs();
  if (n.inputs.size() != parameters.size())
    fail(Code::InvalidArgument, "'{}' takes {} arguments, not {}", function->name, parameters.size(), n.inputs.size());
  for (size_t i = 0; i < parameters.size(); ++i)
    if (n.inputs[i]->type != parameters[i]->type)
      fail(Code::InvalidArgument, "argument {} of '{}' must be {}, not {}", i, function->name, parameters[i]->type.text(),
           n.inputs[i]->type.text());
  if (function->graph.outputs().empty()) fail(Code::InvalidArgument, "'{}' has no result", function->name);
  return function->graph.outputs()[0].value->type;
}

Type result_type(const Node& n) {
  expect_inputs(n, 1);
  if (n.inputs[0]->op != &call_op) fail(Code::InvalidArgument, "its input must be a call, not {}", n.inputs[0]->op->name);
  const auto& outputs = n.inputs[0]->attrs.as<CallAttrs>().function->graph.outputs();
  int64_t index = n.attrs.as<IndexAttrs>().index;
  if (index < 1 || index >= int64_t(outputs.size()))
    fail(Code::InvalidArgument, "the call has results 1 to {} beside itself, not {}", int64_t(outputs.size()) - 1, index);
  return outputs[size_t(index)].value->type;
}

std::shared_ptr<const Function> sample_function(DType dtype) {
  auto function = std::make_shared<Function>();
  function->name = "sample";
  Graph& graph = function->graph;
  Value x = graph.input("x", {dtype, {2, 3}}), w = graph.weight("w", {dtype, {4, 3}});
  graph.output("y", linear(silu(x), w));
  graph.output("z", reduce_sum(x * x, {0}));
  return function;
}

}  // namespace

const OpDef call_op = {
    .name = "call",
    .summary = "The first result of a function for these arguments and the weights under a prefix.",
    .infer = call_type,
    .samples =
        [] {
          return std::vector<Sample>{
              {{floats({2, 3})}, [](Inputs v) { return call(sample_function(v[0].dtype()), {v[0]}, "block.")[0]; }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{floats({2, 3})},
                                       [](Inputs v) {
                                         return call(sample_function(DType::f32), {v[0], v[0]}, "")[0];
                                       },
                                       "takes 1 arguments, not 2"},
                                      {{floats({2, 4})},
                                       [](Inputs v) { return call(sample_function(DType::f32), {v[0]}, "")[0]; },
                                       "must be f32[2, 3], not f32[2, 4]"}};
        },
};

const OpDef result_op = {
    .name = "result",
    .summary = "A further result of a call.",
    .infer = result_type,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({2, 3})}, [](Inputs v) {
                                        return call(sample_function(v[0].dtype()), {v[0]}, "block.")[1] + reduce_sum(v[0], {-1});
                                      }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{floats({2, 3})},
                                       [](Inputs v) { return v[0]->graph->add(result_op, {v[0]}, Attrs::of(IndexAttrs{1})); },
                                       "must be a call"},
                                      {{floats({2, 3})},
                                       [](Inputs v) {
                                         return v[0]->graph->add(result_op, {call(sample_function(DType::f32), {v[0]}, "")[0]},
                                                                 Attrs::of(IndexAttrs{2}));
                                       },
                                       "results 1 to 1"}};
        },
    .read_attrs = read_attrs<IndexAttrs>,
};

std::vector<Value> call(const std::shared_ptr<const Function>& function, std::vector<Value> arguments,
                        const std::string& prefix) {
  if (arguments.empty()) fail(Code::InvalidArgument, "call: '{}' must take at least one argument", function->name);
  Graph& graph = *arguments[0]->graph;
  std::vector<Value> results{graph.add(call_op, std::move(arguments), Attrs::of(CallAttrs{function, prefix}))};
  for (size_t i = 1; i < function->graph.outputs().size(); ++i)
    results.push_back(graph.add(result_op, {results[0]}, Attrs::of(IndexAttrs{int64_t(i)})));
  return results;
}

}  // namespace sinter
