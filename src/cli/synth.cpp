#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/arguments.h"
#include "cli/json_output.h"
#include "cli/output.h"
#include "models/synthetic_checkpoint.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;

struct SynthOptions {
  std::string family, out, dtype = "f16";
  uint64_t seed = 0;
  bool schnell = false, tiny = false, force = false, json = false;
};

SynthOptions parse(Arguments arguments) {
  SynthOptions o;
  Options options(synth_verb);
  options.add_option("--family", o.family, "kind of model")->required()->check(one_of({"sd15", "sdxl", "flux1"}));
  options.add_flag("--schnell", o.schnell, "with flux1: without guidance, as FLUX.1 schnell");
  options.add_flag("--tiny", o.tiny, "the same networks with few channels and layers, a few megabytes");
  options.add_option("--dtype", o.dtype, "element type of the weights")
      ->check(one_of({"f16", "bf16", "f32"}))
      ->capture_default_str();
  options.add_option("--seed", o.seed, "equal seeds give equal files")->check(whole_number())->capture_default_str();
  options.add_option("--out", o.out, "file to write, NAME.safetensors; vocabularies go to NAME.vocab/")->required();
  options.add_flag("--force", o.force, "replace the file if it exists");
  options.add_json(o.json);
  options.parse_arguments(arguments);
  if (o.schnell && o.family != "flux1") throw UsageError("--schnell is for --family flux1");
  if (fs::path(o.out).extension() != ".safetensors")
    throw UsageError(fmt::format("--out \"{}\": a name that ends in .safetensors is expected", o.out));
  return o;
}

SyntheticOptions recipe_of(const SynthOptions& o) {
  std::string family = o.family == "flux1" ? (o.schnell ? "flux1-schnell" : "flux1-dev") : o.family;
  return {.family = family, .tiny = o.tiny, .dtype = *parse_dtype(o.dtype), .seed = o.seed};
}

void refuse_overwriting(const SynthOptions& o) {
  std::error_code ignored;
  if (!o.force && (fs::exists(o.out, ignored) || fs::exists(vocabulary_folder(o.out), ignored)))
    fail(Code::InvalidArgument, "{} or its folder of vocabularies exists; --force replaces them", o.out);
}

int run_synth(Arguments arguments) {
  SynthOptions o = parse(arguments);
  refuse_overwriting(o);
  catch_interrupts();
  SyntheticOptions recipe = recipe_of(o);
  SyntheticCheckpoint checkpoint = synthetic_checkpoint(recipe);
  auto start = std::chrono::steady_clock::now();
  auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  {
    ThreadPool pool;
    ProgressBar bar(o.out, checkpoint.bytes());
    write_synthetic_checkpoint(o.out, recipe, pool, [&](uint64_t done) {
      throw_if_interrupted();
      bar.show(done, human_bytes(done));
    });
  }
  std::string vocabulary = vocabulary_folder(o.out).string();
  if (o.json)
    print_json({{"file", o.out},
                {"vocabulary", vocabulary},
                {"family", recipe.family},
                {"tensors", checkpoint.tensors.size()},
                {"parameters", checkpoint.parameters()},
                {"bytes", checkpoint.bytes()},
                {"seconds", seconds()}});
  else
    print(fmt::format("{}: {}{}, {} parameters of random noise as {}, {} in {:.1f} s\n{}: its vocabularies\n", o.out,
                      recipe.tiny ? "tiny " : "", recipe.family, human_count(uint64_t(checkpoint.parameters())), o.dtype,
                      human_bytes(checkpoint.bytes()), seconds(), vocabulary));
  return kSuccess;
}

}  // namespace

const Verb synth_verb = {
    .name = "synth", .summary = "Write a checkpoint with random weights, for tests and measurements", .run = run_synth};

}  // namespace sinter
