// What LoRAs change is merged on the device as on the host.
#include "backends/cuda/product_table.h"

#include <cstring>

#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/kernels/test_targets.h"
#include "backends/cuda/schedules.h"
#include "base/rounding.h"
#include "fused_host.h"
#include "models/lora.h"
#include "tensor/random.h"

namespace sinter::cuda {
namespace {

struct Change {
  int64_t inner, begin, rows;
  DType type = DType::f16;
  DType down_type = type;
  double strength = 1;
};

/// LoRAs with one change each, of a weight of this shape.
LoraStack stack_of(const std::vector<Change>& changes, const std::vector<int64_t>& shape) {
  std::vector<AppliedLora> loras;
  for (const Change& c : changes) {
    auto file = std::make_shared<LoraFile>();
    LoraPatch patch;
    patch.place = {.component = Component::Denoiser, .weight = "w", .shape = shape, .begin = c.begin, .rows = c.rows};
    RandomGenerator random(uint64_t(loras.size() + 1));
    Tensor up = random.randn({c.rows, c.inner}), down = random.randn({c.inner, patch.place.columns()});
    patch.change = LowRankChange{.up = up.to(c.type), .down = down.to(c.down_type), .mid = {}};
    patch.scale = 0.3;
    file->patches.push_back(std::move(patch));
    loras.push_back({std::move(file), c.strength, 1});
  }
  return LoraStack(std::move(loras));
}

/// Parts one after the other, each at a multiple of kBufferAlignment.
std::vector<uint8_t> joined(const std::vector<Tensor>& parts) {
  std::vector<uint8_t> bytes;
  for (const Tensor& part : parts) {
    bytes.resize(size_t(round_up(int64_t(bytes.size()), kBufferAlignment)));
    const auto* from = reinterpret_cast<const uint8_t*>(part.data());
    bytes.insert(bytes.end(), from, from + part.bytes());
  }
  return bytes;
}

void check_merge(TestTarget& target, const std::vector<Change>& changes, const std::vector<int64_t>& shape, DType type) {
  ThreadPool pool(2);
  const LoraStack stack = stack_of(changes, shape);
  const Tensor original = RandomGenerator(99).randn(shape).to(type);
  const Tensor expected = stack.apply(Component::Denoiser, "w", original, pool, type);
  const auto products = stack.products(Component::Denoiser, "w", original);
  REQUIRE(products);
  // One row more behind the weight, which nobody may touch.
  const int64_t row = original.bytes() / shape[0];
  std::vector<uint8_t> bytes(size_t(original.bytes() + row), 0xff);
  std::memcpy(bytes.data(), original.data(), size_t(original.bytes()));
  const DevicePtr weight = target.upload(bytes);
  add_products(target, {.weight = weight,
                        .type = type,
                        .rows = shape[0],
                        .columns = original.count() / shape[0],
                        .table = target.upload(joined(product_table(*products))),
                        .products = int(products->size())});
  const auto seen = target.download<uint8_t>(weight, bytes.size());
  CHECK(std::all_of(seen.begin() + original.bytes(), seen.end(), [](uint8_t b) { return b == 0xff; }));
  if (host_fuses_sums()) {
    CHECK(std::memcmp(seen.data(), expected.data(), size_t(original.bytes())) == 0);
  } else {
    Tensor got(type, shape);
    std::memcpy(got.data(), seen.data(), size_t(original.bytes()));
    CHECK(relative_error(got.to(DType::f32), expected.to(DType::f32)) < 2e-3);
  }
  CHECK(std::memcmp(expected.data(), original.data(), size_t(original.bytes())) != 0);
}

constexpr DType kFiles[] = {DType::f32, DType::f16, DType::bf16};

TEST_CASE("the device adds a LoRA's products as the host does, bit for bit, in whatever sizes and types") {
  if (!host_fuses_sums()) MESSAGE("compared within a rounding: this build's host does not fuse products and sums");
  on_each_target([](TestTarget& t) {
    for (DType type : kFiles)
      for (DType factors : kFiles)
        for (auto [rows, inner, columns] :
             {std::array<int64_t, 3>{1, 2, 1}, {7, 3, 17}, {65, 16, 264}, {33, 9, 600}, {64, 40, 320}}) {
          CAPTURE(name(type));
          CAPTURE(name(factors));
          CAPTURE(columns);
          check_merge(t, {{inner, 0, rows, factors}}, {rows, columns}, type);
        }
  });
}

TEST_CASE("several LoRAs on one weight are rounded once, in order, each on its own rows") {
  on_each_target([](TestTarget& t) {
    for (DType type : kFiles)
      check_merge(t,
                  {{8, 0, 30}, {4, 10, 10, DType::bf16}, {3, 20, 10, DType::f32}, {5, 1, 3, DType::f16, DType::f32}, {16, 0, 30}},
                  {30, 48}, type);
  });
}

TEST_CASE("a LoRA of strength 0 beside others changes nothing, and a negative one takes away") {
  on_each_target([](TestTarget& t) {
    check_merge(t, {{8, 0, 30}, {8, 0, 30, DType::f16, DType::f16, 0}}, {30, 48}, DType::bf16);
    check_merge(t, {{8, 0, 30, DType::f16, DType::f16, -0.7}}, {30, 48}, DType::bf16);
    const LoraStack none = stack_of({{8, 0, 30, DType::f16, DType::f16, 0}}, {30, 48});
    CHECK_FALSE(none.products(Component::Denoiser, "w", Tensor(DType::f16, {30, 48})));
  });
}

TEST_CASE("a LoRA of a convolution is merged in the file's order of taps") {
  on_each_target([](TestTarget& t) { check_merge(t, {{4, 0, 6}}, {6, 5, 3, 3}, DType::f16); });
}

TEST_CASE("what becomes infinite in f16 is infinite on both") {
  if (!host_fuses_sums()) {
    MESSAGE("skipped: this build's host does not fuse products and sums");
    return;
  }
  on_each_target([](TestTarget& t) { check_merge(t, {{8, 0, 20, DType::f32, DType::f32, 1e5}}, {20, 24}, DType::f16); });
}

}  // namespace
}  // namespace sinter::cuda
