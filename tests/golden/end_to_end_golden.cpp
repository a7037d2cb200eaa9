#include "golden/end_to_end.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>

#include "golden/golden_reader.h"
#include "pipelines/image_model.h"
#include "tensor/random.h"

namespace sinter::golden {
namespace {

using nlohmann::json;

constexpr double kLatent = 2e-4, kConditioning = 5e-5, kNoise = 2e-6, kImage = 3e-3;

/// One file of whole runs with the model that made them.
class EndToEnd {
 public:
  EndToEnd(const std::string& directory, const std::string& family, Session& session, GoldenReport& report)
      : directory_(directory),
        family_(family),
        file_(directory + "/e2e_" + family + ".safetensors"),
        session_(session),
        report_(report) {
    manifest_ = json::parse(read_file(directory + "/manifest.json"));
    for (const json& c : manifest_.at("cases"))
      if (c.at("file") == "e2e_" + family + ".safetensors") {
        std::string name = c.at("case");
        settings_[name].update(c);
      }
  }

  void run() {
    read_prompts();
    model_ = open({});
    for (const auto& [name, settings] : settings_) {
      if (name.find('/') != std::string::npos) continue;
      guarded(family_ + "/" + name, report_, [&, &name = name, &settings = settings] {
        if (name == "tiled_decode")
          tiled_decode(settings);
        else
          sampling(name, settings);
      });
    }
    file_.report_unused(report_);
  }

 private:
  std::string checkpoint(const std::string& name) const { return directory_ + "/checkpoints/tiny_" + name + ".safetensors"; }

  std::unique_ptr<ImageModel> open(ModelOptions options) {
    ModelFiles files;
    files.model = checkpoint(family_ == "flux" ? "flux_dev" : family_);
    files.clip_vocabulary = directory_ + "/tokenizers/clip";
    files.t5_vocabulary = directory_ + "/tokenizers/t5";
    if (family_ == "flux") {
      files.clip_l = checkpoint("sd15");
      files.t5 = checkpoint("t5xxl");
      files.vae = checkpoint("flux_ae");
    }
    options.weights = DType::f32;  // the reference ran on the file's values as floats, and merges LoRAs there
    return std::make_unique<ImageModel>(session_, files, options);
  }

  void compare(const std::string& name, const Tensor& got, double tolerance) {
    if (file_.has(name)) report_.compare(family_ + "/" + name, relative_error(got, file_.get(name)), tolerance);
  }

  /// The prompts of a set are written in its README alone: Positive `...`, negative `...`. A set without one is sampled with
  /// the conditionings that it recorded.
  void read_prompts() {
    std::ifstream in(directory_ + "/README.md");
    std::string text((std::istreambuf_iterator<char>(in)), {});
    std::smatch found;
    if (!std::regex_search(text, found, std::regex("Positive `([^`]+)`, negative `([^`]+)`"))) return;
    positive_ = found[1];
    negative_ = family_ == "flux" ? "" : found[2].str();
  }

  EncodedPrompt recorded(const std::string& name, const std::string& key) {
    std::string from = file_.has(name + "/" + key) ? name : "t2i";
    EncodedPrompt prompt{file_.get(from + "/" + key), {}, {}};
    if (file_.has(from + "/" + key + "_pooled")) prompt.pooled = file_.get(from + "/" + key + "_pooled");
    return prompt;
  }

  EncodedPrompt encode(ImageModel& model, const std::string& name, const std::optional<std::string>& prompt,
                       const std::string& key, int clip_skip) {
    if (!prompt) return recorded(name, key);
    EncodedPrompt encoded = model.encode(*prompt, clip_skip);
    compare(name + "/" + key, encoded.context, kConditioning);
    if (!encoded.pooled.empty()) compare(name + "/" + key + "_pooled", encoded.pooled, kConditioning);
    return encoded;
  }

  std::optional<std::string> positive_prompt(const std::string& name) const {
    if (name.find("long_prompt") == std::string::npos) return positive_;
    for (const json& c : manifest_.at("cases"))
      if (c.at("file") == "conditioning.safetensors" && c.contains("prompts") && c.at("prompts").size() > 2)
        return c.at("prompts")[2];
    return std::nullopt;
  }

