#include "golden/golden_test_support.h"

TEST_CASE("random numbers are those that PyTorch draws on a CPU") {
  sinter::golden::expect_golden("torch_rng.safetensors", sinter::golden::check_random);
}
