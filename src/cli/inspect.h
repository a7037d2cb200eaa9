#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "io/checkpoint.h"

namespace sinter {

// What `sinter inspect` tells about each kind of file. The object is printed as it is, or as tables for people.

/// A model, a text encoder or an autoencoder; also a folder of a diffusers pipeline.
nlohmann::ordered_json inspect_model(const std::filesystem::path& path);
nlohmann::ordered_json inspect_lora(const Checkpoint& file);
nlohmann::ordered_json inspect_embedding(const Checkpoint& file);
nlohmann::ordered_json inspect_picture(const std::filesystem::path& path);

}  // namespace sinter
