// softmax, layer_norm, rms_norm, group_norm: composites over sums and means. Types narrower than f32 are widened inside: their
// squares overflow.
#include "graph/ops/support.h"

namespace sinter {
namespace {

Type row_type(const Node& n) {
  expect_inputs(n, 1);
  expect_float(n.inputs[0], "x");
  if (n.inputs[0].rank() < 1) fail(Code::InvalidArgument, "x must have at least one axis");
  return n.inputs[0]->type;
}

DType wide_type(DType dtype) { return byte_size(dtype) < 4 ? DType::f32 : dtype; }

Value softmax_expand(const Node& n) {
  Value x = cast(n.inputs[0], wide_type(n.type.dtype));
  Value power = exp(x - reduce_max(x, {-1}));
  return cast(power / reduce_sum(power, {-1}), n.type.dtype);
}

Value centred(Value x, const std::vector<int64_t>& axes) { return x - mean(x, axes); }
Value divided_by_size(Value x, const std::vector<int64_t>& axes, double epsilon) {
  return x * rsqrt(mean(square(x), axes) + epsilon);
}

Value layer_norm_expand(const Node& n) {
  Value x = cast(n.inputs[0], wide_type(n.type.dtype));
  return cast(divided_by_size(centred(x, {-1}), {-1}, n.attrs.as<NormAttrs>().epsilon), n.type.dtype);
}

Value rms_norm_expand(const Node& n) {
  Value x = cast(n.inputs[0], wide_type(n.type.dtype));
  return cast(divided_by_size(x, {-1}, n.attrs.as<NormAttrs>().epsilon), n.type.dtype);
}

Type group_norm_type(const Node& n) {
  expect_inputs(n, 3);
  Value x = n.inputs[0];
  int64_t groups = n.attrs.as<GroupNormAttrs>().groups;
  expect_float(x, "x");
  expect_same_dtype(n);
  if (x.rank() < 2) fail(Code::InvalidArgument, "x must have a batch axis and a channel axis");
  for (Value v : {n.inputs[1], n.inputs[2]})
    if (v.shape() != Shape{x.dim(-1)})
      fail(Code::InvalidArgument, "scale and shift must be {}, not {}", text(Shape{x.dim(-1)}), text(v.shape()));
  if (groups < 1 || !x.dim(-1).divisible_by(groups))
    fail(Code::InvalidArgument, "{} channels do not divide into {} groups", x.dim(-1).text(), groups);
  return x->type;
}

Value group_norm_expand(const Node& n) {
  const auto& attrs = n.attrs.as<GroupNormAttrs>();
  DType wide = wide_type(n.type.dtype);
  Value x = cast(n.inputs[0], wide);
  Shape grouped = x.shape();
  grouped.back() = attrs.groups;
  grouped.push_back(floor_div(x.dim(-1), attrs.groups));
  std::vector<int64_t> axes;
  for (int64_t i = 1; i < int64_t(grouped.size()); ++i)
    if (i != int64_t(grouped.size()) - 2) axes.push_back(i);
  Value normal = reshape(divided_by_size(centred(reshape(x, grouped), axes), axes, attrs.epsilon), x.shape());
  return cast(normal * cast(n.inputs[1], wide) + cast(n.inputs[2], wide), n.type.dtype);
}

}  // namespace

const OpDef softmax_op = {
    .name = "softmax",
    .summary = "exp(x) over its sum along the last axis.",
    .infer = row_type,
    .expand = softmax_expand,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({3, 5})}, [](Inputs v) { return softmax(v[0]); }, -5, 5},
                                     {{floats({7})}, [](Inputs v) { return softmax(v[0]); }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{{DType::i32, {3}}}, [](Inputs v) { return softmax(v[0]); }, "floating type"},
                                      {{floats({})}, [](Inputs v) { return softmax(v[0]); }, "at least one axis"}};
        },
};

const OpDef layer_norm_op = {
    .name = "layer_norm",
    .summary = "Each row moved to mean 0 and scaled to variance 1.",
    .infer = row_type,
    .expand = layer_norm_expand,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({3, 6})}, [](Inputs v) { return layer_norm(v[0], 1e-5); }},
                                     {{floats({2, 2, 9})}, [](Inputs v) { return layer_norm(v[0], 0.1); }, -30, 30}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{{DType::i32, {3}}}, [](Inputs v) { return layer_norm(v[0], 1e-5); }, "floating type"}};
        },
    .read_attrs = read_attrs<NormAttrs>,
};

const OpDef rms_norm_op = {
    .name = "rms_norm",
    .summary = "Each row divided by its root mean square.",
    .infer = row_type,
    .expand = rms_norm_expand,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({3, 6})}, [](Inputs v) { return rms_norm(v[0], 1e-5); }},
                                     {{floats({2, 2, 9})}, [](Inputs v) { return rms_norm(v[0], 0.1); }, -30, 30}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{{DType::i32, {3}}}, [](Inputs v) { return rms_norm(v[0], 1e-5); }, "floating type"}};
        },
    .read_attrs = read_attrs<NormAttrs>,
};

const OpDef group_norm_op = {
    .name = "group_norm",
    .summary = "Slices of channels moved to mean 0 and scaled to variance 1, then scaled and shifted by channel.",
    .infer = group_norm_type,
    .expand = group_norm_expand,
    .samples =
        [] {
          return std::vector<Sample>{
              {{floats({2, 3, 2, 6}), floats({6}), floats({6})}, [](Inputs v) { return group_norm(v[0], v[1], v[2], 3, 1e-5); }},
              {{floats({1, 5, 4}), floats({4}), floats({4})}, [](Inputs v) { return group_norm(v[0], v[1], v[2], 4, 0.01); }},
              {{floats({3, 8}), floats({8}), floats({8})}, [](Inputs v) { return group_norm(v[0], v[1], v[2], 1, 1e-5); }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{floats({2, 3, 6}), floats({6}), floats({6})},
                                       [](Inputs v) { return group_norm(v[0], v[1], v[2], 4, 1e-5); },
                                       "6 channels do not divide into 4 groups"},
                                      {{floats({2, 3, 6}), floats({6}), floats({3})},
                                       [](Inputs v) { return group_norm(v[0], v[1], v[2], 2, 1e-5); },
                                       "scale and shift must be [6], not [3]"}};
        },
    .read_attrs = read_attrs<GroupNormAttrs>,
};

Value softmax(Value x) { return x->graph->add(softmax_op, {x}); }
Value layer_norm(Value x, double epsilon) { return x->graph->add(layer_norm_op, {x}, Attrs::of(NormAttrs{epsilon})); }
Value rms_norm(Value x, double epsilon) { return x->graph->add(rms_norm_op, {x}, Attrs::of(NormAttrs{epsilon})); }
Value group_norm(Value x, Value scale, Value shift, int64_t groups, double epsilon) {
  return x->graph->add(group_norm_op, {x, scale, shift}, Attrs::of(GroupNormAttrs{groups, epsilon}));
}

}  // namespace sinter
