#pragma once
#include <functional>
#include <iosfwd>
#include <string>

#include "base/file.h"
#include "compiler/entry_file.h"

namespace sinter {

/// Writes many entry files into one, for carrying a cache to another machine.
class ArchiveWriter {
 public:
  explicit ArchiveWriter(AtomicFile& out);
  void add(std::span<const std::byte> entry_file);
  /// Must be the last call: without it the archive counts as truncated.
  void finish();

 private:
  AtomicFile& out_;
  uint64_t count_ = 0;
};

/// Calls `entry` with the bytes of each entry file, which the caller checks. `name` is for messages. Throws Code::Corrupt where
/// the stream is no archive or is cut off, having allocated no more than one entry and no more than the stream holds.
void read_archive(std::istream& in, const std::string& name, const std::function<void(uint64_t number, const Blob& file)>& entry);

}  // namespace sinter
