#pragma once
#include <map>
#include <string>

#include "models/lora.h"

namespace sinter {

/// Every module name under which LoRA files address a layer: "lora_unet_down_blocks_0_...", "transformer.single_...", ...
using LoraKeyMap = std::map<std::string, LoraPlace, std::less<>>;
LoraKeyMap lora_key_map(std::span<const LoraNetwork> networks);

/// Parts of a patch by what the file calls them.
enum class LoraRole {
  up,
  down,
  mid,
  alpha,
  dora_scale,
  hada_w1_a,
  hada_w1_b,
  hada_w2_a,
  hada_w2_b,
  hada_t1,
  hada_t2,
  lokr_w1,
  lokr_w1_a,
  lokr_w1_b,
  lokr_w2,
  lokr_w2_a,
  lokr_w2_b,
  lokr_t2,
  diff,
  diff_b,
  set_weight,
  w_norm,
  b_norm
};
/// A key cut into module and role; false where it ends in nothing we know.
bool split_lora_key(std::string_view key, std::string_view& module, LoraRole& role);

}  // namespace sinter
