#include "models/lora.h"

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <cstring>

#include "models/flux.h"
#include "models/lora_keys.h"
#include "tensor/random.h"

using namespace sinter;

namespace {

using Tensors = std::map<std::string, Tensor>;

/// A network of a few layers, as its graph would declare them.
LoraNetwork network(Component component, const std::map<std::string, std::vector<int64_t>>& weights) {
  LoraNetwork n{component, {}};
  for (auto& [name, sizes] : weights) n.weights.push_back({name, {DType::f32, Shape(sizes.begin(), sizes.end())}});
  return n;
}

Tensor normal(std::vector<int64_t> shape, uint64_t seed) { return RandomGenerator(seed).randn(shape); }
Tensor number(float value) { return Tensor::of({}, {&value, 1}); }
float at(const Tensor& t, int64_t row, int64_t column) { return t.f32()[size_t(row * (t.count() / t.dim(0)) + column)]; }

/// What one file does to one weight.
Tensor patched(const Tensors& file, const LoraNetwork& n, const std::string& weight, const Tensor& original,
               double strength = 1) {
  auto lora = std::make_shared<LoraFile>(LoraFile::read(file, std::span(&n, 1)));
  for (const std::string& warning : lora->warnings) FAIL_CHECK(warning);
  ThreadPool pool(2);
  return LoraStack({{lora, strength, strength}}).apply(n.component, weight, original, pool);
}

const LoraNetwork kLayer = network(Component::Denoiser, {{"a.weight", {6, 10}}, {"a.bias", {6}}});
const LoraNetwork kConvolution = network(Component::Denoiser, {{"c.weight", {6, 4, 3, 3}}});

}  // namespace

TEST_CASE("one LoRA under the names of every trainer changes a weight equally") {
  Tensor up = normal({6, 2}, 1), down = normal({2, 10}, 2), w = normal({6, 10}, 3);
  Tensor want = w.clone();
  for (int64_t r = 0; r < 6; ++r)
    for (int64_t c = 0; c < 10; ++c)
      want.f32()[size_t(r * 10 + c)] += 0.5f * (at(up, r, 0) * at(down, 0, c) + at(up, r, 1) * at(down, 1, c));
  const std::vector<std::pair<std::string, std::string>> spellings = {
      {".lora_up.weight", ".lora_down.weight"},
      {".lora_B.weight", ".lora_A.weight"},
      {".lora_B.default.weight", ".lora_A.default.weight"},
      {".lora_B", ".lora_A"},
      {"_lora.up.weight", "_lora.down.weight"},
      {".lora.up.weight", ".lora.down.weight"},
      {".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"}};
  for (auto& [b, a] : spellings)
    for (const std::string module : {"lora_unet_a", "diffusion_model.a"}) {
      CAPTURE(module + b);
      CHECK(relative_error(patched({{module + b, up}, {module + a, down}}, kLayer, "a.weight", w, 0.5), want) < 1e-6);
    }
}

TEST_CASE("alpha divides by the rank") {
  Tensor up = normal({6, 4}, 1), down = normal({4, 10}, 2), w = normal({6, 10}, 3);
  Tensors file = {{"lora_unet_a.lora_up.weight", up}, {"lora_unet_a.lora_down.weight", down}};
  Tensor half = patched(file, kLayer, "a.weight", w, 0.5);
  file["lora_unet_a.alpha"] = number(2);
  CHECK(relative_error(patched(file, kLayer, "a.weight", w), half) < 1e-6);
}

TEST_CASE("a LoRA is applied in whatever sizes, edges of tiles included") {
  ThreadPool pool(3);
  for (auto [rows, inner, columns] : {std::array<int64_t, 3>{1, 1, 1}, {7, 3, 17}, {130, 9, 50}, {64, 128, 16}}) {
    LoraNetwork n = network(Component::ClipL, {{"x.weight", {rows, columns}}});
    Tensor up = normal({rows, inner}, 1), down = normal({inner, columns}, 2), want(DType::f32, {rows, columns});
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) {
        double sum = 0;
        for (int64_t k = 0; k < inner; ++k) sum += double(at(up, r, k)) * at(down, k, c);
        want.f32()[size_t(r * columns + c)] = float(sum);
      }
    Tensor zero(DType::f32, {rows, columns});
    Tensor got = patched({{"lora_te_x.lora_up.weight", up}, {"lora_te_x.lora_down.weight", down}}, n, "x.weight", zero);
    CHECK(relative_error(got, want) < 1e-6);
  }
}

