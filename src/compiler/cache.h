#pragma once
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compiler/cache_index.h"
#include "compiler/entry_file.h"
#include "compiler/entry_store.h"

namespace sinter {

struct CacheOptions {
  std::filesystem::path directory;  ///< empty: as memory_only
  uint64_t max_bytes = uint64_t(4) << 30;
  bool memory_only = false;  ///< nothing is read from or written to disk
  /// Programs of another compiler version are never used.
  std::string compiler_version = "1";
  /// Told once about each thing that makes the cache do less than it should; by default it prints to standard error.
  std::function<void(const std::string&)> note;

  /// SINTER_CACHE_DIR (else XDG_CACHE_HOME/sinter, else ~/.cache/sinter) and SINTER_CACHE_MAX_BYTES ("4G", "512M").
  /// Code::InvalidArgument names the variable that makes no sense.
  static CacheOptions from_environment();
};

/// What a search came to.
struct Lookup {
  bool hit = false;
  bool waited = false;  ///< another process was compiling it meanwhile
  std::string reason;   ///< of a miss: "dtype f32 -> bf16", "first compile of unet/resblock"; empty for a hit
  double seconds = 0;   ///< what compiling it took, or takes now
};

/// Which entries: those whose label contains `text` or whose key starts with it, and that were not used for so long.
struct CacheFilter {
  std::string text;
  double unused_for_seconds = 0;
  bool empty() const { return text.empty() && unused_for_seconds <= 0; }
};

struct CacheStats {
  std::string directory;  ///< empty: in memory
  uint64_t entries = 0, bytes = 0, limit_bytes = 0;
  CacheTotals totals;  ///< since the index was made
};

struct CompileExplained : CompileRecord {
  bool stored = false;  ///< its program is still there
};

/// `problems` name what was left out and why.
struct TransferReport {
  uint64_t entries = 0, bytes = 0, already_present = 0;
  std::vector<std::string> problems;
};

struct VerifyReport {
  uint64_t good = 0, outdated = 0, removed = 0;  ///< outdated: of another version; left for eviction
  std::vector<std::string> damaged;              ///< each with the reason
  std::vector<std::string> strangers;            ///< files that are no entries; left alone
};

/// Compiled programs, kept on disk for all processes of this machine. Whatever is wrong with the files or the index costs time
/// and a note, never a wrong program and never an exception. Files decide; the index (SQLite) is opened only after the first miss
/// or at flush(), so that a run that compiles nothing does not wait for it. Any number of threads and processes may use one
/// directory. cache_test.cpp and cache_process_test.cpp hold the promises.
class Cache {
 public:
  explicit Cache(CacheOptions options);
  ~Cache();  ///< flushes
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  /// The program stored under `key`. A miss is counted and explained with `facts`, those of the program that is needed.
  std::optional<Blob> find(const Digest& key, const CompileFacts& facts, Lookup* lookup = nullptr);
  /// Stores a program; where that is impossible, a note says so once.
  void put(const Digest& key, std::span<const std::byte> program, const CompileFacts& facts);
  /// find, else compile and put, while no other process compiles the same key. `facts.seconds` is measured here.
  /// Code::Cancelled if `cancelled` says so while another process compiles.
  Blob find_or_compile(const Digest& key, CompileFacts facts, const std::function<Blob()>& compile, Lookup* lookup = nullptr,
                       const std::function<bool()>& cancelled = {});

  /// For the line before a run. Reads the entry's head; counts nothing.
  bool contains(const Digest& key) const;
  /// What compiling such a program took before, else what one takes on average; 0 where nothing is known.
  double expected_seconds(const CompileFacts& facts);

  /// Writes hits and misses to the index, evicts the least recently used entries beyond the limit, and removes what killed
  /// writers left behind.
  void flush();

  CacheStats stats();
  std::vector<EntryInfo> list(const CacheFilter& filter = {});                  ///< least recently used first
  std::vector<CompileExplained> explain(const std::string& label_or_key = "");  ///< oldest first
  TransferReport clear(const CacheFilter& filter = {});                         ///< entries and bytes removed
  /// Code::Io where `file` cannot be written; no partial file is left.
  TransferReport export_to(const std::filesystem::path& file, const CacheFilter& filter = {});
  /// Checks the whole archive before storing any of it; Code::Corrupt says what is wrong. Programs are machine code: import only
  /// what comes from someone you trust.
  TransferReport import_from(const std::filesystem::path& file);
  VerifyReport verify();  ///< reads every entry and removes the damaged ones

 private:
  friend class CompileLock;
  struct State;
  std::unique_ptr<State> state_;
};

/// Keeps other processes and threads from compiling `key` while it lives. Waits for its holder; a holder that dies lets go. After
/// `patience` it gives up: then held() is false, and the same program is merely compiled twice.
class CompileLock {
 public:
  CompileLock(Cache& cache, const Digest& key, std::chrono::milliseconds patience = std::chrono::minutes(5),
              const std::function<bool()>& cancelled = {});
  bool held() const { return hold_ != nullptr; }
  bool waited() const { return waited_; }

 private:
  std::unique_ptr<EntryStore::Hold> hold_;
  bool waited_ = false;
};

}  // namespace sinter
