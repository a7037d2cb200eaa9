#include "golden/golden_test_support.h"

TEST_CASE("noise tables and schedules are the reference's") {
  sinter::golden::expect_golden("sigmas.safetensors", sinter::golden::check_sigmas);
}

TEST_CASE("every sampler takes the reference's path with the reference's noise") {
  sinter::golden::expect_golden("samplers.safetensors", sinter::golden::check_samplers);
}
