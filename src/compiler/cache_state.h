#pragma once
// What the files of Cache share; nobody else includes it.
#include <map>
#include <mutex>
#include <set>

#include "compiler/cache.h"

namespace sinter {

inline constexpr const char* kDirectoryVariable = "SINTER_CACHE_DIR";

/// Never the same twice in one process, so that the order of use is never in doubt.
int64_t now_microseconds();

// Everything below is guarded by `mutex`, but for reading and decoding entry files.
struct Cache::State {
  struct Use {
    uint64_t hits = 0;
    int64_t last = 0;
  };

  CacheOptions options;
  Digest compiler;
  std::unique_ptr<EntryStore> store;
  std::mutex mutex;
  std::unique_ptr<CacheIndex> index;
  bool memory_index = false;  // the one on disk cannot be used
  bool read_only = false;     // the directory is; then the index is made in memory, and only to explain misses
  bool storing = true;        // false after a write failed
  std::set<std::string> noted;
  std::map<Digest, Use> uses;             // since the last flush
  CacheTotals totals;                     // since the last flush
  std::map<Digest, std::string> reasons;  // of misses whose compile has not been put yet
  uint64_t bytes_put = 0;                 // since the last flush
  bool changed = false;                   // files were put or removed since the last flush

  std::filesystem::path index_file() const { return options.directory / "index.sqlite"; }

  void note(const std::string& kind, const std::string& text);
  void open_store();
  CacheIndex& open_index();
  /// Runs `body` on an index that works, whatever state the one on disk is in. Broken: made anew. Anything else: one in memory.
  void with_index(const std::function<void(CacheIndex&)>& body);
  bool discard_index(const std::string& why);
  void use_memory_index(const std::string& why);
  /// Makes the index agree with the files. Returns how many entries it did not know.
  uint64_t reconcile();
  /// An entry file that the index does not know. Entries of other versions are listed too: they take room and can be evicted.
  std::optional<EntryInfo> describe(const EntryStore::Stat& stat);
  /// The entry if it is whole; otherwise the reason, empty where there is none. Damaged files are removed.
  std::optional<DecodedEntry> load(const Digest& key, std::string& problem);
  void count_hit(const Digest& key, const EntryHead& head, Lookup& lookup);
  void count_miss(const Digest& key, const CompileFacts& facts, const std::string& problem, Lookup& lookup);
  std::string reason_of_miss(const Digest& key, const CompileFacts& facts);
  /// False, with a note, where nothing can be stored.
  bool write(const Digest& key, std::span<const std::byte> file);
  /// Returns how many bytes were put since the last flush.
  uint64_t record_put(const EntryHead& head);
  void record_import(const EntryHead& head);
  void write_counts(CacheIndex& index);
  void evict(CacheIndex& index);
  void flush();
  /// The stored entries that match, after the index was made to agree with the files.
  std::vector<EntryInfo> select(const CacheFilter& filter);
  void remove(const EntryInfo& entry, const std::string& why, TransferReport& report);
};

}  // namespace sinter
