// The first byte chooses what the rest is: a prompt, vocab.json and merges.txt, a tokenizer.json, or a character map.
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "text/charsmap.h"
#include "text/clip_tokenizer.h"
#include "text/prompt.h"
#include "text/synthetic_vocabulary.h"
#include "text/t5_tokenizer.h"

using namespace sinter;

namespace {

constexpr const char* kText = "A misty castle, 35mm (f/1.8)  caf\xc3\xa9 <|endoftext|> </s>\n\xef\xac\x81 \xe7\x8c\xab";

void require(bool promise) {
  if (!promise) std::abort();
}

void check_prompt(std::string_view text) {
  static const auto clip = [] {
    auto files = synthetic_clip_vocabulary(1500);
    return ClipTokenizer::from_vocab_and_merges(files.vocab_json, files.merges_txt);
  }();
  static const auto t5 = T5Tokenizer::from_tokenizer_json(synthetic_t5_vocabulary(1500));
  auto embeddings = [](const std::string& name) -> std::optional<Tensor> {
    if (name.size() % 2) return {};
    return Tensor(DType::f32, {int64_t(name.size() / 2), 4});
  };
  auto prompt = tokenize_prompt(text, clip, clip_l_rules(clip), embeddings);
  for (const auto& chunk : prompt.chunks) {
    require(chunk.size() == 77 && chunk[0].id == clip.start_id());
    for (const Token& token : chunk)
      require(token.id >= 0 && token.id <= clip.largest_id() && token.vector < int64_t(prompt.vectors.size()));
  }
  auto sequence = tokenize_prompt(text, t5, t5_rules()).chunks;
  require(sequence.size() == 1 && sequence[0].size() >= 256);
  for (const Token& token : sequence[0]) require(token.id >= 0 && token.id <= t5.largest_id());
}

void encode_all(const Tokenizer& tokenizer) {
  for (int64_t id : tokenizer.encode(kText)) require(id >= 0 && id <= tokenizer.largest_id());
}

void check_vocab_and_merges(std::string_view text) {
  size_t cut = std::min(text.find('\0'), text.size());
  encode_all(ClipTokenizer::from_vocab_and_merges(text.substr(0, cut), text.substr(std::min(cut + 1, text.size()))));
}

template <class Body>
void tolerate_errors(Body&& body) {
  try {
    body();
  } catch (const Error& e) {
    require(e.code() != Code::Internal && !e.message().empty());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      tolerate_errors([&] { check_prompt(text); });
      break;
    case 1:
      tolerate_errors([&] { check_vocab_and_merges(text); });
      break;
    case 2:
      tolerate_errors([&] { encode_all(ClipTokenizer::from_tokenizer_json(text)); });
      tolerate_errors([&] { encode_all(T5Tokenizer::from_tokenizer_json(text)); });
      break;
    default:
      tolerate_errors([&] { CharsMap(text, "fuzz").apply(kText); });
  }
  return 0;
}
