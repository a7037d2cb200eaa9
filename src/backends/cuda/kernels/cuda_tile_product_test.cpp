#define SINTER_DEVICE_EMULATION
#include <doctest/doctest.h>

#include <set>

#include "backends/cuda/kernels/test_product_cases.h"
#include "backends/cuda/kernels/test_targets.h"
#include "backends/cuda/kernels/tile_product.h"
#include "backends/cuda/kernels/tile_product_128_bf16.device.cpp"
#include "backends/cuda/kernels/tile_product_128_f16.device.cpp"
#include "backends/cuda/kernels/tile_product_160_bf16.device.cpp"
#include "backends/cuda/kernels/tile_product_160_f16.device.cpp"
#include "base/error.h"

namespace sinter::cuda {
namespace {

TileProductCall made_up(int64_t m, int64_t n, int64_t k) {
  TileProductCall call{.m = m, .n = n, .k = k};
  call.a = call.weights = call.out = 4096;
  return call;
}

TEST_CASE("the order of tiles makes every tile once") {
  for (int m : {1, 256, 257, 2048, 4608})
    for (int n : {8, 160, 640, 1288})
      for (int group : {1, 3, 8}) {
        const device::TileOrder order(m, n, 160, group);
        std::set<std::pair<int, int>> seen;
        for (int i = 0; i < order.pairs(); ++i) {
          const auto place = order.place(i);
          CHECK(place.pair_row * 2 * device::kTileRows < m);
          CHECK(place.column * 160 < n);
          seen.insert({place.pair_row, place.column});
        }
        CHECK(int(seen.size()) == order.pairs());
        CHECK(order.pair_rows * 2 * device::kTileRows >= m);
        CHECK(order.columns * 160 >= n);
      }
}

template <int kColumns>
void check_staged_rows() {
  using Rows = device::StagedRows<kColumns>;
  std::set<uint32_t> places;
  for (int row = 0; row < 32; ++row)
    for (int chunk = 0; chunk < Rows::kChunks; ++chunk) {
      CHECK(Rows::offset(row, chunk) < 32 * kColumns * 2);
      places.insert(Rows::offset(row, chunk));
    }
  CHECK(places.size() == size_t(32 * Rows::kChunks));
  for (int row = 0; row < 32; row += 8)
    for (int chunk = 0; chunk < Rows::kChunks; ++chunk) {
      std::set<uint32_t> banks;
      for (int i = 0; i < 8; ++i) banks.insert(Rows::offset(row + i, chunk) % 128);
      CHECK(banks.size() == 8);
      CHECK(Rows::offset(row + 8 - row % 8, chunk) - Rows::offset(row - row % 8, chunk) == 8 * kColumns * 2);
    }
}

TEST_CASE("staged rows have a place for every chunk, and eight rows of one lie in different banks") {
  check_staged_rows<64>();
  check_staged_rows<80>();
  check_staged_rows<128>();
  check_staged_rows<160>();
}

TEST_CASE("every form of tile fits into a block's shared memory, three stages deep or more") {
  for (const device::TileForm& form : tile_forms()) {
    CAPTURE(form.columns);
    CAPTURE(form.gated);
    CHECK(form.stages() >= 3);
    CHECK(form.shared_bytes() <= 227 * 1024);
  }
}

TEST_CASE("the form of tiles that fills the device's last round is taken") {
  constexpr int k160 = 0, k128 = 1;
  CHECK(tile_share(made_up(256 * 66, 160, 64), k160, 132) == 1);
  CHECK(tile_share(made_up(256 * 66 + 1, 160, 64), k160, 132) == doctest::Approx(0.5).epsilon(0.001));
  CHECK(tile_share(made_up(2048, 1280, 64), k160, 132) == doctest::Approx(64.0 / 66));
  CHECK(best_tile_form(made_up(2048, 1280, 1280), 132) == k160);
  CHECK(best_tile_form(made_up(4608, 3072, 3072), 132) == k128);
}

TEST_CASE("tile products say why they cannot do a call") {
  const TileProductCall good = made_up(2048, 1280, 1280);
  CHECK(why_no_tile_product(good, hopper()) == "");
  const auto refused = refusals<TileProductCall>(good, why_no_tile_product);
  refused([](auto&, auto& d) { d.capability_major = 8; }, "capability 9.0");
  refused([](auto&, auto& d) { d.capability_major = 10; }, "capability 9.0");
  refused([](auto&, auto& d) { d.cuda_version = 11080; }, "CUDA 12.0");
  refused([](auto& c, auto&) { c.type = DType::f32; }, "f32");
  refused([](auto& c, auto&) { c.n = 1284; }, "1284");
  refused([](auto& c, auto&) { c.a += 8; }, "16 bytes");
  refused([](auto& c, auto&) { c.out_stride = 1284; }, "16 bytes");
  refused([](auto& c, auto&) { c.gated = c.gelu = true; }, "gated");
}

TEST_CASE("a tile product is launched with an even number of blocks, no more than there are tiles or multiprocessors") {
  for (int form = 0; form < int(tile_forms().size()); ++form) {
    for (int64_t m : {16, 2048, 8192}) {
      TileProductCall call = made_up(m, 640, 320);
      call.gated = tile_forms()[size_t(form)].gated;
      const TileProduct made = tile_product_without_maps(call, form, 132);
      const device::TileOrder order(int(m), 640, tile_forms()[size_t(form)].out_columns(), 8);
      CHECK(made.shape.grid.x % 2 == 0);
      CHECK(int(made.shape.grid.x) == std::min(132, 2 * order.pairs()));
      const std::string module = made.kernel.substr(0, made.kernel.find("__")) + " (sm_90a)";
      CHECK(Kernels::all_ptx().at(module).find(".entry " + made.kernel + "(") != std::string_view::npos);
    }
  }
}

constexpr int kEmulatedMultiprocessors = 2;  // one pair of blocks makes all tiles

/// Null where there is no such device, after saying so.
TestDevice* hopper_device() {
  return test_device_that([](const DeviceInfo& device) { return why_no_tile_product(made_up(128, 128, 64), device); });
}

/// The maps that emulated copies read.
TileProduct emulated_product(const TileProductCall& c, int form, int multiprocessors) {
  TileProduct made = tile_product_without_maps(c, form, multiprocessors);
  const device::EmulatedMap a{c.a, c.m, c.k, c.a_stride, device::kTileRows, false};
  const device::EmulatedMap weights{
      c.weights, c.gated ? 2 * c.n : c.n, c.k, c.weights_stride, tile_forms()[size_t(form)].columns / 2, c.early_weights};
  std::memcpy(made.maps.a, &a, sizeof a);
  std::memcpy(made.maps.weights, &weights, sizeof weights);
  return made;
}

void check_product(TestTarget& target, const TileProductCall& call, int form, bool bias, bool adds, bool in_place = false) {
  const device::TileForm& f = tile_forms()[size_t(form)];
  CAPTURE(f.columns);
  CAPTURE(f.gated);
  CAPTURE(name(call.type));
  CAPTURE(call.m);
  CAPTURE(call.n);
  CAPTURE(call.k);
  CAPTURE(bias);
  CAPTURE(adds);
  CAPTURE(call.gelu);
  ProductCase c(target, call, bias, adds);
  if (in_place) {
    std::vector<float> held(size_t(c.out_count), NAN);
    c.residual = rounded(random_values(size_t(c.call.m * c.call.out_stride), 5), call.type);
    for (int64_t r = 0; r < c.call.m; ++r)
      for (int64_t i = 0; i < c.call.n; ++i)
        held[size_t(r * c.call.out_stride + i)] = c.residual[size_t(r * c.call.out_stride + i)];
    c.call.out = target.upload(encode(held, call.type));
    c.call.residual = c.call.out, c.call.residual_stride = c.call.out_stride;
  }
  check_results(target, c,
                target.emulated() ? emulated_product(c.call, form, kEmulatedMultiprocessors)
                                  : tile_product(c.call, form, target.multiprocessors()));
}

TEST_CASE("emulated tile products of every form and epilogue agree with sums in double, over several rounds of tiles") {
  for (int form = 0; form < int(tile_forms().size()); ++form) {
    EmulatedTarget target;
    TileProductCall call{.m = 300, .n = 328, .k = 456, .type = form % 2 ? DType::f16 : DType::bf16};
    call.gated = tile_forms()[size_t(form)].gated;
    call.out_stride = 336, call.residual_stride = 344, call.a_stride = 464;
    check_product(target, call, form, true, !call.gated);
    call.early_weights = true;
    check_product(target, call, form, true, false);
    call.m = 7, call.n = 168, call.k = 40, call.scale = 0.5f, call.gelu = !call.gated;
    check_product(target, call, form, true, false);
  }
}

TEST_CASE("tile products of every form, type and epilogue agree with sums in double") {
  TestDevice* device = hopper_device();
  if (!device) return;
  for (int form = 0; form < int(tile_forms().size()); ++form)
    for (DType type : {DType::bf16, DType::f16}) {
      DeviceTarget target(*device);
      TileProductCall call{.m = 300, .n = 328, .k = 200, .type = type};
      call.gated = tile_forms()[size_t(form)].gated;
      check_product(target, call, form, false, false);
      call.scale = 0.5f, call.early_weights = true;
      check_product(target, call, form, true, false);
      if (call.gated) continue;
      check_product(target, call, form, true, true);
      check_product(target, call, form, false, true, true);
      call.gelu = true;
      check_product(target, call, form, true, false);
    }
}

TEST_CASE("tile products of any size, more tiles than blocks, and slices of wider rows are right") {
  TestDevice* device = hopper_device();
  if (!device) return;
  struct Size {
    int64_t m, n, k;
  };
  for (int form = 0; form < int(tile_forms().size()); ++form)
    for (Size s : {Size{1, 8, 8}, Size{128, 160, 64}, Size{129, 640, 72}, Size{2048, 1280, 1280}, Size{5000, 1928, 328}}) {
      DeviceTarget target(*device);
      TileProductCall call{.m = s.m, .n = s.n, .k = s.k};
      call.gated = tile_forms()[size_t(form)].gated;
      check_product(target, call, form, true, !call.gated);
      call.a_stride = s.k + 8, call.weights_stride = s.k + 24, call.out_stride = s.n + 40, call.residual_stride = s.n + 16;
      if (s.m < 2000) check_product(target, call, form, true, !call.gated);
    }
}

TEST_CASE("products that begin early read what the one before wrote, and write over what it read only then") {
  TestDevice* device = hopper_device();
  if (!device) return;
  constexpr int64_t kRows = 4096, kWidth = 320;
  for (int form = 0; form < int(tile_forms().size()); ++form) {
    if (tile_forms()[size_t(form)].gated) continue;
    DeviceTarget target(*device);
    auto random = [&](int64_t rows, uint32_t seed, float spread) {
      return target.upload(encode(random_values(size_t(rows * kWidth), seed, spread), DType::bf16));
    };
    const DevicePtr first = random(kRows, 1, 1), second = target.untouched(kRows * kWidth * 2);
    auto product = [&](DevicePtr from, DevicePtr to, uint32_t seed) {
      TileProductCall call{.m = kRows, .n = kWidth, .k = kWidth};
      call.a = from, call.out = to, call.weights = random(kWidth, seed, 0.05f), call.early_weights = true;
      return tile_product(call, form, target.multiprocessors());
    };
    const TileProduct there = product(first, second, 2), back = product(second, first, 3);
    auto run = [&](bool one_by_one) {
      for (int i = 0; i < 10; ++i)
        for (const TileProduct* p : {&there, &back}) {
          p->launch(target);
          if (one_by_one) device->stream.synchronize();
        }
      return target.download<uint8_t>(first, size_t(kRows * kWidth * 2));
    };
    const auto start = target.download<uint8_t>(first, size_t(kRows * kWidth * 2));
    const auto expected = run(true);
    copy_to_device(first, start.data(), int64_t(start.size()), device->stream);
    device->stream.synchronize();
    CHECK(run(false) == expected);
  }
}

}  // namespace
}  // namespace sinter::cuda
