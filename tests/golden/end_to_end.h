#pragma once
#include "golden/report.h"
#include "pipelines/network.h"

namespace sinter::golden {

/// Whole runs, from prompt to picture: every case of e2e_<family>.safetensors; family is sd15, sdxl or flux.
void check_end_to_end(const std::string& directory, const std::string& family, Session& session, GoldenReport& report);

/// conditioning.safetensors: the prompts that manifest.json lists, through tokenizers and text encoders, with embeddings/.
void check_conditioning(const std::string& directory, Session& session, GoldenReport& report);

}  // namespace sinter::golden
