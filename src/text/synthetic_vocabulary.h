#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

namespace sinter {

/// A vocabulary of our own, for checkpoints with random weights: the released ones are not ours to ship. The form is that of the
/// released files, so the same readers read it; the ids mean nothing to a released model.
struct SyntheticClipVocabulary {
  std::string vocab_json, merges_txt;
};

/// Every byte with and without </w>, merges learned from a word list of ours, and `<|startoftext|>`, `<|endoftext|>` as the last
/// two of `size` ids. Code::InvalidArgument for fewer than 514.
SyntheticClipVocabulary synthetic_clip_vocabulary(int64_t size);

/// A tokenizer.json: `<pad>` 0, `</s>` 1, `<unk>` 2, printable ASCII, words and parts of words; all ids below `size`.
/// Code::InvalidArgument for fewer than 100.
std::string synthetic_t5_vocabulary(int64_t size);

/// Writes `folder`/vocab.json and merges.txt, or `folder`/tokenizer.json, making the folder. No half-written file is left.
void write_clip_vocabulary(const std::filesystem::path& folder, int64_t size);
void write_t5_vocabulary(const std::filesystem::path& folder, int64_t size);

}  // namespace sinter
