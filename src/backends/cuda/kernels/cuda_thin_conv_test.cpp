#define SINTER_DEVICE_EMULATION
#include <doctest/doctest.h>

#include <cmath>

#include "backends/cuda/kernels/test_targets.h"
#include "backends/cuda/kernels/thin_conv.h"
#include "backends/cuda/kernels/thin_conv_bf16.device.cpp"
#include "backends/cuda/kernels/thin_conv_f16.device.cpp"

namespace sinter::cuda {
namespace {

DeviceInfo ampere() {
  DeviceInfo device;
  device.name = "an Ampere";
  device.capability_major = 8;
  device.shared_bytes = 99 * 1024;
  return device;
}

struct Case {
  int64_t n, h, w, c, out_c;
  int kernel_h = 3, kernel_w = 3, top = 1, left = 1, bottom = 1, right = 1;
  bool bias = true;
  ThinTile tile = {};
};

/// The largest error of any result, in units of what rounding it once and adding `length` products of about 1 in f32 lose; and
/// that every result was written.
void check(TestTarget& t, const Case& k, DType type) {
  CAPTURE(k.h);
  CAPTURE(k.w);
  CAPTURE(k.c);
  CAPTURE(k.out_c);
  CAPTURE(k.kernel_h);
  CAPTURE(k.tile.h);
  CAPTURE(name(type));
  ConvCall call{.n = k.n, .h = k.h, .w = k.w, .c = k.c, .out_c = k.out_c, .kernel_h = k.kernel_h, .kernel_w = k.kernel_w};
  call.pad_top = k.top, call.pad_left = k.left, call.pad_bottom = k.bottom, call.pad_right = k.right;
  call.type = call.epilogue.out_type = call.epilogue.bias_type = type;
  const int64_t oh = call.out_h(), ow = call.out_w(), length = k.kernel_h * k.kernel_w * k.c, results = k.n * oh * ow * k.out_c;
  auto values = [&](int64_t count, uint32_t seed) { return rounded(random_values(size_t(count), seed), type); };
  const auto in = values(k.n * k.h * k.w * k.c, 1), filters = values(k.out_c * length, 2), bias = values(k.out_c, 3);
  call.in = t.upload(encode(in, type)), call.filters = t.upload(encode(filters, type));
  if (k.bias) call.epilogue.bias = t.upload(encode(bias, type));
  call.epilogue.out = t.untouched(results * 2);
  CHECK(why_no_thin_conv(call, ampere()).empty());
  thin_conv(t, call, k.tile);
  const auto seen = decode(t.download<uint8_t>(call.epilogue.out, size_t(results * 2)), type);
  const double step = type == DType::bf16 ? 0x1p-8 : 0x1p-11;
  double worst = 0;
  for (int64_t i = 0; i < results; ++i) {
    const int64_t o = i % k.out_c, x = i / k.out_c % ow, y = i / k.out_c / ow % oh, n = i / k.out_c / ow / oh;
    double sum = k.bias ? double(bias[size_t(o)]) : 0;
    for (int64_t dy = 0; dy < k.kernel_h; ++dy)
      for (int64_t dx = 0; dx < k.kernel_w; ++dx) {
        const int64_t from_y = y + dy - k.top, from_x = x + dx - k.left;
        if (from_y < 0 || from_y >= k.h || from_x < 0 || from_x >= k.w) continue;
        const float* pixel = in.data() + ((n * k.h + from_y) * k.w + from_x) * k.c;
        const float* filter = filters.data() + ((o * k.kernel_h + dy) * k.kernel_w + dx) * k.c;
        for (int64_t c = 0; c < k.c; ++c) sum += double(pixel[c]) * double(filter[c]);
      }
    const double allowed = std::fabs(sum) * step + std::sqrt(double(length)) * 3e-6 + double(length) * 0x1p-23 + 1e-6;
    const double error = std::fabs(double(seen[size_t(i)]) - sum) / allowed;
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  CHECK(worst < 1);
}

TEST_CASE("convolutions of few inputs agree with f64 for channels, windows, paddings and edges of every kind") {
  on_each_target([](TestTarget& t) {
    for (DType type : {DType::bf16, DType::f16}) {
      check(t, {2, 9, 11, 4, 64}, type);
      check(t, {1, 8, 16, 4, 40, 3, 3, 1, 1, 1, 1, false}, type);          // filters that fill no warp
      check(t, {1, 5, 7, 3, 24}, type);                                    // an odd number of channels
      check(t, {2, 10, 9, 9, 72}, type);                                   // a mask and a masked picture beside the latent
      check(t, {1, 6, 20, 4, 328, 3, 3, 1, 1, 1, 1, true, {2, 8}}, type);  // two blocks of filters
      check(t, {1, 12, 9, 10, 32, 3, 3, 0, 2, 1, 0, true, {8, 8}}, type);
      check(t, {1, 7, 6, 6, 16, 2, 4, 1, 0, 0, 3}, type);
      check(t, {1, 3, 3, 1, 8, 5, 5, 2, 2, 2, 2}, type);
    }
  });
}

TEST_CASE("convolutions of few outputs agree with f64 for channels, windows, paddings and edges of every kind") {
  on_each_target([](TestTarget& t) {
    for (DType type : {DType::bf16, DType::f16}) {
      check(t, {2, 9, 11, 32, 4}, type);
      check(t, {1, 10, 8, 128, 3, 3, 3, 1, 1, 1, 1, false}, type);
      check(t, {1, 5, 7, 40, 3, 3, 3, 1, 1, 1, 1, true, {8, 16}},
            type);  // channels that fill no 32; a tile larger than the picture
      check(t, {2, 12, 9, 168, 4, 3, 3, 1, 1, 1, 1, true, {4, 8}}, type);
      check(t, {1, 17, 33, 8, 1, 5, 5, 2, 1, 0, 3, true, {16, 32}}, type);
      check(t, {1, 6, 9, 16, 9, 2, 2, 1, 0, 0, 1}, type);
      check(t, {1, 4, 30, 24, 2, 1, 9, 0, 4, 0, 4}, type);
    }
  });
}

TEST_CASE("convolutions of few channels as models have them, on a device") {
  TestDevice* device = test_device();
  if (!device) return;
  DeviceTarget t(*device);
  for (DType type : {DType::bf16, DType::f16}) {
    check(t, {2, 64, 64, 4, 320}, type);
    check(t, {2, 104, 152, 4, 320}, type);
    check(t, {1, 64, 64, 9, 320}, type);
    check(t, {1, 128, 96, 4, 512}, type);
    check(t, {1, 200, 136, 3, 128}, type);
    check(t, {2, 64, 64, 320, 4}, type);
    check(t, {2, 104, 152, 320, 4}, type);
    check(t, {1, 500, 300, 128, 3}, type);
  }
}

TEST_CASE("a border of infinities beside a window does not change what few inputs become") {
  // What fills a window's row up to whole products has to be zero on both sides: 0 times infinity is not.
  EmulatedTarget t;
  std::vector<float> in(8 * 16 * 4, 1.f), filters(8 * 36, 1.f);
  for (size_t i = 0; i < in.size(); ++i)
    if (i / 4 % 16 >= 8) in[i] = INFINITY;
  ConvCall call{.h = 8, .w = 16, .c = 4, .out_c = 8};
  call.in = t.upload(encode(in, DType::bf16)), call.filters = t.upload(encode(filters, DType::bf16));
  call.epilogue.out = t.untouched(8 * 16 * 8 * 2);
  thin_conv(t, call);
  const auto seen = decode(t.download<uint8_t>(call.epilogue.out, 8 * 16 * 8 * 2), DType::bf16);
  for (size_t i = 0; i < seen.size(); ++i) {
    const size_t x = i / 8 % 16, y = i / 8 / 16;
    const bool at_edge = y == 0 || y == 7, left = x == 0;
    CHECK(seen[i] == (x >= 7 ? INFINITY : float(4 * (at_edge ? 2 : 3) * (left ? 2 : 3))));
  }
}

TEST_CASE("convolutions that have no kernel for few channels are refused for their reason") {
  auto why = [](const std::function<void(ConvCall&)>& change, int capability = 8) {
    ConvCall call{.n = 1, .h = 64, .w = 64, .c = 4, .out_c = 320};
    call.in = call.filters = call.epilogue.out = 4096;
    change(call);
    DeviceInfo device = ampere();
    device.capability_major = capability;
    return why_no_thin_conv(call, device);
  };
  auto contains = [](const std::string& text, const char* part) { return text.find(part) != text.npos; };
  CHECK(why([](ConvCall&) {}).empty());
  CHECK(contains(why([](ConvCall& c) { c.type = c.epilogue.out_type = DType::f32; }), "f32"));
  CHECK(contains(why([](ConvCall& c) { c.c = 8; }), "8 to 320 channels"));
  CHECK(contains(why([](ConvCall& c) { c.c = 12; }), "12 to 320 channels"));
  CHECK(contains(why([](ConvCall& c) { c.c = 320, c.out_c = 5; }), "320 to 5 channels"));
  CHECK(contains(why([](ConvCall& c) { c.out_c = 323; }), "4 to 323 channels"));
  CHECK(contains(why([](ConvCall& c) { c.stride = 2; }), "pixels"));
  CHECK(contains(why([](ConvCall& c) { c.epilogue.residual = 4096; }), "more than a bias"));
  CHECK(contains(why([](ConvCall& c) { c.epilogue.out_type = DType::f32; }), "another type"));
  CHECK(contains(why([](ConvCall& c) { c.in += 2; }), "16 bytes"));
  CHECK(contains(why([](ConvCall& c) { c.c = 4096, c.out_c = 4; }), "shared memory"));
  CHECK(contains(why([](ConvCall& c) { c.h = 1, c.pad_top = 0; }), "nothing"));
  CHECK(contains(why([](ConvCall&) {}, 7), "capability 8.0"));
}

}  // namespace
}  // namespace sinter::cuda
