#include "compiler/cache.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/settings.h"
#include "compiler/cache_archive.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;
constexpr const char* kDirectoryVariable = "SINTER_CACHE_DIR";
constexpr const char* kLimitVariable = "SINTER_CACHE_MAX_BYTES";
constexpr auto kPatience = std::chrono::minutes(5);

/// Never the same twice in one process, so that the order of use is never in doubt.
int64_t now_microseconds() {
  static std::mutex mutex;
  static int64_t last = 0;
  std::lock_guard lock(mutex);
  int64_t now =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  return last = std::max(now, last + 1);
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

fs::path default_directory() {
  if (auto dir = setting(kDirectoryVariable)) return fs::absolute(*dir);
  // The XDG base directory rules: a relative path is to be ignored.
  if (fs::path xdg = environment("XDG_CACHE_HOME"); xdg.is_absolute()) return xdg / "sinter";
  fs::path home = environment("HOME");
  if (home.empty())
    if (const passwd* user = ::getpwuid(::getuid())) home = user->pw_dir;
  return home.is_absolute() ? home / ".cache" / "sinter" : fs::path();
}

uint64_t parse_byte_size(const std::string& text, const char* variable) {
  auto refuse = [&](const char* why) {
    fail(Code::InvalidArgument, "{}=\"{}\": {}; give a number of bytes such as 4G, 512M, 100K or 1000000", variable, text, why);
  };
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) refuse("too large");
  if (error != std::errc()) refuse("not a size");
  std::string_view suffix(end, size_t(text.data() + text.size() - end));
  int shift = 0;
  if (suffix == "K" || suffix == "k")
    shift = 10;
  else if (suffix == "M" || suffix == "m")
    shift = 20;
  else if (suffix == "G" || suffix == "g")
    shift = 30;
  else if (!suffix.empty())
    refuse("not a size");
  if (value > (uint64_t(INT64_MAX) >> shift)) refuse("too large");
  return value << shift;
}

std::string size_text(uint64_t bytes) {
  if (bytes >= uint64_t(1) << 30) return fmt::format("{:.1f} GiB", double(bytes) / double(1 << 30));
  if (bytes >= uint64_t(1) << 20) return fmt::format("{:.1f} MiB", double(bytes) / double(1 << 20));
  return fmt::format("{} bytes", bytes);
}

bool matches(const CacheFilter& filter, const EntryInfo& entry, int64_t now) {
  bool named = entry.label.find(filter.text) != std::string::npos || entry.key.hex().starts_with(filter.text);
  return named && double(now - entry.used) >= filter.unused_for_seconds * 1e6;
}

EntryInfo info_of(const EntryHead& head) {
  return {head.key,           head.facts.label,
          head.facts.facts,   head.bytes,
          head.program_bytes, head.created,
          head.created,       0,
          head.facts.seconds, {}};
}

}  // namespace

