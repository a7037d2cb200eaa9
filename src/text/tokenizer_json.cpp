#include "text/tokenizer_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace sinter {
namespace {

using nlohmann::json;

/// The long lists of a vocabulary go straight into vectors; everything else into a small document. A document of the whole file
/// would take three times as long to build as to read.
class VocabularyEvents : public json::json_sax_t {
 public:
  VocabularyEvents(const std::string& name, size_t bytes, bool root_is_ids)
      : name_(name), bytes_(bytes), root_is_ids_(root_is_ids) {}

  json rest;
  TokenIds ids;
  std::vector<std::pair<std::string, double>> pieces;
  std::vector<std::pair<std::string, std::string>> merges;

  bool null() override { return small(nullptr, "null"); }
  bool boolean(bool value) override { return small(value, "true or false"); }
  bool number_integer(number_integer_t value) override { return whole_number(value); }
  bool number_unsigned(number_unsigned_t value) override {
    return whole_number(value > uint64_t(INT64_MAX) ? INT64_MAX : int64_t(value));
  }
  bool number_float(number_float_t value, const string_t&) override {
    if (list_ == List::Pieces) return score(value);
    return small(value, "a number with a fraction");
  }
  bool binary(binary_t&) override { return false; }
  bool string(string_t& value) override;
  bool start_object(size_t) override;
  bool start_array(size_t) override;
  bool end_object() override { return end(); }
  bool end_array() override;
  bool key(string_t& value) override {
    key_ = std::move(value);
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail(Code::Corrupt, "{}: not valid JSON, from byte {} of {}; the file is damaged or cut off: get it again", name_,
         std::min(position, bytes_), bytes_);
  }

 private:
  enum class List { None, Ids, Pieces, Merges };
  struct Open {
    json* value;
    std::string key;
  };

  [[noreturn]] void odd(std::string_view where, std::string_view expected, std::string_view found) {
    fail(Code::Corrupt, "{}: {}: expected {}, found {}", name_, where, expected, found);
  }
  bool in_model() const { return open_.size() == 2 && open_[1].key == "model"; }
  json* store(json value) {
    if (open_.empty()) {
      rest = std::move(value);
      return &rest;
    }
    json& parent = *open_.back().value;
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }
  void open(json value) {
    constexpr size_t kDeepest = 32;
    if (open_.size() == kDeepest) odd("the document", "at most 32 levels", "more");
    std::string key = key_;
    json* place = store(std::move(value));
    open_.push_back({place, std::move(key)});
  }
  bool small(json value, std::string_view found) {
    if (list_ != List::None) odd_entry(found);
    store(std::move(value));
    return true;
  }
  [[noreturn]] void odd_entry(std::string_view found) {
    if (list_ == List::Ids) odd(fmt::format("token '{}'", shortened(key_)), "its id, a whole number", found);
    if (list_ == List::Pieces) odd(fmt::format("piece {}", pieces.size()), "[text, log probability]", found);
    odd(fmt::format("merge {}", merges.size()), "two tokens", found);
  }
  bool whole_number(int64_t value) {
    if (list_ == List::Pieces) return score(double(value));
    if (list_ != List::Ids) return small(value, "a number");
    ids.emplace_back(std::move(key_), value);
    return true;
  }
  bool score(double value) {
    if (!in_entry_ || fields_ != 1) odd_entry("a number");
    score_ = value;
    fields_ = 2;
    return true;
  }
  bool end() {
    if (list_ == List::Ids)
      list_ = List::None;
    else
      open_.pop_back();
    return true;
  }

