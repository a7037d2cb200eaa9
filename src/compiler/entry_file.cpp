#include "compiler/entry_file.h"

#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"

// One entry, little-endian:
//
//   offset  bytes  what
//        0      8  "SINTERPR"
//        8      4  format version
//       12      4  how the program is stored: 0 as it is, 1 zstd
//       16     16  digest of the compiler's version text (high, low)
//       32     16  key
//       48      8  bytes of facts
//       56      8  bytes of the program as stored
//       64      8  bytes of the program
//       72      8  when it was made, microseconds since 1970
//       80     16  digest of the program
//       96      *  facts: seconds (f64), label, number of facts (u32), their names and values; a text is its size (u32) and bytes
//        *     16  digest of everything above
//        *      *  the program as stored, to the end of the file
//
// The facts are here, and not only in the index, so that an index can be rebuilt from the files and an export explains itself.

namespace sinter {
namespace {

static_assert(std::endian::native == std::endian::little, "entry files are written as they lie in memory");

constexpr char kMagic[8] = {'S', 'I', 'N', 'T', 'E', 'R', 'P', 'R'};
constexpr uint32_t kFormat = 1;
constexpr size_t kHeaderBytes = 96, kDigestBytes = 16;
enum Storage : uint32_t { kPlain = 0, kZstd = 1 };
// What a reader allocates is bounded by what the file really holds: a program that shrinks further than this is stored as it is.
constexpr uint64_t kMaxRatio = 256, kRatioSlack = uint64_t(1) << 20;
constexpr int kZstdLevel = 3;

struct Header {
  char magic[8];
  uint32_t format, storage;
  Digest compiler, key;
  uint64_t facts_bytes, stored_bytes, program_bytes;
  int64_t created;
  Digest program;
};
static_assert(sizeof(Header) == kHeaderBytes && std::is_trivially_copyable_v<Header>);

void append(Blob& out, const void* data, size_t bytes) {
  auto* from = static_cast<const std::byte*>(data);
  out.insert(out.end(), from, from + bytes);
}

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

// These texts reach terminals: nothing in an entry may move a cursor.
void append_text(Blob& out, std::string text) {
  std::replace_if(text.begin(), text.end(), is_control, ' ');
  uint32_t bytes = uint32_t(text.size());
  append(out, &bytes, sizeof bytes);
  append(out, text.data(), text.size());
}

Blob encode_facts(const CompileFacts& facts) {
  Blob out;
  append(out, &facts.seconds, sizeof facts.seconds);
  append_text(out, facts.label);
  uint32_t count = uint32_t(facts.facts.size());
  append(out, &count, sizeof count);
  for (auto& [name, value] : facts.facts) {
    append_text(out, name);
    append_text(out, value);
  }
  return out;
}

/// Reads values from bytes; once something is missing, `good` is false and everything read is empty.
struct Cursor {
  std::span<const std::byte> rest;
  bool good = true;

