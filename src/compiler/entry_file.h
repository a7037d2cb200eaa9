#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/hash.h"

namespace sinter {

/// A compiled program as the cache sees it: bytes.
using Blob = std::vector<std::byte>;
using Facts = std::vector<std::pair<std::string, std::string>>;

/// What a program was compiled from, in words; it explains later compiles and takes no part in finding the program.
struct CompileFacts {
  std::string label;   ///< the block: "unet/resblock 320->640"
  Facts facts;         ///< what went into the signature, by name: {"target", "x86-64 znver5 avx512"}, {"dtype", "f32"}
  double seconds = 0;  ///< how long compiling took
  bool operator==(const CompileFacts&) const = default;
};
/// The value of one fact; empty where there is none.
std::string_view fact(const Facts& facts, std::string_view name);

/// Everything about an entry but its program.
struct EntryHead {
  Digest key;
  Digest compiler;  ///< of the version text of the compiler that made it
  CompileFacts facts;
  int64_t created = 0;  ///< microseconds since 1970
  uint64_t bytes = 0;   ///< of the whole file
  uint64_t program_bytes = 0;
};

enum class EntryState {
  Good,
  Damaged,   ///< truncated, changed, or no entry at all
  Outdated,  ///< whole as far as can be told, but of another format or compiler version
};

struct DecodedEntry {
  EntryState state = EntryState::Damaged;
  std::string problem;  ///< in words; empty if Good
  EntryHead head;
  Blob program;
};

/// No program is larger, and no reader allocates more than this because of what a file says.
inline constexpr uint64_t kMaxProgramBytes = uint64_t(512) << 20;
inline constexpr uint64_t kMaxFactsBytes = uint64_t(64) << 10;
/// Enough of the start of a file for decode_head.
inline constexpr uint64_t kMaxHeadBytes = 96 + kMaxFactsBytes + 16;
inline constexpr uint64_t kMaxEntryBytes = kMaxHeadBytes + kMaxProgramBytes;

/// The bytes of an entry file. Control characters in the facts become spaces. Code::InvalidArgument beyond the limits above.
Blob encode_entry(const EntryHead& head, std::span<const std::byte> program);

/// Checks everything: the head, that the key is `key`, the compiler, the sizes and the program's digest. Never throws on bad
/// bytes. entry_file_test.cpp changes every byte and cuts at every length.
DecodedEntry decode_entry(std::span<const std::byte> file, const Digest& key, const Digest& compiler);

/// The head alone, from the first kMaxHeadBytes of a file (or all of it) that is `file_bytes` long. The program stays unread.
DecodedEntry decode_head(std::span<const std::byte> start, uint64_t file_bytes, const Digest& compiler);

}  // namespace sinter
