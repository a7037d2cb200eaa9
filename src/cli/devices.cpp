#include <nlohmann/json.hpp>

#include "backends/cpu/host.h"
#include "backends/cuda/calls/libraries.h"
#include "backends/cuda/driver.h"
#include "cli/arguments.h"
#include "cli/json_output.h"
#include "cli/output.h"
#include "hardware/device_choice.h"
#include "hardware/memory.h"

namespace sinter {
namespace {

using nlohmann::ordered_json;

/// A library of the vendor, and what is used where it is missing.
struct Library {
  std::string name, version, path, problem, instead;
};

std::vector<Library> libraries() {
  std::vector<Library> all = {{.name = "cuBLASLt", .instead = "the built-in products"},
                              {.name = "cuDNN", .instead = "the built-in attention and convolutions"}};
  auto describe = [](Library& library, const auto* calls) {
    if (!calls) return;
    library.version = calls->version_text();
    library.path = calls->path;
  };
  describe(all[0], cuda::find_cublaslt(&all[0].problem));
  describe(all[1], cuda::find_cudnn(&all[1].problem));
  return all;
}

struct Support {
  std::string what;
  std::string why_not;  ///< empty where it is supported
};

/// What this device can do of what differs between devices.
std::vector<Support> support(const cuda::DeviceInfo& d, const std::vector<Library>& found) {
  const std::string capability = fmt::format("compute capability {}.{}", d.capability_major, d.capability_minor);
  auto from = [&](bool has, const char* needed) {
    return has ? std::string() : fmt::format("{} is below {}", capability, needed);
  };
  const bool has_cudnn = !found[1].version.empty();
  std::vector<Support> all = {
      {"f32", ""},
      {"f16", ""},
      {"bf16", from(d.has_bf16(), "8.0")},
      {"fp8 arithmetic", from(d.has_fp8(), "8.9") + (d.has_fp8() ? "" : "; fp8 weights are widened to bf16")},
      {"fp8 attention", d.has_fp8_attention() && !has_cudnn ? "it needs cuDNN" : from(d.has_fp8_attention(), "9.0")},
      {"attention heads of any size (fast: multiples of 8 up to 256)", ""}};
  const std::string problem = why_unsupported(d);
  for (Support& s : all)
    if (s.why_not.empty()) s.why_not = problem;
  return all;
}

std::string driver_text(const cuda::DeviceInfo& d) {
  std::string cuda = "CUDA " + cuda::cuda_version_text(d.cuda_version);
  return d.driver_version.empty() ? cuda : fmt::format("{} ({})", d.driver_version, cuda);
}

/// Asking costs a context (0.2 s); a device that others use exclusively refuses it.
int64_t free_bytes(const cuda::DeviceInfo& d, std::string& why_not) {
  try {
    return cuda::Context(d.ordinal).free_bytes();
  } catch (const Error& e) {
    why_not = e.message();
    return -1;
  }
}

ordered_json cpu_json() {
  const CpuFacts& cpu = host_cpu();
  return {{"device", "cpu"},          {"name", cpu.model},
          {"cores", cpu.cores},       {"available_bytes", available_memory_bytes()},
          {"avx2", cpu.level_avx2()}, {"avx512", cpu.level_avx512()},
          {"amx_bf16", cpu.amx_bf16}};
}

ordered_json library_json(const Library& library) {
  auto or_null = [](const std::string& text) { return text.empty() ? ordered_json() : ordered_json(text); };
  return {{"name", library.name},
          {"version", or_null(library.version)},
          {"path", or_null(library.path)},
          {"problem", library.version.empty() ? or_null(library.problem) : ordered_json()}};
}

ordered_json cuda_json(const cuda::DeviceInfo& d, const std::vector<Library>& found) {
  std::string problem = why_unsupported(d), no_context;
  const int64_t free = free_bytes(d, no_context);
  ordered_json supported = ordered_json::array(), missing = ordered_json::object();
  for (const Support& s : support(d, found)) {
    if (s.why_not.empty())
      supported.push_back(s.what);
    else
      missing[s.what] = s.why_not;
  }
  ordered_json object = {{"device", fmt::format("cuda:{}", d.ordinal)},
                         {"name", d.name},
                         {"uuid", d.uuid},
                         {"pci", d.pci},
                         {"capability", fmt::format("{}.{}", d.capability_major, d.capability_minor)},
                         {"multiprocessors", d.multiprocessors},
                         {"total_bytes", d.total_bytes},
                         {"free_bytes", free < 0 ? ordered_json() : ordered_json(free)},
                         {"l2_bytes", d.l2_bytes},
                         {"driver", d.driver_version},
                         {"cuda", cuda::cuda_version_text(d.cuda_version)},
                         {"supported", supported},
                         {"not_supported", missing}};
  if (problem.empty()) problem = no_context;
  object["problem"] = problem.empty() ? ordered_json() : ordered_json(problem);
  return object;
}

std::string cpu_text() {
  const CpuFacts& cpu = host_cpu();
  std::string instructions = cpu.level_avx512() ? "AVX-512" : cpu.level_avx2() ? "AVX2" : "no AVX2: only the interpreter runs";
  return table({{"cpu", cpu.model},
                {"", fmt::format("{} cores, {}{}", cpu.cores, instructions, cpu.amx_bf16 ? ", AMX" : "")},
                {"", human_bytes(uint64_t(available_memory_bytes())) + " of memory available"}});
}

std::string library_text(const Library& library) {
  if (!library.version.empty()) return fmt::format("{} {} ({})\n", library.name, library.version, library.path);
  return fmt::format("{}: not used, {} are: {}\n", library.name, library.instead, printable(library.problem, 2000));
}

std::string cuda_text(const cuda::DeviceInfo& d, const std::vector<Library>& found) {
  std::string no_context, supported;
  const std::string problem = why_unsupported(d);
  const int64_t free = free_bytes(d, no_context);
  std::vector<std::vector<std::string>> rows = {
      {fmt::format("cuda:{}", d.ordinal), d.name},
      {"",
       fmt::format("compute capability {}.{}, {} multiprocessors", d.capability_major, d.capability_minor, d.multiprocessors)},
      {"", fmt::format("{} of memory, {}", human_bytes(uint64_t(d.total_bytes)),
                       free < 0 ? "free: not known" : human_bytes(uint64_t(free)) + " free")},
      {"", "driver " + driver_text(d)}};
  for (const Support& s : support(d, found))
    if (s.why_not.empty()) supported += (supported.empty() ? "" : ", ") + s.what;
  if (!supported.empty()) rows.push_back({"", "supports " + supported});
  for (const Support& s : support(d, found))
    if (!s.why_not.empty() && s.why_not != problem) rows.push_back({"", fmt::format("no {}: {}", s.what, s.why_not)});
  for (const std::string& why : {problem, no_context})
    if (!why.empty()) rows.push_back({"", "cannot be used: " + printable(why)});
  return table(rows);
}

int run_devices(Arguments arguments) {
  Options options(devices_verb);
  bool json = false;
  options.add_json(json);
  options.parse_arguments(arguments);

  std::string why_no_cuda;
  const std::vector<cuda::DeviceInfo> gpus = cuda::devices(&why_no_cuda);
  const DeviceChoice automatic = choose_device(DeviceRequest{}, gpus, why_no_cuda);
  // Nobody else needs the libraries; opening them takes a while.
  const std::vector<Library> found = gpus.empty() ? std::vector<Library>() : libraries();
  if (json) {
    ordered_json all = {cpu_json()}, opened = ordered_json::array();
    for (const cuda::DeviceInfo& d : gpus) all.push_back(cuda_json(d, found));
    for (const Library& library : found) opened.push_back(library_json(library));
    print_json({{"devices", all},
                {"libraries", opened},
                {"auto", automatic.text()},
                {"why_no_cuda", why_no_cuda.empty() ? ordered_json() : ordered_json(why_no_cuda)}});
    return kSuccess;
  }
  print(cpu_text());
  for (const cuda::DeviceInfo& d : gpus) print(cuda_text(d, found));
  for (const Library& library : found) print(library_text(library));
  if (gpus.empty()) print(fmt::format("cuda   none: {}\n", why_no_cuda));
  print(fmt::format("--device auto takes {}\n", automatic.text()));
  return kSuccess;
}

}  // namespace

const Verb devices_verb = {.name = "devices", .summary = "The devices of this machine and what they support", .run = run_devices};

}  // namespace sinter
