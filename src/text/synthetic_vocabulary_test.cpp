#include "text/synthetic_vocabulary.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "text/clip_tokenizer.h"
#include "text/t5_tokenizer.h"

using namespace sinter;

TEST_CASE("a synthetic CLIP vocabulary of any size encodes any text with ids below its size") {
  for (int64_t size : {514, 515, 700, 1000, 49408}) {
    CAPTURE(size);
    auto files = synthetic_clip_vocabulary(size);
    auto clip = ClipTokenizer::from_vocab_and_merges(files.vocab_json, files.merges_txt);
    CHECK(clip.start_id() == size - 2);
    CHECK(clip.end_id() == size - 1);
    CHECK(clip.largest_id() == size - 1);
    for (int64_t id : clip.encode("A misty castle \xe7\x8c\xab \x01 caf\xc3\xa9")) CHECK(id < size - 2);
  }
  CHECK_THROWS_AS(synthetic_clip_vocabulary(513), Error);
}

TEST_CASE("common words are one token each once there is room for merges") {
  auto files = synthetic_clip_vocabulary(49408);
  auto clip = ClipTokenizer::from_vocab_and_merges(files.vocab_json, files.merges_txt);
  CHECK(clip.encode("a photo of the cat").size() == 5);
  auto t5 = T5Tokenizer::from_tokenizer_json(synthetic_t5_vocabulary(32128));
  CHECK(t5.encode("a photo of the cat").size() == 5);
}

TEST_CASE("a synthetic T5 vocabulary has the released special ids and stays below its size") {
  for (int64_t size : {100, 300, 32128}) {
    auto t5 = T5Tokenizer::from_tokenizer_json(synthetic_t5_vocabulary(size));
    CHECK(t5.end_id() == 1);
    CHECK(t5.largest_id() < size);
    CHECK(t5.encode("\xe7\x8c\xab") == std::vector<int64_t>{3, 2});
    for (int64_t id : t5.encode("A misty castle, 35mm (f/1.8)")) CHECK((id > 2 && id < size));
  }
  CHECK_THROWS_AS(synthetic_t5_vocabulary(99), Error);
}

TEST_CASE("the same vocabulary is made every time") {
  CHECK(synthetic_clip_vocabulary(1000).merges_txt == synthetic_clip_vocabulary(1000).merges_txt);
  CHECK(synthetic_clip_vocabulary(1000).vocab_json == synthetic_clip_vocabulary(1000).vocab_json);
  CHECK(synthetic_t5_vocabulary(1000) == synthetic_t5_vocabulary(1000));
}
