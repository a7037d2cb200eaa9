#include "compiler/entry_file.h"

#include <doctest/doctest.h>

#include <cstring>
#include <random>

#include "base/error.h"

using namespace sinter;

namespace {

const Digest kKey = digest_of("key"), kCompiler = digest_of("compiler");

Blob text_blob(std::string_view text) {
  auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  return Blob(bytes, bytes + text.size());
}

EntryHead head() { return {kKey, kCompiler, {"unet/resblock", {{"dtype", "f32"}, {"target", "x86-64"}}, 1.5}, 1234}; }

Blob packed_program() {
  Blob program;
  for (int i = 0; i < 100; ++i)
    for (std::byte b : text_blob("vmovups zmm0, [rdi]; ")) program.push_back(b);
  return program;
}

Blob random_program(size_t bytes) {
  std::mt19937 random(7);
  Blob program(bytes);
  for (auto& b : program) b = std::byte(random());
  return program;
}

/// Replaces one field of the header and seals the head again, as somebody hostile would.
Blob forged(Blob file, size_t offset, uint64_t value) {
  std::memcpy(file.data() + offset, &value, sizeof value);
  uint64_t facts_bytes;
  std::memcpy(&facts_bytes, file.data() + 48, sizeof facts_bytes);
  size_t sealed = 96 + facts_bytes;
  if (sealed + 16 > file.size()) return file;
  Digest seal = digest_of(file.data(), sealed);
  std::memcpy(file.data() + sealed, &seal, sizeof seal);
  return file;
}

}  // namespace

TEST_CASE("an entry gives back its program and its facts") {
  for (const Blob& program : {packed_program(), random_program(1000), Blob(), Blob(8 << 20)}) {
    Blob file = encode_entry(head(), program);
    DecodedEntry entry = decode_entry(file, kKey, kCompiler);
    REQUIRE(entry.problem == "");
    CHECK(entry.state == EntryState::Good);
    CHECK(entry.program == program);
    CHECK(entry.head.facts == head().facts);
    CHECK(entry.head.created == 1234);
    CHECK(entry.head.bytes == file.size());
    CHECK(entry.head.program_bytes == program.size());
    auto start = std::span(file).first(std::min<size_t>(file.size(), kMaxHeadBytes));
    CHECK(decode_head(start, file.size(), kCompiler).head.facts == head().facts);
  }
  CHECK(encode_entry(head(), packed_program()).size() < packed_program().size());
}

TEST_CASE("no changed byte of an entry gives a wrong program") {
  for (const Blob& program : {packed_program(), random_program(300)}) {
    Blob file = encode_entry(head(), program);
    for (size_t at = 0; at < file.size(); ++at)
      for (unsigned flip : {0x01u, 0x10u, 0x80u, 0xffu}) {
        Blob changed = file;
        changed[at] ^= std::byte(flip);
        DecodedEntry entry = decode_entry(changed, kKey, kCompiler);
        // A bit of a zstd frame may be without meaning: then the program is still the right one.
        bool right = entry.state == EntryState::Good && entry.program == program && entry.head.facts == head().facts;
        bool refused = entry.state != EntryState::Good && entry.program.empty() && !entry.problem.empty();
        CHECK_MESSAGE((right || refused), "byte ", at, " flip ", flip);
        if (at < 96) CHECK(refused);
      }
  }
}

TEST_CASE("an entry cut at any length is damaged") {
  Blob file = encode_entry(head(), packed_program());
  for (size_t bytes = 0; bytes < file.size(); ++bytes) {
    DecodedEntry entry = decode_entry(std::span(file).first(bytes), kKey, kCompiler);
    CHECK(entry.state == EntryState::Damaged);
    CHECK(!entry.problem.empty());
  }
  file.push_back(std::byte(0));
  CHECK(decode_entry(file, kKey, kCompiler).state == EntryState::Damaged);
}

TEST_CASE("the program of another key, compiler or format is not used") {
  Blob file = encode_entry(head(), packed_program());
  DecodedEntry other = decode_entry(file, digest_of("other"), kCompiler);
  CHECK(other.state == EntryState::Damaged);
  CHECK(other.problem.find("another key") != std::string::npos);
  CHECK(decode_entry(file, kKey, digest_of("newer")).problem == "it was made by another version of the compiler");
  CHECK(decode_entry(file, kKey, digest_of("newer")).state == EntryState::Outdated);
  file[8] = std::byte(2);
  CHECK(decode_entry(file, kKey, kCompiler).problem == "it has format 2, this program reads 1");
}

TEST_CASE("sizes that lie are refused before anything is allocated for them") {
  Blob file = encode_entry(head(), packed_program());
  for (uint64_t size : {uint64_t(0), uint64_t(1), uint64_t(1) << 28, uint64_t(1) << 40, ~uint64_t(0)})
    for (size_t field : {48, 56, 64}) {  // facts, stored, program
      DecodedEntry entry = decode_entry(forged(file, field, size), kKey, kCompiler);
      CHECK(entry.state == EntryState::Damaged);
      CHECK(entry.program.capacity() < (4u << 20));
    }
}

TEST_CASE("control characters never leave an entry") {
  EntryHead loud = head();
  loud.facts.label = "unet\x1b[2J";
  DecodedEntry entry = decode_entry(encode_entry(loud, packed_program()), kKey, kCompiler);
  CHECK(entry.head.facts.label == "unet [2J");
  Blob file = encode_entry(head(), packed_program());
  uint64_t label;
  std::memcpy(&label, file.data() + 96 + 8 + 4, sizeof label);
  Blob hostile = forged(file, 96 + 8 + 4, (label & ~uint64_t(0xff)) | 0x1b);
  CHECK(decode_entry(hostile, kKey, kCompiler).problem == "its facts are not readable");
}

TEST_CASE("facts beyond the limit are refused by name") {
  EntryHead large = head();
  large.facts.facts.assign(1000, {"name", std::string(100, 'x')});
  CHECK_THROWS_WITH_AS(encode_entry(large, {}), doctest::Contains("unet/resblock"), Error);
}
