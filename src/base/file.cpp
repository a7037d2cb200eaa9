#include "base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "base/error.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporaryMark = ".sinter-";
constexpr std::string_view kTemporaryEnd = ".tmp";
constexpr size_t kRandomLetters = 6;
constexpr size_t kLargestFolio = size_t(2) << 20;  // what the kernel caches, and maps, in one piece
constexpr size_t kNameLimit = 255;                 // bytes of one file name on every file system we write to

/// A descriptor that closes itself.
struct Descriptor {
  int number;
  explicit Descriptor(int number) : number(number) {}
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
};

[[noreturn]] void fail_to(const char* operation, const fs::path& path, int error) {
  Code code = error == ENOENT ? Code::NotFound : error == ENOMEM ? Code::OutOfMemory : Code::Io;
  fail(code, "{}: cannot {}: {}", path.string(), operation, std::strerror(error));
}

/// Opens a regular file; the caller owns the descriptor. Without O_NONBLOCK opening a named pipe would wait for a writer.
int open_regular(const fs::path& path, struct stat& facts) {
  int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) fail_to("open", path, errno);
  int error = ::fstat(descriptor, &facts) == 0 ? 0 : errno;
  if (error == 0 && S_ISREG(facts.st_mode)) return descriptor;
  ::close(descriptor);
  if (error != 0) fail_to("look at", path, error);
  fail(Code::Io, "{}: a file was expected, and this is a {}", path.string(),
       S_ISDIR(facts.st_mode) ? "folder" : "device or a pipe");
}

std::string random_letters() {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz0123456789";
  unsigned char random[kRandomLetters];
  if (::getrandom(random, sizeof random, 0) != ssize_t(sizeof random)) fail(Code::Io, "getrandom: {}", std::strerror(errno));
  std::string out;
  for (unsigned char byte : random) out += kLetters[byte % kLetters.size()];
  return out;
}

bool is_temporary_name(std::string_view name) {
  size_t tail = kTemporaryMark.size() + kRandomLetters + kTemporaryEnd.size();
  return name.size() > tail + 1 && name.front() == '.' && name.ends_with(kTemporaryEnd) &&
         name.substr(name.size() - tail, kTemporaryMark.size()) == kTemporaryMark;
}

/// Folders cannot be synced on every file system; the rename is atomic all the same, so failures do not matter.
void sync_folder(const fs::path& folder) {
  Descriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (descriptor.number >= 0) (void)::fsync(descriptor.number);
}

/// All mapped files, by where they begin.
struct Mappings {
  std::shared_mutex mutex;
  std::map<const std::byte*, const MappedFile*> by_begin;
};
Mappings& mappings() {
  static auto* all = new Mappings;  // never destroyed: a file may be closed by another static object
  return *all;
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

}  // namespace

Digest FileIdentity::digest() const { return Hasher().add(path).add(bytes).add(modified_nanoseconds).digest(); }

