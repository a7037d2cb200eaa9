#include "golden/transformer_checks.h"

namespace sinter::golden {
namespace {

template <class Body>
void check_file(const std::string& directory, const char* name, GoldenReport& report, const Forward& on, Body&& body) {
  GoldenFile file(directory + "/" + name);
  KnownKeys known;
  ForwardCheck check{directory, file, known, on.run, on.run_denoiser, on.arithmetic, report};
  body([&](const char* network, auto&& part) { guarded(network, report, [&] { part(check); }); });
  known.report_unknown(file, report);
}

}  // namespace

void check_sd15_forward(const std::string& directory, GoldenReport& report, const Forward& on) {
  const char* model = "tiny_sd15.safetensors";
  check_file(directory, "sd15_forward.safetensors", report, on, [&](auto part) {
    part("unet", [&](auto& check) { check_unet(check, model); });
    part("denoise", [&](auto& check) { check_denoise(check, model); });
    part("vae", [&](auto& check) { check_vae(check, model); });
    part("clip_l", [&](auto& check) { check_clip(check, model, Component::ClipL); });
  });
}

void check_sdxl_forward(const std::string& directory, GoldenReport& report, const Forward& on) {
  const char* model = "tiny_sdxl.safetensors";
  check_file(directory, "sdxl_forward.safetensors", report, on, [&](auto part) {
    part("unet", [&](auto& check) { check_unet(check, model); });
    part("vae", [&](auto& check) { check_vae(check, model); });
    part("clip_l", [&](auto& check) { check_clip(check, model, Component::ClipL); });
    part("clip_g", [&](auto& check) { check_clip(check, model, Component::ClipG); });
    part("adm", [&](auto& check) { check_size_vector(check); });
  });
}

void check_flux_forward(const std::string& directory, GoldenReport& report, const Forward& on) {
  check_file(directory, "flux_forward.safetensors", report, on, [&](auto part) {
    part("transformer", [&](auto& check) { check_flux(check, "tiny_flux_dev.safetensors"); });
    part("t5", [&](auto& check) { check_t5(check, "tiny_t5xxl.safetensors"); });
    // FLUX takes the CLIP-L of any model.
    part("clip_l", [&](auto& check) { check_clip(check, "tiny_sd15.safetensors", Component::ClipL); });
    part("vae", [&](auto& check) { check_vae(check, "tiny_flux_ae.safetensors"); });
  });
}

}  // namespace sinter::golden
