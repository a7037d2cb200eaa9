#include "base/byte_amount.h"

#include <doctest/doctest.h>

using namespace sinter;

TEST_CASE("amounts of memory are read with decimal and binary units, a number alone as GB") {
  CHECK(parse_bytes("8G") == 8'000'000'000);
  CHECK(parse_bytes("8GB") == 8'000'000'000);
  CHECK(parse_bytes("6.5GiB") == int64_t(6.5 * 1024 * 1024 * 1024));
  CHECK(parse_bytes("800M") == 800'000'000);
  CHECK(parse_bytes("400MiB") == 400 << 20);
  CHECK(parse_bytes("1.5") == 1'500'000'000);
  CHECK(parse_bytes("0") == 0);
}

TEST_CASE("what is no amount of memory is not taken for one") {
  for (const char* text : {"", "G", "8X", "8GX", "8GiBs", "-1G", "1e400", "nan", "99999999999T", "8 G", "8Gi"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_bytes(text).has_value());
  }
}