TEST_CASE("a convolution in the middle is the composition of the three") {
  Tensor up = normal({6, 2, 1, 1}, 1), down = normal({3, 4, 1, 1}, 2), mid = normal({2, 3, 3, 3}, 3),
         want(DType::f32, {6, 4, 3, 3});
  for (int64_t o = 0; o < 6; ++o)
    for (int64_t c = 0; c < 4; ++c)
      for (int64_t w = 0; w < 9; ++w)
        for (int64_t i = 0; i < 2; ++i)
          for (int64_t j = 0; j < 3; ++j)
            want.f32()[size_t((o * 4 + c) * 9 + w)] += at(up, o, i) * mid.f32()[size_t((i * 3 + j) * 9 + w)] * at(down, j, c);
  Tensors file = {
      {"lora_unet_c.lora_up.weight", up}, {"lora_unet_c.lora_down.weight", down}, {"lora_unet_c.lora_mid.weight", mid}};
  CHECK(relative_error(patched(file, kConvolution, "c.weight", Tensor(DType::f32, {6, 4, 3, 3})), want) < 1e-6);
}

TEST_CASE("LoHa with cores is the product of two Tucker products") {
  Tensors file;
  const std::string m = "lora_unet_c.hada_";
  file[m + "w1_a"] = normal({2, 6}, 1), file[m + "w1_b"] = normal({3, 4}, 2), file[m + "t1"] = normal({2, 3, 3, 3}, 3);
  file[m + "w2_a"] = normal({2, 6}, 4), file[m + "w2_b"] = normal({3, 4}, 5), file[m + "t2"] = normal({2, 3, 3, 3}, 6);
  auto tucker = [&](const std::string& n, int64_t o, int64_t c, int64_t w) {
    double sum = 0;
    for (int64_t i = 0; i < 2; ++i)
      for (int64_t j = 0; j < 3; ++j)
        sum += double(file[m + "t" + n].f32()[size_t((i * 3 + j) * 9 + w)]) * at(file[m + "w" + n + "_a"], i, o) *
               at(file[m + "w" + n + "_b"], j, c);
    return sum;
  };
  Tensor want(DType::f32, {6, 4, 3, 3});
  for (int64_t o = 0; o < 6; ++o)
    for (int64_t c = 0; c < 4; ++c)
      for (int64_t w = 0; w < 9; ++w)
        want.f32()[size_t((o * 4 + c) * 9 + w)] = float(tucker("1", o, c, w) * tucker("2", o, c, w));
  CHECK(relative_error(patched(file, kConvolution, "c.weight", Tensor(DType::f32, {6, 4, 3, 3})), want) < 1e-5);
}

TEST_CASE("LoKr of a convolution repeats its kernel in blocks") {
  Tensor w1 = normal({2, 2}, 1), w2 = normal({3, 2, 3, 3}, 2), want(DType::f32, {6, 4, 3, 3});
  for (int64_t o = 0; o < 6; ++o)
    for (int64_t c = 0; c < 4; ++c)
      for (int64_t w = 0; w < 9; ++w)
        want.f32()[size_t((o * 4 + c) * 9 + w)] = at(w1, o / 3, c / 2) * w2.f32()[size_t((o % 3 * 2 + c % 2) * 9 + w)];
  Tensors file = {{"lora_unet_c.lokr_w1", w1}, {"lora_unet_c.lokr_w2", w2}, {"lora_unet_c.alpha", number(7)}};
  CHECK(relative_error(patched(file, kConvolution, "c.weight", Tensor(DType::f32, {6, 4, 3, 3})), want) < 1e-6);
}

TEST_CASE("DoRA gives input channels the magnitudes of the file") {
  Tensor w = normal({6, 4, 3, 3}, 1), scale = normal({1, 4, 1, 1}, 2);
  Tensors file = {{"lora_unet_c.lora_up.weight", normal({6, 2, 1, 1}, 3)},
                  {"lora_unet_c.lora_down.weight", normal({2, 4, 3, 3}, 4)},
                  {"lora_unet_c.dora_scale", scale}};
  Tensor got = patched(file, kConvolution, "c.weight", w);
  for (int64_t c = 0; c < 4; ++c) {
    double sum = 0;
    for (int64_t o = 0; o < 6; ++o)
      for (int64_t i = 0; i < 9; ++i) sum += std::pow(got.f32()[size_t((o * 4 + c) * 9 + i)], 2);
    CHECK(std::sqrt(sum) == doctest::Approx(std::abs(scale.f32()[size_t(c)])).epsilon(1e-4));
  }
}