CacheOptions CacheOptions::from_environment() {
  CacheOptions options;
  options.directory = default_directory();
  if (auto limit = setting(kLimitVariable)) options.max_bytes = parse_byte_size(*limit, kLimitVariable);
  return options;
}

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

  fs::path index_file() const { return options.directory / "index.sqlite"; }

  void note(const std::string& kind, const std::string& text) {
    if (!noted.insert(kind).second) return;
    if (options.note)
      options.note(text);
    else
      fmt::print(stderr, "sinter: {}\n", text);
  }

  void open_store() {
    compiler = digest_of(options.compiler_version);
    std::error_code error;
    if (!options.memory_only && options.directory.empty()) {
      options.memory_only = true;
      note("directory", fmt::format("no home directory is known: compiled programs are not kept; set {}", kDirectoryVariable));
    }
    if (!options.memory_only) {
      fs::create_directories(options.directory, error);
      if (error || !fs::is_directory(options.directory, error)) {
        options.memory_only = true;
        note("directory",
             fmt::format("cannot use the cache directory {} ({}): compiled programs are kept in memory only; set {} to a "
                         "directory that can be written",
                         options.directory.string(), error ? error.message() : "not a directory", kDirectoryVariable));
      }
    }
    read_only = !options.memory_only && ::access(options.directory.c_str(), W_OK) != 0;
    memory_index = options.memory_only || read_only;
    store = options.memory_only ? entries_in_memory() : entries_on_disk(options.directory);
  }

  CacheIndex& open_index() {
    if (index) return *index;
    std::error_code ignored;
    bool existed = !memory_index && fs::exists(index_file(), ignored);
    index = memory_index ? CacheIndex::in_memory() : CacheIndex::open(index_file());
    if (!index->created() || options.memory_only) return *index;
    uint64_t found = reconcile();
    if (found > 0 && !memory_index && !existed)
      note("rebuilt",
           fmt::format("the index of {} was missing; it was rebuilt from {} entries", options.directory.string(), found));
    return *index;
  }

  /// Runs `body` on an index that works, whatever state the one on disk is in. Broken: made anew. Anything else: one in memory.
  void with_index(const std::function<void(CacheIndex&)>& body) {
    for (int attempt = 0;; ++attempt) {
      try {
        return body(open_index());
      } catch (const IndexError& e) {
        index.reset();
        if (memory_index) return note("index", fmt::format("the cache's index failed in memory ({})", e.what));
        if (e.kind != IndexError::Broken || attempt > 0 || !discard_index(e.what)) use_memory_index(e.what);
      }
    }
  }

  bool discard_index(const std::string& why) {
    note("rebuilt", fmt::format("the index {} is damaged ({}); it is rebuilt from the entries", index_file().string(), why));
    try {
      CacheIndex::discard(index_file());
      return true;
    } catch (const IndexError&) {
      return false;
    }
  }

  void use_memory_index(const std::string& why) {
    memory_index = true;
    if (!storing) return;  // one note about a full disk is enough
    note("index",
         fmt::format("the index {} cannot be used ({}): this run's hits and misses are not counted", index_file().string(), why));
  }

  /// Makes the index agree with the files. Returns how many entries it did not know.
  uint64_t reconcile() {
    uint64_t added = 0;
    std::map<Digest, EntryInfo> known;
    index->transaction([&] {
      for (auto& entry : index->entries()) known.emplace(entry.key, entry);
      for (auto& file : store->list()) {
        if (known.erase(file.key)) continue;
        if (auto info = describe(file)) {
          index->put_entry(*info);
          ++added;
        }
      }
      for (auto& [key, entry] : known) index->mark_gone(key, "its file was removed from the cache directory");
    });
    return added;
  }

  /// An entry file that the index does not know. Entries of other versions are listed too: they take room and can be evicted.
  std::optional<EntryInfo> describe(const EntryStore::Stat& stat) {
    auto file = store->read(stat.key, kMaxHeadBytes);
    if (!file) return std::nullopt;
    DecodedEntry entry = decode_head(file->bytes, file->total_bytes, compiler);
    if (entry.state == EntryState::Damaged || (entry.state == EntryState::Good && entry.head.key != stat.key)) {
      store->remove(stat.key);
      return std::nullopt;
    }
    EntryInfo info = info_of(entry.head);
    info.key = stat.key;
    info.bytes = stat.bytes;
    if (info.label.empty()) info.label = "(another version)";
    if (info.created == 0) info.created = info.used = stat.modified;
    return info;
  }

  /// The entry if it is whole; otherwise the reason, empty where there is none. Damaged files are removed.
  std::optional<DecodedEntry> load(const Digest& key, std::string& problem) {
    auto file = store->read(key);
    if (!file) return std::nullopt;
    if (!file->problem.empty()) {
      problem = "its cache entry is not readable: " + file->problem;
      return std::nullopt;
    }
    DecodedEntry entry = decode_entry(file->bytes, key, compiler);
    if (entry.state == EntryState::Good) return entry;
    problem =
        fmt::format("its cache entry was {}: {}", entry.state == EntryState::Outdated ? "outdated" : "damaged", entry.problem);
    if (entry.state == EntryState::Damaged) store->remove(key);
    return std::nullopt;
  }

  void count_hit(const Digest& key, const EntryHead& head, Lookup& lookup) {
    std::lock_guard lock(mutex);
    ++totals.hits;
    totals.seconds_saved += head.facts.seconds;
    Use& use = uses[key];
    ++use.hits;
    use.last = now_microseconds();
    lookup.hit = true;
    lookup.seconds = head.facts.seconds;
  }

  void count_miss(const Digest& key, const CompileFacts& facts, const std::string& problem, Lookup& lookup) {
    std::lock_guard lock(mutex);
    ++totals.misses;
    lookup.reason = problem.empty() ? reason_of_miss(key, facts) : problem;
    reasons[key] = lookup.reason;
  }

  std::string reason_of_miss(const Digest& key, const CompileFacts& facts) {
    std::string reason = fmt::format("first compile of {}", facts.label);
    with_index([&](CacheIndex& index) {
      if (auto before = index.entry(key))
        reason = before->gone.empty() ? "its file was removed from the cache directory" : before->gone;
      else
        reason = reason_of_compile(facts, index.labelled(facts.label));
    });
    return reason;
  }

  /// False, with a note, where nothing can be stored.
  bool write(const Digest& key, std::span<const std::byte> file) {
    std::string problem = store->write(key, file);
    if (problem.empty()) return true;
    std::lock_guard lock(mutex);
    storing = false;
    note("storing", fmt::format("{}: compiled programs are not stored from here on", problem));
    return false;
  }

  /// Returns how many bytes were put since the last flush.
  uint64_t record_put(const EntryHead& head) {
    std::lock_guard lock(mutex);
    auto known = reasons.find(head.key);
    std::string reason = known != reasons.end() ? known->second : reason_of_miss(head.key, head.facts);
    if (known != reasons.end()) reasons.erase(known);
    totals.seconds_spent += head.facts.seconds;
    bytes_put += head.bytes;
    changed = true;
    with_index([&](CacheIndex& index) {
      index.transaction([&] {
        index.put_entry(info_of(head));
        index.add_compile({head.key, head.facts.label, head.facts.facts, reason, head.facts.seconds, head.created});
      });
    });
    return bytes_put;
  }

  void record_import(const EntryHead& head) {
    std::lock_guard lock(mutex);
    changed = true;
    EntryInfo info = info_of(head);
    info.used = now_microseconds();  // or what was imported would be the first to be evicted
    with_index([&](CacheIndex& index) { index.put_entry(info); });
  }

  void write_counts(CacheIndex& index) {
    index.transaction([&] {
      for (auto& [key, use] : uses) index.add_hits(key, use.hits, use.last);
      index.add_totals(totals);
    });
    uses.clear();
    totals = {};
  }

  void evict(CacheIndex& index) {
    index.transaction([&] {
      auto entries = index.entries();
      uint64_t bytes = 0;
      for (auto& entry : entries) bytes += entry.bytes;
      for (auto& entry : entries) {
        if (bytes <= options.max_bytes) break;
        if (!store->remove(entry.key)) continue;
        index.mark_gone(entry.key, fmt::format("it was evicted to keep the cache below {}", size_text(options.max_bytes)));
        bytes -= entry.bytes;
      }
      index.forget_oldest();
    });
  }

  void flush() {
    std::lock_guard lock(mutex);
    if (uses.empty() && totals.misses == 0 && !changed) return;
    with_index([&](CacheIndex& index) {
      if (changed) reconcile();
      write_counts(index);
      evict(index);
    });
    changed = false;
    bytes_put = 0;
    store->clean();
  }

  /// The stored entries that match, after the index was made to agree with the files.
  std::vector<EntryInfo> select(const CacheFilter& filter) {
    std::lock_guard lock(mutex);
    std::vector<EntryInfo> found;
    with_index([&](CacheIndex& index) {
      reconcile();
      found = index.entries();
    });
    int64_t now = now_microseconds();
    std::erase_if(found, [&](const EntryInfo& entry) { return !matches(filter, entry, now); });
    return found;
  }

  void remove(const EntryInfo& entry, const std::string& why, TransferReport& report) {
    if (!store->remove(entry.key)) {
      report.problems.push_back(fmt::format("{}: its file cannot be removed", entry.key.hex()));
      return;
    }
    ++report.entries;
    report.bytes += entry.bytes;
    std::lock_guard lock(mutex);
    changed = true;
    with_index([&](CacheIndex& index) { index.mark_gone(entry.key, why); });
  }
};

