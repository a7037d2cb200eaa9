#include "models/weights.h"

#include <doctest/doctest.h>

#include "graph/ops.h"
#include "refusal.h"
#include "temporary_folder.h"

namespace sinter {
namespace {

Tensor zeros(std::vector<int64_t> shape, DType type = DType::f32) { return Tensor(type, std::move(shape)); }

Weights written(const TemporaryFolder& folder, const std::map<std::string, Tensor>& tensors, const Metadata& metadata = {}) {
  write_safetensors(folder / "some.safetensors", tensors, metadata);
  return Weights::plain(Checkpoint::open(folder / "some.safetensors"));
}

TEST_CASE("missing and mis-shaped weights are named with both shapes and the file, ten at most") {
  TemporaryFolder folder;
  Weights weights = written(folder, {{"a", zeros({2, 3})}, {"b", zeros({4})}});
  std::vector<WeightUse> uses = {{"a", {DType::f32, {3, 2}}}, {"b", {DType::f32, {4}}}};
  for (int i = 0; i < 12; ++i) uses.push_back({"missing." + std::to_string(i), {DType::f32, {7}}});
  std::string message = refusal([&] { check_weights(uses, weights); });
  CHECK(contains(message, "some.safetensors: 13 of 14 weights"));
  CHECK(contains(message, "a: expected [3, 2], found [2, 3]"));
  CHECK(contains(message, "missing.8: expected [7], found nothing"));
  CHECK(!contains(message, "missing.9"));
  CHECK(!contains(message, "b:"));
  CHECK(contains(message, "and 3 more"));
}

TEST_CASE("linear layers and 1x1 convolutions take each other's weights") {
  TemporaryFolder folder;
  Weights weights = written(folder, {{"linear", zeros({2, 3})}, {"conv", zeros({2, 3, 1, 1})}});
  check_weights(std::vector<WeightUse>{{"linear", {DType::f32, {2, 3, 1, 1}}}, {"conv", {DType::f32, {2, 3}}}}, weights);
  CHECK(weights.load("linear", {2, 3, 1, 1}).shape() == std::vector<int64_t>{2, 3, 1, 1});
  CHECK(weights.load("conv", {2, 3}).shape() == std::vector<int64_t>{2, 3});
  CHECK(contains(refusal([&] { weights.load("conv", {3, 2}); }), "'conv' has the shape [2, 3, 1, 1], expected [3, 2]"));
}

TEST_CASE("parts that do not fit one another are an error, not a weight") {
  TemporaryFolder folder;
  Weights weights = written(folder, {{"q", zeros({2, 3})}, {"k", zeros({2, 4})}, {"scalar", zeros({})}});
  weights.add("qk", {{"q"}, {"k"}});
  weights.add("rows", {{"q", 1, 2}});
  weights.add("turned", {{.tensor = "scalar", .transpose = true}});
  CHECK(contains(refusal([&] { weights.load("qk"); }),
                 "'q' with the shape [2, 3] and 'k' with [2, 4] do not make one weight 'qk'"));
  CHECK(contains(refusal([&] { weights.load("rows"); }), "where at least 3 rows are expected"));
  CHECK(contains(refusal([&] { weights.load("turned"); }), "where a matrix is expected"));
  CHECK(contains(refusal([&] { weights.shape("none"); }), "some.safetensors: there is no weight 'none'"));
  CHECK(contains(refusal([&] { weights.size("q", 2); }), "at least 3 axes are expected"));
}

TEST_CASE("parts of several types take the first one's") {
  TemporaryFolder folder;
  Weights weights = written(folder, {{"q", zeros({2, 3}, DType::f16)}, {"k", zeros({1, 3})}});
  weights.add("qk", {{"q"}, {"k"}});
  CHECK(weights.dtype("qk") == DType::f16);
  CHECK(weights.load("qk").dtype() == DType::f16);
  CHECK(weights.load("qk").shape() == std::vector<int64_t>{3, 3});
}

/// 0.5, 1, 1.5, ... as 8-bit floats.
Tensor small_numbers(std::vector<int64_t> shape, DType type = DType::f8e4m3) {
  Tensor t(DType::f32, std::move(shape));
  for (size_t i = 0; i < t.f32().size(); ++i) t.f32()[i] = float(i + 1) / 2;
  return t.to(type);
}
Tensor numbers(std::vector<int64_t> shape, const std::vector<float>& values) { return Tensor::of(std::move(shape), values); }
std::vector<float> values_of(const Tensor& tensor) {
  Tensor wide = tensor.to(DType::f32);
  return {wide.f32().begin(), wide.f32().end()};
}

TEST_CASE("8-bit floats are multiplied by the scale beside them, in both spellings, one for all or one for each row") {
  TemporaryFolder folder;
  Weights weights = written(folder, {{"a.weight", small_numbers({2, 2})},
                                     {"a.scale_weight", numbers({}, {3})},
                                     {"b.weight", small_numbers({2, 2}, DType::f8e5m2)},
                                     {"b.weight_scale", numbers({2, 1}, {2, -0.25})},
                                     {"c.weight", small_numbers({2, 2})},
                                     {"scaled_fp8", zeros({0}, DType::f8e4m3)}});
  CHECK(weights.dtype("a.weight") == DType::bf16);
  CHECK(weights.dtype("c.weight") == DType::f8e4m3);
  CHECK(values_of(weights.load("a.weight")) == std::vector<float>{1.5, 3, 4.5, 6});
  CHECK(values_of(weights.load("b.weight")) == std::vector<float>{1, 2, -0.375, -0.5});
  CHECK(values_of(weights.load("c.weight")) == std::vector<float>{0.5, 1, 1.5, 2});
  CHECK(weights.load("a.weight", {2, 2, 1, 1}).shape() == std::vector<int64_t>{2, 2, 1, 1});
  CHECK(weights.reading_bytes("a.weight") == 4 + 8);
}

TEST_CASE("parts and turned tensors keep their own scales") {
  TemporaryFolder folder;
  Weights weights = written(folder, {{"q.weight", small_numbers({2, 2})},
                                     {"q.scale_weight", numbers({}, {2})},
                                     {"k.weight", small_numbers({3, 2})},
                                     {"k.scale_weight", numbers({3}, {1, 10, 100})},
                                     {"plain.weight", small_numbers({1, 2})}});
  weights.add("qk", {{"q.weight"}, {"k.weight", 1, 2}});
  weights.add("turned", {{.tensor = "k.weight", .transpose = true}});
  weights.add("mixed", {{"q.weight"}, {"plain.weight"}});
  CHECK(values_of(weights.load("qk")) == std::vector<float>{1, 2, 3, 4, 15, 20, 250, 300});
  CHECK(values_of(weights.load("turned")) == std::vector<float>{0.5, 15, 250, 1, 20, 300});
  CHECK(values_of(weights.load("mixed")) == std::vector<float>{1, 2, 3, 4, 0.5, 1});

  auto kept = weights.scaled("qk");
  REQUIRE(kept);
  CHECK(kept->rows.dtype() == DType::f8e4m3);
  CHECK(kept->rows.shape() == std::vector<int64_t>{4, 2});
  CHECK(values_of(kept->rows) == std::vector<float>{0.5, 1, 1.5, 2, 1.5, 2, 2.5, 3});
  CHECK(kept->scales == std::vector<float>{2, 2, 10, 100});
  CHECK(!weights.scaled("turned"));
  CHECK(!weights.scaled("mixed"));
  CHECK(!weights.scaled("plain.weight"));
}

TEST_CASE("a scale of a shape that says nothing is named") {
  TemporaryFolder folder;
  Weights weights = written(folder, {{"a.weight", small_numbers({2, 4})}, {"a.weight_scale", numbers({2, 2}, {1, 2, 3, 4})}});
  CHECK(contains(refusal([&] { weights.load("a.weight"); }),
                 "'a.weight_scale' is F32 [2, 2], where one scale of 'a.weight' [2, 4] or one for each of its rows is expected"));
}

TEST_CASE("numbers of reduced models must be positive integers") {
  TemporaryFolder folder;
  Weights weights =
      written(folder, {{"x", zeros({1})}}, {{"tiny_config", R"({"unet": {"num_heads": 2, "bad": -1, "text": "a"}})"}});
  CHECK(weights.tiny_config("unet", "num_heads", 8) == 2);
  CHECK(weights.tiny_config("unet", "other", 8) == 8);
  CHECK(weights.tiny_config("clip", "num_heads", 8) == 8);
  CHECK(contains(refusal([&] { weights.tiny_config("unet", "bad", 8); }), "gives -1 as unet.bad"));
  CHECK(contains(refusal([&] { weights.tiny_config("unet", "text", 8); }), "where a positive integer is expected"));
  std::string deep = R"({"unet": {"list": )" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}}";
  Weights hostile = written(folder, {{"x", zeros({1})}}, {{"tiny_config", deep}});
  CHECK(contains(refusal([&] { hostile.tiny_config("unet", "list", 8); }), "gives array as unet.list"));
}

}  // namespace
}  // namespace sinter
