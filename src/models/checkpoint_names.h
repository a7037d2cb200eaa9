#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "models/family.h"

namespace sinter {

/// What a file of weights is.
enum class FileContent { Model, TextEncoder, Vae, Lora, TextualInversion };

struct Detected {
  FileContent content = FileContent::Model;
  const Family* family = nullptr;             ///< of a model
  Component component = Component::Denoiser;  ///< which network: of a text encoder the kind, of a model its denoiser
  std::string summary;                        ///< for people: "a Stable Diffusion XL model", "a T5 text encoder"
};

/// Judges by names and shapes alone. Code::Unsupported names a kind of model that is known and not supported; for anything else
/// the error says what was looked for.
Detected detect_family(const Checkpoint& checkpoint);

/// A model, taken apart. Weights are under canonical names: see key_maps.h.
struct ModelParts {
  const Family* family = nullptr;
  std::filesystem::path path;
  std::map<Component, Weights> components;  ///< those that the checkpoint has
  Prediction prediction = Prediction::Epsilon;
  bool zero_terminal_snr = false;  ///< the last noise level has no signal left

  bool has(Component component) const { return components.contains(component); }
  /// Code::NotFound says that the model has no such part, and how to give one.
  const Weights& weights(Component component) const;
};

/// Opens a checkpoint with a denoiser: a single file, a folder of a diffusers pipeline (with model_index.json), a component
/// folder or an index of shards. `variant` as in Checkpoint::open.
ModelParts open_model(const std::filesystem::path& path, const std::string& variant = "");

/// The weights of one component out of any file that has it: a file of its own, a component folder, or a whole model.
/// Code::InvalidArgument says what the file has instead.
Weights open_component(const std::filesystem::path& path, Component component, const std::string& variant = "");

}  // namespace sinter