Cache::Cache(CacheOptions options) : state_(std::make_unique<State>()) {
  state_->options = std::move(options);
  state_->open_store();
}

Cache::~Cache() {
  if (state_->read_only) return;
  try {
    flush();
  } catch (...) {  // out of memory at the end of a run: the counts of one run are lost
  }
}

void Cache::flush() { state_->flush(); }

std::optional<Blob> Cache::find(const Digest& key, const CompileFacts& facts, Lookup* lookup) {
  Lookup unused, &result = lookup ? *lookup : unused;
  result = {};
  std::string problem;
  if (auto entry = state_->load(key, problem)) {
    state_->count_hit(key, entry->head, result);
    return std::move(entry->program);
  }
  state_->count_miss(key, facts, problem, result);
  return std::nullopt;
}

void Cache::put(const Digest& key, std::span<const std::byte> program, const CompileFacts& facts) {
  EntryHead head{key, state_->compiler, facts, now_microseconds()};
  head.program_bytes = program.size();
  {
    std::lock_guard lock(state_->mutex);
    if (state_->read_only)
      return state_->note("storing", fmt::format("{} is read-only: its programs are used, new ones are not stored",
                                                 state_->options.directory.string()));
    if (!state_->storing) return;
    // Before there is a file that a new index would take for an old one.
    state_->with_index([](CacheIndex&) {});
  }
  Blob file;
  try {
    file = encode_entry(head, program);
  } catch (const Error& e) {
    std::lock_guard lock(state_->mutex);
    return state_->note("too large", e.message() + "; it is not stored");
  }
  head.bytes = file.size();
  if (!state_->write(key, file)) return;
  // A process that lives long must not outgrow the limit by much.
  if (state_->record_put(head) > state_->options.max_bytes / 8) flush();
}

