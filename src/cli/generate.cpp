#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "base/utf8.h"
#include "cli/arguments.h"
#include "cli/json_output.h"
#include "cli/output.h"
#include "hardware/memory.h"
#include "io/image.h"
#include "models/vae_image.h"
#include "pipelines/image_model.h"
#include "pipelines/picture_names.h"

namespace sinter {
namespace {

using Clock = std::chrono::steady_clock;
const Clock::time_point kProcessStart = Clock::now();  // statics are made right after the program is loaded

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Settings {
  ModelFiles files;
  std::string prompt, negative;
  int64_t width = 0, height = 0;  // 0: the family's
  int steps = 0, batch = 1, count = 1, clip_skip = 0, threads = 0;
  double cfg = -1, guidance = -1, strength = 1;
  std::string sampler, scheduler;
  std::optional<uint64_t> seed;
  std::filesystem::path init_image;
  std::vector<std::string> loras;
  std::string out = "sinter_{index}.png", backend = "native", mode = "default", device = "auto", dtype = "auto",
              attention_dtype = "auto", weight_dtype = "auto";
  bool dynamic = true, json = false, no_cache = false;
  int64_t tile = 0;
  int quality = 90;
  bool tf32 = false, f16_accumulate = false, lossless = false;
  std::optional<int64_t> vram_budget, reserve_vram;
};

std::vector<std::string> names_of(auto list) {
  std::vector<std::string> names;
  for (const auto* item : list) names.emplace_back(item->name);
  return names;
}

void add_options(Options& o, Settings& s) {
  o.add_option("-m,--model", s.files.model, "checkpoint (.safetensors), index of shards or diffusers folder")->required();
  o.add_option("-p,--prompt", s.prompt, "what to draw; (words:1.3) weigh more, embedding:name takes a textual inversion");
  o.add_option("-n,--negative", s.negative, "what to stay away from");
  o.add_option("-W,--width", s.width, "pixels, a multiple of 8 (default: the model's)")->check(CLI::Range(8, 16384));
  o.add_option("-H,--height", s.height, "pixels, a multiple of 8 (default: the model's)")->check(CLI::Range(8, 16384));
  o.add_option("--steps", s.steps, "sampling steps (default: the model's)")->check(CLI::Range(1, 10000));
  o.add_option("--cfg", s.cfg, "classifier-free guidance; 1: the negative prompt is not used")->check(in_range(0, 100));
  o.add_option("--guidance", s.guidance, "guidance that FLUX dev is told")->check(in_range(0, 100));
  o.add_option("--sampler", s.sampler, "as ComfyUI's KSampler names them")->check(one_of(names_of(samplers())));
  o.add_option("--scheduler", s.scheduler, "as ComfyUI's KSampler names them")->check(one_of(names_of(schedulers())));
  o.add_option("--seed", s.seed, "of the noise (default: a random one, which is printed)")->check(whole_number());
  o.add_option("--batch", s.batch, "pictures sampled together")->check(CLI::Range(1, 4096));
  o.add_option("--count", s.count, "runs, each with the next seed")->check(CLI::Range(1, 1000000));
  o.add_option("--init", s.init_image, "picture to start from");
  o.add_option("--strength", s.strength, "how much of the picture given by --init is drawn anew")->check(in_range(0, 1));
  o.add_option("--clip-skip", s.clip_skip, "take the text from the N-th layer from the end")->check(CLI::Range(1, 12));
  o.add_option("--lora", s.loras, "FILE[:STRENGTH[:TEXT_STRENGTH]], may be given several times");
  o.add_option("--vae", s.files.vae, "autoencoder instead of the model's");
  o.add_option("--clip-l", s.files.clip_l, "text encoder CLIP-L");
  o.add_option("--clip-g", s.files.clip_g, "text encoder CLIP-G");
  o.add_option("--t5", s.files.t5, "text encoder T5");
  o.add_option("--clip-vocab", s.files.clip_vocabulary, "folder with vocab.json and merges.txt, or tokenizer.json");
  o.add_option("--t5-vocab", s.files.t5_vocabulary, "folder with tokenizer.json, or the file");
  o.add_option("--comfyui", s.files.comfyui, "a ComfyUI installation, for vocabularies and embeddings");
  o.add_option("--embeddings", s.files.embeddings, "folder of textual inversions");
  o.add_option("--variant", s.files.variant, "of a diffusers folder, for example fp16");
  o.add_option("-o,--out", s.out, "file name; {index} becomes the next free number, {seed} the seed; .png, .jpg or .webp");
  o.add_option("--quality", s.quality, "of JPEG and lossy WebP")->check(CLI::Range(1, 100));
  o.add_flag("--lossless", s.lossless, "WebP without loss");
  o.add_option("--backend", s.backend, "native (also called inductor), eager or reference")
      ->check(one_of({"native", "inductor", "eager", "reference"}));
  o.add_option("--mode", s.mode, "default, reduce-overhead, max-autotune, max-autotune-no-cudagraphs or speed")
      ->check(one_of({"default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs", "speed"}));
  o.add_option("--dynamic", s.dynamic, "one set of programs for all sizes (true), or one for each (false)");
  o.add_option("--device", s.device, "auto, cpu, cuda or cuda:N");
  o.add_option("--dtype", s.dtype,
               "type of the arithmetic: auto (f32 on the CPU, bf16 on a GPU), f32, bf16, f16 (GPU) or fp8 (GPU: bf16 with the "
               "denoiser's wide linear layers in 8 bits)")
      ->check(one_of({"auto", "f32", "bf16", "f16", "fp8"}));
  o.add_option("--attention-dtype", s.attention_dtype,
               "type in which attention multiplies: auto (that of the arithmetic) or fp8 (GPU of compute capability 9.0 with "
               "cuDNN, with --dtype bf16 or fp8: the denoiser's self-attention, where queries and keys are normalised)")
      ->check(one_of({"auto", "fp8"}));
  o.add_flag("--tf32", s.tf32, "f32 products on a GPU may round their factors to 10 fraction bits");
  o.add_flag("--fp16-accumulation", s.f16_accumulate, "f16 products on a GPU may be summed in f16");
  o.add_option("--weight-dtype", s.weight_dtype, "type in which weights are kept: auto (as in the file), f32, f16 or bf16")
      ->check(one_of({"auto", "f32", "f16", "bf16"}));
  o.add_option("--vae-tile", s.tile, "decode in tiles of this many pixels (default: only where memory asks for it)")
      ->check(CLI::Range(128, 4096));
  o.add_bytes(
      "--vram-budget", s.vram_budget,
      "device memory that the run may take (8G, 6.5GiB, 800M; a number alone is GB): what does not fit is decoded in tiles "
      "or streamed from the host's memory (default: what is free, less --reserve-vram)");
  o.add_bytes("--reserve-vram", s.reserve_vram, "device memory left to other programs (default: 400MiB)");
  o.add_option("--threads", s.threads, "threads (default: one a core)")->check(CLI::Range(0, 1024));
  o.add_flag("--no-cache", s.no_cache, "keep compiled programs in memory only");
  o.add_json(s.json);
}

void note(const std::string& text) { print_error(text + "\n"); }

/// FILE[:MODEL[:TEXT]]; a file's own name may have colons.
ImageModel::LoraRequest parse_lora(const std::string& text) {
  ImageModel::LoraRequest request{text, 1, 1};
  std::vector<double> numbers;
  std::string rest = text;
  while (numbers.size() < 2) {
    size_t colon = rest.rfind(':');
    if (colon == std::string::npos || std::filesystem::exists(rest)) break;
    char* end = nullptr;
    std::string tail = rest.substr(colon + 1);
    double value = std::strtod(tail.c_str(), &end);
    if (tail.empty() || *end || !std::isfinite(value)) break;
    numbers.insert(numbers.begin(), value);
    rest.resize(colon);
  }
  request.file = rest;
  if (!numbers.empty()) request.model_strength = request.text_strength = numbers[0];
  if (numbers.size() > 1) request.text_strength = numbers[1];
  return request;
}

/// Options that do nothing for this model or backend are named, never silently ignored.
void name_idle_options(const Settings& s, const Family& family, const DeviceChoice& device, bool guided) {
  auto idle = [&](bool given, const std::string& option, const std::string& why) {
    if (given) note(fmt::format("note: {} has no effect: {}", option, why));
  };
  bool flux = family.prediction == Prediction::Flow, xl = family.name == "sdxl";
  std::string here = fmt::format("the model is {}", family.name);
  idle(s.guidance >= 0 && family.defaults.guidance == 0, "--guidance", here + ", which is not told any");
  idle(s.clip_skip > 0 && flux, "--clip-skip", here + ", which takes CLIP's pooled state");
  idle(!s.negative.empty() && !guided, "--negative", "with a guidance of 1 it is not used");
  idle(!s.files.t5.empty() && !flux, "--t5", here + ", which has no T5");
  idle(!s.files.t5_vocabulary.empty() && !flux, "--t5-vocab", here + ", which has no T5");
  idle(!s.files.clip_g.empty() && !xl, "--clip-g", here + ", which has no CLIP-G");
  idle(s.strength != 1 && s.init_image.empty(), "--strength", "there is no --init picture");
  bool gpu = device.kind == DeviceChoice::Kind::Cuda;
  idle(s.mode != "default" && !gpu, "--mode " + s.mode, "the CPU backend has no device graphs and nothing to tune");
  idle(s.tf32 && !gpu, "--tf32", "the CPU multiplies f32 whole");
  idle(s.f16_accumulate && !(gpu && s.dtype == "f16"), "--fp16-accumulation", "it is for --dtype f16 on a GPU");
  idle(s.vram_budget.has_value() && !gpu, "--vram-budget", "the run is on the CPU");
  idle(s.reserve_vram.has_value() && !gpu, "--reserve-vram", "the run is on the CPU");
  idle(s.reserve_vram.has_value() && gpu && s.vram_budget.has_value(), "--reserve-vram", "--vram-budget says what may be taken");
  idle(!s.dynamic && s.backend == "reference", "--dynamic false", "the reference backend compiles nothing");
  idle(s.lossless && !s.out.ends_with(".webp"), "--lossless", "only WebP has the choice");
}

void check_size(int64_t size, int64_t scale, const char* option) {
  if (size % scale == 0) return;
  throw UsageError(fmt::format("{} {} is not a multiple of {}; the nearest are {} and {}", option, size, scale,
                               size / scale * scale, size / scale * scale + scale));
}

/// What can be known to be wrong before any file is read.
void check_settings(const Settings& s) {
  check_picture_name(s.out);
  // The autoencoders of all families scale alike; the model's own is looked at again when it is known.
  check_size(s.width, sd_vae_config().scale(), "--width");
  check_size(s.height, sd_vae_config().scale(), "--height");
  if (!is_utf8(s.prompt)) throw UsageError("--prompt: UTF-8 text is expected, and this has other bytes");
  if (!is_utf8(s.negative)) throw UsageError("--negative: UTF-8 text is expected, and this has other bytes");
}

/// A text that the format cannot hold shows before the work, not after it.
void check_text_fits(const std::filesystem::path& name, const std::string& text) {
  Tensor pixel(DType::f32, {1, 1, 3});
  std::string ending = name.extension().string();
  if (ending == ".png")
    encode_png(pixel, {{"parameters", text}});
  else if (ending == ".webp")
    encode_webp(pixel, 90, false, {{"parameters", text}});
  else
    encode_jpeg(pixel, 90, {{"parameters", text}});
}

/// `what` says who gave these values, and of what.
void refuse_nan(const Tensor& values, const std::string& what) {
  for (float v : values.f32())
    if (std::isnan(v))
      fail(Code::Corrupt, "{} gives values that are not numbers; its weights or a LoRA for it may be damaged", what);
}

/// What other tools read back: the format that the first web interface for these models introduced.
std::string parameters_text(const Settings& s, const SamplingJob& job, uint64_t seed, int64_t width, int64_t height,
                            bool guided) {
  std::string text = s.prompt;
  if (guided && !s.negative.empty()) text += "\nNegative prompt: " + s.negative;
  text += fmt::format("\nSteps: {}, Sampler: {}, Schedule type: {}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}", job.steps,
                      job.sampler, job.scheduler, job.cfg, seed, width, height, s.files.model.stem().string());
  if (!s.init_image.empty()) text += fmt::format(", Denoising strength: {}", job.denoise);
  if (s.clip_skip > 0) text += fmt::format(", Clip skip: {}", s.clip_skip);
  for (const std::string& lora : s.loras) text += fmt::format(", Lora: {}", std::filesystem::path(lora).filename().string());
  return text + ", Version: sinter " SINTER_VERSION;
}

/// The run: prompts, steps, pictures, and the figures of --json.
class Generation {
 public:
  explicit Generation(Settings settings) : s_(std::move(settings)), session_(session_options(s_), cache_options(s_)) {}