  const std::string& name_;
  size_t bytes_;
  bool root_is_ids_;
  std::vector<Open> open_;
  std::string key_;
  List list_ = List::None;
  bool in_entry_ = false;  // inside one piece or one merge
  int fields_ = 0;         // read of that entry
  std::string first_, second_;
  double score_ = 0;
};

bool VocabularyEvents::string(string_t& value) {
  if (list_ == List::None) return small(std::move(value), "a text");
  if (list_ == List::Merges && !in_entry_) {
    size_t blank = value.find(' ');
    if (blank == std::string::npos) odd_entry(fmt::format("'{}'", shortened(value)));
    merges.emplace_back(value.substr(0, blank), value.substr(blank + 1));
    return true;
  }
  if (list_ == List::Ids || !in_entry_ || fields_ >= (list_ == List::Merges ? 2 : 1)) odd_entry("a text");
  (fields_++ == 0 ? first_ : second_) = std::move(value);
  return true;
}

bool VocabularyEvents::start_object(size_t) {
  if (list_ != List::None) odd_entry("an object");
  if ((root_is_ids_ && open_.empty()) || (in_model() && key_ == "vocab")) {
    list_ = List::Ids;
    return true;
  }
  open(json::object());
  return true;
}

bool VocabularyEvents::start_array(size_t) {
  if (list_ != List::None) {
    if (list_ == List::Ids || in_entry_) odd_entry("a list");
    in_entry_ = true;
    fields_ = 0;
    return true;
  }
  if (in_model() && (key_ == "vocab" || key_ == "merges")) {
    list_ = key_ == "vocab" ? List::Pieces : List::Merges;
    return true;
  }
  open(json::array());
  return true;
}

bool VocabularyEvents::end_array() {
  if (list_ == List::None) return end();
  if (!in_entry_) {
    list_ = List::None;
    return true;
  }
  if (fields_ != 2) odd_entry("a list of another length");
  if (list_ == List::Pieces)
    pieces.emplace_back(std::move(first_), score_);
  else
    merges.emplace_back(std::move(first_), std::move(second_));
  in_entry_ = false;
  return true;
}

/// A field of an object, or a default where it is missing or null; Code::Corrupt where it is of another type.
template <class T>
T field(const json& object, const char* key, T fallback, const std::string& name) {
  auto found = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || found == object.end() || found->is_null()) return fallback;
  if constexpr (std::is_same_v<T, bool>) {
    if (found->is_boolean()) return found->template get<bool>();
  } else if constexpr (std::is_same_v<T, int64_t>) {
    if (found->is_number_integer()) return found->template get<int64_t>();
  } else {
    if (found->is_string()) return found->template get<std::string>();
  }
  fail(Code::Corrupt, "{}: \"{}\" has the wrong type: {}", name, key, found->type_name());
}

json member(const json& object, const char* key) {
  if (!object.is_object() || !object.contains(key)) return nullptr;
  return object[key];
}

AddedToken read_added_token(const json& entry, const std::string& name) {
  AddedToken token;
  token.content = field<std::string>(entry, "content", "", name);
  token.id = field<int64_t>(entry, "id", -1, name);
  token.strip_left = field(entry, "lstrip", false, name);
  token.strip_right = field(entry, "rstrip", false, name);
  token.normalized = field(entry, "normalized", false, name);
  if (token.content.empty()) fail(Code::Corrupt, "{}: an entry of \"added_tokens\" has no \"content\"", name);
  if (token.id < 0 || token.id > kLargestTokenId)
    fail(Code::Corrupt, "{}: added token '{}' has the id {}; expected 0 to {}", name, shortened(token.content), token.id,
         kLargestTokenId);
  if (field(entry, "single_word", false, name))
    fail(Code::Unsupported, "{}: added token '{}' is a single_word token, which we do not read", name, shortened(token.content));
  return token;
}

/// Calls `read` for the steps of a normaliser or pre-tokeniser, which is one step, a Sequence of steps, or null.
template <class Read>
void each_step(const json& value, const char* list, const std::string& name, Read&& read) {
  if (value.is_null()) return;
  if (field<std::string>(value, "type", "", name) != "Sequence") return read(value);
  json steps = member(value, list);
  if (!steps.is_array()) fail(Code::Corrupt, "{}: a Sequence has no list \"{}\"", name, list);
  for (const json& step : steps) read(step);
}

