// How products are planned, against the made-up driver and library of tests/fake_cuda: a process of its own, since a process
// opens them once.
#include <doctest/doctest.h>

#include "backends/cuda/calls/linear.h"
#include "base/error.h"
#include "made_up_driver.h"

namespace sinter::cuda {
namespace {

/// A product of small whole numbers, so that it is exact.
struct Product {
  const Context& context;
  const Stream& stream;
  LinearShape shape;
  std::vector<float> a, weights, bias, residual;
  std::vector<DeviceMemory> memory;
  LinearBuffers buffers;

  Product(const Context& c, const Stream& s, const LinearShape& product) : context(c), stream(s), shape(product) {
    const LinearShape f = normalised(shape);
    buffers.a = put(a, f.m * f.a_stride, 3), buffers.weights = put(weights, f.n * f.weights_stride, 5);
    if (f.epilogue == LinearEpilogue::Bias) buffers.bias = put(bias, f.n, 7);
    if (f.residual) buffers.residual = put(residual, f.m * f.residual_stride, 11);
    std::vector<float> none;
    buffers.out = put(none, f.m * f.out_stride, 1);
  }

  bool is_right(const LinearPlan& plan, const Workspace& workspace) {
    const LinearShape& f = plan.shape();
    plan.bind(buffers, workspace)->launch(stream);
    std::vector<float> out(size_t(f.m * f.out_stride));
    copy_to_host(out.data(), buffers.out, int64_t(out.size() * sizeof(float)), stream);
    stream.synchronize();
    bool right = true;
    for (int64_t i = 0; i < f.m; ++i)
      for (int64_t j = 0; j < f.n; ++j) {
        float sum = f.epilogue == LinearEpilogue::Bias ? bias[size_t(j)] : 0;
        if (f.residual) sum += residual[size_t(i * f.residual_stride + j)];
        for (int64_t k = 0; k < f.k; ++k) sum += a[size_t(i * f.a_stride + k)] * weights[size_t(j * f.weights_stride + k)];
        right = right && out[size_t(i * f.out_stride + j)] == sum;
      }
    return right;
  }

 private:
  DevicePtr put(std::vector<float>& values, int64_t count, int seed) {
    for (int64_t i = 0; i < count; ++i) values.push_back(float((i * seed + seed) % 13 - 6));
    memory.emplace_back(context, count * int64_t(sizeof(float)), "a tensor");
    copy_to_device(memory.back().address(), values.data(), count * int64_t(sizeof(float)), stream);
    return memory.back().address();
  }
};

struct Device {
  Context context{1};
  Stream stream{context};
  DeviceMemory memory{context, 1 << 20, "the workspace"};
  Workspace workspace{memory.address(), 1 << 20};
};

void check_results(Device& d) {
  Cache cache(CacheOptions{.memory_only = true});
  Vendor vendor(d.context, &cache);
  LinearShape shape{.m = 3, .n = 8, .k = 5, .a = DType::f32, .weights = DType::f32, .out = DType::f32};
  for (bool bias : {false, true})
    for (bool residual : {false, true})
      for (int64_t more : {0, 4}) {
        shape.epilogue = bias ? LinearEpilogue::Bias : LinearEpilogue::None, shape.residual = residual;
        shape.a_stride = 5 + more, shape.weights_stride = 5 + more, shape.out_stride = 8 + more,
        shape.residual_stride = 8 + 2 * more;
        Product p(d.context, d.stream, shape);
        const TuneOn<LinearBuffers> tune{d.stream, p.buffers, d.workspace};
        for (const auto* on : {static_cast<const TuneOn<LinearBuffers>*>(nullptr), &tune}) {
          const auto plan = plan_linear(vendor, shape, on);
          REQUIRE_MESSAGE(plan, plan.why_none);
          CHECK(p.is_right(*plan.plan, d.workspace));
        }
      }
}

void check_choices(Device& d) {
  Cache cache(CacheOptions{.memory_only = true});
  auto planned = [&](Vendor& vendor, int64_t m, bool timed) {
    Product p(d.context, d.stream, {.m = m, .n = 8, .k = 16, .a = DType::f32, .weights = DType::f32, .out = DType::f32});
    const TuneOn<LinearBuffers> tune{d.stream, p.buffers, d.workspace};
    const auto plan = plan_linear(vendor, p.shape, timed ? &tune : nullptr);
    REQUIRE(plan);
    CHECK(p.is_right(*plan.plan, d.workspace));
    return plan->choice();
  };
  Vendor first(d.context, &cache), second(d.context, &cache);
  CHECK(planned(first, 64, false).candidates == 0);
  CHECK(planned(first, 64, true).candidates == 3);  // of five, what the library says it can do
  CHECK(planned(first, 64, false).from_cache);
  CHECK(planned(first, 60, true).candidates == 1);  // of the two that about as many rows need
  CHECK(planned(first, 500, true).candidates == 3);
  CHECK(planned(second, 64, true).from_cache);
  CHECK(planned(second, 58, true).candidates == 1);
}

void check_what_is_known(Device& d) {
  Vendor vendor(d.context, nullptr);
  vendor.note_promising("a family", "one");
  CHECK(vendor.promising("a family", Known::Before).empty());
  vendor.settle_promising();
  vendor.note_promising("a family", "two");
  CHECK(vendor.promising("a family", Known::Before) == std::set<std::string>{"one"});
  CHECK(vendor.promising("a family") == std::set<std::string>{"one", "two"});
}

void check_damage(Device& d) {
  Cache cache(CacheOptions{.memory_only = true});
  Vendor vendor(d.context, &cache);
  const LinearShape shape{.m = 4, .n = 8, .k = 8, .a = DType::f32, .weights = DType::f32, .out = DType::f32};
  const Facts facts = linear_facts(vendor);
  const std::string text = normalised(shape).text();
  Blob no_algorithm(80, std::byte(0x7f));
  std::fill(no_algorithm.end() - 4, no_algorithm.end(), std::byte(0xff));
  for (const Blob& garbage : {Blob(5, std::byte(0x7f)), Blob(80, std::byte(0x7f)), no_algorithm}) {
    cache.put(choice_key("linear", text, facts, true), garbage, choice_facts("linear", text, facts, true));
    Product p(d.context, d.stream, shape);
    const auto plan = plan_linear(vendor, shape);
    REQUIRE(plan);
    CHECK(!plan->choice().from_cache);
    CHECK(p.is_right(*plan.plan, d.workspace));
  }
}

TEST_CASE("made-up cuBLASLt: all checks" * doctest::skip()) {
  Device device;
  check_results(device);
  check_choices(device);
  check_what_is_known(device);
  check_damage(device);
}

TEST_CASE("products are the library's, timed or not, kept and found again, and chosen anew where that is damaged") {
  run_on_made_up_driver(fmt::format("SINTER_CUDA_LIBRARIES={} FAKE_CUDA_VERSION=13000", made_up_library("fake_cublaslt")),
                        "made-up cuBLASLt*");
}

}  // namespace
}  // namespace sinter::cuda