std::shared_ptr<const MappedFile> MappedFile::open(const fs::path& path) {
  struct stat facts {};
  Descriptor descriptor(open_regular(path, facts));
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->identity_ = {path.string(), uint64_t(facts.st_size),
                     int64_t(facts.st_mtim.tv_sec) * 1'000'000'000 + facts.st_mtim.tv_nsec};
  if (facts.st_size == 0) return file;  // an empty range cannot be mapped
  void* data = ::mmap(nullptr, size_t(facts.st_size), PROT_READ, MAP_PRIVATE, descriptor.number, 0);
  if (data == MAP_FAILED) fail_to("map", path, errno);
  file->data_ = static_cast<const std::byte*>(data);
  file->size_ = size_t(facts.st_size);
  file->descriptor_ = std::exchange(descriptor.number, -1);
  Mappings& all = mappings();
  std::unique_lock lock(all.mutex);
  all.by_begin.emplace(file->data_, file.get());
  return file;
}

MappedFile::~MappedFile() {
  if (!data_) return;
  {
    Mappings& all = mappings();
    std::unique_lock lock(all.mutex);
    all.by_begin.erase(data_);
  }
  ::munmap(const_cast<std::byte*>(data_), size_);
  ::close(descriptor_);
}

const MappedFile* MappedFile::containing(const std::byte* address) {
  Mappings& all = mappings();
  std::shared_lock lock(all.mutex);
  auto after = all.by_begin.upper_bound(address);
  if (after == all.by_begin.begin()) return nullptr;
  const MappedFile* file = std::prev(after)->second;
  return address < file->data_ + file->size_ ? file : nullptr;
}

void MappedFile::read(const std::byte* from, void* to, size_t bytes) const {
  auto offset = size_t(from - data_);
  SINTER_ASSERT(from >= data_ && offset <= size_ && bytes <= size_ - offset);
  auto* at = static_cast<std::byte*>(to);
  while (bytes > 0) {
    ssize_t count = ::pread(descriptor_, at, bytes, off_t(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_to("read", path(), errno);
    if (count == 0) fail(Code::Io, "{}: the file has become shorter since it was opened; copy or download it again", path());
    at += count, offset += size_t(count), bytes -= size_t(count);
  }
}

void MappedFile::drop(size_t offset, size_t bytes) const {
  if (offset >= size_ || bytes == 0) return;
  size_t page = size_t(::sysconf(_SC_PAGESIZE));
  size_t first = (offset - std::min(offset, kLargestFolio)) / page * page;
  size_t end = offset + std::min(bytes, size_ - offset);
  end += std::min(kLargestFolio, size_ - end);
  ::madvise(const_cast<std::byte*>(data_) + first, end - first, MADV_DONTNEED);
}

void MappedFile::will_need(size_t offset, size_t bytes) const {
  if (offset >= size_ || bytes == 0) return;
  size_t page = size_t(::sysconf(_SC_PAGESIZE));
  size_t end = offset + std::min(bytes, size_ - offset);
  size_t first = offset / page * page;
  ::madvise(const_cast<std::byte*>(data_) + first, end - first, MADV_WILLNEED);
}

std::string read_file(const fs::path& path, uint64_t limit) {
  struct stat facts {};
  Descriptor descriptor(open_regular(path, facts));
  if (uint64_t(facts.st_size) > limit)
    fail(Code::Unsupported, "{}: the file has {} bytes, and at most {} are read here", path.string(), facts.st_size, limit);
  std::string out(size_t(facts.st_size), '\0');
  size_t done = 0;
  while (done < out.size()) {
    ssize_t count = ::read(descriptor.number, out.data() + done, out.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_to("read", path, errno);
    if (count == 0) break;  // somebody shortened it meanwhile
    done += size_t(count);
  }
  out.resize(done);
  return out;
}

AtomicFile::AtomicFile(fs::path path, const fs::path& temporaries) : path_(std::move(path)) {
  std::error_code ignored;
  if (fs::is_symlink(path_, ignored)) {
    fs::path target = fs::weakly_canonical(path_, ignored);
    if (!ignored && !target.empty()) path_ = target;
  }
  if (!path_.has_filename() || fs::is_directory(path_, ignored))
    fail(Code::Io, "{}: cannot write: a file name was expected, and this is a folder", path_.string());
  if (fs::exists(path_, ignored) && !fs::is_regular_file(path_, ignored))
    fail(Code::Io, "{}: cannot write: this is a device or a pipe, which cannot be replaced", path_.string());
  open_temporary(temporaries.empty() ? folder_of(path_) : temporaries);
}

void AtomicFile::open_temporary(const fs::path& folder) {
  constexpr int kTries = 100;
  size_t extra = 1 + kTemporaryMark.size() + kRandomLetters + kTemporaryEnd.size();
  std::string name = path_.filename().string().substr(0, kNameLimit - extra);
  for (int i = 0; i < kTries; ++i) {
    temporary_ = folder / fmt::format(".{}{}{}{}", name, kTemporaryMark, random_letters(), kTemporaryEnd);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno == EEXIST) continue;
    if (descriptor_ < 0) fail(Code::Io, "{}: cannot create {}: {}", path_.string(), temporary_.string(), std::strerror(errno));
    // The lock says that the writer lives. Where locks do not exist, nobody takes the file for a stale one either.
    (void)::flock(descriptor_, LOCK_EX | LOCK_NB);
    // Between open and flock it looked stale, and somebody may have removed it.
    struct stat facts {};
    if (::fstat(descriptor_, &facts) == 0 && facts.st_nlink > 0) return;
    ::close(std::exchange(descriptor_, -1));
  }
  fail(Code::Io, "{}: cannot create a temporary file in {}", path_.string(), folder.string());
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() {
  if (descriptor_ < 0) return;
  ::unlink(temporary_.c_str());
  ::close(std::exchange(descriptor_, -1));
}

void AtomicFile::fail_with(const char* operation, int error) {
  discard();
  fail(Code::Io, "{}: cannot {}: {}", path_.string(), operation, std::strerror(error));
}

void AtomicFile::reserve(uint64_t bytes) {
  SINTER_ASSERT(descriptor_ >= 0);
  if (bytes == 0) return;
  int result;
  do result = ::fallocate(descriptor_, FALLOC_FL_KEEP_SIZE, 0, off_t(bytes));
  while (result != 0 && errno == EINTR);
  // File systems that cannot promise space say so in several ways; only "there is none" counts.
  if (result != 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
    int error = errno;
    discard();
    fail(Code::Io, "{}: cannot reserve {} bytes: {}", path_.string(), bytes, std::strerror(error));
  }
}

void AtomicFile::write(const void* data, size_t bytes) {
  SINTER_ASSERT(descriptor_ >= 0);
  auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    ssize_t count = ::write(descriptor_, from, bytes);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail_with("write", count < 0 ? errno : ENOSPC);
    from += count;
    bytes -= size_t(count);
  }
}

void AtomicFile::commit() {
  SINTER_ASSERT(descriptor_ >= 0);
  // EINVAL and ENOTSUP: a file system that has nothing to sync.
  if (::fsync(descriptor_) != 0 && errno != EINVAL && errno != ENOTSUP) fail_with("write to disk", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_with("rename the temporary file", errno);
  ::close(std::exchange(descriptor_, -1));
  sync_folder(folder_of(path_));
}

void write_atomically(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void write_atomically(const fs::path& path, const std::function<void(AtomicFile&)>& write) {
  AtomicFile file(path);
  write(file);
  file.commit();
}

int remove_stale_temporaries(const fs::path& folder) {
  int removed = 0;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (!is_temporary_name(at->path().filename().string())) continue;
    Descriptor descriptor(::open(at->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (descriptor.number < 0 || ::flock(descriptor.number, LOCK_EX | LOCK_NB) != 0) continue;
    if (::unlink(at->path().c_str()) == 0) ++removed;
  }
  return removed;
}

}  // namespace sinter
