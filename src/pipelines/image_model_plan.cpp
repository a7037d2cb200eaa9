#include <algorithm>

#include "pipelines/image_model_parts.h"
#include "planner/residency.h"

namespace sinter {
using namespace image_model;
namespace {

SymbolId id(const Dim& symbol) { return symbol.terms()[0].symbols[0]; }

/// The memory of a run as it goes on. Buffers lie one over the other, and what they touched stays until leave().
class RunningMemory {
 public:
  /// Weights are loaded, which takes `loading` bytes in all while one is read after the other.
  void load(int64_t weights, int64_t loading) {
    note(loading);
    weights_ += weights;
  }
  /// A network runs; `tensors`: what it takes and gives, outside its buffers.
  void run(int64_t buffers, int64_t tensors) {
    buffers_ = std::max(buffers_, buffers);
    note(tensors);
  }
  /// Weights and buffers are given back.
  void leave() { weights_ = buffers_ = 0; }
  /// Something is held from now on; or, where negative, no more.
  void hold(int64_t bytes) { held_ += bytes; }
  int64_t peak() const { return peak_; }
  /// What is held beside the weights to come when a network has run that needs such buffers.
  int64_t beside(int64_t buffers) const { return held_ + weights_ + std::max(buffers_, buffers); }

 private:
  void note(int64_t more) { peak_ = std::max(peak_, held_ + weights_ + buffers_ + more); }
  int64_t held_ = 0, weights_ = 0, buffers_ = 0, peak_ = 0;
};

int64_t longest_of(const std::vector<int64_t>& lengths) { return lengths.empty() ? 0 : *std::ranges::max_element(lengths); }

int64_t pixel_bytes(int64_t batch, const RunShape& run) { return batch * run.width * run.height * 3 * byte_size(DType::f32); }

}  // namespace

/// A network of a run, with the sizes that it runs at.
struct ImageModel::Stage {
  Component component;
  Network* network;
  Bindings sizes;
  RowTable* table = nullptr;  ///< whose network it is
};

std::vector<ImageModel::Stage> ImageModel::stages(const RunShape& run) {
  std::vector<Stage> list;
  const int64_t shortest = is_flux(family()) ? 256 : 77, longest = std::max(shortest, longest_of(run.text_tokens));
  for (auto& encoder : encoders_) {
    // All chunks of a prompt at once, and the empty one for its weights.
    const int64_t chunks = is_flux(family()) ? 1 : longest / shortest;
    list.push_back({encoder->component, encoder->network.get(), {{id(kBatch), chunks + 1}, {id(kText), longest}}});
  }
  Bindings picture{{id(kBatch), run.batch}, {id(kHeight), run.height / scale()}, {id(kWidth), run.width / scale()}};
  Bindings start{{id(kBatch), 1}, {id(kPictureHeight), run.height}, {id(kPictureWidth), run.width}};
  if (run.from_image && vae_encoder_) list.push_back({Component::Vae, vae_encoder_.get(), start});
  Bindings step = picture;
  const int64_t together = tokens_together(run.text_tokens), at_once = run.guided && together > 0 ? 2 : 1;
  step[id(kBatch)] = run.batch * at_once;
  step[id(kText)] = together > 0 ? std::max(together, shortest) : longest;
  for (auto& table : denoiser_->tables()) {
    // One row for each prompt or, at each timestep, for each prompt's vector.
    Bindings rows = step;
    rows[id(kBatch)] = table->for_a_run() ? at_once : (run.guided ? 2 : 1) * std::min(run.timesteps, kMostTimesteps);
    list.push_back({Component::Denoiser, &table->network(), rows, table.get()});
  }
  list.push_back({Component::Denoiser, &denoiser_->step(), step});
  list.push_back({Component::Vae, vae_decoder_.get(), picture});
  return list;
}

CompileReport ImageModel::foresee(const RunShape& run) {
  CompileReport report;
  for (const Stage& stage : stages(run)) stage.network->foresee(stage.sizes, report);
  return report;
}

void ImageModel::compile(const RunShape& run) {
  for (const Stage& stage : stages(run)) stage.network->compile(stage.sizes);
}

int64_t ImageModel::loading_peak_bytes(const Stage& stage) {
  const Weights& weights = parts_.weights(stage.component);
  bool host = session_.engine().in_host_memory();
  return stage.network->loading_peak_bytes(stage.sizes, [&](const std::string& weight) -> int64_t {
    if (!host) return 0;
    return weights.reading_bytes(weight) +
           loras_.working_bytes(stage.component, weight, merged_type(weights.dtype(weight)), session_.engine().pool().threads());
  });
}

int64_t ImageModel::decode_buffer_bytes(const RunShape& run, const std::optional<DecodeTiles>& tiles) {
  int64_t height = run.height / scale(), width = run.width / scale();
  auto buffers = [&](int64_t batch, int64_t tile_height, int64_t tile_width) {
    return vae_decoder_->arena_bytes(
        {{id(kBatch), batch}, {id(kHeight), std::min(height, tile_height)}, {id(kWidth), std::min(width, tile_width)}});
  };
  if (!tiles) return buffers(run.batch, height, width);
  int64_t t = tiles->tile;
  return std::max({buffers(1, 2 * t, t / 2), buffers(1, t / 2, 2 * t), buffers(1, t, t)});
}

/// What decoding takes beside a denoiser that stays, where that has `buffers` already.
int64_t ImageModel::decoding_bytes(const RunShape& run, const std::optional<DecodeTiles>& tiles, int64_t buffers) {
  Bindings picture{{id(kBatch), run.batch}, {id(kHeight), run.height / scale()}, {id(kWidth), run.width / scale()}};
  return resident_bytes(vae_decoder_->weight_sizes(picture), {}) +
         std::max<int64_t>(0, decode_buffer_bytes(run, tiles) - buffers);
}

/// Of all rows of a table.
int64_t ImageModel::table_bytes(const Stage& stage, const RunShape& run) const {
  if (!stage.table->for_a_run() || tokens_together(run.text_tokens) > 0) return stage.table->bytes(stage.sizes);
  int64_t sum = 0;
  for (int64_t tokens : run.text_tokens) {
    Bindings one = stage.sizes;
    one[id(kText)] = tokens;
    sum += stage.table->bytes(one);
  }
  return sum;
}

/// A run's memory from beginning to end, and the choices that it rests on.
struct ImageModel::Walk {
  int64_t peak = 0;
  struct Choice {
    Stage stage;
    WeightSizes sizes;
    std::vector<int> streamed;
  };
  std::vector<Choice> choices;
};

/// With a budget, weights are streamed where they would not fit into it.
ImageModel::Walk ImageModel::walk(const RunShape& run, const std::optional<DecodeTiles>& tiles, std::optional<int64_t> budget) {
  RunningMemory memory;
  Walk walk;
  // Pictures, tables of rows and what is read of files lie in the host's memory, which is not what a GPU's plan is about.
  Engine& engine = session_.engine();
  bool host = engine.in_host_memory();
  int64_t picture = host ? pixel_bytes(1, run) : 0, pictures = host ? pixel_bytes(run.batch, run) : 0;
  memory.hold(engine.shared_bytes());
  if (run.from_image) memory.hold(picture);
  bool text = true;
  int64_t tables = 0;
  for (const Stage& stage : stages(run)) {
    bool is_decoder = stage.network == vae_decoder_.get(), is_encoder = stage.network == vae_encoder_.get();
    bool is_step = stage.network == &denoiser_->step(), is_denoiser = stage.component == Component::Denoiser;
    // Text encoders stay until all prompts are encoded, the encoder until the start is, the denoiser while it is needed again.
    if (text && (is_encoder || is_denoiser)) {
      memory.leave();
      text = false;
    }
    int64_t buffers = is_decoder ? decode_buffer_bytes(run, tiles) : stage.network->arena_bytes(stage.sizes);
    int64_t kept = is_step ? stage.network->kept_bytes(stage.sizes) : 0;
    WeightSizes sizes = stage.network->weight_sizes(stage.sizes);
    std::vector<int> streamed;
    if (budget) {
      int64_t others = memory.beside(buffers) + kept;
      if (is_step && run.repeated) others += decoding_bytes(run, tiles, buffers);
      streamed = choose_streamed(sizes, *budget - others).value_or(least_resident(sizes));
    }
    int64_t weights = resident_bytes(sizes, streamed);
    memory.load(weights, host ? loading_peak_bytes(stage) : weights);
    walk.choices.push_back({stage, std::move(sizes), std::move(streamed)});
    if (is_decoder) {
      // The decoded pictures and their copy with colours last; or, for one picture at a time, three tilings, the sum and the
      // weights of one.
      int64_t tensors = pictures + (tiles ? std::max(pictures, 4 * picture + picture / 3) : pictures);
      memory.run(buffers, tensors);
    } else if (stage.table) {
      int64_t bytes = host ? table_bytes(stage, run) : 0;
      memory.run(buffers, bytes);
      memory.leave();
      memory.hold(bytes);
      tables += bytes;
    } else if (is_step) {
      int64_t joined = 0;  // the rows of one step; those of prompts are taken as they are where each is needed once
      for (auto& table : denoiser_->tables())
        if (host && (!table->for_a_run() || run.batch > 1)) joined += table->bytes(stage.sizes);
      memory.hold(kept);
      memory.run(buffers, joined);
      if (run.repeated) continue;
      memory.leave();
      memory.hold(-tables - kept);
    } else {
      memory.run(buffers, is_encoder ? picture : 0);
    }
    if (is_encoder) memory.leave();
  }
  walk.peak = memory.peak();
  return walk;
}

MemoryPlan ImageModel::plan_memory(const RunShape& run, int64_t budget, const std::optional<DecodeTiles>& tiles) {
  if (session_.options().backend == Backend::Reference) return {0, tiles};
  std::vector<std::optional<DecodeTiles>> ways{tiles};
  if (!tiles)
    for (int64_t tile : kTiles) ways.emplace_back(overlapping(tile));
  std::optional<Walk> least;
  MemoryPlan plan;
  for (bool stream : {false, true})
    for (const auto& way : ways) {
      if (least && (least->peak <= budget || (stream && session_.engine().in_host_memory()))) continue;
      Walk next = walk(run, way, stream ? std::optional(budget) : std::nullopt);
      if (least && next.peak >= least->peak) continue;
      least = std::move(next);
      plan.tiles = way;
    }
  plan.peak_bytes = least->peak;
  for (const Walk::Choice& choice : least->choices) {
    choice.stage.network->stream_weights(choice.stage.sizes, choice.streamed);
    if (choice.stage.network != &denoiser_->step()) continue;
    plan.streamed = int(choice.streamed.size());
    plan.blocks = int(choice.sizes.blocks.size());
  }
  return plan;
}

}  // namespace sinter
