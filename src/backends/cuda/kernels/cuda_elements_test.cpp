#define SINTER_DEVICE_EMULATION
#include <cmath>

#include "backends/cuda/kernels/elements.device.cpp"
#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/kernels/test_targets.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

constexpr DType kWritten[] = {DType::f32, DType::f16, DType::bf16, DType::f8e4m3};
constexpr DType kRead[] = {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2};

size_t differences(const std::vector<float>& a, const std::vector<float>& b) {
  size_t count = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) count += !(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])));
  return count;
}

TEST_CASE("casts between all types round as the host's, for any count and alignment") {
  on_each_target([](TestTarget& t) {
    for (DType from : kRead)
      for (DType to : kWritten)
        for (int64_t offset : {0, 1}) {
          CAPTURE(name(from));
          CAPTURE(name(to));
          constexpr int64_t kCount = 3001;
          const auto bytes = encode(random_values(kCount + 1, 5, 100), from);
          const auto values = decode(bytes, from);
          CastCall call{.from_type = from, .to_type = to, .count = kCount};
          call.from = t.upload(bytes) + DevicePtr(offset * byte_size(from));
          const DevicePtr out = t.untouched((kCount + 2) * byte_size(to));
          call.to = out + DevicePtr(offset * byte_size(to));
          cast(t, call);
          const auto seen = decode(t.download<uint8_t>(out, size_t((kCount + 2) * byte_size(to))), to);
          const std::vector<float> own(values.begin() + offset, values.begin() + offset + kCount);
          CHECK(differences({seen.begin() + offset, seen.begin() + offset + kCount}, rounded(own, to)) == 0);
          CHECK(std::isnan(seen[size_t(kCount + offset)]));  // nothing behind the end is written
          if (offset) CHECK(std::isnan(seen[0]));
        }
  });
}

TEST_CASE("every e4m3 and e5m2 number widens as on the host, and f8e4m3 saturates") {
  on_each_target([](TestTarget& t) {
    for (DType from : {DType::f8e4m3, DType::f8e5m2}) {
      std::vector<uint8_t> bytes(256);
      for (int i = 0; i < 256; ++i) bytes[size_t(i)] = uint8_t(i);
      CastCall call{.from = t.upload(bytes), .to = t.untouched(1024), .from_type = from, .count = 256};
      cast(t, call);
      CHECK(differences(t.download<float>(call.to, 256), decode(bytes, from)) == 0);
    }
    const std::vector<float> large = {1000, -1e30f, INFINITY, 448, 464, 0.0009f, -0.f, 1};
    CastCall call{.from = t.upload(large), .to = t.untouched(8), .to_type = DType::f8e4m3, .count = 8};
    cast(t, call);
    const std::vector<float> expected = {448, -448, 448, 448, 448, 0, 0, 1};
    CHECK(decode(t.download<uint8_t>(call.to, 8), DType::f8e4m3) == expected);
  });
}

TEST_CASE("a cast multiplies by one scale for all and one for each row") {
  on_each_target([](TestTarget& t) {
    for (int64_t columns : {1, 5, 16, 130}) {
      const int64_t rows = 23;
      const auto bytes = encode(random_values(size_t(rows * columns), 6), DType::f8e4m3);
      const auto scales = random_values(size_t(rows), 7, 1, 2);
      CastCall call{.from = t.upload(bytes), .from_type = DType::f8e4m3, .count = rows * columns, .scale = 0.5f};
      call.to = t.untouched(rows * columns * 4);
      call.row_scales = t.upload(scales);
      call.columns = columns;
      cast(t, call);
      auto expected = decode(bytes, DType::f8e4m3);
      for (size_t i = 0; i < expected.size(); ++i) expected[i] = expected[i] * scales[i / size_t(columns)] * 0.5f;
      CHECK(differences(t.download<float>(call.to, expected.size()), expected) == 0);
    }
  });
}

