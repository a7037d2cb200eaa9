#pragma once
#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>

// What a card says of its clock while something runs: figures of a card that is slowed down are no figures of a program.

namespace sinter {

struct DeviceState {
  unsigned mhz = 0, watts = 0;
  std::string held_back_by;  ///< what keeps the clock down: "power limit", "heat"; empty: nothing

  std::string text() const {
    return fmt::format("at {} MHz, {} W{}{}", mhz, watts, held_back_by.empty() ? "" : ", held back by ", held_back_by);
  }
};

/// Asks NVIDIA's management library, which comes with the driver; says nothing where that is missing.
class DeviceMonitor {
 public:
  /// pci: "0000:65:00.0"
  explicit DeviceMonitor(const std::string& pci) : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    int (*start)() = nullptr;
    int (*find)(const char*, void**) = nullptr;
    const bool found = get(start, "nvmlInit_v2") && get(stop_, "nvmlShutdown") && get(find, "nvmlDeviceGetHandleByPciBusId_v2") &&
                       get(clock_, "nvmlDeviceGetClockInfo") && get(power_, "nvmlDeviceGetPowerUsage") &&
                       get(reasons_, "nvmlDeviceGetCurrentClocksThrottleReasons");
    started_ = found && start() == 0;
    if (!started_ || find(pci.c_str(), &device_) != 0) device_ = nullptr;
  }
  ~DeviceMonitor() {
    if (started_) stop_();
    if (library_) dlclose(library_);
  }
  DeviceMonitor(const DeviceMonitor&) = delete;
  DeviceMonitor& operator=(const DeviceMonitor&) = delete;

  std::optional<DeviceState> state() const {
    constexpr int kMultiprocessors = 1;  // NVML_CLOCK_SM
    DeviceState state;
    unsigned milliwatts = 0;
    unsigned long long reasons = 0;
    if (!device_ || clock_(device_, kMultiprocessors, &state.mhz) || power_(device_, &milliwatts) || reasons_(device_, &reasons))
      return {};
    state.watts = milliwatts / 1000;
    for (const auto& [bits, name] : kReasons)
      if (reasons & bits) state.held_back_by += (state.held_back_by.empty() ? "" : " and ") + std::string(name);
    return state;
  }

 private:
  static constexpr std::array<std::pair<unsigned, std::string_view>, 4> kReasons = {
      {{0x04, "the power limit"}, {0x20 | 0x40, "heat"}, {0x80, "the power supply"}, {0x08, "the hardware"}}};

  template <class Function>
  bool get(Function& function, const char* name) const {
    if (library_) function = reinterpret_cast<Function>(dlsym(library_, name));
    return function != nullptr;
  }

  void* library_;
  void* device_ = nullptr;
  bool started_ = false;
  int (*stop_)() = nullptr;
  int (*clock_)(void*, int, unsigned*) = nullptr;
  int (*power_)(void*, unsigned*) = nullptr;
  int (*reasons_)(void*, unsigned long long*) = nullptr;
};

}  // namespace sinter
