#include "compiler/cache.h"

#include <doctest/doctest.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <algorithm>
#include <thread>

#include "base/error.h"
#include "compiler/cache_archive.h"
#include "compiler/cache_test_help.h"

using namespace sinter;
namespace fs = std::filesystem;

namespace {

void run_sql(const fs::path& file, const char* sql) {
  sqlite3* db = nullptr;
  REQUIRE(sqlite3_open(file.c_str(), &db) == SQLITE_OK);
  char* error = nullptr;
  sqlite3_exec(db, sql, nullptr, nullptr, &error);
  CHECK_MESSAGE(!error, std::string(error ? error : ""));
  sqlite3_free(error);
  sqlite3_close(db);
}

std::string reason_of(Cache& cache, int number, const CompileFacts& facts) {
  Lookup lookup;
  CHECK(!cache.find(key_of(number), facts, &lookup));
  CHECK(!lookup.hit);
  return lookup.reason;
}

bool holds(Cache& cache, int number) {
  auto found = cache.find(key_of(number), facts_of_block("unet"));
  return found && *found == program_of(number);
}

void put(Cache& cache, int number, const CompileFacts& facts) { cache.put(key_of(number), program_of(number), facts); }

class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* old = getenv(name)) old_ = old;
    value ? setenv(name, value, 1) : unsetenv(name);
  }
  ~Variable() { old_ ? setenv(name_, old_->c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> old_;
};

}  // namespace

TEST_CASE("a program that was put is found by the next process") {
  TemporaryDirectory directory;
  {
    Cache cache(options_in(directory.path()));
    CHECK(reason_of(cache, 1, facts_of_block("unet/resblock")) == "first compile of unet/resblock");
    put(cache, 1, facts_of_block("unet/resblock"));
  }
  Cache cache(options_in(directory.path()));
  CHECK(cache.contains(key_of(1)));
  CHECK(!cache.contains(key_of(2)));
  Lookup lookup;
  auto found = cache.find(key_of(1), facts_of_block("unet/resblock"), &lookup);
  REQUIRE(found);
  CHECK(*found == program_of(1));
  CHECK(lookup.hit);
  CHECK(lookup.reason == "");
  CHECK(lookup.seconds == 1);
  CacheStats stats = cache.stats();
  CHECK(stats.entries == 1);
  CHECK(stats.bytes == fs::file_size(entry_path(directory.path(), key_of(1))));
  CHECK(stats.totals.hits == 1);
  CHECK(stats.totals.misses == 1);
  CHECK(stats.totals.seconds_saved == 1);
  CHECK(stats.totals.seconds_spent == 1);
  CHECK(stats.directory == directory.path());
}

TEST_CASE("a miss says what differs from the nearest earlier compile") {
  CacheOptions memory = options_in({});
  memory.memory_only = true;
  Cache cache(memory);
  put(cache, 1, facts_of_block("unet/resblock", "f32"));
  put(cache, 2, {"unet/resblock", {{"target", "sm_90"}, {"dtype", "f16"}}, 9});

  CHECK(reason_of(cache, 3, facts_of_block("unet/resblock", "bf16")) == "dtype f32 -> bf16");
  CHECK(reason_of(cache, 3, {"unet/resblock", {{"target", "x86-64 znver5 avx512"}, {"dtype", "f32"}}, 1}) ==
        "target x86-64 avx2 -> x86-64 znver5 avx512");
  CHECK(reason_of(cache, 3, {"unet/resblock", {{"target", "sm_90"}, {"dtype", "f8"}}, 1}) == "dtype f16 -> f8");
  CHECK(reason_of(cache, 3, {"unet/resblock", {{"target", "sm_90"}, {"dtype", "f16"}, {"fuse", "off"}}, 1}) ==
        "fuse none -> off");
  CHECK(reason_of(cache, 3, {"unet/resblock", {{"target", "sm_90"}}, 1}) == "dtype f16 -> none");
  CHECK(reason_of(cache, 3, {"unet/resblock", {{"target", "sm_90"}, {"dtype", "f8"}, {"a", "1"}, {"b", "1"}}, 1}) ==
        "dtype f16 -> f8, a none -> 1, and 1 more");
  CHECK(reason_of(cache, 3, facts_of_block("unet/resblock")) == "the structure of unet/resblock changed");
  CHECK(reason_of(cache, 3, facts_of_block("vae/resblock")) == "first compile of vae/resblock");

  CHECK(cache.expected_seconds(facts_of_block("unet/resblock", "bf16")) == 1);
  CHECK(cache.expected_seconds({"unet/resblock", {{"target", "sm_90"}, {"dtype", "f8"}}, 0}) == 9);
  CHECK(cache.expected_seconds(facts_of_block("vae/resblock")) == 5);
}

