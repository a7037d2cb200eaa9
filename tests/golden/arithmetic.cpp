#include "golden/arithmetic.h"

namespace sinter::golden {
namespace {

// Every op rounds its result to the nearest number, at most half of the last place away: 2^-9 of the value in bf16, 2^-12 in f16.
constexpr double kBf16 = 0x1p-9, kF16 = 0x1p-12;
// f8e4m3 has 3 fraction bits: both factors of a product are off by up to 2^-4.
constexpr double kF8 = 0x1p-4;

/// How many such roundings a network's output may be off by. Errors of n ops are independent and add up as sqrt(n); the tiny
/// networks have 50 to 300 ops in a row, and normalisations and the last layer magnify what comes in.
double roundings(Part part) {
  switch (part) {
    case Part::Denoiser:
      return 20;
    case Part::Autoencoder:
      return 14;
    case Part::TextEncoder:
      return 8;
  }
  return 0;
}

}  // namespace

Arithmetic::Arithmetic(const std::string& name) : name_(name) {
  if (name == "f16")
    compute_ = DType::f16;
  else if (name == "bf16" || name == "fp8")
    compute_ = DType::bf16;
  else if (name != "f32")
    fail(Code::InvalidArgument, "there is no arithmetic '{}'; there are f32, bf16, f16 and fp8", name);
}

double Arithmetic::limit(Part part, double f32_limit) const {
  if (is_f32()) return f32_limit;
  constexpr double kF8Roundings = 2.5;  // of a denoiser's wide layers, beside its other ops in bf16
  if (fp8_width() > 0 && part == Part::Denoiser) return kF8Roundings * kF8;
  return roundings(part) * (compute_ == DType::f16 ? kF16 : kBf16);
}

}  // namespace sinter::golden
