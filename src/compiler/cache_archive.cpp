#include "compiler/cache_archive.h"

#include <algorithm>
#include <cstring>
#include <istream>

#include "base/error.h"

// An archive, little-endian: "SINTERAR", version (u64), then for each entry its size (u64) and its file; a size of 0, and the
// number of entries (u64). Nothing follows.

namespace sinter {
namespace {

constexpr char kMagic[8] = {'S', 'I', 'N', 'T', 'E', 'R', 'A', 'R'};
constexpr uint64_t kVersion = 1;
constexpr uint64_t kPiece = uint64_t(1) << 20;

void write_number(AtomicFile& out, uint64_t value) { out.write(&value, sizeof value); }

/// Grows with what is really there, so that a size that lies costs nothing.
bool read_bytes(std::istream& in, uint64_t bytes, Blob& out) {
  out.clear();
  while (out.size() < bytes) {
    size_t at = out.size(), piece = size_t(std::min(bytes - at, kPiece));
    out.resize(at + piece);
    if (!in.read(reinterpret_cast<char*>(out.data() + at), std::streamsize(piece))) return false;
  }
  return true;
}

uint64_t read_number(std::istream& in, const std::string& name, uint64_t entries) {
  uint64_t value = 0;
  if (!in.read(reinterpret_cast<char*>(&value), sizeof value))
    fail(Code::Corrupt, "{}: the archive is cut off after {} entries; nothing was imported, copy the file again", name, entries);
  return value;
}

}  // namespace

ArchiveWriter::ArchiveWriter(AtomicFile& out) : out_(out) {
  out_.write(kMagic, sizeof kMagic);
  write_number(out_, kVersion);
}

void ArchiveWriter::add(std::span<const std::byte> entry_file) {
  SINTER_ASSERT(!entry_file.empty());
  write_number(out_, entry_file.size());
  out_.write(entry_file.data(), entry_file.size());
  ++count_;
}

void ArchiveWriter::finish() {
  write_number(out_, 0);
  write_number(out_, count_);
}

void read_archive(std::istream& in, const std::string& name, const std::function<void(uint64_t, const Blob&)>& entry) {
  char magic[sizeof kMagic];
  if (!in.read(magic, sizeof magic) || std::memcmp(magic, kMagic, sizeof magic) != 0)
    fail(Code::Corrupt, "{}: not an archive of compiled programs (expected a file written by `sinter cache export`)", name);
  if (uint64_t version = read_number(in, name, 0); version != kVersion)
    fail(Code::Unsupported, "{}: archive version {}, this program reads {}; export it again with this version", name, version,
         kVersion);
  Blob file;
  for (uint64_t count = 0;; ++count) {
    uint64_t bytes = read_number(in, name, count);
    if (bytes == 0) {
      uint64_t promised = read_number(in, name, count);
      if (promised != count || in.peek() != std::istream::traits_type::eof())
        fail(Code::Corrupt, "{}: the archive ends after {} entries, {} were promised, or more follows its end", name, count,
             promised);
      return;
    }
    if (bytes > kMaxEntryBytes)
      fail(Code::Corrupt, "{}: entry {} has {} bytes, more than any program ({})", name, count, bytes, kMaxEntryBytes);
    if (!read_bytes(in, bytes, file)) fail(Code::Corrupt, "{}: the archive is cut off inside entry {}", name, count);
    entry(count, file);
  }
}

}  // namespace sinter
