#pragma once
#include <string>
#include <vector>

#include "models/scope.h"
#include "models/weights.h"

namespace sinter {

/// The text half of CLIP (Radford et al. 2021): CLIP-L of SD1.5, SDXL and FLUX; CLIP-G of SDXL.
struct ClipConfig {
  int64_t width = 768;
  int64_t heads = 12;
  int64_t layers = 12;
  int64_t mlp = 3072;
  int64_t vocabulary = 49408;
  int64_t positions = 77;   ///< tokens of every sequence
  bool exact_gelu = false;  ///< CLIP-G; CLIP-L has x * sigmoid(1.702 x)
  bool operator==(const ClipConfig&) const = default;
};
ClipConfig clip_l_config();
ClipConfig clip_g_config();
enum class ClipKind { l, g };
/// From weights under Hugging Face names ("text_model.embeddings.token_embedding.weight").
ClipConfig detect_clip(const Weights& weights, ClipKind kind);

/// What a graph gives. Layers that no output needs are not built.
struct ClipOutput {
  enum Kind {
    hidden,    ///< [batch, positions, width]: the state after layer `layer`, -1 being the last; clip skip N is layer -N
    pooled,    ///< [batch, width]: the last state, normed, at the end token
    projected  ///< [batch, width]: `pooled` through text_projection
  } kind = hidden;
  std::string name;
  int64_t layer = -1;
  bool final_norm = true;  ///< whether `hidden` passes through the final layer norm
};
/// Inputs: those of token_embeddings (text_layers.h) with tokens = positions, and, where an output is pooled, `end_rows`
/// i64[batch]: the place of the first end token of each sequence, counted in all rows of the batch (sequence * positions +
/// place). Outputs are f32. Code::InvalidArgument for a layer that does not exist. tests/golden/clip_golden.cpp compares with the
/// reference.
void build_clip(Graph& graph, const ClipConfig& config, Dim batch, const std::vector<ClipOutput>& outputs,
                const BuildOptions& options = {});

}  // namespace sinter
