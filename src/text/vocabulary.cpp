#include "text/vocabulary.h"

#include <cstdlib>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/settings.h"

namespace sinter {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kLargestFile = uint64_t(64) << 20;  // far above any vocabulary

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

std::string read_text(const fs::path& path) { return read_file(path, kLargestFile); }

/// A tokenizer.json of CLIP and one of T5 bear the same name, and a diffusers folder may hold both.
bool has_model_type(const fs::path& tokenizer_json, VocabularyKind kind) {
  return read_text(tokenizer_json).find(kind == VocabularyKind::Clip ? "\"BPE\"" : "\"Unigram\"") != std::string::npos;
}

std::optional<VocabularyFiles> files_in(const fs::path& folder, VocabularyKind kind) {
  fs::path vocab = folder / "vocab.json", merges = folder / "merges.txt", json = folder / "tokenizer.json";
  if (kind == VocabularyKind::Clip && is_file(vocab) && is_file(merges)) return VocabularyFiles{{}, vocab, merges};
  if (is_file(json) && has_model_type(json, kind)) return VocabularyFiles{json, {}, {}};
  return {};
}

/// A path that the user gave: a folder, or one of the files.
std::optional<VocabularyFiles> files_at(const fs::path& path, VocabularyKind kind) {
  if (is_folder(path)) return files_in(path, kind);
  if (!is_file(path)) return {};
  if (kind == VocabularyKind::Clip && (path.filename() == "vocab.json" || path.filename() == "merges.txt"))
    return files_in(path.parent_path(), kind);
  return VocabularyFiles{path, {}, {}};
}

std::vector<fs::path> places(VocabularyKind kind, const VocabularySearch& search) {
  const char* short_name = kind == VocabularyKind::Clip ? "clip" : "t5";
  std::vector<fs::path> out;
  if (is_folder(search.model)) {
    for (const char* name : {"tokenizer", "tokenizer_2", "tokenizer_3"}) out.push_back(search.model / name);
  } else if (!search.model.empty()) {
    fs::path beside = search.model;
    out.push_back(beside.replace_extension(".vocab") / short_name);
  }
  if (!search.comfyui.empty())
    out.push_back(search.comfyui / (kind == VocabularyKind::Clip ? "comfy/sd1_tokenizer" : "comfy/text_encoders/t5_tokenizer"));
  if (!search.data.empty()) out.push_back(search.data / "tokenizers" / short_name);
  return out;
}

std::string advice(VocabularyKind kind, const VocabularySearch& search) {
  bool clip = kind == VocabularyKind::Clip;
  fs::path folder = search.data.empty() ? default_data_folder() : search.data;
  std::string out =
      clip ? "Needed: vocab.json and merges.txt, or a tokenizer.json, of CLIP ViT-L/14 (any SD1.5, SDXL or FLUX diffusers "
             "folder has them in tokenizer/, ComfyUI in comfy/sd1_tokenizer)."
           : "Needed: a tokenizer.json of T5 v1.1 (a FLUX diffusers folder has it in tokenizer_2/, ComfyUI in "
             "comfy/text_encoders/t5_tokenizer).";
  out += fmt::format("\nGive its folder with {}, or a ComfyUI folder with --comfyui", clip ? "--clip-vocab" : "--t5-vocab");
  if (!folder.empty())
    out +=
        fmt::format(", or put {} into {}", clip ? "the files" : "it", (folder / "tokenizers" / (clip ? "clip" : "t5")).string());
  return out + ".";
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

}  // namespace

fs::path default_data_folder() {
  if (auto named = setting("SINTER_DATA_DIR")) return *named;
  if (std::string data = environment("XDG_DATA_HOME"); !data.empty()) return fs::path(data) / "sinter";
  if (std::string home = environment("HOME"); !home.empty()) return fs::path(home) / ".local/share/sinter";
  return {};
}

VocabularyFiles find_vocabulary(VocabularyKind kind, const VocabularySearch& search) {
  const bool clip = kind == VocabularyKind::Clip;
  if (!search.given.empty()) {
    if (auto found = files_at(search.given, kind)) return *found;
    fail(Code::NotFound, "{} {}: {}\n{}", clip ? "--clip-vocab" : "--t5-vocab", search.given.string(),
         is_folder(search.given) ? "the folder holds no such vocabulary" : "there is no such file or folder",
         advice(kind, search));
  }
  std::string looked;
  for (const fs::path& place : places(kind, search)) {
    if (auto found = files_in(place, kind)) return *found;
    looked += "\n  " + place.string();
  }
  fail(Code::NotFound, "the vocabulary of the {} text encoder is missing. {}\nLooked in:{}", clip ? "CLIP" : "T5",
       advice(kind, search), looked.empty() ? " no place, as none was given" : looked);
}

ClipTokenizer load_clip_tokenizer(const VocabularyFiles& files) {
  if (!files.tokenizer_json.empty())
    return ClipTokenizer::from_tokenizer_json(read_text(files.tokenizer_json), files.tokenizer_json.string());
  return ClipTokenizer::from_vocab_and_merges(read_text(files.vocab_json), read_text(files.merges), files.vocab_json.string(),
                                              files.merges.string());
}

T5Tokenizer load_t5_tokenizer(const VocabularyFiles& files) {
  if (files.tokenizer_json.empty())
    fail(Code::InvalidArgument, "{}: T5 needs a tokenizer.json",
         files.vocab_json.empty() ? "vocabulary" : files.vocab_json.string());
  return T5Tokenizer::from_tokenizer_json(read_text(files.tokenizer_json), files.tokenizer_json.string());
}

}  // namespace sinter