  int run() {
    catch_interrupts();
    // Long steps look at the engine's flag; the signal handler may only set its own.
    std::jthread watch([this](std::stop_token stop) {
      constexpr int kTellAfter = 25;  // half a second
      for (int seen = 0; !stop.stop_requested(); seen += interrupted() ? 1 : 0) {
        if (interrupted()) session_.engine().cancelled() = true;
        if (seen == kTellAfter) note("ending with the step that is under way; once more ends at once");
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    });
    prepare();
    announce();
    try {
      for (int i = 0; i < s_.count; ++i) one_run(i);
    } catch (const Error& e) {
      if (e.code() != Code::OutOfMemory) throw;
      throw Error(e.code(), e.message() + memory_advice());
    }
    report();
    return kSuccess;
  }

 private:
  /// For a run that was planned to fit, and does not.
  std::string memory_advice() {
    const bool gpu = session_.options().device.kind == DeviceChoice::Kind::Cuda;
    std::string text = fmt::format("\n  The run was planned to take {} of the {} that were free; now {} are free",
                                   human_bytes(uint64_t(plan_.peak_bytes)), human_bytes(uint64_t(budget_)),
                                   human_bytes(uint64_t(session_.available_bytes())));
    if (!images_.empty()) text += fmt::format(". {} pictures were written before", images_.size());
    return text +
           fmt::format(
               ".\n  Other programs take {} memory too: close them, make the picture or the batch smaller{}. Another try is "
               "planned with what is free then{}",
               gpu ? "the device's" : "this machine's", gpu && s_.dtype != "fp8" ? ", or give --dtype fp8" : "",
               gpu ? "; --vram-budget makes it take less" : "");
  }

  static SessionOptions session_options(const Settings& s) {
    SessionOptions options{parse_backend(s.backend), s.dynamic, s.threads, {}, {}};
    if (options.backend != Backend::Reference) options.device = choose_device(s.device);
    if (!options.device.why_not_cuda.empty()) note("running on the CPU: " + options.device.why_not_cuda);
    bool tunes = s.mode.starts_with("max-autotune") || s.mode == "speed";
    options.cuda = {.tune = tunes, .allow_tf32 = s.tf32, .f16_accumulate = s.f16_accumulate};
    return options;
  }
  static CacheOptions cache_options(const Settings& s) {
    CacheOptions options = CacheOptions::from_environment();
    options.memory_only = s.no_cache;
    return options;
  }

  /// Where fp8 cannot be had, bf16 runs the same checkpoints.
  void check_fp8() {
    const auto* gpu = dynamic_cast<cuda::Engine*>(&session_.engine());
    if (!gpu)
      fail(Code::Unsupported,
           "--dtype fp8 needs a GPU of compute capability 8.9 or newer; on the CPU there are f32 and bf16, "
           "which run fp8 checkpoints too");
    const cuda::DeviceInfo& device = gpu->context().device();
    if (!device.has_fp8())
      fail(Code::Unsupported,
           "--dtype fp8: {} has compute capability {}.{}, and fp8 units come with 8.9; --dtype bf16 runs fp8 "
           "checkpoints too",
           device.name, device.capability() / 10, device.capability() % 10);
    if (session_.options().backend != Backend::Native)
      fail(Code::Unsupported, "--dtype fp8 is for the native backend, not for {}", name(session_.options().backend));
  }

  /// What keeps this device and these types from attention in fp8; the model may have reasons of its own.
  std::string why_no_fp8_attention(DType compute) {
    const auto* gpu = dynamic_cast<const cuda::Engine*>(&session_.engine());
    if (!gpu) return "it needs a GPU of compute capability 9.0 and cuDNN";
    if (session_.options().backend != Backend::Native)
      return fmt::format("it is for the native backend, not for {}", name(session_.options().backend));
    if (compute != DType::bf16) return fmt::format("it is for --dtype bf16 or fp8, not for {}", sinter::name(compute));
    return gpu->why_no_fp8_attention();
  }

  void prepare() {
    auto start = Clock::now();
    ModelOptions options;
    bool gpu = session_.options().device.kind == DeviceChoice::Kind::Cuda;
    if (s_.dtype == "f16" && !gpu) fail(Code::Unsupported, "--dtype f16 needs a GPU; on the CPU there are f32 and bf16");
    options.fp8 = s_.dtype == "fp8";
    if (options.fp8) check_fp8();
    options.compute = s_.dtype == "auto" || options.fp8 ? (gpu ? DType::bf16 : DType::f32) : *parse_dtype(s_.dtype);
    if (s_.weight_dtype != "auto") options.weights = parse_dtype(s_.weight_dtype);
    std::string why_no_fp8_attention;
    if (s_.attention_dtype == "fp8") {
      why_no_fp8_attention = this->why_no_fp8_attention(options.compute);
      options.fp8_attention = why_no_fp8_attention.empty();
    }
    model_ = std::make_unique<ImageModel>(session_, s_.files, options);
    load_seconds_ += seconds_since(start);
    if (options.fp8_attention) why_no_fp8_attention = model_->why_no_fp8_attention();
    if (!why_no_fp8_attention.empty())
      note(fmt::format("note: --attention-dtype fp8 has no effect: {}; attention is in {}", why_no_fp8_attention,
                       sinter::name(options.compute)));

    const SamplingDefaults& d = model_->family().defaults;
    if (!s_.init_image.empty()) init_ = read_image(s_.init_image).pixels;
    const int64_t scale = model_->scale();
    if (!s_.width) s_.width = init_.empty() ? d.width : init_.dim(1) / scale * scale;
    if (!s_.height) s_.height = init_.empty() ? d.height : init_.dim(0) / scale * scale;
    check_size(s_.width, scale, "--width");
    check_size(s_.height, scale, "--height");
    if (!init_.empty()) init_ = resized(init_, s_.height, s_.width);
    job_.sampler = s_.sampler.empty() ? std::string(d.sampler) : s_.sampler;
    job_.scheduler = s_.scheduler.empty() ? std::string(d.scheduler) : s_.scheduler;
    job_.steps = s_.steps ? s_.steps : d.steps;
    job_.cfg = s_.cfg >= 0 ? s_.cfg : d.cfg;
    job_.guidance = s_.guidance >= 0 ? s_.guidance : d.guidance;
    job_.denoise = init_.empty() ? 1 : s_.strength;
    guided_ = job_.cfg != 1 || find_sampler(job_.sampler).needs_unconditional;
    seed_ = s_.seed ? *s_.seed : std::random_device()() | uint64_t(std::random_device()()) << 32;
    name_idle_options(s_, model_->family(), session_.options().device, guided_);
    check_text_fits(s_.out, parameters_text(s_, job_, seed_, s_.width, s_.height, guided_));
    if (s_.loras.empty()) return;
    std::vector<ImageModel::LoraRequest> loras;
    for (const std::string& lora : s_.loras) loras.push_back(parse_lora(lora));
    for (const std::string& warning : model_->set_loras(loras)) note(warning);
  }

  /// The line before the run, and the refusal where the run cannot fit.
  void announce() {
    if (session_.options().backend == Backend::Reference) {
      note("the reference backend computes plainly and slowly, and plans nothing");
      return;
    }
    RunShape shape{s_.batch, s_.width, s_.height, guided_, !init_.empty(), job_.steps, s_.count > 1};
    shape.text_tokens = {model_->text_tokens(s_.prompt)};
    if (guided_) shape.text_tokens.push_back(model_->text_tokens(s_.negative));
    auto foresight = model_->foresee(shape);
    int missing = foresight.needed - foresight.cached;
    std::string time = missing == 0            ? ""
                       : foresight.seconds > 0 ? fmt::format(", about {:.1f} s", foresight.seconds)
                                               : ", some seconds";
    note(fmt::format("programs: {} needed, {} cached, {} to compile{}", foresight.needed, foresight.cached, missing, time));
    auto start = Clock::now();
    model_->compile(shape);
    compile_seconds_ = seconds_since(start);
    for (const std::string& reason : session_.compiled().reasons) note("  compiled " + reason);

    const int64_t budget = budget_ = memory_budget();
    std::optional<DecodeTiles> tiles;
    if (s_.tile) tiles = DecodeTiles{s_.tile / model_->scale(), s_.tile / model_->scale() / 4};
    plan_ = model_->plan_memory(shape, budget, tiles);
    std::string how;
    if (plan_.tiles) how += fmt::format("; the picture is decoded in tiles of {} pixels", plan_.tiles->tile * model_->scale());
    if (plan_.streamed) how += fmt::format("; the weights of {} of {} blocks are streamed", plan_.streamed, plan_.blocks);
    note(fmt::format("memory: {} planned, {} available{}", human_bytes(uint64_t(plan_.peak_bytes)), human_bytes(uint64_t(budget)),
                     how));
    if (plan_.peak_bytes > budget)
      fail(Code::OutOfMemory, "the run needs {} at the least and {} are available; make the picture or the batch smaller, or {}",
           human_bytes(uint64_t(plan_.peak_bytes)), human_bytes(uint64_t(budget)),
           s_.vram_budget ? "raise --vram-budget" : "close other programs");
    program_ = program_memory_bytes();
  }

  /// What a run may take, of the device's memory or the host's.
  int64_t memory_budget() {
    const int64_t available = session_.available_bytes();
    if (session_.options().device.kind != DeviceChoice::Kind::Cuda) return available;
    constexpr int64_t kReserve = int64_t(400) << 20;
    if (!s_.vram_budget) return std::max<int64_t>(0, available - s_.reserve_vram.value_or(kReserve));
    if (*s_.vram_budget > available)
      note(fmt::format("note: --vram-budget {} is more than the {} that are free", human_bytes(uint64_t(*s_.vram_budget)),
                       human_bytes(uint64_t(available))));
    return std::min(*s_.vram_budget, available);
  }

  void encode_prompts() {
    auto start = Clock::now();
    auto encode = [&](const std::string& text) {
      EncodedPrompt prompt = model_->encode(text, s_.clip_skip);
      for (const std::string& name : prompt.missing_embeddings)
        note(fmt::format("note: the prompt asks for embedding:{}, which was not found; it is left out", name));
      for (const Tensor* part : {&prompt.context, &prompt.pooled})
        if (!part->empty()) refuse_nan(*part, fmt::format("a text encoder of {}", s_.files.model.string()));
      return prompt;
    };
    job_.positive = {{encode(s_.prompt)}};
    if (guided_) job_.negative = {{encode(s_.negative)}};
    model_->unload_text_encoders();
    text_seconds_ = seconds_since(start);
  }

  Tensor start_latent() {
    if (init_.empty()) return Tensor(DType::f32, model_->latent_shape(s_.batch, s_.width, s_.height));
    Tensor one = model_->encode_image(init_.reshaped({1, init_.dim(0), init_.dim(1), 3}));
    refuse_nan(one, fmt::format("the autoencoder of {}", (s_.files.vae.empty() ? s_.files.model : s_.files.vae).string()));
    Tensor latent(DType::f32, {s_.batch, one.dim(1), one.dim(2), one.dim(3)});
    for (int64_t b = 0; b < s_.batch; ++b) std::copy_n(one.data(), one.bytes(), latent.rows(b, b + 1).data());
    return latent;
  }

  void one_run(int number) {
    if (job_.positive.empty()) encode_prompts();
    if (latent_.empty()) {
      latent_ = start_latent();
      model_->unload_encoder();
    }
    auto start = Clock::now();
    job_.seed = seed_ + uint64_t(number);
    job_.latent = latent_;
    model_->prepare(job_);
    if (std::string why = model_->why_streams_slowly(); !why.empty() && number == 0)
      note("note: streamed weights come slower than the bus could bring them: " + why);
    load_seconds_ += seconds_since(start);
    std::string label = s_.count > 1 ? fmt::format("picture {} of {}", number + 1, s_.count) : "sampling";
    Tensor latent;
    {
      ProgressBar bar(label, uint64_t(job_.steps));
      bar.show(0);
      if (first_step_seconds_ < 0) first_step_seconds_ = seconds_since(kProcessStart);
      auto begun = Clock::now(), step_start = begun;
      job_.progress = [&](const SampleProgress& p) {
        step_milliseconds_.push_back(1000 * seconds_since(step_start));
        step_start = Clock::now();
        refuse_nan(p.denoised, fmt::format("the denoiser of {} at step {}", s_.files.model.string(), p.step + 1));
        bar.show(uint64_t(p.step + 1), fmt::format("{:.2f} it/s", double(p.step + 1) / seconds_since(begun)));
        return !interrupted();
      };
      latent = model_->sample(job_);
    }
    throw_if_interrupted();
    if (number + 1 == s_.count) model_->unload_denoiser();  // its memory serves the decoder
    start = Clock::now();
    Tensor pixels = model_->decode(latent, plan_.tiles);
    decode_seconds_ += seconds_since(start);
    refuse_nan(pixels, fmt::format("the autoencoder of {}", (s_.files.vae.empty() ? s_.files.model : s_.files.vae).string()));
    throw_if_interrupted();
    for (int64_t b = 0; b < pixels.dim(0); ++b) write(pixels, b);
  }

  void write(const Tensor& pixels, int64_t b) {
    Tensor picture = pixels.rows(b, b + 1).reshaped({pixels.dim(1), pixels.dim(2), 3});
    std::filesystem::path path = next_picture_name(s_.out, job_.seed, images_.size(), size_t(s_.batch) * size_t(s_.count) > 1);
    std::string text = parameters_text(s_, job_, job_.seed, s_.width, s_.height, guided_);
    if (s_.batch > 1) text += fmt::format(", Batch index: {}", b);
    write_image(path, picture, {{"parameters", text}}, {s_.quality, s_.lossless});
    images_.push_back(path.string());
    if (!s_.json) print(path.string() + "\n");
  }

  void report() {
    const CompileReport& c = session_.compiled();
    int64_t measured = session_.measured_peak_bytes();
    double total = seconds_since(kProcessStart);
    if (s_.json) {
      print_json({{"images", images_},
                  {"seed", seed_},
                  {"compile",
                   {{"needed", c.needed},
                    {"cached", c.cached},
                    {"compiled", c.compiled},
                    {"seconds", compile_seconds_},
                    {"reasons", c.reasons}}},
                  {"memory",
                   {{"planned_peak_bytes", {{session_.options().device.text(), plan_.peak_bytes}}},
                    {"streamed_blocks", plan_.streamed},
                    {"program_bytes", {{"cpu", program_}}},
                    {"measured_peak_bytes", {{session_.options().device.text(), measured}}}}},
                  {"timing",
                   {{"start_to_first_step_seconds", first_step_seconds_},
                    {"load_seconds", load_seconds_},
                    {"text_seconds", text_seconds_},
                    {"step_milliseconds", step_milliseconds_},
                    {"decode_seconds", decode_seconds_},
                    {"total_seconds", total}}}});
      return;
    }
    double steps = 0;
    for (double ms : step_milliseconds_) steps += ms / 1000;
    note(table({{"seed", "programs", "compiled", "start to 1st step", "text", "load", "steps", "decode", "total", "peak memory"},
                {std::to_string(seed_), std::to_string(c.needed), std::to_string(c.compiled),
                 fmt::format("{:.2f} s", first_step_seconds_), fmt::format("{:.2f} s", text_seconds_),
                 fmt::format("{:.2f} s", load_seconds_), fmt::format("{} in {:.2f} s", step_milliseconds_.size(), steps),
                 fmt::format("{:.2f} s", decode_seconds_), fmt::format("{:.2f} s", total), human_bytes(uint64_t(measured))}}));
  }

  Settings s_;
  Session session_;
  std::unique_ptr<ImageModel> model_;
  SamplingJob job_;
  Tensor init_, latent_;
  bool guided_ = true;
  uint64_t seed_ = 0;
  MemoryPlan plan_;
  int64_t budget_ = 0, program_ = 0;
  std::vector<std::string> images_;
  std::vector<double> step_milliseconds_;
  double load_seconds_ = 0, text_seconds_ = 0, decode_seconds_ = 0, compile_seconds_ = 0, first_step_seconds_ = -1;
};

int run_generate(Arguments arguments) {
  Options options(generate_verb);
  Settings settings;
  add_options(options, settings);
  options.parse_arguments(arguments);
  check_settings(settings);
  return Generation(std::move(settings)).run();
}

}  // namespace

const Verb generate_verb = {.name = "generate", .summary = "Pictures from a prompt", .run = run_generate};

}  // namespace sinter
