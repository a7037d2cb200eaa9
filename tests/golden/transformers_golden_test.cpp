#include "golden/golden_test_support.h"
#include "golden/transformer_checks.h"

namespace sinter::golden {
namespace {

using Check = std::function<void(const ForwardCheck&)>;

/// Runs `check` on one file with the interpreter. Keys that start with one of `groups` must all be accounted for.
void expect_networks(const std::string& name, const std::vector<std::string>& groups, const Check& check) {
  auto directory = golden_folder();
  if (!directory || !std::filesystem::exists(*directory / name)) {
    MESSAGE("skipped: golden data " << name << " not found");
    return;
  }
  GoldenReport report;
  KnownKeys known;
  std::string folder = directory->string();
  GoldenFile file(folder + "/" + name);
  GraphRunner run = interpreter_runner();
  check({folder, file, known, run, report});
  CHECK(report.cases.size() > 0);
  for (const GoldenCase& c : report.cases) {
    CHECK_MESSAGE(c.ok, c.name << ": error " << c.error << ", tolerance " << c.tolerance << " " << c.note);
    MESSAGE(name << " " << c.name << ": error " << c.error << ", tolerance " << c.tolerance);
  }
  for (auto& [key, tensor] : file.tensors())
    for (const std::string& group : groups)
      if (key.starts_with(group)) CHECK_MESSAGE(known.has(key), key << " is not accounted for");
}

}  // namespace
}  // namespace sinter::golden

using namespace sinter::golden;
using sinter::Component;
using sinter::golden_folder;

TEST_CASE("CLIP-L of Stable Diffusion 1 computes what the reference computes") {
  expect_networks("sd15_forward.safetensors", {"clip_l/"},
                  [](const ForwardCheck& check) { check_clip(check, "tiny_sd15.safetensors", Component::ClipL); });
}

TEST_CASE("both text encoders and the size vector of Stable Diffusion XL are the reference's") {
  expect_networks("sdxl_forward.safetensors", {"clip_", "adm/"}, [](const ForwardCheck& check) {
    check_clip(check, "tiny_sdxl.safetensors", Component::ClipL);
    check_clip(check, "tiny_sdxl.safetensors", Component::ClipG);
    check_size_vector(check);
  });
}

TEST_CASE("FLUX and its text encoders compute what the reference computes") {
  expect_networks("flux_forward.safetensors", {"clip_", "t5/", "transformer/", "rope/", "latent_format/"},
                  [](const ForwardCheck& check) {
                    check_clip(check, "tiny_sd15.safetensors", Component::ClipL);
                    check_t5(check, "tiny_t5xxl.safetensors");
                    check_flux(check, "tiny_flux_dev.safetensors");
                  });
}

TEST_CASE("weights changed by LoRA files, and a U-Net with them, are the reference's") {
  auto directory = golden_folder();
  if (!directory || !std::filesystem::exists(*directory / "lora_patched.safetensors")) {
    MESSAGE("skipped: golden data lora_patched.safetensors not found");
    return;
  }
  GoldenReport report;
  check_lora(directory->string(), interpreter_runner(), report);
  CHECK(report.cases.size() > 40);
  for (const GoldenCase& c : report.cases)
    CHECK_MESSAGE(c.ok, c.name << ": error " << c.error << ", tolerance " << c.tolerance << " " << c.note);
}
