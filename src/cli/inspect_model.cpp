#include <map>
#include <nlohmann/json.hpp>

#include "cli/component_graph.h"
#include "cli/inspect.h"

namespace sinter {
namespace {

using nlohmann::ordered_json;

std::string_view prediction_name(Prediction prediction) {
  switch (prediction) {
    case Prediction::Epsilon:
      return "epsilon";
    case Prediction::Velocity:
      return "velocity";
    case Prediction::Flow:
      return "flow";
  }
  SINTER_ASSERT(false);
}

/// What is wrong with the weights of a network; empty if all that its graphs declare are there.
std::string problem_of(Component component, const Family* family, const Weights& weights) {
  try {
    for (const ComponentGraph& which : component_graphs()) {
      if (which.component != component) continue;
      // An autoencoder may come as one half.
      if (component == Component::Vae && !weights.has(which.encoder ? "encoder.conv_in.weight" : "decoder.conv_in.weight"))
        continue;
      check_weights(weights_of(*build_component_graph(which, family, weights)), weights);
    }
  } catch (const Error& e) {
    if (e.code() == Code::Internal) throw;
    return e.message();
  }
  return "";
}

ordered_json describe(Component component, const Family* family, const Weights& weights) {
  int64_t parameters = 0;
  std::map<std::string, int64_t> dtypes;
  for (const std::string& name : weights.names()) {
    int64_t count = element_count(weights.shape(name));
    parameters += count;
    dtypes[std::string(sinter::name(weights.dtype(name)))] += count;
  }
  std::string types;
  for (auto& [type, count] : dtypes) types += (types.empty() ? "" : ", ") + type;
  std::string problem = problem_of(component, family, weights);
  ordered_json out = {{"component", name(component)},
                      {"tensors", weights.names().size()},
                      {"parameters", parameters},
                      {"dtypes", types},
                      {"complete", problem.empty()}};
  if (!problem.empty()) out["problem"] = problem;
  return out;
}

ordered_json metadata_json(const Metadata& metadata) {
  ordered_json out = ordered_json::object();
  for (auto& [key, value] : metadata) out[key] = value;
  return out;
}

ordered_json inspect_parts(const ModelParts& model) {
  ordered_json components = ordered_json::array();
  for (auto& [component, weights] : model.components) components.push_back(describe(component, model.family, weights));
  std::vector<std::string_view> absent;
  for (Component component : model.family->text_encoders)
    if (!model.has(component)) absent.push_back(name(component));
  if (!model.has(Component::Vae)) absent.push_back(name(Component::Vae));
  return {{"kind", "model"},
          {"family", model.family->name},
          {"summary", model.family->summary},
          {"prediction", prediction_name(model.prediction)},
          {"zero_terminal_snr", model.zero_terminal_snr},
          {"components", components},
          {"to_be_given_apart", absent}};
}

}  // namespace

ordered_json inspect_model(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::exists(path / "model_index.json", ignored)) {
    ordered_json out = inspect_parts(open_model(path));
    out["kind"] = "diffusers pipeline";
    return out;
  }
  Checkpoint file = Checkpoint::open(path);
  Detected detected = detect_family(file);
  ordered_json out;
  if (detected.content == FileContent::Model) {
    out = inspect_parts(open_model(path));
  } else {
    out = {{"kind", detected.content == FileContent::Vae ? "autoencoder" : "text encoder"}, {"summary", detected.summary}};
    out["components"] = ordered_json::array({describe(detected.component, nullptr, open_component(path, detected.component))});
  }
  out["tensors"] = file.size();
  out["metadata"] = metadata_json(file.metadata());
  return out;
}

}  // namespace sinter
