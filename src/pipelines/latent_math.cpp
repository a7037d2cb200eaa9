#include "pipelines/latent_math.h"

#include <algorithm>

#include "base/error.h"

namespace sinter {
namespace {

template <class Function>
Tensor combine(const Tensor& a, const Tensor& b, const char* what, Function&& function) {
  if (a.shape() != b.shape())
    fail(Code::InvalidArgument, "{}: latents of different shapes, {} and {}", what, shape_text(a.shape()), shape_text(b.shape()));
  Tensor out(DType::f32, a.shape());
  auto x = a.f32(), y = b.f32();
  std::transform(x.begin(), x.end(), y.begin(), out.f32().begin(), function);
  return out;
}

template <class Function>
Tensor map(const Tensor& a, Function&& function) {
  Tensor out(DType::f32, a.shape());
  auto x = a.f32();
  std::transform(x.begin(), x.end(), out.f32().begin(), function);
  return out;
}

/// How far apart in the mask the neighbours along each axis of the latent are: 0 where the mask is repeated.
std::vector<int64_t> mask_steps(const Tensor& mask, const Tensor& latent) {
  std::vector<int64_t> steps(size_t(latent.rank()), 0);
  int64_t step = 1;
  bool fits = mask.rank() <= latent.rank();
  for (int axis = -1; fits && axis >= -mask.rank(); --axis) {
    int64_t size = mask.dim(axis);
    fits = size == 1 || size == latent.dim(axis);
    steps[size_t(latent.rank() + axis)] = size == 1 ? 0 : step;
    step *= size;
  }
  if (!fits)
    fail(Code::InvalidArgument, "the noise mask {} does not fit the latent {}: each size must be equal or 1",
         shape_text(mask.shape()), shape_text(latent.shape()));
  return steps;
}

}  // namespace

Tensor operator+(const Tensor& a, const Tensor& b) {
  return combine(a, b, "add", [](float x, float y) { return x + y; });
}
Tensor operator-(const Tensor& a, const Tensor& b) {
  return combine(a, b, "subtract", [](float x, float y) { return x - y; });
}
Tensor operator*(const Tensor& a, float factor) {
  return map(a, [factor](float x) { return x * factor; });
}
Tensor operator/(const Tensor& a, float divisor) {
  return map(a, [divisor](float x) { return x / divisor; });
}

Tensor mix_by_mask(const Tensor& mask, const Tensor& inside, const Tensor& outside) {
  if (inside.shape() != outside.shape())
    fail(Code::InvalidArgument, "mask: latents of different shapes, {} and {}", shape_text(inside.shape()),
         shape_text(outside.shape()));
  auto steps = mask_steps(mask, inside);
  auto weights = mask.f32(), in = inside.f32(), rest = outside.f32();
  Tensor out(DType::f32, inside.shape());
  auto to = out.f32();
  std::vector<int64_t> at(steps.size(), 0);
  int64_t in_mask = 0;
  for (int64_t i = 0; i < out.count(); ++i) {
    float weight = weights[size_t(in_mask)];
    to[size_t(i)] = in[size_t(i)] * weight + rest[size_t(i)] * (1.0f - weight);
    for (size_t axis = steps.size(); axis-- > 0;) {
      in_mask += steps[axis];
      if (++at[axis] < out.shape()[axis]) break;
      in_mask -= steps[axis] * at[axis];
      at[axis] = 0;
    }
  }
  return out;
}

}  // namespace sinter
