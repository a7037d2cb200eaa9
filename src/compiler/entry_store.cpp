#include "compiler/entry_store.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "base/error.h"
#include "base/file.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;
constexpr const char* kSuffix = ".sinter";
constexpr int64_t kStaleSeconds = 3600;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  bool good() const { return fd_ >= 0; }

 private:
  int fd_;
};

std::string reason(const char* doing, const fs::path& path) {
  return fmt::format("{} {}: {}", doing, path.string(), strerror(errno));
}

int64_t microseconds(const timespec& time) { return int64_t(time.tv_sec) * 1000000 + time.tv_nsec / 1000; }

bool read_all(int fd, Blob& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t got = ::read(fd, bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return false;
    if (got == 0) break;
    done += size_t(got);
  }
  bytes.resize(done);
  return true;
}

class FileHold : public EntryStore::Hold {
 public:
  FileHold(int fd, fs::path file) : descriptor_(fd), file_(std::move(file)) {}
  // Removed while it is still locked: whoever waits on the removed file notices that its name is gone and starts again.
  ~FileHold() override { ::unlink(file_.c_str()); }

 private:
  Descriptor descriptor_;
  fs::path file_;
};

class DiskEntries : public EntryStore {
 public:
  explicit DiskEntries(fs::path directory) : directory_(std::move(directory)) {}

  std::optional<File> read(const Digest& key, uint64_t limit) const override {
    fs::path path = path_of(key);
    // Not blocking: a FIFO in the place of an entry must not hang the run.
    Descriptor in(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!in.good() && (errno == ENOENT || errno == ENOTDIR)) return std::nullopt;
    if (!in.good()) return File{{}, 0, reason("cannot open", path)};
    struct stat stat;
    if (::fstat(in.get(), &stat) != 0) return File{{}, 0, reason("cannot read", path)};
    if (!S_ISREG(stat.st_mode)) return File{{}, 0, fmt::format("{} is not a file", path.string())};
    uint64_t bytes = uint64_t(stat.st_size);
    if (bytes > kMaxEntryBytes) return File{{}, bytes, fmt::format("it has {} bytes, more than any entry", bytes)};
    File file{Blob(std::min(bytes, limit)), bytes, {}};
    if (!read_all(in.get(), file.bytes)) return File{{}, bytes, reason("cannot read", path)};
    return file;
  }

  std::string write(const Digest& key, std::span<const std::byte> bytes) override {
    fs::path path = path_of(key), temporaries = directory_ / "tmp";
    std::error_code error;
    for (auto& folder : {path.parent_path(), temporaries})
      if (fs::create_directories(folder, error); error)
        return fmt::format("cannot create {}: {}", folder.string(), error.message());
    // A pipe or a link in the place of an entry makes room; AtomicFile would refuse the one and follow the other.
    struct stat stat;
    if (::lstat(path.c_str(), &stat) == 0 && !S_ISREG(stat.st_mode)) ::unlink(path.c_str());
    try {
      AtomicFile file(path, temporaries);
      file.write(bytes.data(), bytes.size());
      file.commit();
    } catch (const Error& e) {
      return e.message();
    }
    return {};
  }

  bool remove(const Digest& key) override { return ::unlink(path_of(key).c_str()) == 0 || errno == ENOENT || errno == ENOTDIR; }

  std::vector<Stat> list() const override {
    std::vector<Stat> found;
    visit([&](const fs::path& path, const Digest* key) {
      struct stat stat;
      if (key && ::lstat(path.c_str(), &stat) == 0) found.push_back({*key, uint64_t(stat.st_size), microseconds(stat.st_mtim)});
    });
    return found;
  }

  std::vector<std::string> strangers() const override {
    std::vector<std::string> found;
    visit([&](const fs::path& path, const Digest* key) {
      if (!key) found.push_back(path.string());
    });
    return found;
  }

  std::unique_ptr<Hold> try_hold(const Digest& key, std::string& problem) override {
    std::error_code error;
    if (fs::create_directories(directory_ / "locks", error); error) {
      problem = fmt::format("cannot create {}: {}", (directory_ / "locks").string(), error.message());
      return nullptr;
    }
    return try_hold_file(directory_ / "locks" / (key.hex() + ".lock"), problem);
  }

