#include "text/prompt.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "text/clip_tokenizer.h"
#include "text/synthetic_vocabulary.h"
#include "text/t5_tokenizer.h"

using namespace sinter;

namespace {

using Runs = std::vector<WeightedText>;

const ClipTokenizer& clip() {
  static const auto tokenizer = [] {
    auto files = synthetic_clip_vocabulary(2000);
    return ClipTokenizer::from_vocab_and_merges(files.vocab_json, files.merges_txt);
  }();
  return tokenizer;
}

const T5Tokenizer& t5() {
  static const auto tokenizer = T5Tokenizer::from_tokenizer_json(synthetic_t5_vocabulary(2000));
  return tokenizer;
}

std::vector<Token> only_chunk(const TokenizedPrompt& prompt) {
  REQUIRE(prompt.chunks.size() == 1);
  return prompt.chunks[0];
}

/// The runs as texts and weights that print well.
bool same_runs(const Runs& a, const Runs& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i].text != b[i].text || std::abs(a[i].weight - b[i].weight) > 1e-12) return false;
  return true;
}

}  // namespace

TEST_CASE("parentheses weigh by 1.1 and nest, a number replaces the weight") {
  CHECK(same_runs(parse_prompt_weights("a (red) car"), Runs{{"a ", 1}, {"red", 1.1}, {" car", 1}}));
  CHECK(same_runs(parse_prompt_weights("((b))"), Runs{{"b", 1.1 * 1.1}}));
  CHECK(same_runs(parse_prompt_weights("(a (b:0.5) c:1.4)"), Runs{{"a ", 1.4}, {"b", 0.5}, {" c", 1.4}}));
  CHECK(same_runs(parse_prompt_weights("(a:-.5)(b:+1e1)(c: 1_0 )"), Runs{{"a", -0.5}, {"b", 10}, {"c", 10}}));
  CHECK(same_runs(parse_prompt_weights("(a:\xef\xbc\x92)"), Runs{{"a", 2}}));  // a full-width digit
}

TEST_CASE("what is not a number after the colon stays text") {
  for (const char* inner : {"a:b", "a:", ":1.2", "a:1_", "a:_1", "a:1__0", "a:0x10", "a:1 2", "a:--1", "a:1.2.3", "a:infinite"})
    CHECK(same_runs(parse_prompt_weights(std::string("(") + inner + ")"), Runs{{inner, 1.1}}));
}

TEST_CASE("escaped and unbalanced parentheses are text") {
  CHECK(same_runs(parse_prompt_weights("\\(a\\)"), Runs{{"(a)", 1}}));
  CHECK(same_runs(parse_prompt_weights("(a \\(b\\):1.3)"), Runs{{"a (b)", 1.3}}));
  CHECK(same_runs(parse_prompt_weights("(a\\)"), Runs{{"(a)", 1}}));
  CHECK(same_runs(parse_prompt_weights("a) in (b"), Runs{{"a) in (b", 1}}));
  CHECK(same_runs(parse_prompt_weights("(a:1.5"), Runs{{"(a:1.5", 1}}));
  CHECK(same_runs(parse_prompt_weights("((a)"), Runs{{"(a", 1.1}}));
  CHECK(same_runs(parse_prompt_weights("()"), Runs{}));
}

TEST_CASE("weights that are not finite, too deep nesting and broken UTF-8 are refused with the reason") {
  CHECK_THROWS_WITH_AS(parse_prompt_weights("(a:inf)"), "prompt: the weight 'inf' is not a finite number; use one like 1.2",
                       Error);
  CHECK_THROWS_AS(parse_prompt_weights("(a:nan)"), Error);
  CHECK_THROWS_AS(parse_prompt_weights("(a:1e39)"), Error);
  CHECK_THROWS_AS(parse_prompt_weights("(a:1e999)"), Error);
  CHECK(same_runs(parse_prompt_weights("(a:1e-999)"), Runs{{"a", 0}}));
  CHECK_THROWS_WITH_AS(parse_prompt_weights(std::string(501, '(') + "a" + std::string(501, ')')),
                       "prompt: parentheses are nested deeper than 500 levels", Error);
  CHECK_THROWS_WITH_AS(tokenize_prompt("caf\xe9", clip(), clip_g_rules()),
                       "the prompt is not valid UTF-8: byte 3 of 4 is 0xe9; save or send the text as UTF-8", Error);
}

TEST_CASE("a run of 8 tokens is cut where the chunk is full, one of 7 moves whole") {
  std::string filler;
  for (int i = 0; i < 70; ++i) filler += "cat ";
  REQUIRE(clip().encode(filler).size() == 70);
  auto eight = tokenize_prompt(filler + "(dog dog dog dog dog dog dog dog:1.5)", clip(), clip_l_rules(clip()));
  REQUIRE(eight.chunks.size() == 2);
  CHECK(eight.chunks[0][75].weight == 1.5f);
  CHECK(eight.chunks[0][76].id == clip().end_id());
  CHECK(eight.chunks[1][3].weight == 1.5f);
  CHECK(eight.chunks[1][4].id == clip().end_id());
  auto seven = tokenize_prompt(filler + "(dog dog dog dog dog dog dog:1.5)", clip(), clip_l_rules(clip()));
  REQUIRE(seven.chunks.size() == 2);
  CHECK(seven.chunks[0][71].id == clip().end_id());
  CHECK(seven.chunks[1][0].id == *clip().start_id());
  CHECK(seven.chunks[1][1].weight == 1.5f);
  CHECK(seven.chunks[1][7].word == 2);
  CHECK(seven.chunks[1][8].word == 0);
}

