#include "text/vocabulary.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "base/error.h"
#include "text/synthetic_vocabulary.h"

using namespace sinter;
namespace fs = std::filesystem;

namespace {

/// A folder of its own that goes away with the test.
struct Folder {
  fs::path path = fs::temp_directory_path() / ("sinter_vocabulary_test_" + std::to_string(getpid()));
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

std::string error_of(VocabularyKind kind, const VocabularySearch& search) {
  try {
    find_vocabulary(kind, search);
  } catch (const Error& e) {
    CHECK(e.code() == Code::NotFound);
    return e.message();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Sets an environment variable for as long as it lives.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before, had_ = true;
    value ? setenv(name, value, 1) : unsetenv(name);
  }
  ~Environment() { had_ ? setenv(name_, before_.c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  std::string before_;
  bool had_ = false;
};

}  // namespace

TEST_CASE("vocabularies are found in every place, the nearest first") {
  Folder folder;
  fs::path root = folder.path;
  VocabularySearch search{{}, root / "models/tiny.safetensors", root / "comfy", root / "data"};
  auto clip = [&] { return find_vocabulary(VocabularyKind::Clip, search).vocab_json.parent_path(); };
  auto t5 = [&] { return find_vocabulary(VocabularyKind::T5, search).tokenizer_json; };
  write_clip_vocabulary(root / "data/tokenizers/clip", 600);
  write_t5_vocabulary(root / "data/tokenizers/t5", 200);
  CHECK(clip() == root / "data/tokenizers/clip");
  CHECK(t5() == root / "data/tokenizers/t5/tokenizer.json");
  write_clip_vocabulary(root / "comfy/comfy/sd1_tokenizer", 600);
  write_t5_vocabulary(root / "comfy/comfy/text_encoders/t5_tokenizer", 200);
  CHECK(clip() == root / "comfy/comfy/sd1_tokenizer");
  CHECK(t5() == root / "comfy/comfy/text_encoders/t5_tokenizer/tokenizer.json");
  write_clip_vocabulary(root / "models/tiny.vocab/clip", 600);
  write_t5_vocabulary(root / "models/tiny.vocab/t5", 200);
  CHECK(clip() == root / "models/tiny.vocab/clip");
  CHECK(t5() == root / "models/tiny.vocab/t5/tokenizer.json");
  CHECK(load_clip_tokenizer(find_vocabulary(VocabularyKind::Clip, search)).end_id() == 599);
  CHECK(load_t5_tokenizer(find_vocabulary(VocabularyKind::T5, search)).end_id() == 1);
}

TEST_CASE("in a diffusers folder each text encoder's own vocabulary is taken") {
  Folder folder;
  write_clip_vocabulary(folder.path / "tokenizer", 600);
  fs::create_directories(folder.path / "tokenizer_2");
  // A tokenizer.json of CLIP, which T5 must not take.
  std::ofstream(folder.path / "tokenizer_2/tokenizer.json") << R"({"model":{"type":"BPE"}})";
  write_t5_vocabulary(folder.path / "tokenizer_3", 200);
  VocabularySearch search{{}, folder.path, {}, {}};
  CHECK(find_vocabulary(VocabularyKind::Clip, search).merges == folder.path / "tokenizer/merges.txt");
  CHECK(find_vocabulary(VocabularyKind::T5, search).tokenizer_json == folder.path / "tokenizer_3/tokenizer.json");
  fs::remove_all(folder.path / "tokenizer");
  CHECK(find_vocabulary(VocabularyKind::Clip, search).tokenizer_json == folder.path / "tokenizer_2/tokenizer.json");
}

TEST_CASE("a given path wins, as a folder and as a file, and is never passed over") {
  Folder folder;
  write_clip_vocabulary(folder.path / "mine", 600);
  write_clip_vocabulary(folder.path / "data/tokenizers/clip", 700);
  VocabularySearch search{folder.path / "mine", {}, {}, folder.path / "data"};
  CHECK(load_clip_tokenizer(find_vocabulary(VocabularyKind::Clip, search)).end_id() == 599);
  for (const char* name : {"vocab.json", "merges.txt"}) {
    search.given = folder.path / "mine" / name;
    CHECK(load_clip_tokenizer(find_vocabulary(VocabularyKind::Clip, search)).end_id() == 599);
  }
  search.given = folder.path / "absent";
  CHECK(contains(error_of(VocabularyKind::Clip, search), "absent: there is no such file or folder"));
  search.given = folder.path / "data";
  CHECK(contains(error_of(VocabularyKind::Clip, search), "data: the folder holds no such vocabulary"));
}

TEST_CASE("the error for a missing vocabulary says what is needed, where we looked and where to put it") {
  Folder folder;
  std::string root = folder.path.string();
  VocabularySearch search{{}, root + "/x.safetensors", root + "/comfy", root + "/data"};
  std::string clip = error_of(VocabularyKind::Clip, search);
  for (const std::string& part :
       std::vector<std::string>{"vocab.json and merges.txt", "--clip-vocab", "--comfyui", "x.vocab/clip",
                                "comfy/comfy/sd1_tokenizer", "put the files into " + root + "/data/tokenizers/clip"})
    CHECK_MESSAGE(contains(clip, part), part << " in: " << clip);
  std::string t5 = error_of(VocabularyKind::T5, search);
  for (const std::string& part :
       std::vector<std::string>{"tokenizer.json", "--t5-vocab", "x.vocab/t5", "comfy/text_encoders/t5_tokenizer"})
    CHECK_MESSAGE(contains(t5, part), part << " in: " << t5);
}

TEST_CASE("errors in a vocabulary file name its path") {
  Folder folder;
  write_clip_vocabulary(folder.path, 600);
  fs::resize_file(folder.path / "vocab.json", 1000);
  CHECK_THROWS_WITH_AS(load_clip_tokenizer(find_vocabulary(VocabularyKind::Clip, {.given = folder.path})),
                       doctest::Contains((folder.path / "vocab.json").string().c_str()), Error);
  fs::resize_file(folder.path / "vocab.json", uintmax_t(65) << 20);
  CHECK_THROWS_WITH_AS(load_clip_tokenizer(find_vocabulary(VocabularyKind::Clip, {.given = folder.path})),
                       doctest::Contains("at most 67108864 are read"), Error);
}

TEST_CASE("the data folder follows SINTER_DATA_DIR, then XDG_DATA_HOME, then the home folder") {
  Environment home("HOME", "/home/somebody"), xdg("XDG_DATA_HOME", "/xdg"), own("SINTER_DATA_DIR", "/own");
  CHECK(default_data_folder() == "/own");
  Environment no_own("SINTER_DATA_DIR", nullptr);
  CHECK(default_data_folder() == "/xdg/sinter");
  Environment no_xdg("XDG_DATA_HOME", nullptr);
  CHECK(default_data_folder() == "/home/somebody/.local/share/sinter");
  Environment no_home("HOME", nullptr);
  CHECK(default_data_folder().empty());
}
