#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compiler/entry_file.h"

namespace sinter {

/// Where entry files lie: a directory that many processes share, or memory. Nothing here looks into the bytes.
class EntryStore {
 public:
  virtual ~EntryStore() = default;

  struct File {
    Blob bytes;
    uint64_t total_bytes = 0;  ///< of the whole file, also where only its start was asked for
    std::string problem;       ///< why it could not be read though it is there
  };
  struct Stat {
    Digest key;
    uint64_t bytes = 0;
    int64_t modified = 0;  ///< microseconds since 1970
  };
  /// Holds a key while it lives; released by the kernel if the process dies.
  class Hold {
   public:
    virtual ~Hold() = default;
  };

  /// At most the first `limit` bytes; nothing if there is no such file. A file larger than kMaxEntryBytes is not read.
  virtual std::optional<File> read(const Digest& key, uint64_t limit = kMaxEntryBytes) const = 0;
  /// Replaces the file whole or not at all. Returns what went wrong, empty if nothing.
  virtual std::string write(const Digest& key, std::span<const std::byte> bytes) = 0;
  /// False if it is still there.
  virtual bool remove(const Digest& key) = 0;
  virtual std::vector<Stat> list() const = 0;
  /// Files among the entries that do not have an entry's name; nobody touches them.
  virtual std::vector<std::string> strangers() const { return {}; }
  /// Null if someone else holds it. `problem` is set where holding is impossible for another reason.
  virtual std::unique_ptr<Hold> try_hold(const Digest& key, std::string& problem) = 0;
  /// Removes what writers and holders that were killed more than an hour ago left behind.
  virtual void clean() {}
};

/// directory/entries/ab/abcdef....sinter, directory/tmp, directory/locks.
std::unique_ptr<EntryStore> entries_on_disk(std::filesystem::path directory);
std::unique_ptr<EntryStore> entries_in_memory();

/// A file held against everybody else who asks, until destruction. The file is removed afterwards.
/// Null if it is held by another; `problem` is set where it cannot be created.
std::unique_ptr<EntryStore::Hold> try_hold_file(const std::filesystem::path& file, std::string& problem);

}  // namespace sinter
