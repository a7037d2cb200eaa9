#include "compiler/cache_index.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "compiler/entry_store.h"

namespace sinter {
namespace {

constexpr int kVersion = 1;
constexpr int kBusyMilliseconds = 2000;
constexpr int kKeptGone = 4096, kKeptCompiles = 10000;

// seconds is the time compiling took; gone is null while the entry's file exists.
constexpr const char* kSchema = R"(
  create table entries(key blob primary key, label text not null, facts text not null, bytes integer not null,
    program_bytes integer not null, created integer not null, used integer not null, hits integer not null,
    seconds real not null, gone text) without rowid;
  create index entries_by_label on entries(label);
  create index entries_by_use on entries(used) where gone is null;
  create table compiles(id integer primary key, key blob not null, label text not null, facts text not null,
    reason text not null, seconds real not null, at integer not null);
  create table totals(id integer primary key check(id = 1), hits integer not null, misses integer not null,
    seconds_saved real not null, seconds_spent real not null);
  insert into totals values(1, 0, 0, 0, 0);
)";

[[noreturn]] void throw_index_error(sqlite3* db, int code) {
  std::string what = db ? sqlite3_errmsg(db) : sqlite3_errstr(code);
  switch (code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_ERROR:  // a table or column that is not there
    case SQLITE_MISMATCH:
    case SQLITE_CONSTRAINT:
      throw IndexError{IndexError::Broken, what};
    default:
      throw IndexError{IndexError::Unusable, what};
  }
}

std::string json_of(const Facts& facts) {
  nlohmann::json json = nlohmann::json::array();
  for (auto& [name, value] : facts) json.push_back({name, value});
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// Facts only explain: what cannot be read is left out.
Facts facts_of(const std::string& text) {
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  Facts facts;
  if (!json.is_array()) return facts;
  for (auto& pair : json)
    if (pair.is_array() && pair.size() == 2 && pair[0].is_string() && pair[1].is_string()) facts.emplace_back(pair[0], pair[1]);
  return facts;
}

class Statement {
 public:
  Statement(sqlite3* db, const char* sql) : db_(db) {
    if (int code = sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr); code != SQLITE_OK) throw_index_error(db, code);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& bind(const std::string& text) {
    return check(sqlite3_bind_text(statement_, ++bound_, text.data(), int(text.size()), SQLITE_TRANSIENT));
  }
  Statement& bind(const Digest& key) {
    return check(sqlite3_bind_blob(statement_, ++bound_, &key, sizeof key, SQLITE_TRANSIENT));
  }
  Statement& bind(int64_t value) { return check(sqlite3_bind_int64(statement_, ++bound_, value)); }
  Statement& bind(uint64_t value) { return bind(int64_t(value)); }
  Statement& bind(double value) { return check(sqlite3_bind_double(statement_, ++bound_, value)); }

  bool row() {
    int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code != SQLITE_DONE) throw_index_error(db_, code);
    return false;
  }
  void run() {
    while (row()) {
    }
  }
  int64_t integer(int column) { return sqlite3_column_int64(statement_, column); }
  double real(int column) {
    double value = sqlite3_column_double(statement_, column);
    return std::isfinite(value) ? value : 0;
  }
  std::string text(int column) {
    auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement_, column));
    return bytes ? std::string(bytes, size_t(sqlite3_column_bytes(statement_, column))) : std::string();
  }
  Digest key(int column) {
    Digest key;
    std::string bytes = text(column);
    if (bytes.size() == sizeof key) std::memcpy(&key, bytes.data(), sizeof key);
    return key;
  }

 private:
  Statement& check(int code) {
    if (code != SQLITE_OK) throw_index_error(db_, code);
    return *this;
  }
  sqlite3* db_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
};

int64_t number(sqlite3* db, const char* sql) {
  Statement statement(db, sql);
  return statement.row() ? statement.integer(0) : 0;
}

constexpr const char* kEntryColumns = "key, label, facts, bytes, program_bytes, created, used, hits, seconds, gone";

std::vector<EntryInfo> read_entries(Statement& statement) {
  std::vector<EntryInfo> found;
  while (statement.row())
    found.push_back({statement.key(0), statement.text(1), facts_of(statement.text(2)), uint64_t(statement.integer(3)),
                     uint64_t(statement.integer(4)), statement.integer(5), statement.integer(6), uint64_t(statement.integer(7)),
                     statement.real(8), statement.text(9)});
  return found;
}