TEST_CASE("random numbers have the moments of the normal distribution, and another seed gives others") {
  on_each_target([](TestTarget& t) {
    const size_t count = t.emulated() ? 40001 : 4000001;
    const DevicePtr first = t.untouched(int64_t(count + 1) * 4), second = t.untouched(int64_t(count) * 4);
    fill_normal(t, first, DType::f32, int64_t(count), 1, 3, 0.5f);
    fill_normal(t, second, DType::f32, int64_t(count), 2, 0, 1);
    const auto a = t.download<float>(first, count + 1), b = t.download<float>(second, count);
    double mean = 0, square = 0, fourth = 0, product = 0, neighbour = 0;
    for (size_t i = 0; i < count; ++i) {
      const double z = (a[i] - 3.0) / 0.5;
      mean += z;
      square += z * z;
      fourth += z * z * z * z;
      product += z * b[i];
      if (i) neighbour += z * (a[i - 1] - 3.0) / 0.5;
    }
    const double share = 1 / double(count), error = 5 / std::sqrt(double(count));
    CHECK(std::fabs(mean * share) < error);
    CHECK(std::fabs(square * share - 1) < error * 1.5);
    CHECK(std::fabs(fourth * share - 3) < error * 10);
    CHECK(std::fabs(product * share) < error);
    CHECK(std::fabs(neighbour * share) < error);
    CHECK(std::isnan(a[count]));
    fill_normal(t, second, DType::bf16, 77, 5, 1.5f, 0);
    CHECK(decode(t.download<uint8_t>(second, 77 * 2), DType::bf16) == std::vector<float>(77, 1.5f));
  });
}

TEST_CASE("rows of a table are found by their index, and rows that are not there are NaN") {
  on_each_target([](TestTarget& t) {
    for (int64_t columns : {64, 3}) {
      const auto table = rounded(random_values(size_t(50 * columns), 4), DType::bf16);
      const std::vector<int64_t> indices = {7, 0, 49, 7, -1, 50};
      GatherRowsCall call{.rows = 50, .columns = columns, .count = 6};
      call.table = t.upload(encode(table, DType::bf16));
      call.indices = t.upload(indices);
      call.to_stride = columns + 8;
      const size_t out = size_t(6 * call.to_stride);
      call.to = t.untouched(int64_t(out) * 2);
      gather_rows(t, call);
      const auto seen = decode(t.download<uint8_t>(call.to, out * 2), DType::bf16);
      size_t wrong = 0;
      for (int64_t i = 0; i < 6; ++i)
        for (int64_t j = 0; j < call.to_stride; ++j) {
          const float value = seen[size_t(i * call.to_stride + j)];
          const bool there = i < 4 && j < columns;
          wrong += there ? value != table[size_t(indices[size_t(i)] * columns + j)] : !std::isnan(value);
        }
      CHECK(wrong == 0);
    }
  });
}

void check_quantised(TestTarget& t, DType type, int64_t rows, int64_t columns, int64_t extra) {
  CAPTURE(columns);
  CAPTURE(name(type));
  const int64_t stride = columns + extra;
  auto x = rounded(random_values(size_t(rows * stride), 3, 2), type);
  for (int64_t i = 0; i < columns; ++i) x[size_t(i)] = 0;  // a row of zeros
  QuantiseRowsCall call{.type = type, .rows = rows, .columns = columns, .x_stride = extra ? stride : 0};
  call.x = t.upload(encode(x, type));
  call.to = t.untouched(rows * columns);
  call.scales = t.untouched(rows * 4);
  quantise_rows(t, call);
  const auto scales = t.download<float>(call.scales, size_t(rows));
  const auto seen = decode(t.download<uint8_t>(call.to, size_t(rows * columns)), DType::f8e4m3);
  size_t wrong_scales = 0, wrong = 0;
  for (int64_t r = 0; r < rows; ++r) {
    float largest = 0;
    for (int64_t i = 0; i < columns; ++i) largest = std::max(largest, std::fabs(x[size_t(r * stride + i)]));
    const float scale = largest > 0 ? largest / 448 : 1;
    wrong_scales += !(std::fabs(scales[size_t(r)] - scale) <= 1e-6f * scale);
    for (int64_t i = 0; i < columns; ++i) {
      const double value = double(x[size_t(r * stride + i)]) / scale;
      // Half a step of three bits of mantissa, or of the denormals.
      wrong += !(std::fabs(seen[size_t(r * columns + i)] - value) <= std::max(std::fabs(value) / 15.9, 0x1p-10 * 1.01));
    }
  }
  CHECK(wrong_scales == 0);
  CHECK(wrong == 0);
}

TEST_CASE("rows are quantised by their largest element to within half a step") {
  on_each_target([](TestTarget& t) {
    for (DType type : {DType::bf16, DType::f16, DType::f32}) {
      check_quantised(t, type, 5, 320, 0);
      check_quantised(t, type, 3, 77, 0);
      check_quantised(t, type, 2, 1536, 8);
      check_quantised(t, type, 4, 8, 3);
    }
    check_quantised(t, DType::bf16, 2, 33000, 0);
    if (t.emulated()) return;
    check_quantised(t, DType::bf16, 4608, 3072, 0);
    check_quantised(t, DType::bf16, 1000, 15360, 0);
  });
}

