#pragma once
#include "tensor/tensor.h"

/// Elementwise arithmetic on f32 latents. Every operation rounds to float, in the order written: a sampler that is written as the
/// reference computes gives the reference's digits. The results are new tensors.
namespace sinter {

Tensor operator+(const Tensor& a, const Tensor& b);  ///< equal shapes, else Code::InvalidArgument; likewise below
Tensor operator-(const Tensor& a, const Tensor& b);
Tensor operator*(const Tensor& a, float factor);
inline Tensor operator*(float factor, const Tensor& a) { return a * factor; }
Tensor operator/(const Tensor& a, float divisor);

/// inside*mask + outside*(1-mask). The mask's axes are as long as the latent's or 1; missing leading axes count as 1.
Tensor mix_by_mask(const Tensor& mask, const Tensor& inside, const Tensor& outside);

}  // namespace sinter