TEST_CASE("every compile is explained with its reason and time") {
  TemporaryDirectory directory;
  Cache cache(options_in(directory.path()));
  reason_of(cache, 1, facts_of_block("unet/a"));
  put(cache, 1, facts_of_block("unet/a", "f32", 2));
  reason_of(cache, 2, facts_of_block("unet/a", "bf16"));
  put(cache, 2, facts_of_block("unet/a", "bf16", 3));
  put(cache, 3, facts_of_block("vae/b"));
  auto found = cache.explain("unet");
  REQUIRE(found.size() == 2);
  CHECK(found[0].reason == "first compile of unet/a");
  CHECK(found[1].reason == "dtype f32 -> bf16");
  CHECK(found[1].seconds == 3);
  CHECK(found[1].at > found[0].at);
  CHECK(found[1].stored);
  CHECK(cache.explain(key_of(3).hex().substr(0, 12)).size() == 1);
  CHECK(cache.explain().size() == 3);
  CHECK(cache.explain("flux").empty());
}

TEST_CASE("the least recently used entries are evicted first, and the next compile says so") {
  TemporaryDirectory directory;
  {
    Cache cache(options_in(directory.path()));
    for (int i = 0; i < 4; ++i) put(cache, i, facts_of_block("unet"));
    CHECK(holds(cache, 0));  // now 1 is the oldest
  }
  CacheOptions small = options_in(directory.path());
  small.max_bytes = fs::file_size(entry_path(directory.path(), key_of(0))) * 2 + 10;
  {
    Cache cache(small);
    CHECK(holds(cache, 2));  // now 3 is older than 0 and 2
  }
  Cache cache(small);
  CHECK(!fs::exists(entry_path(directory.path(), key_of(1))));
  CHECK(!fs::exists(entry_path(directory.path(), key_of(3))));
  CHECK(holds(cache, 0));
  CHECK(holds(cache, 2));
  CHECK(reason_of(cache, 1, facts_of_block("unet")) ==
        fmt::format("it was evicted to keep the cache below {} bytes", small.max_bytes));
  CHECK(cache.stats().bytes <= small.max_bytes);
}

TEST_CASE("a process that puts many programs stays near the limit before it ends") {
  TemporaryDirectory directory;
  CacheOptions small = options_in(directory.path());
  small.max_bytes = 40000;
  Cache cache(small);
  for (int i = 0; i < 200; ++i) put(cache, i, facts_of_block("unet"));
  uint64_t bytes = 0;
  for (auto& file : fs::recursive_directory_iterator(directory.path() / "entries"))
    if (file.is_regular_file()) bytes += file.file_size();
  CHECK(bytes < 2 * small.max_bytes);
  CHECK(holds(cache, 199));
}

TEST_CASE("hits alone do not open the database before the flush") {
  TemporaryDirectory directory;
  { Cache(options_in(directory.path())).put(key_of(1), program_of(1), facts_of_block("unet")); }
  fs::remove(directory.path() / "index.sqlite");
  std::vector<std::string> notes;
  Cache cache(options_in(directory.path(), &notes));
  for (int i = 0; i < 10; ++i) CHECK(holds(cache, 1));
  CHECK(!fs::exists(directory.path() / "index.sqlite"));
  cache.flush();
  CHECK(fs::exists(directory.path() / "index.sqlite"));
  CHECK(cache.list().at(0).hits == 10);
  REQUIRE(notes.size() == 1);
  CHECK(notes[0].find("rebuilt from 1 entries") != std::string::npos);
}

