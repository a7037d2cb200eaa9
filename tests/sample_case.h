#pragma once
#include <doctest/doctest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "graph/ops.h"
#include "tensor/tensor.h"

namespace sinter {

/// A sample of an op as a graph, with its float inputs in a type of choice; arguments and weights drawn, the same each time.
struct SampleCase {
  Graph graph;
  std::map<std::string, Tensor> inputs, weights;

  SampleCase(const Sample& sample, DType dtype) {
    std::vector<Value> arguments;
    for (Type type : sample.inputs) {
      if (is_float(type.dtype)) type.dtype = dtype;
      std::string name = "x" + std::to_string(arguments.size());
      arguments.push_back(graph.input(name, type));
      inputs[name] = draw(type, sample.low, sample.high);
    }
    graph.output("y", sample.build(arguments));
    for (const WeightUse& use : weights_of(graph)) weights[use.name] = draw(use.type, -1, 1);
  }

  auto reader() const {
    return [this](const std::string& name) { return weights.at(name); };
  }

 private:
  Tensor draw(const Type& type, double low, double high) {
    std::vector<int64_t> sizes;
    for (const Dim& dim : type.shape) sizes.push_back(dim.constant());
    Tensor values(DType::f32, sizes);
    for (float& x : values.f32()) x = float(low + (high - low) * (double(random_()) / 4294967296.0));
    return values.to(type.dtype);
  }

  std::mt19937 random_{5};
};

/// Calls body(case, type) for every sample of every op, in every type that all backends have.
template <class Body>
void for_each_sample(const Body& body) {
  for (const OpDef* op : all_ops())
    for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      int number = -1;
      for (const Sample& sample : op->samples()) {
        ++number;
        INFO("op ", std::string(op->name), " sample ", number, " in ", std::string(name(dtype)));
        body(SampleCase(sample, dtype), dtype);
      }
    }
}

}  // namespace sinter
