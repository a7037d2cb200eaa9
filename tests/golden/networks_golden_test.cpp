#include "golden/golden_test_support.h"
#include "golden/transformer_checks.h"

using namespace sinter;
using namespace sinter::golden;

namespace {
template <class Check>
void on_every_backend(const std::string& file, Check check) {
  for (Backend backend : {Backend::Native, Backend::Eager, Backend::Reference}) {
    CAPTURE(name(backend));
    Session session({.backend = backend}, {.memory_only = true});
    expect_golden(file,
                  [&](const std::string& directory, GoldenReport& report) { check(directory, report, session_runner(session)); });
  }
}

/// Whole files, also in other arithmetic than the recorded one.
template <class Check>
void forward_on_every_backend(const std::string& file, Check check) {
  on_every_backend(file, [&](const std::string& directory, GoldenReport& report, const GraphRunner& run) {
    check(directory, report, Forward{.run = run});
  });
  for (const char* type : {"bf16", "f16"}) {
    INFO(std::string(type));
    Session session({.backend = Backend::Native}, {.memory_only = true});
    expect_golden(file, [&](const std::string& directory, GoldenReport& report) {
      check(directory, report, Forward{.run = session_runner(session), .arithmetic = Arithmetic(type)});
    });
  }
}
}  // namespace

TEST_CASE("Stable Diffusion 1's networks compute what the reference computes, on every backend") {
  forward_on_every_backend("sd15_forward.safetensors", check_sd15_forward);
}

TEST_CASE("Stable Diffusion XL's networks compute what the reference computes, on every backend") {
  forward_on_every_backend("sdxl_forward.safetensors", check_sdxl_forward);
}

TEST_CASE("FLUX's networks compute what the reference computes, on every backend") {
  forward_on_every_backend("flux_forward.safetensors", check_flux_forward);
}

TEST_CASE("weights changed by LoRA files, and a U-Net with them, are the reference's") {
  on_every_backend("lora_patched.safetensors", [](const std::string& directory, GoldenReport& report, const GraphRunner& run) {
    check_lora(directory, run, report);
  });
}
