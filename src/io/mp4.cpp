#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "io/animation_writers.h"

namespace sinter {
namespace {

/// A program that reads its standard input from us. It is a group of its own, so that Ctrl-C reaches us alone; when we end, its
/// input ends too.
class Child {
 public:
  explicit Child(std::vector<std::string> words) {
    // A socket, unlike a pipe, can be written without a signal where the reader has ended.
    int pair[2];
    errors_ = std::tmpfile();
    if (!errors_ || ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) refuse(errno);
    input_ = pair[0];
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pair[1], STDIN_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, ::fileno(errors_), STDERR_FILENO);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    std::vector<char*> raw;
    for (std::string& word : words) raw.push_back(word.data());
    raw.push_back(nullptr);
    int error = ::posix_spawn(&id_, raw[0], &actions, &attributes, raw.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    ::close(pair[1]);
    if (error != 0) refuse(error);
  }
  ~Child() {
    close_input();
    if (id_ > 0) {
      ::kill(id_, SIGKILL);
      wait();
    }
    if (errors_) std::fclose(errors_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// Stops early where the program has ended; finish() tells why.
  bool write(const void* data, size_t bytes) {
    auto* from = static_cast<const char*>(data);
    while (bytes > 0) {
      ssize_t count = ::send(input_, from, bytes, MSG_NOSIGNAL);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return false;
      from += count;
      bytes -= size_t(count);
    }
    return true;
  }

  /// Waits for the end; what the program said where it failed, else "".
  std::string finish() {
    close_input();
    int status = wait();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
    std::string said(2000, '\0');
    std::rewind(errors_);
    said.resize(std::fread(said.data(), 1, said.size(), errors_));
    while (!said.empty() && said.back() == '\n') said.pop_back();
    if (WIFSIGNALED(status)) return fmt::format("it was ended by signal {}; {}", WTERMSIG(status), said);
    return said.empty() ? fmt::format("it failed with exit code {}", WEXITSTATUS(status)) : said;
  }

 private:
  [[noreturn]] static void refuse(int error) { fail(Code::Io, "ffmpeg cannot be started: {}", std::strerror(error)); }
  void close_input() {
    if (input_ >= 0) ::close(std::exchange(input_, -1));
  }
  int wait() {
    int status = 0;
    while (::waitpid(id_, &status, 0) < 0 && errno == EINTR) {
    }
    id_ = -1;
    return status;
  }

  std::FILE* errors_ = nullptr;
  int input_ = -1;
  pid_t id_ = -1;
};

class Mp4Writer : public AnimationWriter {
 public:
  Mp4Writer(const std::filesystem::path& path, int64_t width, int64_t height)
      : path_(path), file_(path), width_(width), height_(height), child_(words()) {}

  void add(const Tensor& pixels, int milliseconds) override {
    SINTER_ASSERT((pixels.shape() == std::vector<int64_t>{height_, width_, 3}) && pixels.dtype() == DType::u8);
    time_ += milliseconds;
    for (; written_ * 1000 < time_ * kRate; ++written_)
      if (!child_.write(pixels.data(), size_t(pixels.bytes()))) refuse(child_.finish());
  }

  void finish() override {
    if (std::string said = child_.finish(); !said.empty()) refuse(said);
    file_.commit();
  }

 private:
  static constexpr int64_t kRate = 25;  // frames a second; each picture is repeated as long as it is shown

  [[noreturn]] void refuse(const std::string& said) const {
    fail(Code::Io, "{}: ffmpeg could not write it: {}", path_.string(), said.empty() ? "it ended early" : said);
  }

  std::vector<std::string> words() const {
    std::string size = fmt::format("{}x{}", width_, height_), rate = std::to_string(kRate);
    // yuv420p is what players understand; the index in front lets them start before the whole file is there.
    return {find_ffmpeg().string(),
            "-loglevel",
            "error",
            "-y",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-s",
            size,
            "-r",
            rate,
            "-i",
            "-",
            "-an",
            "-pix_fmt",
            "yuv420p",
            "-crf",
            "18",
            "-movflags",
            "+faststart",
            "-f",
            "mp4",
            file_.temporary().string()};
  }

  std::filesystem::path path_;
  AtomicFile file_;
  int64_t width_, height_, time_ = 0, written_ = 0;
  Child child_;
};

}  // namespace

std::filesystem::path find_ffmpeg() {
  const char* list = std::getenv("PATH");
  std::string folders = list ? list : "";
  for (size_t begin = 0; begin <= folders.size();) {
    size_t end = std::min(folders.find(':', begin), folders.size());
    std::filesystem::path program = std::filesystem::path(folders.substr(begin, end - begin)) / "ffmpeg";
    if (end > begin && ::access(program.c_str(), X_OK) == 0 && !std::filesystem::is_directory(program)) return program;
    begin = end + 1;
  }
  fail(Code::NotFound,
       "MP4 is written by the program ffmpeg, which is not installed: install the package ffmpeg, or write a .webp "
       "or .gif");
}

std::unique_ptr<AnimationWriter> open_mp4(const std::filesystem::path& path, int64_t width, int64_t height) {
  return std::make_unique<Mp4Writer>(path, width, height);
}

}  // namespace sinter