TEST_CASE("full differences change weights and biases, and a replacement replaces") {
  Tensor w = normal({6, 10}, 1), b = normal({6}, 2), dw = normal({6, 10}, 3), db = normal({6}, 4);
  Tensors file = {{"diffusion_model.a.diff", dw}, {"diffusion_model.a.diff_b", db}};
  Tensor got_w = patched(file, kLayer, "a.weight", w, 2), got_b = patched(file, kLayer, "a.bias", b, 2);
  CHECK(got_w.f32()[7] == doctest::Approx(w.f32()[7] + 2 * dw.f32()[7]));
  CHECK(got_b.f32()[5] == doctest::Approx(b.f32()[5] + 2 * db.f32()[5]));
  CHECK(relative_error(patched({{"diffusion_model.a.set_weight", dw}}, kLayer, "a.weight", w, 0.3), dw) == 0);
}

TEST_CASE("FLUX's fused matrices are changed in the rows of the layer that is meant") {
  Graph graph;
  FluxConfig config{.width = 8,
                    .head_size = 4,
                    .mlp = 32,
                    .context_width = 5,
                    .vector_width = 3,
                    .double_blocks = 1,
                    .single_blocks = 1,
                    .axes = {0, 2, 2}};
  build_flux(graph, config, {1, 2, 2, 1});
  LoraNetwork flux{Component::Denoiser, weights_of(graph)};
  LoraKeyMap map = lora_key_map(std::span(&flux, 1));
  auto expect = [&](const std::string& module, const std::string& weight, int64_t begin, int64_t rows) {
    CAPTURE(module);
    REQUIRE(map.contains(module));
    CHECK(map.at(module).weight == weight);
    CHECK(map.at(module).begin == begin);
    CHECK(map.at(module).rows == rows);
  };
  expect("transformer.transformer_blocks.0.attn.add_v_proj", "double_blocks.0.txt_attn.qkv.weight", 16, 8);
  expect("lora_transformer_single_transformer_blocks_0_proj_mlp", "single_blocks.0.linear1.weight", 24, 32);
  expect("lora_unet_single_blocks_0_linear1_qkv", "single_blocks.0.linear1.weight", 0, 24);
  expect("transformer.single_transformer_blocks.0.proj_out", "single_blocks.0.linear2.weight", 0, 8);
  expect("lycoris_transformer_blocks_0_ff_context_net_0_proj", "double_blocks.0.txt_mlp.0.weight", 0, 32);
  expect("transformer.time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer.weight", 0, 8);

  // diffusers keeps scale before shift in the last modulation.
  Tensor w(DType::f32, {16, 8}), change(DType::f32, {16, 8});
  change.f32()[0] = 1;
  Tensor got = patched({{"transformer.norm_out.linear.diff", change}}, flux, "final_layer.adaLN_modulation.1.weight", w);
  CHECK(at(got, 8, 0) == 1);
  CHECK(at(got, 0, 0) == 0);
}

TEST_CASE("keys that do not belong are named with the reason, and the rest is loaded") {
  Tensors file = {{"lora_unet_a.lora_up.weight", normal({6, 2}, 1)},      {"lora_unet_a.lora_down.weight", normal({2, 10}, 2)},
                  {"lora_unet_b.lora_up.weight", normal({6, 2}, 1)},      {"lora_unet_a.what", normal({1}, 1)},
                  {"diffusion_model.a.lora_A.weight", normal({2, 9}, 1)}, {"diffusion_model.a.lora_B.weight", normal({6, 2}, 1)}};
  LoraFile lora = LoraFile::read(file, std::span(&kLayer, 1));
  CHECK(lora.patches.size() == 1);
  REQUIRE(lora.warnings.size() == 4);
  CHECK(lora.warnings[0].find("lora key not loaded: diffusion_model.a.lora_A.weight") == 0);
  CHECK(lora.warnings[0].find("[6, 2] and [2, 9] do not make 6 rows of 10") != std::string::npos);
  CHECK(lora.warnings[2].find("it ends in nothing that is known") != std::string::npos);
  CHECK(lora.warnings[3].find("the model has no such layer") != std::string::npos);
}

