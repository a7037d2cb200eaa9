#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compiler/entry_file.h"

struct sqlite3;

namespace sinter {

/// One entry as the index knows it. Times are microseconds since 1970.
struct EntryInfo {
  Digest key;
  std::string label;
  Facts facts;
  uint64_t bytes = 0;  ///< of the file
  uint64_t program_bytes = 0;
  int64_t created = 0, used = 0;
  uint64_t hits = 0;
  double seconds = 0;  ///< compiling took
  std::string gone;    ///< why it is no longer stored; empty while it is
  std::string_view target() const { return fact(facts, "target"); }
};

/// One compile that was done, with the reason why it had to be.
struct CompileRecord {
  Digest key;
  std::string label;
  Facts facts;
  std::string reason;
  double seconds = 0;
  int64_t at = 0;  ///< microseconds since 1970
};

struct CacheTotals {
  uint64_t hits = 0, misses = 0;
  double seconds_saved = 0, seconds_spent = 0;  ///< compiling
};

/// What went wrong with the database, for the cache to decide what to do: it is never shown as a failure of the run.
struct IndexError {
  enum Kind { Broken, Newer, Unusable } kind;  ///< rebuild it; leave it alone; do without it
  std::string what;
};

/// The SQLite index beside the entry files. It only knows about them: whatever it says, the files are what counts.
/// Every function may throw IndexError.
class CacheIndex {
 public:
  /// Opens or creates `file`.
  static std::unique_ptr<CacheIndex> open(const std::filesystem::path& file);
  static std::unique_ptr<CacheIndex> in_memory();
  /// Removes the database at `file` if it is still broken; another process may have been quicker.
  static void discard(const std::filesystem::path& file);
  ~CacheIndex();
  CacheIndex(const CacheIndex&) = delete;
  CacheIndex& operator=(const CacheIndex&) = delete;

  /// True if this object made the database: it knows nothing of the files yet.
  bool created() const { return created_; }

  /// All of `body` or nothing.
  void transaction(const std::function<void()>& body);

  void put_entry(const EntryInfo& entry);
  void add_compile(const CompileRecord& record);
  void add_hits(const Digest& key, uint64_t hits, int64_t used);
  void add_totals(const CacheTotals& totals);
  void mark_gone(const Digest& key, const std::string& why);
  /// Forgets the oldest removed entries and compiles, so that the index itself stays small.
  void forget_oldest();

  /// Stored entries, least recently used first.
  std::vector<EntryInfo> entries();
  std::optional<EntryInfo> entry(const Digest& key);  ///< stored or gone
  /// Everything ever stored under a label, latest use first; gone or not.
  std::vector<EntryInfo> labelled(const std::string& label);
  std::vector<CompileRecord> compiles();  ///< oldest first
  CacheTotals totals();
  double mean_compile_seconds();  ///< 0 where nothing was compiled

 private:
  enum class Where { Memory, File, HeldFile };  // held: the caller has the lock for creating and replacing
  CacheIndex(const std::string& name, Where where);
  void create();
  void execute(const char* sql);
  void check();

  sqlite3* db_ = nullptr;
  bool created_ = false;
};

/// Why a program with these facts must be compiled, given what was compiled under its label before (latest first):
/// "first compile of unet/resblock", "dtype f32 -> bf16", "the structure of unet/resblock changed".
std::string reason_of_compile(const CompileFacts& facts, const std::vector<EntryInfo>& earlier);
/// The one of `earlier` with the fewest differing facts, or null.
const EntryInfo* nearest(const Facts& facts, const std::vector<EntryInfo>& earlier);

}  // namespace sinter
