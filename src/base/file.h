#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/hash.h"

namespace sinter {

/// Which content a file had when it was looked at, without reading it. Equal identities mean equal content unless somebody
/// changed the file within one tick of the file system's clock, or set its time back.
struct FileIdentity {
  std::string path;
  uint64_t bytes = 0;
  int64_t modified_nanoseconds = 0;  ///< since 1970
  bool operator==(const FileIdentity&) const = default;
  Digest digest() const;
};

/// A whole file, mapped read-only. It must not be shortened while it is mapped (reading past its new end is a bus error);
/// files written by AtomicFile are replaced, never shortened.
class MappedFile {
 public:
  /// Code::NotFound where there is no such file, Code::Io where it cannot be read or is no regular file.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  size_t size() const { return size_; }
  const std::string& path() const { return identity_.path; }
  const FileIdentity& identity() const { return identity_; }

  /// Gives back the memory of [offset, offset + bytes) and of 2 MiB on both sides: where a page is read, the kernel maps all that
  /// it cached in one piece with it, which may be as much. Reading any of it again reads the file again.
  void drop(size_t offset, size_t bytes) const;
  /// Starts reading [offset, offset + bytes) in the background.
  void will_need(size_t offset, size_t bytes) const;
  /// Copies bytes from an address within bytes() without mapping their pages: what is read once is copied sooner so, and leaves
  /// nothing to unmap. Code::Io where the file has been shortened.
  void read(const std::byte* from, void* to, size_t bytes) const;
  /// The file that a tensor in memory is a view of, if it is one; valid as long as that view.
  static const MappedFile* containing(const std::byte* address);

 private:
  MappedFile() = default;
  int descriptor_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  FileIdentity identity_;
};

/// The content of a file. Code::Unsupported where it is longer than `limit` bytes.
std::string read_file(const std::filesystem::path& path, uint64_t limit = uint64_t(1) << 40);

/// A file that appears under its name whole or not at all. Until commit() the bytes are in `.NAME.sinter-XXXXXX.tmp` in the same
/// folder, or in `temporaries`, which must be on the same file system; the destructor removes that. A killed process leaves it
/// behind: see remove_stale_temporaries().
class AtomicFile {
 public:
  /// Code::Io where the folder cannot be written. A symbolic link is followed, so that what it points at is replaced.
  explicit AtomicFile(std::filesystem::path path, const std::filesystem::path& temporaries = {});
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Takes the disk space for a file of this size now, so that a full disk shows before the work is done.
  void reserve(uint64_t bytes);
  void write(const void* data, size_t bytes);
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
  /// Where the bytes are until commit(), for programs that write them in our stead; they must not replace the file.
  const std::filesystem::path& temporary() const { return temporary_; }
  /// Makes the content durable and gives it its name.
  void commit();

 private:
  [[noreturn]] void fail_with(const char* operation, int error);
  void open_temporary(const std::filesystem::path& folder);
  void discard();

  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
};

/// Replaces the file by these bytes, whole or not at all.
void write_atomically(const std::filesystem::path& path, std::string_view bytes);
/// The same for content that `write` produces piece by piece; if it throws, nothing is left.
void write_atomically(const std::filesystem::path& path, const std::function<void(AtomicFile&)>& write);

/// Removes the temporaries that killed processes left in this folder, and returns how many. Those of running processes are
/// locked and stay.
int remove_stale_temporaries(const std::filesystem::path& folder);

}  // namespace sinter
