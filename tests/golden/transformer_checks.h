#pragma once
#include "golden/network_checks.h"
#include "models/family.h"

namespace sinter::golden {

// Each runs the cases of one kind in the file of `check`, with the networks of the named file in the folder `checkpoints`.

void check_clip(const ForwardCheck& check, const std::string& checkpoint, Component component);  ///< clip_l/, clip_g/
void check_size_vector(const ForwardCheck& check);                                               ///< adm/*
void check_t5(const ForwardCheck& check, const std::string& checkpoint);                         ///< t5/
/// transformer/*, rope/, latent_format/
void check_flux(const ForwardCheck& check, const std::string& checkpoint);

void check_lora(const std::string& directory, const GraphRunner& run, GoldenReport& report);  ///< lora_patched.safetensors

}  // namespace sinter::golden
