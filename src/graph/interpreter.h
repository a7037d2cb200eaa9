#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace sinter {

using WeightSource = std::function<Tensor(const std::string& name)>;

/// The values of a graph's outputs, each node computed by its `reference`, or by its `expand` where it has none: the meaning that
/// every backend must agree with. `inputs` are by name; a symbol that is an input's whole size is bound by that input, others by
/// `bindings`. `weights` is asked for each full weight name once per use. Code::InvalidArgument names the input or weight, the
/// type expected and the type found.
std::vector<Tensor> interpret(const Graph& graph, const std::map<std::string, Tensor>& inputs, const WeightSource& weights,
                              Bindings bindings = {});

/// Adds to `bindings` what the shape `found` says about `wanted`; Code::InvalidArgument, naming `what`, where they disagree.
void bind_shape(const Shape& wanted, std::span<const int64_t> found, const std::string& what, Bindings& bindings);

}  // namespace sinter
