#include <doctest/doctest.h>

#include <cstring>
#include <thread>

#include "backends/cuda/driver.h"
#include "backends/cuda/test_device.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

constexpr const char* kAddOne = R"(
.version 7.1
.target sm_80
.address_size 64
.visible .entry add_one(.param .u64 p, .param .u32 n, .param .f32 amount) {
  .reg .pred %q; .reg .b32 %r<6>; .reg .f32 %f<3>; .reg .b64 %a<4>;
  ld.param.u64 %a1, [p];
  ld.param.u32 %r1, [n];
  ld.param.f32 %f1, [amount];
  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
  mad.lo.u32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %q, %r5, %r1;
  @%q ret;
  cvta.to.global.u64 %a2, %a1;
  mad.wide.u32 %a3, %r5, 4, %a2;
  ld.global.f32 %f2, [%a3];
  add.f32 %f2, %f2, %f1;
  st.global.f32 [%a3], %f2;
  ret;
}
)";

std::string message_of(auto&& body, Code code) {
  try {
    body();
  } catch (const Error& e) {
    CHECK(int(e.code()) == int(code));
    return e.message();
  }
  FAIL("no error");
  return {};
}

TEST_CASE("a machine without CUDA devices gives a reason in words and no error") {
  std::string why;
  auto all = devices(&why);
  CHECK(all.empty() == !why.empty());
  if (all.empty()) {
    std::string message = message_of([] { Context context(0); }, Code::Unsupported);
    CHECK(message.find(why) != message.npos);
  }
}

TEST_CASE("a device that is not there is named together with how many there are") {
  if (!test_device()) return;
  std::string message = message_of([] { Context context(4711); }, Code::NotFound);
  CHECK(message.starts_with("cuda:4711: there "));
}

TEST_CASE("a device says what it is") {
  TestDevice* t = test_device();
  if (!t) return;
  const DeviceInfo& d = t->context.device();
  CHECK(!d.name.empty());
  CHECK(d.uuid.size() == 40);
  CHECK(d.capability() >= 50);
  CHECK(d.multiprocessors > 0);
  CHECK(d.max_threads >= 512);
  CHECK(d.total_bytes > int64_t(1) << 28);
  CHECK(d.shared_bytes >= 48 * 1024);
  CHECK(t->context.free_bytes() > 0);
  CHECK(t->context.free_bytes() <= d.total_bytes);
}

TEST_CASE("bytes come back from the device as they went there") {
  TestDevice* t = test_device();
  if (!t) return;
  PinnedMemory host(t->context, 1 << 20), back(t->context, 1 << 20);
  for (int i = 0; i < 1 << 20; ++i) host.data()[i] = std::byte(i * 7 + i / 251);
  DeviceMemory one(t->context, 1 << 20), two(t->context, 1 << 20);
  CHECK(one.address() % 256 == 0);
  copy_to_device(one.address(), host.data(), 1 << 20, t->stream);
  copy_on_device(two.address(), one.address(), 1 << 20, t->stream);
  fill_bytes(two.address() + 5, 0xab, 3, t->stream);
  copy_to_host(back.data(), two.address(), 1 << 20, t->stream);
  t->stream.synchronize();
  for (int i = 5; i < 8; ++i) CHECK(int(back.data()[i]) == 0xab);
  std::memcpy(back.data() + 5, host.data() + 5, 3);
  CHECK(std::memcmp(host.data(), back.data(), 1 << 20) == 0);
}

TEST_CASE("memory that nobody has is Code::OutOfMemory with the bytes asked for and free") {
  TestDevice* t = test_device();
  if (!t) return;
  std::string message = message_of([&] { DeviceMemory m(t->context, int64_t(1) << 46, "the arena"); }, Code::OutOfMemory);
  CHECK(message.find("the arena") != message.npos);
  CHECK(message.find("70368744177664") != message.npos);
  CHECK(message.find("free") != message.npos);
}

TEST_CASE("registered host memory copies correctly from an odd offset") {
  TestDevice* t = test_device();
  if (!t) return;
  std::vector<uint8_t> host(100001);
  for (size_t i = 0; i < host.size(); ++i) host[i] = uint8_t(i * 13);
  HostRegistration registration(t->context, host.data() + 3, 90001);
  if (!registration.active()) MESSAGE(registration.why_not());
  DeviceMemory memory(t->context, 90001);
  copy_to_device(memory.address(), host.data() + 3, 90001, t->stream);
  std::vector<uint8_t> back(90001);
  copy_to_host(back.data(), memory.address(), 90001, t->stream);
  t->stream.synchronize();
  CHECK(std::memcmp(back.data(), host.data() + 3, 90001) == 0);
}