TEST_CASE("an index that is lost is rebuilt from the files with its labels and facts") {
  TemporaryDirectory directory;
  { Cache(options_in(directory.path())).put(key_of(1), program_of(1), facts_of_block("unet", "f32", 7)); }
  fs::remove(directory.path() / "index.sqlite");
  Cache cache(options_in(directory.path()));
  CHECK(reason_of(cache, 2, facts_of_block("unet", "bf16")) == "dtype f32 -> bf16");
  auto entries = cache.list();
  REQUIRE(entries.size() == 1);
  CHECK(entries[0].seconds == 7);
  CHECK(entries[0].target() == "x86-64 avx2");
  CHECK(entries[0].program_bytes == 2000);
}

TEST_CASE("whatever the index holds, the files are found and one note is given") {
  struct Case {
    const char* what;
    std::function<void(const fs::path&)> damage;
    bool rebuilt;
  };
  for (const Case& c : {
           Case{"text", [](auto& file) { spill(file, std::string(10000, 'x')); }, true},
           Case{"cut in the middle", [](auto& file) { fs::resize_file(file, fs::file_size(file) / 2); }, true},
           Case{"pages overwritten",
                [](auto& file) {
                  std::string bytes = slurp(file);
                  std::fill(bytes.begin() + 2048, bytes.end(), 'z');
                  spill(file, bytes);
                },
                true},
           Case{"a table is missing", [](auto& file) { run_sql(file, "drop table compiles"); }, true},
           Case{"a table is another", [](auto& file) { run_sql(file, "alter table entries drop column bytes"); }, true},
           Case{"no totals", [](auto& file) { run_sql(file, "delete from totals"); }, true},
           Case{"another database", [](auto& file) { run_sql(file, "pragma user_version = 0; create table other(x)"); }, true},
           Case{"a newer version", [](auto& file) { run_sql(file, "pragma user_version = 99"); }, false},
           Case{"a directory", [](auto& file) { fs::remove(file), fs::create_directory(file); }, false},
       }) {
    INFO(std::string(c.what));
    TemporaryDirectory directory;
    fs::path index = directory.path() / "index.sqlite";
    { Cache(options_in(directory.path())).put(key_of(1), program_of(1), facts_of_block("unet")); }
    c.damage(index);
    std::vector<std::string> notes;
    {
      Cache cache(options_in(directory.path(), &notes));
      CHECK(holds(cache, 1));
      CHECK(reason_of(cache, 2, facts_of_block("unet", "bf16")) == "dtype f32 -> bf16");
      put(cache, 2, facts_of_block("unet", "bf16"));
      CHECK(holds(cache, 2));
      CHECK(cache.list().size() == 2);
      CHECK(cache.stats().totals.hits == 2);
    }
    CHECK(notes.size() == 1);
    notes.clear();
    Cache cache(options_in(directory.path(), &notes));
    CHECK(cache.list().size() == 2);
    CHECK(notes.size() == (c.rebuilt ? 0 : 1));
  }
}

TEST_CASE("an index that another process keeps locked costs a wait and a note") {
  TemporaryDirectory directory;
  { Cache(options_in(directory.path())).put(key_of(1), program_of(1), facts_of_block("unet")); }
  sqlite3* db = nullptr;
  REQUIRE(sqlite3_open((directory.path() / "index.sqlite").c_str(), &db) == SQLITE_OK);
  REQUIRE(sqlite3_exec(db, "begin immediate", nullptr, nullptr, nullptr) == SQLITE_OK);
  std::vector<std::string> notes;
  {
    Cache cache(options_in(directory.path(), &notes));
    CHECK(reason_of(cache, 2, facts_of_block("unet", "bf16")) == "dtype f32 -> bf16");
    put(cache, 2, facts_of_block("unet", "bf16"));
    CHECK(holds(cache, 2));
  }
  REQUIRE(notes.size() == 1);
  CHECK(notes[0].find("locked") != std::string::npos);
  sqlite3_exec(db, "rollback", nullptr, nullptr, nullptr);
  sqlite3_close(db);
  CHECK(Cache(options_in(directory.path())).list().size() == 2);
}