Blob Cache::find_or_compile(const Digest& key, CompileFacts facts, const std::function<Blob()>& compile, Lookup* lookup,
                            const std::function<bool()>& cancelled) {
  Lookup unused, &result = lookup ? *lookup : unused;
  result = {};
  std::string problem;
  auto entry = state_->load(key, problem);
  std::optional<CompileLock> lock;
  if (!entry) {
    lock.emplace(*this, key, kPatience, cancelled);
    if (cancelled && cancelled()) fail(Code::Cancelled, "cancelled before compiling {}", facts.label);
    result.waited = lock->waited();
    entry = state_->load(key, problem);  // another may have stored it between our look and our lock
  }
  if (entry) {
    state_->count_hit(key, entry->head, result);
    return std::move(entry->program);
  }
  state_->count_miss(key, facts, problem, result);
  auto start = std::chrono::steady_clock::now();
  Blob program = compile();
  facts.seconds = result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  put(key, program, facts);
  return program;
}

bool Cache::contains(const Digest& key) const {
  auto file = state_->store->read(key, kMaxHeadBytes);
  if (!file || !file->problem.empty()) return false;
  DecodedEntry entry = decode_head(file->bytes, file->total_bytes, state_->compiler);
  return entry.state == EntryState::Good && entry.head.key == key;
}

double Cache::expected_seconds(const CompileFacts& facts) {
  std::lock_guard lock(state_->mutex);
  double seconds = 0;
  state_->with_index([&](CacheIndex& index) {
    auto earlier = index.labelled(facts.label);
    const EntryInfo* like = nearest(facts.facts, earlier);
    seconds = like ? like->seconds : index.mean_compile_seconds();
  });
  return seconds;
}

CacheStats Cache::stats() {
  flush();
  CacheStats stats;
  stats.directory = state_->options.memory_only ? "" : state_->options.directory.string();
  stats.limit_bytes = state_->options.max_bytes;
  for (auto& entry : state_->select({})) {
    ++stats.entries;
    stats.bytes += entry.bytes;
  }
  std::lock_guard lock(state_->mutex);
  state_->with_index([&](CacheIndex& index) { stats.totals = index.totals(); });
  return stats;
}

std::vector<EntryInfo> Cache::list(const CacheFilter& filter) {
  flush();
  return state_->select(filter);
}

std::vector<CompileExplained> Cache::explain(const std::string& label_or_key) {
  flush();
  std::vector<CompileExplained> found;
  std::lock_guard lock(state_->mutex);
  state_->with_index([&](CacheIndex& index) {
    found.clear();
    for (auto& record : index.compiles())
      if (record.label.find(label_or_key) != std::string::npos || record.key.hex().starts_with(label_or_key))
        found.push_back({record, false});
  });
  for (auto& record : found) record.stored = contains(record.key);
  return found;
}

