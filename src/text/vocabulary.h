#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "text/clip_tokenizer.h"
#include "text/t5_tokenizer.h"

namespace sinter {

enum class VocabularyKind { Clip, T5 };

/// Where a vocabulary may be, in the order in which the places are looked at. Empty paths are passed over.
struct VocabularySearch {
  /// --clip-vocab or --t5-vocab: a folder or a file. If given, nothing else is looked at.
  std::filesystem::path given;
  /// The model: a diffusers folder (tokenizer/, tokenizer_2/, tokenizer_3/ in it) or a checkpoint `x.safetensors`
  /// (`x.vocab/clip` or `x.vocab/t5` beside it).
  std::filesystem::path model;
  /// --comfyui: the root of a ComfyUI installation.
  std::filesystem::path comfyui;
  /// The data folder; tokenizers/clip and tokenizers/t5 in it.
  std::filesystem::path data;
};

/// SINTER_DATA_DIR, else sinter/ in the user's data folder (XDG_DATA_HOME, else ~/.local/share); empty if nobody says.
std::filesystem::path default_data_folder();

/// The files of one vocabulary: either `tokenizer_json`, or `vocab_json` and `merges` (CLIP only).
struct VocabularyFiles {
  std::filesystem::path tokenizer_json, vocab_json, merges;
  bool operator==(const VocabularyFiles&) const = default;
};

/// The first place that has one. Code::NotFound says what is needed, every place looked at, and where to put it.
VocabularyFiles find_vocabulary(VocabularyKind kind, const VocabularySearch& search);

/// Errors name the file; Code::Unsupported where it is larger than 64 MiB.
ClipTokenizer load_clip_tokenizer(const VocabularyFiles& files);
T5Tokenizer load_t5_tokenizer(const VocabularyFiles& files);

}  // namespace sinter
