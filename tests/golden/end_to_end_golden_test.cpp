#include "golden/end_to_end.h"
#include "golden/golden_test_support.h"

using namespace sinter;
using namespace sinter::golden;

namespace {
void expect_runs(const std::string& family) {
  Session session({}, {.memory_only = true});
  expect_golden("e2e_" + family + ".safetensors", [&](const std::string& directory, GoldenReport& report) {
    check_end_to_end(directory, family, session, report);
  });
}
}  // namespace

TEST_CASE("Stable Diffusion 1 gives the reference's pictures from the same prompts and seeds") { expect_runs("sd15"); }
TEST_CASE("Stable Diffusion XL gives the reference's pictures from the same prompts and seeds") { expect_runs("sdxl"); }
TEST_CASE("FLUX gives the reference's pictures from the same prompts and seeds") { expect_runs("flux"); }
