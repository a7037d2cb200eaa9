#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <chrono>
#include <random>
#include <thread>

#include "compiler/cache.h"
#include "compiler/cache_test_help.h"

using namespace sinter;
namespace fs = std::filesystem;

namespace {

/// Appends one byte to `file` for each compile, so that processes can be counted together.
Blob counted_compile(const fs::path& file, int number) {
  int fd = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CREAT, 0600);
  bool counted = ::write(fd, "x", 1) == 1;
  ::close(fd);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  return counted ? program_of(number) : Blob();
}

/// Everything that can be found in `directory` is right. 0, or the line that went wrong.
int check_all(const fs::path& directory, int numbers) {
  Cache cache(options_in(directory));
  if (!cache.verify().damaged.empty()) return __LINE__;
  for (int i = 0; i < numbers; ++i)
    if (auto found = cache.find(key_of(i), facts_of_block("unet")); found && *found != program_of(i)) return __LINE__;
  return 0;
}

}  // namespace

TEST_CASE("processes that need the same programs compile each once") {
  TemporaryDirectory directory;
  fs::path counter = directory.path() / "compiles";
  std::vector<pid_t> children;
  for (int process = 0; process < 4; ++process)
    children.push_back(in_child([&] {
      std::vector<std::string> notes;
      Cache cache(options_in(directory.path() / "cache", &notes));
      for (int i = 0; i < 5; ++i) {
        Blob found = cache.find_or_compile(key_of(i), facts_of_block("unet"), [&] { return counted_compile(counter, i); });
        if (found != program_of(i)) return 1;
      }
      return notes.empty() ? 0 : 2;
    }));
  for (pid_t child : children) CHECK(result_of(child) == 0);
  CHECK(fs::file_size(counter) == 5);
  Cache cache(options_in(directory.path() / "cache"));
  CacheStats stats = cache.stats();
  CHECK(stats.entries == 5);
  CHECK(stats.totals.misses == 5);
  CHECK(stats.totals.hits == 15);
  CHECK(fs::is_empty(directory.path() / "cache" / "locks"));
}

TEST_CASE("a compile whose process is killed is taken over by the one that waits") {
  TemporaryDirectory directory;
  pid_t holder = in_child([&] {
    Cache cache(options_in(directory.path()));
    cache.find_or_compile(key_of(1), facts_of_block("unet"), [&]() -> Blob {
      spill(directory.path() / "compiling", "");
      for (;;) pause();
    });
    return 0;
  });
  while (!fs::exists(directory.path() / "compiling")) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  pid_t waiter = in_child([&] {
    Cache cache(options_in(directory.path()));
    Lookup lookup;
    Blob found = cache.find_or_compile(
        key_of(1), facts_of_block("unet"), [] { return program_of(1); }, &lookup);
    return found == program_of(1) && lookup.waited ? 0 : 1;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  kill(holder, SIGKILL);
  CHECK(result_of(holder) == -SIGKILL);
  CHECK(result_of(waiter) == 0);
  CHECK(check_all(directory.path(), 2) == 0);
}

TEST_CASE("kill -9 at any moment leaves a cache in which everything found is right") {
  TemporaryDirectory directory;
  const char* chosen = getenv("SINTER_TEST_SEED");
  unsigned seed = chosen ? unsigned(atoll(chosen)) : std::random_device{}();
  MESSAGE("SINTER_TEST_SEED=", seed);
  std::mt19937 random(seed);
  constexpr int kNumbers = 40, kRounds = 60;
  constexpr size_t kBytes = 300000;  // long enough to be killed while writing
  for (int round = 0; round < kRounds; ++round) {
    auto work = [&](int first) {
      return [&directory, first] {
        CacheOptions options = options_in(directory.path());
        options.max_bytes = 15 * kBytes;
        for (int i = first;; ++i) {
          Cache cache(options);
          int number = i % kNumbers;
          cache.find_or_compile(key_of(number), facts_of_block("unet"), [&] { return program_of(number, kBytes); });
          if (i % 3 == 0) cache.clear({.text = key_of((i * 7) % kNumbers).hex()});
        }
        return 0;
      };
    };
    pid_t children[2] = {in_child(work(int(random() % 100))), in_child(work(int(random() % 100)))};
    for (pid_t child : children) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 30000));
      kill(child, SIGKILL);
      CHECK(result_of(child) == -SIGKILL);
    }
    Cache cache(options_in(directory.path()));
    CHECK(cache.verify().damaged.empty());  // first, because find() would remove what is damaged
    for (int i = 0; i < kNumbers; ++i)
      if (auto found = cache.find(key_of(i), facts_of_block("unet"))) CHECK(*found == program_of(i, kBytes));
  }
  std::vector<std::string> notes;
  Cache cache(options_in(directory.path(), &notes));
  cache.put(key_of(1000), program_of(1000), facts_of_block("unet"));
  CHECK(cache.stats().entries > 0);
  CHECK(notes.empty());
}

