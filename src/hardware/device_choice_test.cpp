#include "hardware/device_choice.h"

#include <doctest/doctest.h>

#include "base/error.h"

namespace sinter {
namespace {

cuda::DeviceInfo device(int ordinal, int major, int minor) {
  cuda::DeviceInfo d;
  d.ordinal = ordinal;
  d.name = "Card";
  d.capability_major = major;
  d.capability_minor = minor;
  d.cuda_version = 12040;
  return d;
}

std::string refusal(std::string_view text, const std::vector<cuda::DeviceInfo>& all, Code code) {
  try {
    choose_device(parse_device(text), all, all.empty() ? "there is no NVIDIA driver" : "");
  } catch (const Error& e) {
    CHECK(int(e.code()) == int(code));
    return e.message();
  }
  FAIL("no error for " << text);
  return {};
}

std::string chosen(std::string_view text, const std::vector<cuda::DeviceInfo>& all) {
  return choose_device(parse_device(text), all, all.empty() ? "there is no NVIDIA driver" : "").text();
}

TEST_CASE("a device is auto, cpu, cuda or cuda with a number, and nothing else") {
  CHECK(parse_device("auto").kind == DeviceRequest::Kind::Auto);
  CHECK(parse_device("cpu").kind == DeviceRequest::Kind::Cpu);
  CHECK(!parse_device("cuda").ordinal);
  CHECK(parse_device("cuda:12").ordinal == 12);
  for (const char* wrong : {"", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda: 1", "cuda:99999999999", "cpu:0"})
    CHECK_THROWS_AS(parse_device(wrong), Error);
}

TEST_CASE("cuda and auto take the first device that the kernels run on") {
  const std::vector all = {device(0, 7, 5), device(1, 8, 6), device(2, 9, 0)};
  CHECK(chosen("auto", all) == "cuda:1");
  CHECK(chosen("cuda", all) == "cuda:1");
  CHECK(chosen("cuda:2", all) == "cuda:2");
  CHECK(chosen("cpu", all) == "cpu");
  CHECK(refusal("cuda:0", all, Code::Unsupported).find("7.5 is below 8.0") != std::string::npos);
}

TEST_CASE("a driver older than the code for its device is told with both versions") {
  cuda::DeviceInfo hopper = device(0, 9, 0), ampere = device(1, 8, 0);
  hopper.cuda_version = ampere.cuda_version = 11070;
  hopper.driver_version = "515.1";
  CHECK(refusal("cuda:0", {hopper}, Code::Unsupported)
            .find("driver 515.1 knows CUDA 11.7, and code for compute capability 9.0 needs 11.8") != std::string::npos);
  CHECK(chosen("auto", {hopper, ampere}) == "cuda:1");
  CHECK(choose_device(parse_device("auto"), std::vector{hopper}, "").why_not_cuda.find("update the driver") != std::string::npos);
}

TEST_CASE("auto falls back to the CPU and says why; cuda does not") {
  CHECK(chosen("auto", {}) == "cpu");
  CHECK(choose_device(parse_device("auto"), {}, "there is no NVIDIA driver").why_not_cuda == "there is no NVIDIA driver");
  const std::vector old = {device(0, 7, 0)};
  CHECK(chosen("auto", old) == "cpu");
  CHECK(choose_device(parse_device("auto"), old, "").why_not_cuda.find("cuda:0 (Card)") != std::string::npos);
  CHECK(refusal("cuda", {}, Code::NotFound).find("there is no NVIDIA driver") != std::string::npos);
  CHECK(refusal("cuda", old, Code::Unsupported).find("7.0 is below 8.0") != std::string::npos);
}

TEST_CASE("a number beyond the devices is refused with how many there are") {
  CHECK(refusal("cuda:3", {device(0, 9, 0)}, Code::NotFound) == "cuda:3: there is 1 CUDA device");
  CHECK(refusal("cuda:3", {device(0, 9, 0), device(1, 9, 0)}, Code::NotFound) == "cuda:3: there are 2 CUDA devices");
  CHECK(refusal("cuda:3", {}, Code::NotFound).starts_with("cuda:3: there are no CUDA devices: there is no NVIDIA driver"));
}

}  // namespace
}  // namespace sinter