TEST_CASE("a LoRA whose tensors lie at odd places of its file gives what it gives elsewhere") {
  Tensor up = normal({6, 2}, 1), down = normal({2, 10}, 2), w = normal({6, 10}, 3);
  auto moved = [](const Tensor& t) {
    auto memory = std::make_shared<std::vector<std::byte>>(size_t(t.bytes()) + 1);
    std::memcpy(memory->data() + 1, t.data(), size_t(t.bytes()));
    return Tensor(t.dtype(), t.shape(), memory->data() + 1, memory);
  };
  auto with = [&](const Tensor& b, const Tensor& a, const Tensor& diff) {
    return patched({{"lora_unet_a.lora_up.weight", b}, {"lora_unet_a.lora_down.weight", a}, {"lora_unet_a.diff_b", diff}}, kLayer,
                   "a.weight", w);
  };
  Tensor bias = normal({6}, 4);
  CHECK(relative_error(with(moved(up), moved(down), moved(bias)), with(up, down, bias)) == 0);
}

TEST_CASE("sizes whose product fits a layer only because it overflows are refused") {
  // a b = 36 modulo 2^64, the columns of the convolution, and far more in truth.
  int64_t a = 5, b = 0;
  for (; b <= 36; a += 2) {
    uint64_t inverse = 1;
    for (int i = 0; i < 6; ++i) inverse *= 2 - uint64_t(a) * inverse;  // Newton's, for odd numbers
    b = int64_t(36 * inverse);
    if (b > 36) break;
  }
  REQUIRE(uint64_t(a) * uint64_t(b) == 36);
  float nothing[2] = {};
  auto huge = [&](std::vector<int64_t> shape) {  // only its shape is looked at
    return Tensor(DType::u8, std::move(shape), reinterpret_cast<std::byte*>(nothing), nullptr);
  };
  Tensor up = normal({6, 1, 1, 1}, 1);
  for (const Tensors& file : {Tensors{{"lora_unet_c.lora_up.weight", up},
                                      {"lora_unet_c.lora_down.weight", huge({1, a, 1, 1})},
                                      {"lora_unet_c.lora_mid.weight", huge({1, 1, b, 1})}},
                              Tensors{{"lora_unet_c.lokr_w1", normal({1, 1}, 1)},
                                      {"lora_unet_c.lokr_w2_a", normal({1, 6}, 1)},
                                      {"lora_unet_c.lokr_w2_b", huge({1, a})},
                                      {"lora_unet_c.lokr_t2", huge({1, 1, b, 1})}}}) {
    LoraFile lora = LoraFile::read(file, std::span(&kConvolution, 1));
    CHECK(lora.patches.empty());
    CHECK(lora.warnings.size() == file.size());
  }
}

TEST_CASE("several LoRAs add up, each with its own strength for model and text") {
  LoraNetwork text = network(Component::ClipL, {{"t.weight", {6, 10}}});
  std::vector<LoraNetwork> both = {kLayer, text};
  Tensor d1 = normal({6, 10}, 1), d2 = normal({6, 10}, 2), w = normal({6, 10}, 3);
  auto first = std::make_shared<LoraFile>(LoraFile::read({{"lora_unet_a.diff", d1}, {"lora_te_t.diff", d1}}, both));
  auto second = std::make_shared<LoraFile>(LoraFile::read({{"lora_unet_a.diff", d2}}, both));
  LoraStack stack({{first, 0.5, -1}, {second, 2, 1}});
  ThreadPool pool(1);
  Tensor model = stack.apply(Component::Denoiser, "a.weight", w, pool), clip = stack.apply(Component::ClipL, "t.weight", w, pool);
  CHECK(model.f32()[11] == doctest::Approx(w.f32()[11] + 0.5 * d1.f32()[11] + 2 * d2.f32()[11]));
  CHECK(clip.f32()[11] == doctest::Approx(w.f32()[11] - d1.f32()[11]));
  CHECK_FALSE(LoraStack({{first, 1, 0}}).changes(Component::ClipL, "t.weight"));
  CHECK_FALSE(stack.changes(Component::Denoiser, "a.bias"));
}

