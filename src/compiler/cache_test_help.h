#pragma once
#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "compiler/cache.h"

namespace sinter {

/// An empty directory that is removed at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "sinter-cache-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()));
    path_ = name;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// The program of a number; nothing else ever has it.
inline Blob program_of(int number, size_t bytes = 2000) {
  Blob program(bytes);
  uint64_t state = uint64_t(number) * 0x9e3779b97f4a7c15u + 1;
  for (auto& b : program) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    b = std::byte(state >> 56);
  }
  return program;
}
inline Digest key_of(int number) { return digest_of("program " + std::to_string(number)); }
inline CompileFacts facts_of_block(std::string label, std::string dtype = "f32", double seconds = 1) {
  return {std::move(label), {{"target", "x86-64 avx2"}, {"dtype", std::move(dtype)}}, seconds};
}

inline CacheOptions options_in(const std::filesystem::path& directory, std::vector<std::string>* notes = nullptr) {
  CacheOptions options;
  options.directory = directory;
  options.note = [notes](const std::string& text) {
    if (notes) notes->push_back(text);
  };
  return options;
}

inline std::filesystem::path entry_path(const std::filesystem::path& directory, const Digest& key) {
  return directory / "entries" / key.hex().substr(0, 2) / (key.hex() + ".sinter");
}

inline std::string slurp(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
inline void spill(const std::filesystem::path& file, const std::string& bytes) {
  std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
}

/// Runs `body` in a child process; the child ends with its result, without running anybody's destructors.
template <class Body>
pid_t in_child(Body&& body) {
  pid_t child = fork();
  if (child != 0) return child;
  int result = 99;
  try {
    result = body();
  } catch (...) {
  }
  _exit(result);
}

/// The exit code of a child, or minus the signal that killed it.
inline int result_of(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace sinter
