#include "golden/golden_test_support.h"
#include "golden/network_checks.h"

namespace sinter::golden {
namespace {

using Check = std::function<void(const ForwardCheck&)>;

/// Runs `check` on one file with the interpreter; keys of other networks in it are not this test's.
void expect_networks(const std::string& name, const Check& check) {
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
  for (const GoldenCase& c : report.cases)
    CHECK_MESSAGE(c.ok, c.name << ": error " << c.error << ", tolerance " << c.tolerance << " " << c.note);
  for (auto& [key, tensor] : file.tensors()) {
    bool ours = key.starts_with("unet/") || key.starts_with("denoise/") || key.starts_with("vae_");
    if (ours) CHECK_MESSAGE(known.has(key), key << " is not accounted for");
  }
}

}  // namespace
}  // namespace sinter::golden

using namespace sinter::golden;

TEST_CASE("Stable Diffusion 1's U-Net and autoencoder compute what the reference computes") {
  expect_networks("sd15_forward.safetensors", [](const ForwardCheck& check) {
    check_unet(check, "tiny_sd15.safetensors");
    check_denoise(check, "tiny_sd15.safetensors");
    check_vae(check, "tiny_sd15.safetensors");
  });
}

TEST_CASE("Stable Diffusion XL's U-Net and autoencoder compute what the reference computes") {
  expect_networks("sdxl_forward.safetensors", [](const ForwardCheck& check) {
    check_unet(check, "tiny_sdxl.safetensors");
    check_vae(check, "tiny_sdxl.safetensors");
  });
}

TEST_CASE("FLUX's autoencoder computes what the reference computes") {
  expect_networks("flux_forward.safetensors", [](const ForwardCheck& check) { check_vae(check, "tiny_flux_ae.safetensors"); });
}