TEST_CASE("PTX becomes machine code that runs, and a captured launch runs again as often as it is asked to") {
  TestDevice* t = test_device();
  if (!t) return;
  std::string cubin = compile_ptx(t->context, kAddOne, "add_one");
  Module module(t->context, cubin, "add_one");
  Function add_one = module.function("add_one");
  CHECK(add_one.registers() > 0);
  CHECK(add_one.blocks_per_multiprocessor(256, 0) > 0);
  constexpr int kCount = 1000;
  DeviceMemory memory(t->context, kCount * 4);
  fill_words(memory.address(), 0, kCount, t->stream);
  auto launch = [&] { add_one({{4}, {256}}, t->stream, memory.address(), uint32_t(kCount), 0.5f); };
  launch();
  Capture capture(t->stream);
  launch();
  launch();
  CapturedGraph graph = capture.finish();
  CHECK(graph.nodes() == 2);
  for (int i = 0; i < 3; ++i) graph.launch(t->stream);
  std::vector<float> back(kCount);
  copy_to_host(back.data(), memory.address(), kCount * 4, t->stream);
  t->stream.synchronize();
  CHECK(back == std::vector<float>(kCount, 3.5f));
}

TEST_CASE("a capture that is given up leaves the stream usable") {
  TestDevice* t = test_device();
  if (!t) return;
  DeviceMemory memory(t->context, 4);
  fill_words(memory.address(), 1, 1, t->stream);
  {
    Capture capture(t->stream);
    fill_words(memory.address(), 2, 1, t->stream);
  }
  uint32_t value = 0;
  copy_to_host(&value, memory.address(), 4, t->stream);
  t->stream.synchronize();
  CHECK(value == 1);
}

TEST_CASE("PTX with an error is refused with the compiler's log, and unknown code and kernels by name") {
  TestDevice* t = test_device();
  if (!t) return;
  std::string wrong = kAddOne;
  wrong.replace(wrong.find("add.f32"), 7, "adx.f32");
  std::string message = message_of([&] { compile_ptx(t->context, wrong, "wrong"); }, Code::Internal);
  CHECK(message.find("wrong") != message.npos);
  CHECK(message.find("line") != message.npos);
  std::string future = kAddOne;
  future.replace(future.find("7.1"), 3, "99.9");
  message = message_of([&] { compile_ptx(t->context, future, "future"); }, Code::Unsupported);
  CHECK(message.find("update the driver") != message.npos);
  message_of([&] { Module module(t->context, "no code at all", "garbage"); }, Code::Corrupt);
  Module module(t->context, compile_ptx(t->context, kAddOne, "add_one"), "add_one");
  CHECK(message_of([&] { module.function("add_two"); }, Code::NotFound).find("add_two") != std::string::npos);
}

TEST_CASE("events order two streams and measure time") {
  TestDevice* t = test_device();
  if (!t) return;
  Stream other(t->context);
  Event start(t->context, Event::Timing::Yes), middle(t->context), end(t->context, Event::Timing::Yes);
  DeviceMemory memory(t->context, 64 << 20);
  start.record(t->stream);
  for (int i = 0; i < 20; ++i) fill_words(memory.address(), uint32_t(i), 16 << 20, t->stream);
  middle.record(t->stream);
  other.wait(middle);
  uint32_t value = 0;
  copy_to_host(&value, memory.address() + (64 << 20) - 4, 4, other);
  end.record(other);
  end.synchronize();
  CHECK(value == 19);
  CHECK(end.reached());
  CHECK(middle.reached());
  CHECK(other.idle());
  CHECK(end.milliseconds_since(start) > 0);
}

TEST_CASE("memory may be released on a thread that has no current context") {
  TestDevice* t = test_device();
  if (!t) return;
  auto memory = std::make_unique<DeviceMemory>(t->context, 256 << 20);
  const int64_t before = t->context.free_bytes();
  std::thread([&] { memory.reset(); }).join();
  CHECK(t->context.free_bytes() > before);
}

}  // namespace
}  // namespace sinter::cuda