NormalizerStep read_normalizer_step(const json& value, const std::string& name) {
  NormalizerStep step;
  step.type = field<std::string>(value, "type", "", name);
  step.charsmap = field<std::string>(value, "precompiled_charsmap", "", name);
  step.content = field<std::string>(value, "content", "", name);
  step.strip_left = field(value, "strip_left", false, name);
  step.strip_right = field(value, "strip_right", false, name);
  json pattern = member(value, "pattern");
  step.regular_expression = pattern.is_object() && pattern.contains("Regex");
  step.pattern = field<std::string>(pattern, step.regular_expression ? "Regex" : "String", "", name);
  return step;
}

PreTokenizerStep read_pre_tokenizer_step(const json& value, const std::string& name) {
  PreTokenizerStep step;
  step.type = field<std::string>(value, "type", "", name);
  if (step.type != "Metaspace") return step;
  step.replacement = field<std::string>(value, "replacement", "\xe2\x96\x81", name);
  // Files from before "prepend_scheme" say the same with a flag.
  step.prepend =
      field<std::string>(value, "prepend_scheme", field(value, "add_prefix_space", true, name) ? "always" : "never", name);
  step.split = field(value, "split", true, name);
  return step;
}

void parse(std::string_view text, VocabularyEvents& events) { json::sax_parse(text.begin(), text.end(), &events); }

}  // namespace

TokenizerJson read_tokenizer_json(std::string_view text, const std::string& name) {
  VocabularyEvents events(name, text.size(), false);
  parse(text, events);
  json model = member(events.rest, "model");
  if (!model.is_object()) fail(Code::Corrupt, "{}: not a tokenizer.json: it has no object \"model\"", name);
  TokenizerJson out;
  out.model_type = field<std::string>(model, "type", "", name);
  out.end_of_word_suffix = field<std::string>(model, "end_of_word_suffix", "", name);
  out.subword_prefix = field<std::string>(model, "continuing_subword_prefix", "", name);
  out.unknown_token = field<std::string>(model, "unk_token", "", name);
  out.byte_fallback = field(model, "byte_fallback", false, name);
  if (int64_t id = field<int64_t>(model, "unk_id", -1, name); id >= 0) out.unknown_id = id;
  json added = member(events.rest, "added_tokens");
  if (added.is_array())
    for (const json& entry : added) out.added.push_back(read_added_token(entry, name));
  each_step(member(events.rest, "normalizer"), "normalizers", name,
            [&](const json& step) { out.normalizer.push_back(read_normalizer_step(step, name)); });
  each_step(member(events.rest, "pre_tokenizer"), "pretokenizers", name,
            [&](const json& step) { out.pre_tokenizer.push_back(read_pre_tokenizer_step(step, name)); });
  out.ids = std::move(events.ids);
  out.pieces = std::move(events.pieces);
  out.merges = std::move(events.merges);
  return out;
}

TokenIds read_vocab_json(std::string_view text, const std::string& name) {
  VocabularyEvents events(name, text.size(), true);
  parse(text, events);
  if (events.ids.empty()) fail(Code::Corrupt, "{}: not a vocab.json: expected an object of token and id", name);
  return std::move(events.ids);
}

std::vector<std::pair<std::string, std::string>> read_merges(std::string_view text, const std::string& name) {
  require_utf8(text, name);
  std::vector<std::pair<std::string, std::string>> merges;
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    size_t blank = line.find(' ');
    if (blank == 0 || blank == std::string_view::npos || blank + 1 == line.size() || line.find(' ', blank + 1) != line.npos)
      fail(Code::Corrupt, "{}: line {}: expected two tokens with one blank between, found '{}'", name, number, shortened(line));
    merges.emplace_back(line.substr(0, blank), line.substr(blank + 1));
  }
  return merges;
}

}  // namespace sinter