TEST_CASE("a damaged entry is a miss with its reason, and is stored again") {
  TemporaryDirectory directory;
  Cache cache(options_in(directory.path()));
  put(cache, 1, facts_of_block("unet"));
  fs::path file = entry_path(directory.path(), key_of(1));
  std::string whole = slurp(file);
  for (size_t at = 0; at < whole.size(); at += 7) {
    std::string changed = whole;
    changed[at] = char(~changed[at]);
    spill(file, changed);
    Lookup lookup;
    auto found = cache.find(key_of(1), facts_of_block("unet"), &lookup);
    REQUIRE(!found);
    bool reasoned =
        lookup.reason.starts_with("its cache entry was damaged: ") || lookup.reason.starts_with("its cache entry was outdated: ");
    CHECK_MESSAGE(reasoned, lookup.reason);
    if (lookup.reason.find("damaged") != std::string::npos) CHECK(!fs::exists(file));
  }
  put(cache, 1, facts_of_block("unet"));
  CHECK(holds(cache, 1));
}

TEST_CASE("what lies in the place of an entry and is no file does not hang or stop a run") {
  TemporaryDirectory directory;
  std::vector<std::string> notes;
  Cache cache(options_in(directory.path(), &notes));
  put(cache, 1, facts_of_block("unet"));
  fs::path file = entry_path(directory.path(), key_of(1));
  fs::remove(file);
  REQUIRE(mkfifo(file.c_str(), 0600) == 0);
  CHECK(!holds(cache, 1));
  put(cache, 1, facts_of_block("unet"));
  CHECK(holds(cache, 1));
  fs::remove(file);
  fs::create_directories(file / "inside");
  CHECK(reason_of(cache, 1, facts_of_block("unet")).find("is not a file") != std::string::npos);
  put(cache, 1, facts_of_block("unet"));
  CHECK(notes.size() == 1);
  CHECK(!holds(cache, 1));
}

TEST_CASE("entries of another compiler version are not used, stay for it, and are counted") {
  TemporaryDirectory directory;
  { Cache(options_in(directory.path())).put(key_of(1), program_of(1), facts_of_block("unet")); }
  CacheOptions newer = options_in(directory.path());
  newer.compiler_version = "2";
  Cache cache(newer);
  CHECK(!cache.contains(key_of(1)));
  CHECK(reason_of(cache, 1, facts_of_block("unet")) ==
        "its cache entry was outdated: it was made by another version of the compiler");
  CHECK(cache.verify().outdated == 1);
  CHECK(cache.stats().entries == 1);
  Cache older(options_in(directory.path()));
  CHECK(holds(older, 1));
}

TEST_CASE("verify removes exactly the damaged entries") {
  TemporaryDirectory directory;
  Cache cache(options_in(directory.path()));
  for (int i = 0; i < 5; ++i) put(cache, i, facts_of_block("unet"));
  fs::resize_file(entry_path(directory.path(), key_of(2)), 50);
  fs::copy_file(entry_path(directory.path(), key_of(3)), entry_path(directory.path(), key_of(4)),
                fs::copy_options::overwrite_existing);
  spill(directory.path() / "entries" / "notes.txt", "");
  fs::create_directory(directory.path() / "entries" / "zz");
  spill(directory.path() / "entries" / "zz" / "notes.txt", "mine");
  VerifyReport report = cache.verify();
  CHECK(report.good == 3);
  CHECK(report.removed == 2);
  CHECK(report.damaged.size() == 2);
  CHECK(report.strangers.size() == 1);
  CHECK(slurp(directory.path() / "entries" / "zz" / "notes.txt") == "mine");
  CHECK(cache.list().size() == 3);
  CHECK(reason_of(cache, 2, facts_of_block("unet")).starts_with("its cache entry was damaged"));
  CHECK(cache.verify().removed == 0);
}

TEST_CASE("clear removes what the filter names") {
  TemporaryDirectory directory;
  Cache cache(options_in(directory.path()));
  put(cache, 1, facts_of_block("unet/a"));
  put(cache, 2, facts_of_block("vae/a"));
  put(cache, 3, facts_of_block("vae/b"));
  CHECK(cache.clear({.text = "", .unused_for_seconds = 3600}).entries == 0);
  CHECK(cache.clear({.text = key_of(2).hex().substr(0, 10)}).entries == 1);
  CHECK(cache.clear({.text = "vae"}).entries == 1);
  CHECK(holds(cache, 1));
  CHECK(reason_of(cache, 2, facts_of_block("vae/a")) == "it was removed by `sinter cache clear`");
  TransferReport all = cache.clear();
  CHECK(all.entries == 1);
  CHECK(all.bytes > 2000);
  CHECK(cache.stats().bytes == 0);
}