TEST_CASE("filters change their layout and type in one pass") {
  on_each_target([](TestTarget& t) {
    struct Case {
      int64_t k, c, taps;
      DType from, to;
    };
    for (const Case& c : {Case{3, 40, 9, DType::f32, DType::bf16}, Case{2, 1000, 9, DType::f16, DType::f16},
                          Case{5, 3, 49, DType::bf16, DType::f32}, Case{4, 17, 1, DType::f8e4m3, DType::bf16}}) {
      const auto bytes = encode(random_values(size_t(c.k * c.c * c.taps), 2), c.from);
      const auto values = rounded(decode(bytes, c.from), c.to);
      FiltersCall call{.from = t.upload(bytes), .from_type = c.from, .to_type = c.to, .k = c.k, .c = c.c, .taps = c.taps};
      call.to = t.untouched(c.k * c.c * c.taps * byte_size(c.to));
      filters_channels_last(t, call);
      const auto seen = decode(t.download<uint8_t>(call.to, values.size() * size_t(byte_size(c.to))), c.to);
      size_t wrong = 0;
      for (int64_t k = 0; k < c.k; ++k)
        for (int64_t i = 0; i < c.c; ++i)
          for (int64_t tap = 0; tap < c.taps; ++tap)
            wrong += seen[size_t((k * c.taps + tap) * c.c + i)] != values[size_t((k * c.c + i) * c.taps + tap)];
      CHECK(wrong == 0);
    }
  });
}

TEST_CASE("windows for a picture at twice its size become sums of their taps") {
  on_each_target([](TestTarget& t) {
    constexpr int64_t k = 3, c = 50;
    for (auto [from, to] : {std::pair{DType::f32, DType::f32}, {DType::f16, DType::bf16}, {DType::bf16, DType::f16}}) {
      const auto bytes = encode(random_values(size_t(k * c * 9), 2), from);
      const auto taps = decode(bytes, from);
      FiltersCall call{.from = t.upload(bytes), .from_type = from, .to_type = to, .k = k, .c = c};
      call.to = t.untouched(k * c * 16 * byte_size(to));
      filters_doubled(t, call);
      const auto seen = decode(t.download<uint8_t>(call.to, size_t(k * c * 16 * byte_size(to))), to);
      std::vector<float> sums(seen.size());
      // Row y of the large picture is row y / 2 of the small one: tap t of row y of the result reads row (y - 1 + t) / 2.
      auto place = [](int64_t tap, int64_t y) { return y - 2 * ((y - 1 + tap) / 2) + 1; };
      for (int64_t odd_y : {2, 3})
        for (int64_t odd_x : {2, 3})
          for (int64_t tap = 0; tap < 9; ++tap)
            for (int64_t o = 0; o < k; ++o)
              for (int64_t i = 0; i < c; ++i)
                sums[size_t(((i * 4 + place(tap / 3, odd_y)) * 4 + place(tap % 3, odd_x)) * k + o)] +=
                    taps[size_t((o * c + i) * 9 + tap)];
      CHECK(seen == rounded(sums, to));

      FiltersCall apart{.from = call.to, .from_type = to, .to_type = DType::f32, .k = k, .c = c, .taps = 16};
      apart.to = t.untouched(k * c * 16 * 4);
      filters_of_places(t, apart);
      const auto windows = t.download<float>(apart.to, size_t(k * c * 16));
      size_t wrong = 0;
      for (int64_t odd_y = 0; odd_y < 2; ++odd_y)
        for (int64_t odd_x = 0; odd_x < 2; ++odd_x)
          for (int64_t y = 0; y < 2; ++y)
            for (int64_t x = 0; x < 2; ++x)
              for (int64_t o = 0; o < k; ++o)
                for (int64_t i = 0; i < c; ++i) {
                  // Pixel m - 1 + odd + y gives row 2 m + odd of the result.
                  const int64_t row = odd_y - 2 * (odd_y - 1 + y) + 1, column = odd_x - 2 * (odd_x - 1 + x) + 1;
                  wrong += windows[size_t(((((odd_y * 2 + odd_x) * k + o) * 2 + y) * 2 + x) * c + i)] !=
                           seen[size_t(((i * 4 + row) * 4 + column) * k + o)];
                }
      CHECK(wrong == 0);
    }
  });
}

