#include "models/t5.h"

#include <doctest/doctest.h>

#include <cmath>

using namespace sinter;

namespace {
/// The formula as T5's authors and every framework since compute it, in float.
int64_t bucket_in_float(int64_t key_minus_query) {
  int64_t bucket = key_minus_query > 0 ? 16 : 0, distance = std::abs(key_minus_query);
  if (distance < 8) return bucket + distance;
  float place = std::log(float(distance) / 8.0f) / float(std::log(128.0 / 8.0)) * 8.0f;
  return bucket + std::min<int64_t>(8 + int64_t(place), 15);
}
}  // namespace

TEST_CASE("exact buckets of relative positions are those that float arithmetic gives, up to 512 tokens") {
  constexpr int64_t tokens = 512;
  Tensor buckets = position_buckets({}, tokens);
  int64_t different = 0;
  for (int64_t query = 0; query < tokens; ++query)
    for (int64_t key = 0; key < tokens; ++key)
      different += buckets.i64()[size_t(query * tokens + key)] != bucket_in_float(key - query);
  CHECK(different == 0);
}

TEST_CASE("a T5 graph declares its relative positions once") {
  Graph graph;
  T5Config config{.width = 32, .heads = 4, .head_size = 16, .layers = 3, .mlp = 64, .vocabulary = 100};
  build_t5(graph, config, 1, Dim::symbol("tokens"));
  int64_t tables = 0;
  for (const WeightUse& use : weights_of(graph)) tables += use.name.ends_with("relative_attention_bias.weight");
  CHECK(tables == 1);
  CHECK(weights_of(graph).size() == 30);
}