TEST_CASE("an exported cache serves another machine") {
  TemporaryDirectory here, there;
  fs::path archive = here.path() / "programs.archive";
  Cache from(options_in(here.path() / "cache"));
  for (int i = 0; i < 4; ++i) put(from, i, facts_of_block("unet/" + std::to_string(i)));
  fs::resize_file(entry_path(here.path() / "cache", key_of(3)), 100);
  TransferReport out = from.export_to(archive);
  CHECK(out.entries == 3);
  CHECK(out.problems.size() == 1);
  Cache to(options_in(there.path()));
  put(to, 0, facts_of_block("unet/0"));
  TransferReport in = to.import_from(archive);
  CHECK(in.entries == 2);
  CHECK(in.already_present == 1);
  for (int i = 0; i < 3; ++i) CHECK(holds(to, i));
  CHECK(to.list({.text = "unet/2"}).size() == 1);
  CHECK_THROWS_WITH_AS(from.export_to(here.path() / "none" / "file"), doctest::Contains("No such file"), Error);
}

TEST_CASE("a damaged archive imports nothing and says what is wrong") {
  TemporaryDirectory directory;
  fs::path archive = directory.path() / "programs.archive";
  Cache from(options_in(directory.path() / "from"));
  for (int i = 0; i < 2; ++i) from.put(key_of(i), program_of(i, 100), facts_of_block("unet"));
  from.export_to(archive);
  std::string whole = slurp(archive);
  Cache to(options_in(directory.path() / "to"));
  auto rejected = [&](const std::string& bytes) {
    spill(archive, bytes);
    try {
      to.import_from(archive);
    } catch (const Error& e) {
      return e.message().find("programs.archive") != std::string::npos && to.list().empty();
    }
    // A changed format makes one entry outdated: it alone is left out.
    bool right = to.list().size() == 1;
    for (int i = 0; i < 2; ++i)
      if (auto found = to.find(key_of(i), facts_of_block("unet"))) right &= *found == program_of(i, 100);
    to.clear();
    return right;
  };
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) CHECK(rejected(whole.substr(0, bytes)));
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string changed = whole;
    changed[at] = char(changed[at] ^ 0x41);
    CHECK_MESSAGE(rejected(changed), at);
  }
  CHECK(rejected(whole + "more"));
  std::string huge = whole;
  for (int i = 16; i < 24; ++i) huge[size_t(i)] = char(i == 19 ? 0x1f : 0);  // an entry of 500 MB that is not there
  CHECK(rejected(huge));
  CHECK_THROWS_AS(to.import_from(directory.path() / "absent"), Error);
}

TEST_CASE("temporary and lock files that killed processes left are removed after an hour") {
  TemporaryDirectory directory;
  Cache cache(options_in(directory.path()));
  put(cache, 1, facts_of_block("unet"));
  fs::create_directories(directory.path() / "locks");
  for (const char* name : {"tmp/old.tmp", "locks/old.lock", "tmp/new.tmp", "locks/new.lock"}) {
    spill(directory.path() / name, "");
    if (std::string(name).find("old") != std::string::npos)
      fs::last_write_time(directory.path() / name, fs::file_time_type::clock::now() - std::chrono::minutes(61));
  }
  cache.flush();
  CHECK(!fs::exists(directory.path() / "tmp/old.tmp"));
  CHECK(!fs::exists(directory.path() / "locks/old.lock"));
  CHECK(fs::exists(directory.path() / "tmp/new.tmp"));
  CHECK(fs::exists(directory.path() / "locks/new.lock"));
}