  void sampling(const std::string& name, json s) {
    bool combine = name == "combine";
    if (combine)
      s.update({{"seed", "3"}, {"steps", 4}, {"cfg", 5.0}, {"sampler", "euler"}, {"scheduler", "normal"}, {"denoise", 1.0}});
    std::unique_ptr<ImageModel> other;
    ImageModel* model = model_.get();
    if (name.find("vpred") != std::string::npos) {
      other = open({.prediction = Prediction::Velocity, .zero_terminal_snr = true});
      model = other.get();
    }
    bool lora = name.find("lora") != std::string::npos;
    if (lora) {
      double strength = family_ == "flux" ? 0.8 : 0.7;
      model->set_loras({{directory_ + "/loras/tiny_" + family_ + "_kohya.safetensors", strength, strength}});
    }
    int clip_skip = name.find("clip_skip_2") != std::string::npos ? 2 : 0;

    SamplingJob job;
    job.positive.push_back({encode(*model, name, positive_prompt(name), "positive", clip_skip)});
    EncodedPrompt negative =
        encode(*model, name, family_ == "flux" ? std::optional<std::string>("") : negative_, "negative", clip_skip);
    job.negative.push_back({negative});
    if (combine) job.positive.push_back({negative, 0.5f});
    job.sampler = s.at("sampler"), job.scheduler = s.at("scheduler");
    job.steps = s.at("steps"), job.cfg = s.at("cfg"), job.denoise = s.at("denoise");
    job.seed = std::stoull(s.at("seed").get<std::string>());
    const Tensor& noise = file_.get(name + "/noise");
    job.latent = Tensor(DType::f32, noise.shape());
    if (file_.has(name + "/image_in")) {
      job.latent = model->encode_image(file_.get(name + "/image_in").to(DType::f32));
      compare(name + "/latent_in", job.latent, kLatent);
    } else if (file_.has(name + "/latent_in")) {
      job.latent = file_.get(name + "/latent_in");
    }
    if (file_.has(name + "/noise_mask")) job.mask = file_.get(name + "/noise_mask");
    if (s.contains("size_conditioning")) {
      const json& z = s["size_conditioning"];
      job.sizes = SizeConditioning{z.at("height"), z.at("width"),         z.at("crop_h"),
                                   z.at("crop_w"), z.at("target_height"), z.at("target_width")};
    }
    compare(name + "/noise", prepare_noise(noise.shape(), job.seed), kNoise);

    // A run whose errors grow more on the way is compared less tightly.
    double tolerance = name.find("vpred") != std::string::npos ? 1e-3 : kLatent;
    job.progress = [&](const SampleProgress& p) {
      compare(name + "/denoised_step" + std::to_string(p.step), p.denoised, tolerance);
      compare(name + "/x_step" + std::to_string(p.step), p.x, tolerance);
      return true;
    };
    Tensor latent = model->sample(job);
    compare(name + "/latent_out", latent, tolerance);
    if (file_.has(name + "/image")) compare_image(name, model->decode(latent));
    if (lora) model->set_loras({});
  }

  void compare_image(const std::string& name, const Tensor& pixels) {
    Tensor expected = file_.get(name + "/image").to(DType::f32);
    double worst = pixels.shape() == expected.shape() ? 0 : INFINITY;
    for (size_t i = 0; std::isfinite(worst) && i < size_t(pixels.count()); ++i)
      worst = std::max(worst, double(std::fabs(pixels.f32()[i] - expected.f32()[i])));
    report_.compare(family_ + "/" + name + "/image", worst, kImage);
    if (!file_.has(name + "/image_u8")) return;
    const Tensor& bytes = file_.get(name + "/image_u8");
    int64_t off = 0, largest = 0;
    for (int64_t i = 0; i < bytes.count(); ++i) {
      auto ours = int64_t(255 * pixels.f32()[size_t(i)]), theirs = int64_t(uint8_t(bytes.data()[i]));
      off += ours != theirs;
      largest = std::max(largest, std::abs(ours - theirs));
    }
    // The share of bytes that differ; more than one level apart is wrong at any share.
    report_.compare(family_ + "/" + name + "/image_u8", largest > 1 ? 1.0 : double(off) / double(bytes.count()), 0.01);
  }

  void tiled_decode(const json& s) {
    const Tensor& latent = file_.get("tiled_decode/latent");
    Tensor pixels = model_->decode(latent, DecodeTiles{s.at("tile"), s.at("overlap")});
    compare_image("tiled_decode", pixels);
  }

  std::string directory_, family_;
  GoldenFile file_;
  Session& session_;
  GoldenReport& report_;
  json manifest_;
  std::optional<std::string> positive_, negative_;
  std::map<std::string, json> settings_;
  std::unique_ptr<ImageModel> model_;
};

}  // namespace

void check_end_to_end(const std::string& directory, const std::string& family, Session& session, GoldenReport& report) {
  guarded("e2e_" + family, report, [&] { EndToEnd(directory, family, session, report).run(); });
}

}  // namespace sinter::golden