TEST_CASE("windows are had back from their sums, but for the rounding of these") {
  on_each_target([](TestTarget& t) {
    constexpr int64_t k = 3, c = 50;
    for (auto [type, tolerance] : {std::pair{DType::f32, 3e-7}, {DType::f16, 0.0015}, {DType::bf16, 0.012}}) {
      CAPTURE(name(type));
      const auto bytes = encode(random_values(size_t(k * c * 9), 2), type);
      const auto taps = decode(bytes, type);
      FiltersCall sums{.from = t.upload(bytes), .from_type = type, .to_type = type, .k = k, .c = c};
      sums.to = t.untouched(k * c * 16 * byte_size(type));
      filters_doubled(t, sums);
      FiltersCall back{.from = sums.to, .from_type = type, .to_type = type, .k = k, .c = c, .taps = 16};
      back.to = t.untouched(k * c * 9 * byte_size(type));
      filters_undoubled(t, back);
      const auto seen = decode(t.download<uint8_t>(back.to, size_t(k * c * 9 * byte_size(type))), type);
      double squares = 0, errors = 0;
      size_t wrong_corners = 0;
      for (int64_t o = 0; o < k; ++o)
        for (int64_t i = 0; i < c; ++i)
          for (int64_t tap = 0; tap < 9; ++tap) {
            const double expected = taps[size_t((o * c + i) * 9 + tap)], got = seen[size_t((o * 9 + tap) * c + i)];
            const bool corner = tap % 2 == 0 && tap != 4;  // alone in a sum
            wrong_corners += corner && got != expected;
            squares += expected * expected, errors += (got - expected) * (got - expected);
          }
      CHECK(wrong_corners == 0);
      CHECK(std::sqrt(errors / squares) < tolerance);
    }
  });
}

TEST_CASE("a picture is doubled, with and without its last row and column") {
  on_each_target([](TestTarget& t) {
    for (DType type : {DType::f32, DType::bf16})
      for (auto [h, w, c] : {std::array<int64_t, 3>{6, 4, 16}, {5, 4, 16}, {6, 3, 13}, {1, 1, 8}}) {
        const int64_t small_h = (h + 1) / 2, small_w = (w + 1) / 2;
        const auto bytes = encode(random_values(size_t(2 * small_h * small_w * c), 3), type);
        const auto from = decode(bytes, type);
        DoublePictureCall call{.from = t.upload(bytes), .type = type, .n = 2, .h = h, .w = w, .c = c};
        call.to = t.untouched((2 * h * w * c + 1) * byte_size(type));
        double_picture(t, call);
        const auto seen = decode(t.download<uint8_t>(call.to, size_t((2 * h * w * c + 1) * byte_size(type))), type);
        size_t wrong = 0;
        for (int64_t n = 0; n < 2; ++n)
          for (int64_t y = 0; y < h; ++y)
            for (int64_t x = 0; x < w; ++x)
              for (int64_t i = 0; i < c; ++i)
                wrong += seen[size_t(((n * h + y) * w + x) * c + i)] !=
                         from[size_t(((n * small_h + y / 2) * small_w + x / 2) * c + i)];
        CHECK(wrong == 0);
        CHECK(std::isnan(seen.back()));
      }
  });
}

TEST_CASE("types without a kernel are refused by name") {
  EmulatedTarget t;
  CHECK_THROWS_AS(cast(t, {.to_type = DType::f8e5m2, .count = 1}), Error);
  CHECK_THROWS_AS(cast(t, {.from_type = DType::i64, .count = 1}), Error);
}

double gelu(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }

TEST_CASE("rows that are gated by a kernel of their own agree with double") {
  on_each_target([](TestTarget& t) {
    for (DType type : {DType::f32, DType::bf16, DType::f16})
      for (int64_t columns : {7, 320, 2600}) {
        GateRowsCall call{.type = type, .rows = 3, .columns = columns, .to_stride = columns + 8};
        const auto bytes = encode(random_values(size_t(6 * columns), 5, 3), type);
        const auto from = decode(bytes, type);
        call.from = t.upload(bytes), call.to = t.untouched(3 * call.to_stride * byte_size(type));
        gate_rows(t, call);
        const auto seen = decode(t.download<uint8_t>(call.to, size_t(3 * call.to_stride * byte_size(type))), type);
        const double rounding = type == DType::f32 ? 1e-6 : type == DType::bf16 ? 0x1p-8 : 0x1p-11;
        for (int64_t r = 0; r < 3; ++r) {
          double worst = 0;
          for (int64_t c = 0; c < columns; ++c) {
            const double value = from[size_t(r * 2 * columns + c)] * gelu(from[size_t((r * 2 + 1) * columns + c)]);
            worst = std::max(worst, std::abs(seen[size_t(r * call.to_stride + c)] - value) - 1.01 * rounding * std::abs(value));
          }
          CHECK(worst < 3e-6);  // of values up to 10
          CHECK(std::isnan(seen[size_t(r * call.to_stride + columns)]));
        }
      }
  });
}

}  // namespace
}  // namespace sinter::cuda
