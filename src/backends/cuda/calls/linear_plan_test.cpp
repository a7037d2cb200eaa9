#include "backends/cuda/calls/linear.h"

#include <doctest/doctest.h>

#include "backends/cuda/test_device.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

TEST_CASE("a dense batch over shared weights is one product of more rows") {
  LinearShape s{.m = 77, .n = 640, .k = 768, .batch = 2, .a_batch = 77 * 768, .weights_batch = 0, .out_batch = 77 * 640};
  LinearShape f = normalised(s);
  CHECK(f.batch == 1);
  CHECK(f.m == 154);
  CHECK(f.flops() == s.flops());
  s.weights_batch = 640 * 768;
  CHECK(normalised(s).batch == 2);
  s.weights_batch = 0;
  s.out_batch = 80 * 640;
  CHECK(normalised(s).batch == 2);
}

TEST_CASE("two linear shapes with the same name are the same shape") {
  LinearShape base = normalised({.m = 4, .n = 8, .k = 16, .batch = 3, .a_batch = 64, .weights_batch = 128, .out_batch = 40});
  auto differs = [&](auto change) {
    LinearShape other = base;
    change(other);
    CHECK(other.text() != base.text());
  };
  differs([](LinearShape& s) { s.m = 5; });
  differs([](LinearShape& s) { s.a = DType::f16; });
  differs([](LinearShape& s) { s.weights = DType::f16; });
  differs([](LinearShape& s) { s.out = DType::f32; });
  differs([](LinearShape& s) { s.a_stride = 17; });
  differs([](LinearShape& s) { s.weights_stride = 17; });
  differs([](LinearShape& s) { s.out_stride = 17; });
  differs([](LinearShape& s) { s.weights_are_kn = true; });
  differs([](LinearShape& s) { s.epilogue = LinearEpilogue::BiasGelu; });
  differs([](LinearShape& s) { s.residual = true; });
  differs([](LinearShape& s) { s.gated = true; });
  differs([](LinearShape& s) { s.compute = LinearCompute::TF32; });
  differs([](LinearShape& s) { s.a_batch = 0; });
  differs([](LinearShape& s) { s.weights_batch = 0; });
  differs([](LinearShape& s) { s.alignment = 16; });
}

TEST_CASE("sizes and strides that make no sense are refused") {
  CHECK_THROWS_WITH_AS(normalised({.m = 0, .n = 1, .k = 1}), doctest::Contains("sizes must be positive"), Error);
  CHECK_THROWS_WITH_AS(normalised({.m = 2, .n = 8, .k = 8, .a_stride = 4}), doctest::Contains("rows overlap"), Error);
  CHECK_THROWS_WITH_AS(normalised({.m = 2, .n = 8, .k = 8, .weights_stride = 4}), doctest::Contains("rows of the weights"),
                       Error);
}

TEST_CASE("untimed, kernels of ours are taken for GEGLU and residuals whose tiles fill the device, or where k is split") {
  auto wins = [](const LinearShape& shape) { return tile_product_should_win(shape, hopper()); };
  auto gated = [](int64_t m, int64_t n, int64_t k) {
    return LinearShape{.m = m, .n = n, .k = k, .epilogue = LinearEpilogue::Bias, .gated = true};
  };
  auto with_residual = [](int64_t m, int64_t n, int64_t k) {
    return LinearShape{.m = m, .n = n, .k = k, .epilogue = LinearEpilogue::Bias, .residual = true};
  };
  CHECK(wins(gated(2048, 5120, 1280)));
  CHECK(wins(gated(8192, 2560, 640)));
  CHECK(wins(gated(512, 5120, 1280)));
  CHECK(!wins(gated(128, 5120, 1280)));
  CHECK(wins(with_residual(2048, 1280, 1280)));
  CHECK(wins(with_residual(8192, 640, 2560)));
  CHECK(!wins(with_residual(2048, 640, 2560)));
  CHECK(!wins(with_residual(512, 1280, 1280)));
  CHECK(!wins(with_residual(128, 1280, 1280)));
  CHECK(wins(with_residual(128, 1280, 5120)));  // split
  CHECK(wins({.m = 128, .n = 1280, .k = 5120}));
  CHECK(!wins({.m = 1, .n = 1280, .k = 5120}));
  CHECK(!wins({.m = 2048, .n = 3840, .k = 1280}));
  LinearShape batches = gated(2048, 5120, 1280);
  batches.batch = 2, batches.a_batch = 2048 * 1280, batches.out_batch = 2048 * 5120;
  CHECK(wins(batches));  // rows that follow each other
  batches.out_batch *= 2;
  CHECK(!wins(batches));
  LinearShape narrow = gated(2048, 5120, 1280);
  narrow.alignment = 8;
  CHECK(!wins(narrow));
  DeviceInfo ampere = hopper();
  ampere.capability_major = 8;
  CHECK(!tile_product_should_win(gated(2048, 5120, 1280), ampere));
}

TEST_CASE("kernels of tile products are wanted for products that may be made by them, and for no others") {
  CHECK(tile_kernels(DType::bf16, true, false, false, hopper()) ==
        std::vector<std::string>{"tile_product_160_bf16__gated", "tile_product_128_bf16__gated"});
  CHECK(tile_kernels(DType::f16, false, true, false, hopper()).size() == 2);
  CHECK(tile_kernels(DType::bf16, false, false, true, hopper()).size() == 2);
  CHECK(tile_kernels(DType::bf16, false, false, false, hopper()).empty());
  CHECK(tile_kernels(DType::f32, false, true, true, hopper()).empty());
  DeviceInfo ampere = hopper();
  ampere.capability_major = 8;
  CHECK(tile_kernels(DType::bf16, true, false, false, ampere).empty());
}

}  // namespace
}  // namespace sinter::cuda