TEST_CASE("75 tokens fill one chunk and the 76th opens another") {
  std::string text;
  for (int i = 0; i < 75; ++i) text += "cat ";
  CHECK(tokenize_prompt(text, clip(), clip_l_rules(clip())).chunks.size() == 1);
  CHECK(tokenize_prompt(text + "cat", clip(), clip_l_rules(clip())).chunks.size() == 2);
}

TEST_CASE("padding is the end id for CLIP-L and 0 for CLIP-G and T5") {
  auto l = only_chunk(tokenize_prompt("cat", clip(), clip_l_rules(clip())));
  auto g = only_chunk(tokenize_prompt("cat", clip(), clip_g_rules()));
  auto t = only_chunk(tokenize_prompt("cat", t5(), t5_rules()));
  CHECK(l.size() == 77);
  CHECK(l[76].id == clip().end_id());
  CHECK(g.size() == 77);
  CHECK(g[2].id == clip().end_id());
  CHECK(g[3].id == 0);
  CHECK(t.size() == 256);
  CHECK(t[255].id == 0);
}

TEST_CASE("a T5 prompt of more than 256 tokens stays one sequence without padding") {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "cat ";
  auto chunk = only_chunk(tokenize_prompt(text, t5(), t5_rules()));
  CHECK(chunk.size() == 301);
  CHECK(chunk.back().id == 1);
}

TEST_CASE("an embedding gives one place for each of its vectors, with the run's weight") {
  Tensor two = Tensor::of({2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6});
  std::vector<std::string> asked;
  auto lookup = [&](const std::string& name) -> std::optional<Tensor> {
    asked.push_back(name);
    if (name == "style") return two;
    if (name == "flat") return two.rows(0, 1).reshaped({3});
    return {};
  };
  auto prompt = tokenize_prompt("cat embedding:style dog (embedding:flat:1.3)", clip(), clip_l_rules(clip()), lookup);
  auto chunk = only_chunk(prompt);
  CHECK(asked == std::vector<std::string>{"style", "flat"});
  REQUIRE(prompt.vectors.size() == 3);
  CHECK(prompt.vectors[1].f32()[2] == 6);
  CHECK(chunk[1].id == clip().encode("cat")[0]);
  CHECK(chunk[2].vector == 0);
  CHECK(chunk[3].vector == 1);
  CHECK(chunk[3].word == 2);
  CHECK(chunk[4].id == clip().encode("dog")[0]);
  CHECK(chunk[4].vector == -1);
  CHECK(chunk[5].vector == 2);
  CHECK(chunk[5].weight == 1.3f);
  CHECK(chunk[6].id == clip().end_id());
}

TEST_CASE("an embedding that claims rows without numbers is refused") {
  auto lookup = [](const std::string&) -> std::optional<Tensor> {
    return Tensor(DType::f32, {int64_t(1) << 40, 0}, nullptr, nullptr);
  };
  CHECK_THROWS_WITH_AS(tokenize_prompt("embedding:x", clip(), clip_l_rules(clip()), lookup),
                       doctest::Contains("expected a tensor [width] or [n, width], found [1099511627776, 0]"), Error);
}

TEST_CASE("commas after an embedding's name belong to the text") {
  auto lookup = [](const std::string& name) -> std::optional<Tensor> {
    if (name != "style") return {};
    return Tensor::of({1, 1}, std::vector<float>{1});
  };
  auto chunk = only_chunk(tokenize_prompt("embedding:style, dog", clip(), clip_l_rules(clip()), lookup));
  CHECK(chunk[1].vector == 0);
  auto rest = clip().encode(", dog");
  REQUIRE(rest.size() == 2);
  CHECK(chunk[2].id == rest[0]);
  CHECK(chunk[3].id == rest[1]);
}

TEST_CASE("an embedding that nobody has is left out and reported") {
  auto lookup = [](const std::string&) -> std::optional<Tensor> { return {}; };
  auto prompt = tokenize_prompt("cat embedding:nothing dog", clip(), clip_l_rules(clip()), lookup);
  CHECK(prompt.not_found == std::vector<std::string>{"nothing"});
  auto chunk = only_chunk(prompt);
  CHECK(chunk[1].id == clip().encode("cat")[0]);
  CHECK(chunk[2].id == clip().encode("dog")[0]);
  CHECK(chunk[3].id == clip().end_id());
}

TEST_CASE("without a lookup embedding: is ordinary text") {
  auto prompt = tokenize_prompt("embedding:x", clip(), clip_l_rules(clip()));
  CHECK(prompt.not_found.empty());
  CHECK(only_chunk(prompt)[1].id == clip().encode("embedding:x")[0]);
}

TEST_CASE("prompts made to be slow are cut like any other") {
  // Anything quadratic in here takes minutes instead of milliseconds, which the test's time limit turns into a failure.
  auto chunks = [](const std::string& text) {
    CHECK(tokenize_prompt(text, t5(), t5_rules()).chunks.size() == 1);
    return tokenize_prompt(text, clip(), clip_l_rules(clip())).chunks.size();
  };
  auto repeated = [](const std::string& text, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += text;
    return out;
  };
  CHECK(chunks(std::string(100000, '.')) == 1334);                   // one word of 100000 bytes that never merge
  CHECK(chunks("a" + repeated("\xcc\x80\xcc\x96", 25000)) == 1334);  // marks in the worst order for sorting
  CHECK(chunks(repeated("(", 100000)) == 1334);                      // never closed
  CHECK(chunks(repeated("(.:1.1)", 15000)) == 200);                  // one run for each
  CHECK(chunks(std::string(100000, ' ')) == 1);
  CHECK(chunks(std::string(490, '(') + std::string(99000, '.') + std::string(490, ')')) == 1320);  // read once for each level
}