  void clean() override {
    for_each_stale("tmp", [](const fs::path& path) { ::unlink(path.c_str()); });
    // A lock that is free can be taken, and taking it and letting go removes it.
    for_each_stale("locks", [](const fs::path& path) {
      std::string problem;
      try_hold_file(path, problem);
    });
  }

 private:
  fs::path path_of(const Digest& key) const {
    std::string name = key.hex();
    return directory_ / "entries" / name.substr(0, 2) / (name + kSuffix);
  }

  /// Visits every file below entries/; key is null where the name is not an entry's. Files that vanish meanwhile are passed over.
  void visit(const auto& file) const {
    std::error_code error;
    for (fs::directory_iterator folders(directory_ / "entries", error), end; !error && folders != end; folders.increment(error)) {
      std::error_code inner;
      for (fs::directory_iterator files(folders->path(), inner); !inner && files != end; files.increment(inner)) {
        const fs::path& path = files->path();
        Digest key;
        bool named = Digest::parse(path.stem().string(), key) && path_of(key) == path;
        file(path, named ? &key : nullptr);
      }
    }
  }

  void for_each_stale(const char* folder, const auto& visit) const {
    timespec now;
    ::clock_gettime(CLOCK_REALTIME, &now);
    std::error_code error;
    for (fs::directory_iterator files(directory_ / folder, error), end; !error && files != end; files.increment(error)) {
      struct stat stat;
      if (::lstat(files->path().c_str(), &stat) == 0 && S_ISREG(stat.st_mode) && now.tv_sec - stat.st_mtim.tv_sec > kStaleSeconds)
        visit(files->path());
    }
  }

  fs::path directory_;
};

class MemoryEntries : public EntryStore {
 public:
  std::optional<File> read(const Digest& key, uint64_t limit) const override {
    std::lock_guard lock(mutex_);
    auto found = files_.find(key);
    if (found == files_.end()) return std::nullopt;
    const Blob& bytes = found->second;
    return File{Blob(bytes.begin(), bytes.begin() + std::ptrdiff_t(std::min<uint64_t>(limit, bytes.size()))), bytes.size(), {}};
  }
  std::string write(const Digest& key, std::span<const std::byte> bytes) override {
    std::lock_guard lock(mutex_);
    files_[key].assign(bytes.begin(), bytes.end());
    return {};
  }
  bool remove(const Digest& key) override {
    std::lock_guard lock(mutex_);
    files_.erase(key);
    return true;
  }
  std::vector<Stat> list() const override {
    std::lock_guard lock(mutex_);
    std::vector<Stat> found;
    for (auto& [key, bytes] : files_) found.push_back({key, bytes.size(), 0});
    return found;
  }
  std::unique_ptr<Hold> try_hold(const Digest& key, std::string&) override {
    std::lock_guard lock(mutex_);
    if (!held_.insert(key).second) return nullptr;
    return std::make_unique<MemoryHold>(*this, key);
  }

 private:
  struct MemoryHold : Hold {
    MemoryHold(MemoryEntries& owner, const Digest& key) : owner(owner), key(key) {}
    ~MemoryHold() override {
      std::lock_guard lock(owner.mutex_);
      owner.held_.erase(key);
    }
    MemoryEntries& owner;
    Digest key;
  };

  mutable std::mutex mutex_;
  std::map<Digest, Blob> files_;
  std::set<Digest> held_;
};

}  // namespace

std::unique_ptr<EntryStore::Hold> try_hold_file(const fs::path& file, std::string& problem) {
  for (;;) {
    int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) {
      problem = reason("cannot create", file);
      return nullptr;
    }
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) problem = reason("cannot lock", file);
      ::close(fd);
      return nullptr;
    }
    // The last holder may have removed the file between our open and our lock: then we hold a file that nobody else can see.
    struct stat ours, named;
    if (::fstat(fd, &ours) == 0 && ::stat(file.c_str(), &named) == 0 && ours.st_ino == named.st_ino &&
        ours.st_dev == named.st_dev)
      return std::make_unique<FileHold>(fd, file);
    ::close(fd);
  }
}

std::unique_ptr<EntryStore> entries_on_disk(fs::path directory) { return std::make_unique<DiskEntries>(std::move(directory)); }
std::unique_ptr<EntryStore> entries_in_memory() { return std::make_unique<MemoryEntries>(); }

}  // namespace sinter