TEST_CASE("a merge in 16 bits is the merge in f32, rounded once, whatever rows its LoRAs change") {
  const int64_t rows = 100, columns = 37;
  LoraNetwork n = network(Component::Denoiser, {{"a.weight", {rows, columns}}});
  auto file = std::make_shared<LoraFile>();
  int seed = 1;
  for (auto [begin, count] : {std::pair<int64_t, int64_t>{0, 100}, {10, 45}, {50, 50}, {31, 2}}) {
    LoraPatch patch;
    patch.place = {
        .component = Component::Denoiser, .weight = "a.weight", .shape = {rows, columns}, .begin = begin, .rows = count};
    patch.change = LowRankChange{.up = normal({count, 3}, seed), .down = normal({3, columns}, seed + 1), .mid = {}};
    seed += 2;
    file->patches.push_back(std::move(patch));
  }
  LoraStack stack({{file, 0.7, 1}});
  // The same as differences, which are added to the whole weight in f32.
  auto differences = std::make_shared<LoraFile>(*file);
  for (LoraPatch& patch : differences->patches) {
    const auto& change = std::get<LowRankChange>(patch.change);
    Tensor value(DType::f32, {patch.place.rows, columns});
    for (int64_t r = 0; r < patch.place.rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        for (int64_t k = 0; k < 3; ++k) value.f32()[size_t(r * columns + c)] += at(change.up, r, k) * at(change.down, k, c);
    patch.change = Difference{value};
  }
  ThreadPool pool(3);
  for (DType type : {DType::f16, DType::bf16, DType::f32}) {
    Tensor w = normal({rows, columns}, 99).to(type);
    Tensor merged = stack.apply(Component::Denoiser, "a.weight", w, pool);
    CHECK(relative_error(merged, LoraStack({{differences, 0.7, 1}}).apply(Component::Denoiser, "a.weight", w, pool)) < 1e-6);
    for (DType as : {DType::f16, DType::bf16}) {
      Tensor narrow = stack.apply(Component::Denoiser, "a.weight", w, pool, as);
      CHECK(narrow.dtype() == as);
      CHECK(relative_error(narrow.to(DType::f32), merged.to(as).to(DType::f32)) == 0);
    }
  }
}

TEST_CASE("only changes that are all products added to rows are given as such") {
  auto products = [](const Tensors& file, const LoraNetwork& n, const std::string& weight, const Tensor& original) {
    auto lora = std::make_shared<LoraFile>(LoraFile::read(file, std::span(&n, 1)));
    return LoraStack({{lora, 0.5, 0.5}}).products(n.component, weight, original);
  };
  const Tensor up = normal({6, 2}, 1), down = normal({2, 10}, 2), w = normal({6, 10}, 3);
  Tensors plain = {{"lora_unet_a.lora_up.weight", up}, {"lora_unet_a.lora_down.weight", down}};
  const auto given = products(plain, kLayer, "a.weight", w);
  REQUIRE(given);
  REQUIRE(given->size() == 1);
  CHECK(given->at(0).begin == 0);
  CHECK(given->at(0).end == 6);
  CHECK(given->at(0).factor == 0.5f);
  CHECK_FALSE(products(plain, kLayer, "a.bias", normal({6}, 4)));
  CHECK_THROWS_WITH_AS(products(plain, kLayer, "a.weight", normal({6, 9}, 4)), doctest::Contains("was read for"), Error);
  plain["lora_unet_a.dora_scale"] = normal({6, 1}, 5);
  CHECK_FALSE(products(plain, kLayer, "a.weight", w));
  CHECK_FALSE(products({{"lora_unet_a.diff", w}}, kLayer, "a.weight", w));
}

TEST_CASE("a merge leaves the original weight untouched") {
  Tensor w = normal({6, 10}, 1), before = w.clone();
  patched({{"lora_unet_a.diff", normal({6, 10}, 2)}}, kLayer, "a.weight", w);
  CHECK(relative_error(w, before) == 0);
}

TEST_CASE("a merge of the largest layer reports its time" * doctest::skip()) {
  LoraNetwork n = network(Component::Denoiser, {{"a.weight", {10240, 1280}}});
  Tensors file = {{"lora_unet_a.lora_up.weight", normal({10240, 128}, 1)},
                  {"lora_unet_a.lora_down.weight", normal({128, 1280}, 2)}};
  auto lora = std::make_shared<LoraFile>(LoraFile::read(file, std::span(&n, 1)));
  Tensor w = normal({10240, 1280}, 3).to(DType::f16);
  ThreadPool pool;
  LoraStack stack({{lora, 1, 1}});
  for (int i = 0; i < 3; ++i) {
    auto start = std::chrono::steady_clock::now();
    stack.apply(Component::Denoiser, "a.weight", w, pool, DType::f16);
    MESSAGE(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count() << " ms");
  }
}
