#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "backends/cuda/calls/attention.h"
#include "backends/cuda/calls/conv.h"
#include "temporary_folder.h"

// What cuDNN can do on cards that are not here. It looks for a driver before it answers, so the questions are asked in a process
// of their own, whose loader finds the toolkit's stand-in for the driver; the driver of this machine, if any, is not touched.

namespace sinter::cuda {
namespace {

namespace fs = std::filesystem;
constexpr const char* kInside = "SINTER_TEST_WITH_DRIVER_STUB";
constexpr int kCapabilities[] = {80, 86, 89, 90};

/// The library in the process that may ask; null elsewhere.
const CudnnCalls* offline_cudnn() { return std::getenv(kInside) ? find_cudnn() : nullptr; }

AttentionShape dense(int64_t b, int64_t heads, int64_t queries, int64_t keys, int64_t d, DType type) {
  AttentionShape s{.b = b, .heads = heads, .queries = queries, .keys = keys, .d = d, .type = type};
  s.q = s.out = {queries * heads * d, heads * d, d};
  s.k = s.v = {keys * heads * d, heads * d, d};
  return s;
}

ConvShape conv(int64_t n, int64_t size, int64_t c, int64_t out_c, DType type) {
  return {.n = n, .c = c, .out_c = out_c, .axes = {{.in = size}, {.in = size}}, .type = type, .bias = true};
}

TEST_CASE("offline: attention of every head size of the models has an engine on every card" * doctest::skip()) {
  const CudnnCalls* calls = offline_cudnn();
  if (!calls) return;
  for (int capability : kCapabilities)
    for (DType type : {DType::bf16, DType::f16})
      for (int64_t d : {40, 64, 80, 128, 160, 512})
        for (int64_t keys : {1024, 77}) {
          AttentionShape s = dense(2, 4, 1024, keys, d, type);
          CHECK_MESSAGE(why_no_attention(*calls, s, capability) == "", s.text(), " on sm_", capability);
        }
}

/// The names of the proposals for a convolution of 320 channels.
std::vector<std::string> proposals_for(const CudnnCalls& calls, int64_t size) {
  constexpr int64_t kChannels = 320, kWindow = 3;
  auto tensor = [&](int64_t id, int64_t n, int64_t pixels) {
    return CudnnTensor{.id = id,
                       .sizes = {n, kChannels, pixels, pixels},
                       .strides = {pixels * pixels * kChannels, 1, pixels * kChannels, kChannels},
                       .type = CudnnType::BF16};
  };
  CudnnGraph graph(calls);
  const int x = graph.tensor(tensor(1, 2, size)), weights = graph.tensor(tensor(2, kChannels, kWindow));
  graph.convolution({.strides = {1, 1}, .dilations = {1, 1}, .pad_before = {1, 1}, .pad_after = {1, 1}}, x, weights,
                    graph.tensor(tensor(3, 2, size)));
  const CudnnObject described = graph.finish(nullptr);
  const DescribedDevice device = DescribedDevice::of(90);
  std::string why;
  std::vector<std::string> names;
  for (const CudnnObject& config : cudnn_configs(calls, described, {}, &device, why))
    names.push_back(cudnn_config_text(calls, config));
  return names;
}

TEST_CASE("offline: proposals for two sizes of a picture share names, which tell them apart within one size" * doctest::skip()) {
  const CudnnCalls* calls = offline_cudnn();
  if (!calls) return;
  const std::vector<std::string> large = proposals_for(*calls, 128), small = proposals_for(*calls, 112);
  const std::set<std::string> names(large.begin(), large.end());
  CHECK(names.size() > 3);
  CHECK(names.size() == large.size());
  CHECK(std::count_if(small.begin(), small.end(), [&](const std::string& name) { return names.contains(name); }) > 3);
  CHECK(large[0].find('=') != std::string::npos);
}

TEST_CASE("offline: attention from a fused product, with masks and with biases has an engine" * doctest::skip()) {
  const CudnnCalls* calls = offline_cudnn();
  if (!calls) return;
  for (int capability : kCapabilities) {
    AttentionShape fused = dense(1, 24, 4608, 4608, 128, DType::bf16);
    fused.q = fused.k = fused.v = {4608 * 9216, 9216, 128};
    fused.out = {4608 * 15360, 15360, 128};
    CHECK_MESSAGE(why_no_attention(*calls, fused, capability) == "", "fused on sm_", capability);
    for (DType type : {DType::bf16, DType::f16}) {
      AttentionShape clip = dense(1, 12, 77, 77, 64, type);
      clip.causal = true;
      CHECK_MESSAGE(why_no_attention(*calls, clip, capability) == "", clip.text(), " on sm_", capability);
      for (HeadStrides strides : {HeadStrides{0, 512, 0}, HeadStrides{0, 512, 512 * 512}, HeadStrides{512, 0, 0}})
        for (DType bias : {type, DType::f32}) {
          AttentionShape t5 = dense(2, 64, 512, 512, 64, type);
          t5.bias = AttentionBias{bias, strides};
          CHECK_MESSAGE(why_no_attention(*calls, t5, capability) == "", t5.text(), " on sm_", capability);
        }
    }
  }
}

TEST_CASE("offline: fp8 attention has an engine on Hopper and a reason elsewhere" * doctest::skip()) {
  const CudnnCalls* calls = offline_cudnn();
  if (!calls) return;
  AttentionShape s = dense(1, 24, 4608, 4608, 128, DType::f8e4m3);
  CHECK(why_no_fp8_attention(*calls, s, 90) == "");
  CHECK(why_no_fp8_attention(*calls, s, 89) != "");
  s.causal = true;
  CHECK(why_no_fp8_attention(*calls, s, 90) != "");
}

TEST_CASE("offline: the convolutions of the models have engines, alone and with what follows them" * doctest::skip()) {
  const CudnnCalls* calls = offline_cudnn();
  if (!calls) return;
  for (int capability : kCapabilities)
    for (DType type : {DType::bf16, DType::f16}) {
      std::vector<ConvShape> shapes = {conv(2, 64, 320, 320, type),   conv(2, 128, 320, 640, type),
                                       conv(2, 32, 1280, 1280, type), conv(2, 32, 2560, 1280, type),
                                       conv(1, 512, 256, 128, type),  conv(1, 1024, 128, 128, type)};
      ConvShape down = conv(2, 128, 320, 320, type);
      for (auto& a : down.axes) a.stride = 2;
      ConvShape encoder_down = conv(1, 512, 128, 128, type);
      for (auto& a : encoder_down.axes) a = {.in = 512, .stride = 2, .pad_before = 0, .pad_after = 1};
      // Latents and pictures have few channels.
      for (const auto& s : {down, encoder_down, conv(2, 64, 4, 320, type), conv(2, 64, 320, 4, type), conv(1, 512, 128, 3, type),
                            conv(1, 64, 16, 512, type)})
        shapes.push_back(s);
      for (const auto& s : shapes) CHECK_MESSAGE(why_no_conv(*calls, s, capability) == "", s.text(), " on sm_", capability);
      ConvShape fused = conv(2, 64, 640, 640, type);
      fused.residual = true;
      CHECK_MESSAGE(why_no_conv(*calls, fused, capability) == "", fused.text(), " on sm_", capability);
      fused.silu = true;
      CHECK_MESSAGE(why_no_conv(*calls, fused, capability) == "", fused.text(), " on sm_", capability);
      for (DType doubling : {type, DType::f32}) {
        ConvShape doubled = conv(1, 128, 512, 512, doubling);
        for (auto& a : doubled.axes) a.kernel = 4, a.stride = 2;
        doubled.doubles = true, doubled.bias = false;
        CHECK_MESSAGE(why_no_conv(*calls, doubled, capability) == "", doubled.text(), " on sm_", capability);
      }
      ConvShape video{.n = 1, .c = 96, .out_c = 96, .axes = {{.in = 4}, {.in = 120}, {.in = 208}}, .type = type, .bias = true};
      CHECK_MESSAGE(why_no_conv(*calls, video, capability) == "", video.text(), " on sm_", capability);
    }
}

TEST_CASE("offline: f32 without TF32 is never given to an engine with matrix units" * doctest::skip()) {
  const CudnnCalls* calls = offline_cudnn();
  if (!calls) return;
  for (int capability : kCapabilities) {
    ConvShape s = conv(1, 64, 320, 320, DType::f32);
    CHECK_MESSAGE(why_no_conv(*calls, s, capability) == "", s.text(), " on sm_", capability);
    s.allow_tf32 = true;
    CHECK_MESSAGE(why_no_conv(*calls, s, capability) == "", s.text(), " on sm_", capability);
    // All engines for f32 attention use TF32.
    AttentionShape a = dense(1, 8, 1024, 1024, 64, DType::f32);
    CHECK_MESSAGE(why_no_attention(*calls, a, capability).find("round more") != std::string::npos, "on sm_", capability);
    a.allow_tf32 = true;
    CHECK_MESSAGE(why_no_attention(*calls, a, capability) == "", "on sm_", capability);
  }
}

TEST_CASE("offline: what cuDNN cannot do has a reason in words" * doctest::skip()) {
  const CudnnCalls* calls = offline_cudnn();
  if (!calls) return;
  CHECK(why_no_attention(*calls, dense(1, 8, 64, 64, 40, DType::bf16), 75) != "");
  CHECK(why_no_attention(*calls, dense(1, 8, 64, 64, 36, DType::bf16), 90).find("36") != std::string::npos);
}

/// The toolkit's stand-in for libcuda, if it is installed.
fs::path driver_stub() {
  for (const auto& folder : LibraryPlaces::of_this_process().usual_folders())
    if (fs::exists(folder / "stubs/libcuda.so")) return folder / "stubs/libcuda.so";
  return {};
}

TEST_CASE("cuDNN supports the models' attention and convolutions on sm_80, 86, 89 and 90") {
  if (std::getenv(kInside)) return;
  std::string why;
  if (!find_cudnn(&why)) {
    MESSAGE("skipped: " << why);
    return;
  }
  fs::path stub = driver_stub();
  if (stub.empty()) {
    MESSAGE("skipped: cuDNN answers for other cards only beside the CUDA toolkit's stubs/libcuda.so, which was not found");
    return;
  }
  TemporaryFolder folder;
  fs::create_symlink(stub, folder / "libcuda.so.1");
  const char* path = std::getenv("LD_LIBRARY_PATH");
  std::string loader_path = folder.path().string() + (path ? std::string(":") + path : "");
  pid_t child = fork();
  if (child == 0) {
    setenv("LD_LIBRARY_PATH", loader_path.c_str(), 1);
    setenv(kInside, "1", 1);
    const char* asan = std::getenv("ASAN_OPTIONS");  // what the library leaks is not ours
    setenv("ASAN_OPTIONS", ((asan ? std::string(asan) + ":" : "") + "detect_leaks=0").c_str(), 1);
    execl("/proc/self/exe", "sinter_tests", "--no-skip", "--test-case=offline:*", "--no-intro", nullptr);
    _exit(127);
  }
  REQUIRE(child > 0);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace sinter::cuda
