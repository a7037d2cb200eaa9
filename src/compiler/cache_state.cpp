#include "compiler/cache_state.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;

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

int64_t now_microseconds() {
  static std::mutex mutex;
  static int64_t last = 0;
  std::lock_guard lock(mutex);
  int64_t now =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  return last = std::max(now, last + 1);
}

void Cache::State::note(const std::string& kind, const std::string& text) {
  if (!noted.insert(kind).second) return;
  if (options.note)
    options.note(text);
  else
    fmt::print(stderr, "sinter: {}\n", text);
}

void Cache::State::open_store() {
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

CacheIndex& Cache::State::open_index() {
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

void Cache::State::with_index(const std::function<void(CacheIndex&)>& body) {
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

bool Cache::State::discard_index(const std::string& why) {
  note("rebuilt", fmt::format("the index {} is damaged ({}); it is rebuilt from the entries", index_file().string(), why));
  try {
    CacheIndex::discard(index_file());
    return true;
  } catch (const IndexError&) {
    return false;
  }
}

void Cache::State::use_memory_index(const std::string& why) {
  memory_index = true;
  if (!storing) return;  // one note about a full disk is enough
  note("index",
       fmt::format("the index {} cannot be used ({}): this run's hits and misses are not counted", index_file().string(), why));
}

uint64_t Cache::State::reconcile() {
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

std::optional<EntryInfo> Cache::State::describe(const EntryStore::Stat& stat) {
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

std::optional<DecodedEntry> Cache::State::load(const Digest& key, std::string& problem) {
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

void Cache::State::count_hit(const Digest& key, const EntryHead& head, Lookup& lookup) {
  std::lock_guard lock(mutex);
  ++totals.hits;
  totals.seconds_saved += head.facts.seconds;
  Use& use = uses[key];
  ++use.hits;
  use.last = now_microseconds();
  lookup.hit = true;
  lookup.seconds = head.facts.seconds;
}

void Cache::State::count_miss(const Digest& key, const CompileFacts& facts, const std::string& problem, Lookup& lookup) {
  std::lock_guard lock(mutex);
  ++totals.misses;
  lookup.reason = problem.empty() ? reason_of_miss(key, facts) : problem;
  reasons[key] = lookup.reason;
}

std::string Cache::State::reason_of_miss(const Digest& key, const CompileFacts& facts) {
  std::string reason = fmt::format("first compile of {}", facts.label);
  with_index([&](CacheIndex& index) {
    if (auto before = index.entry(key))
      reason = before->gone.empty() ? "its file was removed from the cache directory" : before->gone;
    else
      reason = reason_of_compile(facts, index.labelled(facts.label));
  });
  return reason;
}

bool Cache::State::write(const Digest& key, std::span<const std::byte> file) {
  std::string problem = store->write(key, file);
  if (problem.empty()) return true;
  std::lock_guard lock(mutex);
  storing = false;
  note("storing", fmt::format("{}: compiled programs are not stored from here on", problem));
  return false;
}

uint64_t Cache::State::record_put(const EntryHead& head) {
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

void Cache::State::record_import(const EntryHead& head) {
  std::lock_guard lock(mutex);
  changed = true;
  EntryInfo info = info_of(head);
  info.used = now_microseconds();  // or what was imported would be the first to be evicted
  with_index([&](CacheIndex& index) { index.put_entry(info); });
}

void Cache::State::write_counts(CacheIndex& index) {
  index.transaction([&] {
    for (auto& [key, use] : uses) index.add_hits(key, use.hits, use.last);
    index.add_totals(totals);
  });
  uses.clear();
  totals = {};
}

void Cache::State::evict(CacheIndex& index) {
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

void Cache::State::flush() {
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

std::vector<EntryInfo> Cache::State::select(const CacheFilter& filter) {
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

void Cache::State::remove(const EntryInfo& entry, const std::string& why, TransferReport& report) {
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

}  // namespace sinter