/// Waits a little for whoever else creates or replaces the database.
std::unique_ptr<EntryStore::Hold> hold_index(const std::filesystem::path& file) {
  std::string problem;
  for (int waited = 0; waited < kBusyMilliseconds && problem.empty(); waited += 5) {
    if (auto hold = try_hold_file(file.string() + ".lock", problem)) return hold;
    sqlite3_sleep(5);
  }
  throw IndexError{IndexError::Unusable, problem.empty() ? "another process holds it" : problem};
}

std::string difference(const Facts& from, const Facts& to) {
  std::vector<std::string> parts;
  auto shown = [](std::string_view value) { return value.empty() ? std::string_view("none") : value; };
  for (auto& [name, value] : to)
    if (auto before = fact(from, name); before != value)
      parts.push_back(fmt::format("{} {} -> {}", name, shown(before), shown(value)));
  for (auto& [name, value] : from)
    if (!value.empty() && std::none_of(to.begin(), to.end(), [&](auto& other) { return other.first == name; }))
      parts.push_back(fmt::format("{} {} -> none", name, value));
  constexpr size_t kShown = 2;  // a block at another resolution differs in each of its inputs
  if (parts.size() <= kShown) return fmt::format("{}", fmt::join(parts, ", "));
  return fmt::format("{}, and {} more", fmt::join(parts.begin(), parts.begin() + kShown, ", "), parts.size() - kShown);
}

int differences(const Facts& a, const Facts& b) {
  int count = 0;
  for (auto& [name, value] : a) count += fact(b, name) != value;
  for (auto& [name, value] : b) count += !value.empty() && fact(a, name).empty();
  return count;
}

}  // namespace

