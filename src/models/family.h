#pragma once
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "models/prediction.h"
#include "models/weights.h"

namespace sinter {

/// The networks that make up a model.
enum class Component { Denoiser, Vae, ClipL, ClipG, T5 };
std::string_view name(Component component);  ///< "denoiser", "vae", "clip-l", "clip-g", "t5"

/// The denoiser works on (z - shift) * scale, z being what the autoencoder gives.
struct LatentFormat {
  int64_t channels = 4;
  double scale = 1, shift = 0;
};

/// What people expect of this family where they ask for nothing else.
struct SamplingDefaults {
  std::string_view sampler = "euler", scheduler = "normal";
  int steps = 20;
  double cfg = 7;
  int64_t width = 512, height = 512;
  double guidance = 0;  ///< told to the network where it takes such a number
  double shift = 0;     ///< of the noise levels of flow models
};

/// A kind of checkpoint: how to know it and how to use it.
struct Family {
  std::string_view name;
  std::string_view summary;
  /// Looks at the denoiser's canonical names and shapes.
  bool (*detect)(const Weights& denoiser);
  LatentFormat latent;
  Prediction prediction = Prediction::Epsilon;  ///< unless the checkpoint says otherwise
  std::vector<Component> text_encoders;         ///< all of them are needed
  SamplingDefaults defaults;
};

/// All families, sorted by name; at most one detects a given denoiser.
std::span<const Family* const> families();
/// Code::NotFound, listing the names there are.
const Family& find_family(std::string_view name);

#define SINTER_FAMILY(name) extern const Family name##_family;
#include "models/families.list"
#undef SINTER_FAMILY

}  // namespace sinter
