#include "hardware/device_choice.h"

#include <charconv>

#include "base/error.h"
#include "compiler/kernel/gpu_row_kernel.h"

namespace sinter {

DeviceRequest parse_device(std::string_view text) {
  using Kind = DeviceRequest::Kind;
  if (text == "auto") return {Kind::Auto, {}};
  if (text == "cpu") return {Kind::Cpu, {}};
  if (text == "cuda") return {Kind::Cuda, {}};
  constexpr std::string_view kPrefix = "cuda:";
  if (text.starts_with(kPrefix)) {
    int ordinal = -1;
    const char* end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data() + kPrefix.size(), end, ordinal);
    if (error == std::errc() && stop == end && ordinal >= 0) return {Kind::Cuda, ordinal};
  }
  fail(Code::InvalidArgument, "the device \"{}\" is not known: give auto, cpu, cuda or cuda:N (sinter devices lists them)", text);
}

std::string DeviceChoice::text() const { return kind == Kind::Cpu ? "cpu" : fmt::format("cuda:{}", ordinal); }

std::string why_unsupported(const cuda::DeviceInfo& device) {
  if (device.capability() < 80)
    return fmt::format("its compute capability {}.{} is below 8.0 (Ampere), which the kernels need", device.capability_major,
                       device.capability_minor);
  const int needed = gpu_target(device.capability()).cuda_version();
  if (device.cuda_version >= needed) return {};
  return fmt::format("the NVIDIA driver{} knows CUDA {}, and code for compute capability {}.{} needs {}; update the driver",
                     device.driver_version.empty() ? "" : " " + device.driver_version,
                     cuda::cuda_version_text(device.cuda_version), device.capability_major, device.capability_minor,
                     cuda::cuda_version_text(needed));
}

namespace {

DeviceChoice numbered(int ordinal, std::span<const cuda::DeviceInfo> devices) {
  const size_t count = devices.size();
  if (size_t(ordinal) >= count)
    fail(Code::NotFound, "cuda:{}: there {} {} CUDA device{}", ordinal, count == 1 ? "is" : "are", count, count == 1 ? "" : "s");
  if (std::string why = why_unsupported(devices[size_t(ordinal)]); !why.empty())
    fail(Code::Unsupported, "cuda:{} ({}) cannot be used: {}", ordinal, devices[size_t(ordinal)].name, why);
  return {.kind = DeviceChoice::Kind::Cuda, .ordinal = ordinal};
}

}  // namespace

DeviceChoice choose_device(const DeviceRequest& request, std::span<const cuda::DeviceInfo> devices, const std::string& why_none) {
  if (request.kind == DeviceRequest::Kind::Cpu) return {};
  std::string why = why_none;
  if (!devices.empty() && request.ordinal) return numbered(*request.ordinal, devices);
  for (const cuda::DeviceInfo& d : devices) {
    std::string reason = why_unsupported(d);
    if (reason.empty()) return {.kind = DeviceChoice::Kind::Cuda, .ordinal = d.ordinal};
    why += fmt::format("{}cuda:{} ({}) cannot be used: {}", why.empty() ? "" : "; ", d.ordinal, d.name, reason);
  }
  if (request.kind == DeviceRequest::Kind::Auto) return {.why_not_cuda = why};
  if (devices.empty() && request.ordinal) fail(Code::NotFound, "cuda:{}: there are no CUDA devices: {}", *request.ordinal, why);
  fail(devices.empty() ? Code::NotFound : Code::Unsupported, "cuda: no CUDA device can be used: {}", why);
}

DeviceChoice choose_device(std::string_view text) {
  const DeviceRequest request = parse_device(text);
  if (request.kind == DeviceRequest::Kind::Cpu) return {};
  std::string why;
  const auto all = cuda::devices(&why);
  return choose_device(request, all, why);
}

}  // namespace sinter