TEST_CASE("a cache directory that cannot be made leaves a cache in memory and one note") {
  TemporaryDirectory directory;
  spill(directory.path() / "file", "");
  for (const char* name : {"file", "file/below"}) {
    std::vector<std::string> notes;
    Cache cache(options_in(directory.path() / name, &notes));
    put(cache, 1, facts_of_block("unet"));
    CHECK(holds(cache, 1));
    CHECK(cache.stats().entries == 1);
    CHECK(cache.stats().directory == "");
    REQUIRE(notes.size() == 1);
    CHECK(notes[0].find("SINTER_CACHE_DIR") != std::string::npos);
  }
}

TEST_CASE("a cache in memory writes nothing and keeps its limit") {
  TemporaryDirectory directory;
  CacheOptions options = options_in(directory.path());
  options.memory_only = true;
  options.max_bytes = 5000;
  Cache cache(options);
  for (int i = 0; i < 4; ++i) put(cache, i, facts_of_block("unet"));
  CHECK(cache.stats().entries == 2);
  CHECK(holds(cache, 3));
  CHECK(!holds(cache, 0));
  CHECK(cache.verify().good == 2);
  CHECK(fs::is_empty(directory.path()));
}

TEST_CASE("threads that need one program compile it once") {
  for (bool memory_only : {false, true}) {
    TemporaryDirectory directory;
    CacheOptions options = options_in(directory.path());
    options.memory_only = memory_only;
    Cache cache(options);
    std::atomic<int> compiles{0}, right{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back([&] {
        Blob found = cache.find_or_compile(key_of(1), facts_of_block("unet"), [&] {
          ++compiles;
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
          return program_of(1);
        });
        right += found == program_of(1);
      });
    for (auto& thread : threads) thread.join();
    CHECK(compiles == 1);
    CHECK(right == 8);
    CHECK(cache.stats().totals.hits == 7);
    CHECK(cache.stats().totals.misses == 1);
    CHECK(cache.stats().totals.seconds_spent >= 0.02);
  }
}

TEST_CASE("a lock is given up on after the patience or when cancelled, and its file is removed") {
  TemporaryDirectory directory;
  Cache cache(options_in(directory.path()));
  {
    CompileLock first(cache, key_of(1));
    CHECK(first.held());
    CHECK(!first.waited());
    CompileLock second(cache, key_of(1), std::chrono::milliseconds(20));
    CHECK(!second.held());
    CHECK(second.waited());
    CompileLock third(cache, key_of(1), std::chrono::hours(1), [] { return true; });
    CHECK(!third.held());
    CompileLock other(cache, key_of(2));
    CHECK(other.held());
    CHECK_THROWS_AS(cache.find_or_compile(
                        key_of(1), facts_of_block("unet"), [] { return Blob(); }, nullptr, [] { return true; }),
                    Error);
  }
  CHECK(fs::is_empty(directory.path() / "locks"));
}

TEST_CASE("the environment chooses directory and limit, and nonsense is named") {
  Variable dir("SINTER_CACHE_DIR", "/some/where"), xdg("XDG_CACHE_HOME", "/xdg"), home("HOME", "/home/me");
  Variable limit("SINTER_CACHE_MAX_BYTES", nullptr);
  CHECK(CacheOptions::from_environment().directory == "/some/where");
  CHECK(CacheOptions::from_environment().max_bytes == uint64_t(4) << 30);
  unsetenv("SINTER_CACHE_DIR");
  CHECK(CacheOptions::from_environment().directory == "/xdg/sinter");
  setenv("XDG_CACHE_HOME", "relative", 1);
  CHECK(CacheOptions::from_environment().directory == "/home/me/.cache/sinter");
  for (auto& [text, bytes] : std::vector<std::pair<const char*, uint64_t>>{
           {"0", 0}, {"100", 100}, {"3K", 3 << 10}, {"7m", 7 << 20}, {"2G", uint64_t(2) << 30}}) {
    setenv("SINTER_CACHE_MAX_BYTES", text, 1);
    CHECK(CacheOptions::from_environment().max_bytes == bytes);
  }
  for (const char* text : {"lots", "-1", "4X", "4GG", "1.5G", " 4G", "99999999999999999999", "99999999999G"}) {
    setenv("SINTER_CACHE_MAX_BYTES", text, 1);
    CHECK_THROWS_WITH_AS(CacheOptions::from_environment(), doctest::Contains("SINTER_CACHE_MAX_BYTES"), Error);
  }
}
