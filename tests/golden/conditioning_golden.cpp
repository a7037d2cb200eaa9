#include <nlohmann/json.hpp>

#include "golden/end_to_end.h"
#include "golden/golden_reader.h"
#include "pipelines/image_model.h"

namespace sinter::golden {
namespace {

using nlohmann::json;

constexpr double kTolerance = 5e-5;

std::unique_ptr<ImageModel> open_tiny_model(const std::string& directory, const std::string& family, Session& session) {
  auto checkpoint = [&](const std::string& name) { return directory + "/checkpoints/tiny_" + name + ".safetensors"; };
  ModelFiles files;
  files.model = checkpoint(family == "flux" ? "flux_dev" : family);
  files.clip_vocabulary = directory + "/tokenizers/clip";
  files.t5_vocabulary = directory + "/tokenizers/t5";
  files.embeddings = directory + "/embeddings";
  if (family == "flux") {
    files.clip_l = checkpoint("sd15");
    files.t5 = checkpoint("t5xxl");
    files.vae = checkpoint("flux_ae");
  }
  return std::make_unique<ImageModel>(session, files, ModelOptions{.weights = DType::f32});
}

void compare(GoldenFile& file, const std::string& name, const Tensor& ours, GoldenReport& report) {
  if (file.has(name)) report.compare(name, relative_error(ours, file.get(name)), kTolerance);
}

}  // namespace

void check_conditioning(const std::string& directory, Session& session, GoldenReport& report) {
  GoldenFile file(directory + "/conditioning.safetensors");
  const json manifest = json::parse(read_file(directory + "/manifest.json"));
  for (const json& entry : manifest.at("cases")) {
    if (entry.at("file") != "conditioning.safetensors") continue;
    std::string family = entry.at("case");
    guarded(family, report, [&] {
      auto model = open_tiny_model(directory, family, session);
      const auto prompts = entry.at("prompts").get<std::vector<std::string>>();
      for (int clip_skip : {0, 2})
        for (size_t i = 0; i < prompts.size(); ++i) {
          std::string at = family + "/" + std::to_string(i) + "/", suffix = clip_skip ? "_clip_skip_2" : "";
          if (clip_skip && !file.has(at + "cond" + suffix)) continue;
          guarded(at, report, [&] {
            EncodedPrompt encoded = model->encode(prompts[i], clip_skip);
            for (const std::string& name : encoded.missing_embeddings) report.fail(at, "no embedding " + name);
            compare(file, at + "cond" + suffix, encoded.context, report);
            if (!encoded.pooled.empty() && !clip_skip) compare(file, at + "pooled", encoded.pooled, report);
          });
        }
    });
  }
  file.report_unused(report);
}

}  // namespace sinter::golden