  template <class T>
  T value() {
    T out{};
    if (!good || rest.size() < sizeof(T)) {
      good = false;
      return out;
    }
    std::memcpy(&out, rest.data(), sizeof(T));
    rest = rest.subspan(sizeof(T));
    return out;
  }
  std::string text() {
    uint32_t bytes = value<uint32_t>();
    if (!good || rest.size() < bytes) {
      good = false;
      return {};
    }
    std::string out(reinterpret_cast<const char*>(rest.data()), bytes);
    rest = rest.subspan(bytes);
    good = std::none_of(out.begin(), out.end(), is_control);
    return out;
  }
};

bool decode_facts(std::span<const std::byte> bytes, CompileFacts& facts) {
  Cursor cursor{bytes};
  facts.seconds = cursor.value<double>();
  facts.label = cursor.text();
  uint32_t count = cursor.value<uint32_t>();
  for (uint32_t i = 0; i < count && cursor.good; ++i) {
    std::string name = cursor.text();
    facts.facts.emplace_back(std::move(name), cursor.text());
  }
  // Also refuses NaN.
  bool sensible = facts.seconds >= 0 && facts.seconds < 1e9;
  return cursor.good && cursor.rest.empty() && sensible;
}

DecodedEntry bad(EntryState state, std::string problem) { return {state, std::move(problem), {}, {}}; }

template <class... Args>
DecodedEntry damaged(fmt::format_string<Args...> format, Args&&... args) {
  return bad(EntryState::Damaged, fmt::format(format, std::forward<Args>(args)...));
}

Header header_of(std::span<const std::byte> file) {
  Header header;
  std::memcpy(&header, file.data(), sizeof header);
  return header;
}

size_t program_offset(const Header& header) { return kHeaderBytes + header.facts_bytes + kDigestBytes; }

/// Puts the program into `entry`, or says what is wrong.
std::string decode_program(const Header& header, std::span<const std::byte> stored, Blob& program) {
  if (header.storage == kPlain) {
    program.assign(stored.begin(), stored.end());
  } else {
    program.resize(header.program_bytes);
    size_t bytes = ZSTD_decompress(program.data(), program.size(), stored.data(), stored.size());
    if (ZSTD_isError(bytes)) return fmt::format("its program does not decompress ({})", ZSTD_getErrorName(bytes));
    if (bytes != header.program_bytes)
      return fmt::format("its program has {} bytes where {} were promised", bytes, header.program_bytes);
  }
  if (digest_of(program.data(), program.size()) != header.program) return "its program does not have the digest in its head";
  return {};
}

}  // namespace

std::string_view fact(const Facts& facts, std::string_view name) {
  for (auto& [key, value] : facts)
    if (key == name) return value;
  return {};
}

Blob encode_entry(const EntryHead& head, std::span<const std::byte> program) {
  Blob facts = encode_facts(head.facts);
  if (facts.size() > kMaxFactsBytes)
    fail(Code::InvalidArgument, "cache entry \"{}\": {} bytes of facts, at most {} are allowed", head.facts.label.substr(0, 80),
         facts.size(), kMaxFactsBytes);
  if (program.size() > kMaxProgramBytes)
    fail(Code::InvalidArgument, "cache entry \"{}\": a program of {} bytes, at most {} are allowed", head.facts.label,
         program.size(), kMaxProgramBytes);

  Blob packed(ZSTD_compressBound(program.size()));
  size_t packed_bytes = ZSTD_compress(packed.data(), packed.size(), program.data(), program.size(), kZstdLevel);
  bool pack =
      !ZSTD_isError(packed_bytes) && packed_bytes < program.size() && program.size() <= packed_bytes * kMaxRatio + kRatioSlack;
  std::span<const std::byte> stored = pack ? std::span<const std::byte>(packed).first(packed_bytes) : program;

  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.format = kFormat;
  header.storage = pack ? kZstd : kPlain;
  header.compiler = head.compiler;
  header.key = head.key;
  header.facts_bytes = facts.size();
  header.stored_bytes = stored.size();
  header.program_bytes = program.size();
  header.created = head.created;
  header.program = digest_of(program.data(), program.size());

  Blob file;
  file.reserve(program_offset(header) + stored.size());
  append(file, &header, sizeof header);
  append(file, facts.data(), facts.size());
  Digest digest = digest_of(file.data(), file.size());
  append(file, &digest, sizeof digest);
  append(file, stored.data(), stored.size());
  return file;
}

DecodedEntry decode_head(std::span<const std::byte> start, uint64_t file_bytes, const Digest& compiler) {
  if (start.size() < kHeaderBytes) return damaged("it has {} bytes, fewer than a head", start.size());
  Header header = header_of(start);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) return damaged("it is not a cache entry");
  if (header.format != kFormat)
    return bad(EntryState::Outdated, fmt::format("it has format {}, this program reads {}", header.format, kFormat));
  if (header.facts_bytes > kMaxFactsBytes) return damaged("its head promises {} bytes of facts", header.facts_bytes);
  if (start.size() < program_offset(header)) return damaged("it ends inside its head");
  size_t sealed = kHeaderBytes + header.facts_bytes;
  Digest seal;
  std::memcpy(&seal, start.data() + sealed, sizeof seal);
  if (digest_of(start.data(), sealed) != seal) return damaged("its head does not have its digest");

  if (header.storage > kZstd) return damaged("its program is stored in the unknown way {}", header.storage);
  if (header.program_bytes > kMaxProgramBytes || header.stored_bytes > kMaxProgramBytes)
    return damaged("its head promises a program of {} bytes", header.program_bytes);
  if (header.storage == kPlain ? header.program_bytes != header.stored_bytes
                               : header.program_bytes > header.stored_bytes * kMaxRatio + kRatioSlack)
    return damaged("its head promises a program of {} bytes out of {}", header.program_bytes, header.stored_bytes);
  if (file_bytes != program_offset(header) + header.stored_bytes)
    return damaged("it has {} bytes where {} were written", file_bytes, program_offset(header) + header.stored_bytes);

  DecodedEntry entry;
  if (!decode_facts(start.subspan(kHeaderBytes, header.facts_bytes), entry.head.facts))
    return damaged("its facts are not readable");
  entry.head.key = header.key;
  entry.head.compiler = header.compiler;
  entry.head.created = header.created;
  entry.head.bytes = file_bytes;
  entry.head.program_bytes = header.program_bytes;
  entry.state = header.compiler == compiler ? EntryState::Good : EntryState::Outdated;
  if (entry.state == EntryState::Outdated) entry.problem = "it was made by another version of the compiler";
  return entry;
}

DecodedEntry decode_entry(std::span<const std::byte> file, const Digest& key, const Digest& compiler) {
  DecodedEntry entry = decode_head(file, file.size(), compiler);
  if (entry.state != EntryState::Good) return entry;
  if (entry.head.key != key) return damaged("it holds the program of another key, {}", entry.head.key.hex());
  Header header = header_of(file);
  entry.problem = decode_program(header, file.subspan(program_offset(header)), entry.program);
  if (entry.problem.empty()) return entry;
  return bad(EntryState::Damaged, entry.problem);
}

}  // namespace sinter
