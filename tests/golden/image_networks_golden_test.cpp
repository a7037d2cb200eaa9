#include "golden/golden_test_support.h"
#include "golden/network_checks.h"

namespace sinter::golden {
namespace {

using Check = std::function<void(const ForwardCheck&)>;

/// Runs `check` on one file; keys of other networks in it are not this test's.
void expect_networks(const std::string& name, Backend backend, const Check& check) {
  auto directory = golden_folder();
  if (!directory || !std::filesystem::exists(*directory / name)) {
    MESSAGE("skipped: golden data " << name << " not found");
    return;
  }
  GoldenReport report;
  KnownKeys known;
  std::string folder = directory->string();
  GoldenFile file(folder + "/" + name);
  Session session({.backend = backend}, {.memory_only = true});
  GraphRunner run = session_runner(session);
  check({folder, file, known, run, report});
  CHECK(report.cases.size() > 0);
  for (const GoldenCase& c : report.cases)
    CHECK_MESSAGE(c.ok, c.name << ": error " << c.error << ", tolerance " << c.tolerance << " " << c.note);
  for (auto& [key, tensor] : file.tensors()) {
    bool ours = key.starts_with("unet/") || key.starts_with("vae_");
    if (ours) CHECK_MESSAGE(known.has(key), key << " is not accounted for");
  }
}

}  // namespace
}  // namespace sinter::golden

using namespace sinter;
using namespace sinter::golden;

TEST_CASE("U-Nets and autoencoders compute what the reference computes, on every backend") {
  for (Backend backend : {Backend::Native, Backend::Eager, Backend::Reference}) {
    CAPTURE(name(backend));
    expect_networks("sd15_forward.safetensors", backend, [](const ForwardCheck& check) {
      check_unet(check, "tiny_sd15.safetensors");
      check_vae(check, "tiny_sd15.safetensors");
    });
    expect_networks("sdxl_forward.safetensors", backend, [](const ForwardCheck& check) {
      check_unet(check, "tiny_sdxl.safetensors");
      check_vae(check, "tiny_sdxl.safetensors");
    });
    expect_networks("flux_forward.safetensors", backend, [](const ForwardCheck& check) { check_vae(check, "tiny_flux_ae.safetensors"); });
  }
}
