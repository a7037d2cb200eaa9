#include <cstdlib>
#include <sstream>

#include "base/error.h"
#include "compiler/cache_archive.h"
#include "compiler/entry_file.h"

using namespace sinter;

namespace {

const Digest kKey = digest_of("key"), kCompiler = digest_of("compiler");

void check(std::span<const std::byte> file) {
  DecodedEntry head = decode_head(file.first(std::min<size_t>(file.size(), kMaxHeadBytes)), file.size(), kCompiler);
  DecodedEntry entry = decode_entry(file, head.state == EntryState::Good ? head.head.key : kKey, kCompiler);
  if (entry.state != EntryState::Good) {
    if (entry.problem.empty() || !entry.program.empty()) std::abort();
    return;
  }
  // What was accepted survives being written and read again.
  DecodedEntry again = decode_entry(encode_entry(entry.head, entry.program), entry.head.key, kCompiler);
  if (again.state != EntryState::Good || again.program != entry.program || again.head.facts.label != entry.head.facts.label)
    std::abort();
}

/// The digests stop every mutation at once; sealed again, the mutations reach the rest of the decoder.
Blob sealed(Blob file) {
  if (file.size() < 96 + 16) return file;
  uint64_t facts_bytes;
  std::memcpy(&facts_bytes, file.data() + 48, sizeof facts_bytes);
  facts_bytes = std::min<uint64_t>(facts_bytes, file.size() - 96 - 16);
  std::memcpy(file.data() + 48, &facts_bytes, sizeof facts_bytes);
  uint64_t stored = file.size() - 96 - 16 - facts_bytes;
  std::memcpy(file.data() + 56, &stored, sizeof stored);
  std::memcpy(file.data() + 16, &kCompiler, sizeof kCompiler);
  Digest seal = digest_of(file.data(), 96 + facts_bytes);
  std::memcpy(file.data() + 96 + facts_bytes, &seal, sizeof seal);
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto* bytes = reinterpret_cast<const std::byte*>(data);
  check({bytes, size});
  check(sealed(Blob(bytes, bytes + size)));
  std::istringstream archive(std::string(reinterpret_cast<const char*>(data), size));
  try {
    read_archive(archive, "fuzz", [](uint64_t, const Blob& file) { check(file); });
  } catch (const Error& e) {
    if (e.message().find("fuzz") == std::string::npos) std::abort();
  }
  return 0;
}