TransferReport Cache::clear(const CacheFilter& filter) {
  flush();
  TransferReport report;
  for (auto& entry : state_->select(filter)) state_->remove(entry, "it was removed by `sinter cache clear`", report);
  flush();
  return report;
}

TransferReport Cache::export_to(const fs::path& file, const CacheFilter& filter) {
  TransferReport report;
  AtomicFile out(file);
  ArchiveWriter archive(out);
  for (auto& entry : list(filter)) {
    auto read = state_->store->read(entry.key);
    if (!read) continue;
    DecodedEntry decoded = decode_entry(read->bytes, entry.key, state_->compiler);
    if (decoded.state != EntryState::Good) {
      report.problems.push_back(
          fmt::format("{} left out: {}", entry.key.hex(), read->problem.empty() ? decoded.problem : read->problem));
      continue;
    }
    archive.add(read->bytes);
    ++report.entries;
    report.bytes += read->bytes.size();
  }
  archive.finish();
  out.commit();
  return report;
}

TransferReport Cache::import_from(const fs::path& file) {
  TransferReport report;
  std::error_code error;
  if (!fs::is_regular_file(file, error)) fail(Code::NotFound, "{}: no such archive", file.string());
  // Twice over the file: nothing is stored until all of it was found good.
  for (bool storing : {false, true}) {
    std::ifstream in(file, std::ios::binary);
    if (!in) fail(Code::Io, "{}: the archive cannot be read", file.string());
    read_archive(in, file.string(), [&](uint64_t number, const Blob& bytes) {
      DecodedEntry head = decode_head(bytes, bytes.size(), state_->compiler);
      if (head.state == EntryState::Good) head = decode_entry(bytes, head.head.key, state_->compiler);
      if (head.state == EntryState::Damaged)
        fail(Code::Corrupt, "{}: entry {} is damaged, {}; nothing was imported, copy the file again", file.string(), number,
             head.problem);
      if (!storing) return;
      if (head.state == EntryState::Outdated) {
        report.problems.push_back(fmt::format("entry {} left out: {}", number, head.problem));
      } else if (contains(head.head.key)) {
        ++report.already_present;
      } else if (state_->write(head.head.key, bytes)) {
        ++report.entries;
        report.bytes += bytes.size();
        state_->record_import(head.head);
      } else {
        fail(Code::Io, "{}: entry {} of {} cannot be stored in {}", file.string(), number, file.string(),
             state_->options.directory.string());
      }
    });
  }
  flush();
  return report;
}

VerifyReport Cache::verify() {
  VerifyReport report;
  for (auto& stat : state_->store->list()) {
    auto file = state_->store->read(stat.key);
    if (!file) continue;
    DecodedEntry entry;
    entry.problem = file->problem;
    if (file->problem.empty()) entry = decode_entry(file->bytes, stat.key, state_->compiler);
    if (entry.state == EntryState::Good) ++report.good;
    if (entry.state == EntryState::Outdated) ++report.outdated;
    if (entry.state != EntryState::Damaged) continue;
    report.damaged.push_back(fmt::format("{}: {}", stat.key.hex(), entry.problem));
    if (!state_->store->remove(stat.key)) continue;
    ++report.removed;
    std::lock_guard lock(state_->mutex);
    state_->changed = true;
    state_->with_index([&](CacheIndex& index) { index.mark_gone(stat.key, "its cache entry was damaged: " + entry.problem); });
  }
  report.strangers = state_->store->strangers();
  flush();
  return report;
}

CompileLock::CompileLock(Cache& cache, const Digest& key, std::chrono::milliseconds patience,
                         const std::function<bool()>& cancelled) {
  auto deadline = std::chrono::steady_clock::now() + patience;
  auto pause = std::chrono::milliseconds(1);
  for (;;) {
    std::string problem;
    hold_ = cache.state_->store->try_hold(key, problem);
    if (hold_ || !problem.empty()) return;  // where locks are impossible, so is storing, and that gives its note
    waited_ = true;
    if (std::chrono::steady_clock::now() >= deadline || (cancelled && cancelled())) return;
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::milliseconds(50));
  }
}

}  // namespace sinter