TEST_CASE("no two processes ever hold one lock, however often its file comes and goes") {
  TemporaryDirectory directory;
  fs::path inside = directory.path() / "inside";
  std::vector<pid_t> children;
  for (int process = 0; process < 4; ++process)
    children.push_back(in_child([&] {
      for (int i = 0; i < 3000; ++i) {
        std::string problem;
        auto hold = try_hold_file(directory.path() / "lock", problem);
        if (!problem.empty()) return 1;
        if (!hold) continue;
        int fd = ::open(inside.c_str(), O_CREAT | O_EXCL | O_WRONLY, 0600);
        if (fd < 0) return 2;
        ::close(fd);
        if (::unlink(inside.c_str()) != 0) return 3;
      }
      return 0;
    }));
  for (pid_t child : children) CHECK(result_of(child) == 0);
  CHECK(!fs::exists(directory.path() / "lock"));
}

TEST_CASE("many processes putting, finding, evicting and listing at once never see a wrong program or a broken index") {
  TemporaryDirectory directory;
  std::vector<pid_t> children;
  for (int process = 0; process < 6; ++process)
    children.push_back(in_child([&, process] {
      std::vector<std::string> notes;
      std::mt19937 random{unsigned(process)};
      CacheOptions options = options_in(directory.path(), &notes);
      options.max_bytes = 30000;
      for (int run = 0; run < 8; ++run) {
        Cache cache(options);
        for (int i = 0; i < 10; ++i) {
          int number = int(random() % 25);
          if (cache.find_or_compile(key_of(number), facts_of_block("unet"), [&] { return program_of(number); }) !=
              program_of(number))
            return 1;
        }
        cache.list();
      }
      for (auto& text : notes) fprintf(stderr, "%s\n", text.c_str());
      return notes.empty() ? 0 : 2;
    }));
  for (pid_t child : children) CHECK(result_of(child) == 0);
  CHECK(check_all(directory.path(), 25) == 0);
}

TEST_CASE("a read-only cache is read, and one note says that nothing is stored") {
  TemporaryDirectory directory;
  { Cache(options_in(directory.path())).put(key_of(1), program_of(1), facts_of_block("unet")); }
  fs::permissions(directory.path(), fs::perms(0755));
  for (auto& below : fs::recursive_directory_iterator(directory.path()))
    fs::permissions(below.path(), below.is_directory() ? fs::perms(0555) : fs::perms(0444));
  fs::permissions(directory.path(), fs::perms(0555));
  int result = result_of(in_child([&] {
    // The superuser may write everywhere: become somebody else.
    if (getuid() == 0 && setuid(65534) != 0) return 77;
    std::vector<std::string> notes;
    {
      Cache cache(options_in(directory.path(), &notes));
      auto found = cache.find(key_of(1), facts_of_block("unet"));
      if (!found || *found != program_of(1)) return 1;
      Lookup lookup;
      Blob made = cache.find_or_compile(
          key_of(2), facts_of_block("unet", "bf16"), [] { return program_of(2); }, &lookup);
      if (made != program_of(2) || lookup.reason != "dtype f32 -> bf16") return 2;
      cache.put(key_of(3), program_of(3), facts_of_block("unet"));
      if (cache.list().size() != 1) return 3;
      if (cache.clear().problems.size() != 1) return 4;
    }
    {
      Cache cache(options_in(directory.path(), &notes));
      if (!cache.find(key_of(1), facts_of_block("unet"))) return 5;
    }
    // One note though two programs could not be stored, and none from a run that had only hits.
    return notes.size() == 1 && notes[0].find("read-only") != std::string::npos ? 0 : 6;
  }));
  if (result == 77)
    MESSAGE("skipped: cannot become an ordinary user");
  else
    CHECK(result == 0);
  for (auto& below : fs::recursive_directory_iterator(directory.path()))
    if (below.is_directory()) fs::permissions(below.path(), fs::perms(0755));
  fs::permissions(directory.path(), fs::perms(0755));
}

TEST_CASE("a disk that is full stops the storing, not the run, and leaves no partial file") {
  TemporaryDirectory directory;
  { Cache(options_in(directory.path())).put(key_of(1), program_of(1), facts_of_block("unet")); }
  int result = result_of(in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    rlimit limit{10000, 10000};  // bytes of any file: writes beyond fail as they do on a full disk
    setrlimit(RLIMIT_FSIZE, &limit);
    std::vector<std::string> notes;
    {
      Cache cache(options_in(directory.path(), &notes));
      for (int i : {2, 3}) {
        Blob made = cache.find_or_compile(key_of(i), facts_of_block("unet", "bf16"), [&] { return program_of(i, 50000); });
        if (made != program_of(i, 50000)) return 1;
      }
      auto found = cache.find(key_of(1), facts_of_block("unet"));
      if (!found || *found != program_of(1)) return 2;
      try {
        cache.put(key_of(4), program_of(4), facts_of_block("unet"));
        for (int i = 0; i < 20; ++i) cache.export_to(directory.path() / "archive");
      } catch (...) {
        return 3;
      }
    }
    int storing = 0;
    for (auto& text : notes) storing += text.find("not stored from here on") != std::string::npos;
    return storing == 1 && notes.size() <= 2 ? 0 : 4;
  }));
  CHECK(result == 0);
  CHECK(fs::is_empty(directory.path() / "tmp"));
  CHECK(check_all(directory.path(), 5) == 0);
  Cache cache(options_in(directory.path()));
  CHECK(cache.list().size() == 1);
}
