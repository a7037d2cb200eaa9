#include "tensor/random.h"

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <random>

#include "base/error.h"
#include "tensor/brownian.h"

using namespace sinter;

TEST_CASE("the integers are those of the standard library's Mersenne twister") {
  RandomGenerator ours(20240607);
  std::mt19937 theirs(20240607);
  for (int i = 0; i < 2000; ++i) CHECK(ours.bits32() == theirs());
}

TEST_CASE("only the low 32 bits of a seed matter") {
  CHECK(RandomGenerator(7).bits32() == RandomGenerator((1ull << 40) + 7).bits32());
}

TEST_CASE("large normal fills are Box-Muller of the uniforms, whatever their length") {
  for (size_t count : {16, 17, 100, 4096, 4100, 10007}) {
    RandomGenerator uniforms(3), normals(3);
    std::vector<float> u(count), z(count);
    uniforms.rand(u);
    normals.randn(z);
    double worst = 0;
    size_t whole = (count - (count % 16 ? 16 : 0)) / 16 * 16;  // the tail is drawn anew
    for (size_t i = 0; i < whole; ++i) {
      size_t base = i / 16 * 16, j = i % 8;
      double radius = std::sqrt(-2 * std::log(1 - double(u[base + j]))), angle = 2 * M_PI * double(u[base + j + 8]);
      worst = std::max(worst, std::abs(z[i] - radius * (i % 16 < 8 ? std::cos(angle) : std::sin(angle))));
    }
    CHECK(worst < 2e-6);
  }
}

TEST_CASE("sixteen million normals have mean 0 and variance 1 and take well under a second") {
  std::vector<float> z(size_t(1) << 24);
  RandomGenerator generator(1);
  auto start = std::chrono::steady_clock::now();
  generator.randn(z);
  std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  double sum = 0, squares = 0;
  for (float value : z) {
    sum += value;
    squares += double(value) * value;
  }
  CHECK(std::abs(sum / double(z.size())) < 1e-3);
  CHECK(std::abs(squares / double(z.size()) - 1) < 1e-3);
  MESSAGE("16.8 million normals in " << taken.count() << " s");
}

TEST_CASE("a picture of a batch has the noise it has alone") {
  int64_t third[] = {2}, both[] = {2, 0};
  Tensor alone = prepare_noise({1, 4, 6, 6}, 11, third), pair = prepare_noise({2, 4, 6, 6}, 11, both);
  CHECK(relative_error(pair.rows(0, 1), alone) == 0);
  CHECK(relative_error(pair.rows(1, 2), prepare_noise({1, 4, 6, 6}, 11)) == 0);
}

TEST_CASE("batch indices that do not fit are refused") {
  int64_t wild[] = {-1}, many[] = {0, 1};
  CHECK_THROWS_WITH_AS(prepare_noise({1, 4, 2, 2}, 0, wild), "the batch index -1 is not between 0 and 1048576", Error);
  CHECK_THROWS_AS(prepare_noise({1, 4, 2, 2}, 0, many), Error);
  CHECK_THROWS_AS(RandomGenerator(0).randn({4}, DType::f64), Error);
}

TEST_CASE("a Brownian path does not depend on the questions asked") {
  BrownianTree tree({3, 5}, 0.03, 14.6, 99);
  Tensor whole = tree.increment(1.25, 9.5), first = tree.increment(1.25, 4.0), second = tree.increment(9.5, 4.0);
  Tensor sum(DType::f32, {3, 5});
  for (size_t i = 0; i < 15; ++i) sum.f32()[i] = first.f32()[i] - second.f32()[i];
  CHECK(relative_error(sum, whole) < 1e-5);
}

TEST_CASE("Brownian increments have the variance of their length") {
  BrownianTree tree({20000}, 0, 10, 5);
  for (auto [from, to] : {std::pair{0.0, 10.0}, {0.5, 3.0}, {7.77, 7.78}}) {
    double squares = 0;
    const Tensor increment = tree.increment(from, to);
    for (float value : increment.f32()) squares += double(value) * value;
    CHECK(squares / 20000 == doctest::Approx(to - from).epsilon(0.05));
  }
}
