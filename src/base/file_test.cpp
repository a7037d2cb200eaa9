#include "base/file.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "refusal.h"
#include "temporary_folder.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;

int files_in(const fs::path& folder) { return int(std::distance(fs::directory_iterator(folder), fs::directory_iterator())); }

int resident_pages(const MappedFile& file) {
  // mincore would tell about the page cache; what this process holds is in /proc/self/smaps.
  std::string maps = [] {
    std::string out;
    FILE* stream = std::fopen("/proc/self/smaps", "r");
    char line[512];
    while (stream && std::fgets(line, sizeof line, stream)) out += line;
    if (stream) std::fclose(stream);
    return out;
  }();
  size_t at = maps.find(file.path());
  if (at == std::string::npos) return -1;
  at = maps.find("Rss:", at);
  return std::atoi(maps.c_str() + at + 4) / int(::sysconf(_SC_PAGESIZE) / 1024);
}

TEST_CASE("a mapped file shows the bytes that were written") {
  TemporaryFolder folder;
  write_atomically(folder / "a", "hello");
  auto file = MappedFile::open(folder / "a");
  CHECK(file->size() == 5);
  CHECK(std::memcmp(file->bytes().data(), "hello", 5) == 0);
  CHECK(file->path() == (folder / "a").string());
  CHECK(file->identity().bytes == 5);
}

TEST_CASE("an empty file maps to no bytes") {
  TemporaryFolder folder;
  write_atomically(folder / "empty", "");
  auto file = MappedFile::open(folder / "empty");
  CHECK(file->size() == 0);
  file->drop(0, 100);
  file->will_need(0, 100);
}

TEST_CASE("a mapping outlives the file's name") {
  TemporaryFolder folder;
  write_atomically(folder / "a", "first");
  auto file = MappedFile::open(folder / "a");
  write_atomically(folder / "a", "other");
  CHECK(std::memcmp(file->bytes().data(), "first", 5) == 0);
  CHECK(read_file(folder / "a") == "other");
}

