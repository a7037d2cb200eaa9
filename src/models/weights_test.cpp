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
