#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "backends/cuda/driver.h"

namespace sinter {

/// What `--device` asks for: auto, cpu, cuda or cuda:N.
struct DeviceRequest {
  enum class Kind { Auto, Cpu, Cuda };
  Kind kind = Kind::Auto;
  std::optional<int> ordinal;  ///< of cuda:N
};

/// Code::InvalidArgument for anything else, with what there is.
DeviceRequest parse_device(std::string_view text);

/// The device that work runs on.
struct DeviceChoice {
  enum class Kind { Cpu, Cuda };
  Kind kind = Kind::Cpu;
  int ordinal = 0;           ///< of a CUDA device
  std::string why_not_cuda;  ///< set where auto fell back to the CPU, to be told once
  std::string text() const;  ///< "cpu", "cuda:0"
};

/// Why the CUDA backend cannot run on this device; empty where it can.
std::string why_unsupported(const cuda::DeviceInfo& device);

/// cuda and auto take the first device that is supported. Code::NotFound for a device that is not there, Code::Unsupported for
/// one that cannot be used. `why_none`: what cuda::devices() said if it found nothing.
DeviceChoice choose_device(const DeviceRequest& request, std::span<const cuda::DeviceInfo> devices, const std::string& why_none);
/// The same on this machine; the driver is not touched for `cpu`.
DeviceChoice choose_device(std::string_view text);

}  // namespace sinter
