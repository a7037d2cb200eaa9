#include "golden/transformer_checks.h"
#include "models/checkpoint_names.h"
#include "models/clip.h"
#include "models/t5.h"
#include "pipelines/conditioning.h"

namespace sinter::golden {
namespace {

constexpr double kTolerance = 2e-5;
constexpr int64_t kClipEnd = 49407, kT5End = 1;

EncoderInputs inputs_of(const Tensor& token_ids, int64_t width, int64_t end_id) {
  std::vector<std::vector<Token>> chunks(size_t(token_ids.dim(0)));
  for (size_t i = 0; i < size_t(token_ids.count()); ++i)
    chunks[i / size_t(token_ids.dim(1))].push_back({.id = token_ids.i64()[i]});
  return encoder_inputs(chunks, {}, width, end_id);
}

}  // namespace

void check_clip(const ForwardCheck& check, const std::string& checkpoint, Component component) {
  const std::string prefix = component == Component::ClipG ? "clip_g/" : "clip_l/";
  Weights weights = open_component(check.directory + "/checkpoints/" + checkpoint, component);
  ClipConfig config = detect_clip(weights, component == Component::ClipG ? ClipKind::g : ClipKind::l);
  check.know_block_trace(prefix);

  std::vector<ClipOutput> outputs = {{ClipOutput::hidden, "last_hidden"},
                                     {ClipOutput::hidden, "penultimate", -2, false},
                                     {ClipOutput::hidden, "penultimate_final_ln", -2},
                                     {ClipOutput::pooled, "pooled_unprojected"},
                                     {ClipOutput::projected, "pooled_projected"}};
  std::erase_if(outputs, [&](const ClipOutput& output) { return !check.file.has(prefix + output.name); });
  EncoderInputs in = inputs_of(check.get(prefix + "token_ids"), config.width, kClipEnd);
  Graph graph;
  build_clip(graph, config, Dim::symbol("batch"), outputs, check.arithmetic.options());
  check_weights(weights_of(graph), weights);
  auto got = check.run(
      graph, {{"token_ids", in.token_ids}, {"vectors", in.vectors}, {"vector_mask", in.vector_mask}, {"end_rows", in.end_rows}},
      loader(graph, weights));
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::string name = prefix + outputs[i].name;
    check.compare(name, got.at(i), Part::TextEncoder, kTolerance);
  }
}

void check_size_vector(const ForwardCheck& check) {
  for (const std::string& prefix : check.cases("adm")) {
    auto n = check.get(prefix + "width_height_cropw_croph_tw_th").i64();
    SizeConditioning sizes{n[1], n[0], n[3], n[2], n[5], n[4]};
    Tensor ours = sdxl_vector(check.get(prefix + "pooled"), sizes);
    check.report.compare(prefix + "y", relative_error(ours, check.get(prefix + "y")), kTolerance);
  }
}

void check_t5(const ForwardCheck& check, const std::string& checkpoint) {
  Weights weights = open_component(check.directory + "/checkpoints/" + checkpoint, Component::T5);
  T5Config config = detect_t5(weights);
  check.know_block_trace("t5/");
  Graph graph;
  build_t5(graph, config, Dim::symbol("batch"), Dim::symbol("tokens"), check.arithmetic.options());
  check_weights(weights_of(graph), weights);
  for (const std::string length : {"", "short_"}) {
    std::string name = "t5/" + length + "last_hidden";
    guarded(name, check.report, [&] {
      EncoderInputs in = inputs_of(check.get("t5/" + length + "token_ids"), config.width, kT5End);
      Tensor buckets = position_buckets(config, in.token_ids.dim(1));
      auto got = check.run(
          graph, {{"token_ids", in.token_ids}, {"vectors", in.vectors}, {"vector_mask", in.vector_mask}, {"buckets", buckets}},
          loader(graph, weights));
      check.compare(name, got.at(0), Part::TextEncoder, kTolerance);
    });
  }
}

}  // namespace sinter::golden