TEST_CASE("bytes of a mapped file are read without mapping a page, and their address finds the file while it is open") {
  TemporaryFolder folder;
  std::string content(1'000'003, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = char(i * 7 + i / 4096);
  write_atomically(folder / "a", content);
  write_atomically(folder / "b", "other");
  auto file = MappedFile::open(folder / "a"), other = MappedFile::open(folder / "b");
  std::string read(900'000, '\0');
  file->read(file->bytes().data() + 100'001, read.data(), read.size());
  CHECK(read == content.substr(100'001, read.size()));
  CHECK(resident_pages(*file) == 0);

  const std::byte* begin = file->bytes().data();
  CHECK(MappedFile::containing(begin) == file.get());
  CHECK(MappedFile::containing(begin + content.size() - 1) == file.get());
  CHECK(MappedFile::containing(begin + content.size()) != file.get());
  CHECK(MappedFile::containing(begin - 1) != file.get());
  CHECK(MappedFile::containing(other->bytes().data() + 1) == other.get());
  CHECK(MappedFile::containing(reinterpret_cast<const std::byte*>(content.data())) == nullptr);
  file.reset();
  CHECK(MappedFile::containing(begin) == nullptr);
}

TEST_CASE("reading where a file was cut off is an error, not a signal") {
  TemporaryFolder folder;
  write_atomically(folder / "a", std::string(100'000, 'x'));
  auto file = MappedFile::open(folder / "a");
  fs::resize_file(folder / "a", 50'000);
  std::string read(60'000, '\0');
  CHECK(refusal([&] { file->read(file->bytes().data(), read.data(), read.size()); }) ==
        file->path() + ": the file has become shorter since it was opened; copy or download it again");
}

TEST_CASE("dropping a range frees it and what was mapped along with it, and it reads the same again") {
  TemporaryFolder folder;
  constexpr size_t kMegabyte = size_t(1) << 20;
  int page = int(::sysconf(_SC_PAGESIZE)), megabyte = int(kMegabyte) / page;
  std::string content(16 * kMegabyte + 10, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = char(i * 7 + i / size_t(page));
  write_atomically(folder / "a", content);
  auto file = MappedFile::open(folder / "a");
  auto same = [&] { return std::memcmp(file->bytes().data(), content.data(), content.size()) == 0; };
  file->will_need(0, content.size());
  REQUIRE(same());
  const int whole = 16 * megabyte + 1;
  REQUIRE(resident_pages(*file) == whole);
  file->drop(6 * kMegabyte + 1, kMegabyte - 2);  // 5 MiB with both sides, and what else a huge page maps that is cut
  int left = resident_pages(*file);
  CHECK(left <= whole - 5 * megabyte);
  CHECK(left >= whole - 8 * megabyte);
  file->drop(8 * kMegabyte, 0);
  file->drop(content.size(), 5);
  CHECK(resident_pages(*file) == left);
  REQUIRE(same());
  file->drop(16 * kMegabyte, content.size());  // beyond the end: up to the end
  CHECK(resident_pages(*file) <= whole - 2 * megabyte - 1);
  CHECK(resident_pages(*file) >= whole - 4 * megabyte - 1);
  REQUIRE(same());
  file->drop(0, content.size());
  CHECK(resident_pages(*file) == 0);
}

TEST_CASE("what cannot be read is refused by name") {
  TemporaryFolder folder;
  std::string missing = (folder / "missing").string();
  CHECK(refusal([&] { MappedFile::open(missing); }) == missing + ": cannot open: No such file or directory");
  CHECK(refusal([&] { read_file(folder.path()); }) == folder.path().string() + ": a file was expected, and this is a folder");
  CHECK(refusal([&] { MappedFile::open("/dev/zero"); }) == "/dev/zero: a file was expected, and this is a device or a pipe");
  write_atomically(folder / "long", "12345");
  CHECK(contains(refusal([&] { read_file(folder / "long", 4); }), "has 5 bytes, and at most 4 are read here"));
  try {
    read_file(missing);
  } catch (const Error& e) {
    CHECK(e.code() == Code::NotFound);
  }
}

TEST_CASE("identities differ when size or time differ") {
  FileIdentity a{"x", 1, 2};
  CHECK(a.digest() == FileIdentity{"x", 1, 2}.digest());
  CHECK(a.digest() != FileIdentity{"x", 2, 2}.digest());
  CHECK(a.digest() != FileIdentity{"x", 1, 3}.digest());
  CHECK(a.digest() != FileIdentity{"y", 1, 2}.digest());
}

TEST_CASE("a write that throws leaves the old file and nothing else") {
  TemporaryFolder folder;
  write_atomically(folder / "a", "old");
  CHECK(refusal([&] {
          write_atomically(folder / "a", [](AtomicFile& file) {
            file.write("half of the new");
            fail(Code::Cancelled, "stopped");
          });
        }) == "stopped");
  CHECK(read_file(folder / "a") == "old");
  CHECK(files_in(folder.path()) == 1);
}

TEST_CASE("an atomic file that is not committed never appears") {
  TemporaryFolder folder;
  {
    AtomicFile file(folder / "a");
    file.write("x");
    CHECK(files_in(folder.path()) == 1);
    CHECK(!fs::exists(folder / "a"));
  }
  CHECK(files_in(folder.path()) == 0);
}

TEST_CASE("a write into a folder that is not there says so") {
  TemporaryFolder folder;
  std::string path = (folder / "none" / "a.png").string();
  std::string said = refusal([&] { write_atomically(path, "x"); });
  CHECK(contains(said, path + ": cannot create "));
  CHECK(contains(said, "No such file or directory"));
  CHECK(contains(refusal([&] { write_atomically(folder.path(), "x"); }), "a file name was expected, and this is a folder"));
  CHECK(contains(refusal([&] { write_atomically("/dev/null", "x"); }), "cannot be replaced"));
}

TEST_CASE("a write that fails half way leaves the old file and names the operation") {
  TemporaryFolder folder;
  write_atomically(folder / "a", "old");
  // A limit on the size of files fails like a full disk does: some bytes fit and the next do not.
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  auto* handler = ::signal(SIGXFSZ, SIG_IGN);
  rlimit small{4096, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  std::string path = (folder / "a").string();
  std::string write = refusal([&] { write_atomically(path, std::string(10000, 'x')); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, handler);
  CHECK(write == path + ": cannot write: File too large");
  CHECK(read_file(path) == "old");
  CHECK(files_in(folder.path()) == 1);
}

TEST_CASE("space that no disk has cannot be reserved") {
  TemporaryFolder folder;
  std::string said = refusal([&] { AtomicFile(folder / "a").reserve(uint64_t(1) << 60); });
  CHECK(contains(said, (folder / "a").string() + ": cannot reserve 1152921504606846976 bytes: "));
  CHECK(files_in(folder.path()) == 0);
}

TEST_CASE("a killed writer leaves the old file and a temporary that is recognised as stale") {
  TemporaryFolder folder;
  write_atomically(folder / "a.bin", "old");
  pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    AtomicFile file(folder / "a.bin");
    file.write("half");
    ::kill(::getpid(), SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  CHECK(read_file(folder / "a.bin") == "old");
  CHECK(files_in(folder.path()) == 2);
  for (auto& entry : fs::directory_iterator(folder.path())) {
    std::string name = entry.path().filename();
    if (name == "a.bin") continue;
    CHECK(name.starts_with(".a.bin.sinter-"));
    CHECK(name.ends_with(".tmp"));
  }

  AtomicFile living(folder / "b.bin");
  write_atomically(folder / ".not-ours.tmp", "");
  CHECK(remove_stale_temporaries(folder.path()) == 1);
  living.write("b");
  living.commit();
  CHECK(read_file(folder / "b.bin") == "b");
  CHECK(files_in(folder.path()) == 3);
}

TEST_CASE("a symbolic link stays a link, and what it points at is replaced") {
  TemporaryFolder folder;
  write_atomically(folder / "target", "old");
  fs::create_symlink("target", folder / "link");
  write_atomically(folder / "link", "new");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(read_file(folder / "target") == "new");
}

TEST_CASE("a name of the greatest length can be written") {
  TemporaryFolder folder;
  std::string name(255, 'n');
  write_atomically(folder / name, "x");
  CHECK(read_file(folder / name) == "x");
}

}  // namespace
}  // namespace sinter
