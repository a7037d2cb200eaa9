#include "golden/end_to_end.h"
#include "golden/golden_test_support.h"

using namespace sinter;
using namespace sinter::golden;

TEST_CASE("ids, words and weights of prompts are the reference's, for all three tokenizers") {
  expect_golden("prompts.json", check_prompts);
}

TEST_CASE("what prompts become for the denoiser is the reference's, with weights, chunks and embeddings") {
  Session session({}, {.memory_only = true});
  expect_golden("conditioning.safetensors",
                [&](const std::string& directory, GoldenReport& report) { check_conditioning(directory, session, report); });
}
