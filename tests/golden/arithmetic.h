#pragma once
#include <string>

#include "golden/runner.h"
#include "models/scope.h"

namespace sinter::golden {

/// Kinds of networks, which amplify rounding differently.
enum class Part { Denoiser, Autoencoder, TextEncoder };

/// The arithmetic that networks run in, and how far from the recorded f32 outputs it may lead.
class Arithmetic {
 public:
  Arithmetic() = default;
  /// f32, bf16, f16 or fp8. Code::InvalidArgument for anything else.
  explicit Arithmetic(const std::string& name);

  const std::string& name() const { return name_; }
  bool is_f32() const { return name_ == "f32"; }
  BuildOptions options() const { return {.compute = compute_, .storage = {}}; }
  /// The least width of the denoiser's f8e4m3 layers; 0: none. Tiny networks have tiny layers.
  int64_t fp8_width() const { return name_ == "fp8" ? 64 : 0; }
  double limit(Part part, double f32_limit) const;

 private:
  std::string name_ = "f32";
  DType compute_ = DType::f32;
};

}  // namespace sinter::golden