CacheIndex::CacheIndex(const std::string& name, Where where) {
  int code = sqlite3_open_v2(name.c_str(), &db_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  try {
    if (code != SQLITE_OK) throw_index_error(db_, code);
    sqlite3_busy_timeout(db_, kBusyMilliseconds);
    sqlite3_db_config(db_, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
    int64_t version = number(db_, "pragma user_version");
    if (version > kVersion)
      throw IndexError{IndexError::Newer, fmt::format("it has version {}, this program knows {}", version, kVersion)};
    if (version < kVersion) {
      // One process at a time: SQLite does not wait for others while it changes the journal mode.
      auto hold = where == Where::File ? hold_index(name) : nullptr;
      if (where != Where::Memory) execute("pragma journal_mode = wal");
      create();
    }
    // Without a sync at each commit a crash of the machine may lose the last counts, and never breaks the database.
    execute("pragma synchronous = normal");
    totals();
  } catch (...) {
    sqlite3_close(db_);
    throw;
  }
}

CacheIndex::~CacheIndex() { sqlite3_close(db_); }

void CacheIndex::create() {
  transaction([&] {
    if (number(db_, "pragma user_version") == kVersion) return;  // another process was quicker
    if (number(db_, "select count(*) from sqlite_schema") != 0) throw IndexError{IndexError::Broken, "it is some other database"};
    execute(kSchema);
    execute(fmt::format("pragma user_version = {}", kVersion).c_str());
    created_ = true;
  });
}

std::unique_ptr<CacheIndex> CacheIndex::open(const std::filesystem::path& file) {
  return std::unique_ptr<CacheIndex>(new CacheIndex(file.string(), Where::File));
}

std::unique_ptr<CacheIndex> CacheIndex::in_memory() {
  return std::unique_ptr<CacheIndex>(new CacheIndex(":memory:", Where::Memory));
}

void CacheIndex::discard(const std::filesystem::path& file) {
  auto hold = hold_index(file);
  try {
    CacheIndex again(file.string(), Where::HeldFile);
    again.check();
    return;
  } catch (const IndexError& e) {
    if (e.kind != IndexError::Broken) throw;
  }
  std::error_code ignored;
  for (const char* suffix : {"", "-wal", "-shm", "-journal"}) std::filesystem::remove(file.string() + suffix, ignored);
}

void CacheIndex::check() {
  Statement intact(db_, "pragma quick_check(1)");
  if (!intact.row() || intact.text(0) != "ok") throw IndexError{IndexError::Broken, "it is damaged"};
  totals();
  entry({});
  compiles();
}

void CacheIndex::execute(const char* sql) {
  if (int code = sqlite3_exec(db_, sql, nullptr, nullptr, nullptr); code != SQLITE_OK) throw_index_error(db_, code);
}

void CacheIndex::transaction(const std::function<void()>& body) {
  execute("begin immediate");
  try {
    body();
    execute("commit");
  } catch (...) {
    sqlite3_exec(db_, "rollback", nullptr, nullptr, nullptr);
    throw;
  }
}

void CacheIndex::put_entry(const EntryInfo& e) {
  Statement(db_, "insert or replace into entries values(?, ?, ?, ?, ?, ?, ?, ?, ?, null)")
      .bind(e.key)
      .bind(e.label)
      .bind(json_of(e.facts))
      .bind(e.bytes)
      .bind(e.program_bytes)
      .bind(e.created)
      .bind(e.used)
      .bind(e.hits)
      .bind(e.seconds)
      .run();
}

void CacheIndex::add_compile(const CompileRecord& r) {
  Statement(db_, "insert into compiles(key, label, facts, reason, seconds, at) values(?, ?, ?, ?, ?, ?)")
      .bind(r.key)
      .bind(r.label)
      .bind(json_of(r.facts))
      .bind(r.reason)
      .bind(r.seconds)
      .bind(r.at)
      .run();
}

void CacheIndex::add_hits(const Digest& key, uint64_t hits, int64_t used) {
  Statement(db_, "update entries set hits = hits + ?, used = max(used, ?) where key = ?").bind(hits).bind(used).bind(key).run();
}

void CacheIndex::add_totals(const CacheTotals& t) {
  Statement(db_,
            "update totals set hits = hits + ?, misses = misses + ?, seconds_saved = seconds_saved + ?, "
            "seconds_spent = seconds_spent + ?")
      .bind(t.hits)
      .bind(t.misses)
      .bind(t.seconds_saved)
      .bind(t.seconds_spent)
      .run();
}

void CacheIndex::mark_gone(const Digest& key, const std::string& why) {
  Statement(db_, "update entries set gone = ? where key = ?").bind(why).bind(key).run();
}

void CacheIndex::forget_oldest() {
  Statement(db_,
            "delete from entries where gone is not null and key not in "
            "(select key from entries where gone is not null order by used desc limit ?)")
      .bind(int64_t(kKeptGone))
      .run();
  Statement(db_, "delete from compiles where id <= (select max(id) from compiles) - ?").bind(int64_t(kKeptCompiles)).run();
}

std::vector<EntryInfo> CacheIndex::entries() {
  Statement statement(db_, fmt::format("select {} from entries where gone is null order by used", kEntryColumns).c_str());
  return read_entries(statement);
}

std::optional<EntryInfo> CacheIndex::entry(const Digest& key) {
  Statement statement(db_, fmt::format("select {} from entries where key = ?", kEntryColumns).c_str());
  auto found = read_entries(statement.bind(key));
  return found.empty() ? std::nullopt : std::optional(found.front());
}

std::vector<EntryInfo> CacheIndex::labelled(const std::string& label) {
  Statement statement(db_, fmt::format("select {} from entries where label = ? order by used desc", kEntryColumns).c_str());
  return read_entries(statement.bind(label));
}

std::vector<CompileRecord> CacheIndex::compiles() {
  Statement statement(db_, "select key, label, facts, reason, seconds, at from compiles order by id");
  std::vector<CompileRecord> found;
  while (statement.row())
    found.push_back({statement.key(0), statement.text(1), facts_of(statement.text(2)), statement.text(3), statement.real(4),
                     statement.integer(5)});
  return found;
}

CacheTotals CacheIndex::totals() {
  Statement statement(db_, "select hits, misses, seconds_saved, seconds_spent from totals");
  if (!statement.row()) throw IndexError{IndexError::Broken, "its totals are missing"};
  return {uint64_t(statement.integer(0)), uint64_t(statement.integer(1)), statement.real(2), statement.real(3)};
}

double CacheIndex::mean_compile_seconds() {
  Statement statement(db_, "select avg(seconds) from compiles");
  return statement.row() ? statement.real(0) : 0;
}

const EntryInfo* nearest(const Facts& facts, const std::vector<EntryInfo>& earlier) {
  const EntryInfo* best = nullptr;
  int fewest = 0;
  for (auto& entry : earlier)
    if (int count = differences(facts, entry.facts); !best || count < fewest) {
      best = &entry;
      fewest = count;
    }
  return best;
}

std::string reason_of_compile(const CompileFacts& facts, const std::vector<EntryInfo>& earlier) {
  const EntryInfo* before = nearest(facts.facts, earlier);
  if (!before) return fmt::format("first compile of {}", facts.label);
  std::string changed = difference(before->facts, facts.facts);
  return changed.empty() ? fmt::format("the structure of {} changed", facts.label) : changed;
}

}  // namespace sinter
