#include "golden/golden_test_support.h"
#include "golden/transformer_checks.h"

using namespace sinter::golden;

TEST_CASE("Stable Diffusion 1's networks compute what the reference computes") {
  expect_golden("sd15_forward.safetensors",
                [](auto& directory, auto& report) { check_sd15_forward(directory, report, interpreter_runner()); });
}

TEST_CASE("Stable Diffusion XL's networks compute what the reference computes") {
  expect_golden("sdxl_forward.safetensors",
                [](auto& directory, auto& report) { check_sdxl_forward(directory, report, interpreter_runner()); });
}

TEST_CASE("FLUX's networks compute what the reference computes") {
  expect_golden("flux_forward.safetensors",
                [](auto& directory, auto& report) { check_flux_forward(directory, report, interpreter_runner()); });
}

TEST_CASE("weights changed by LoRA files, and a U-Net with them, are the reference's") {
  expect_golden("lora_patched.safetensors",
                [](auto& directory, auto& report) { check_lora(directory, interpreter_runner(), report); });
}
