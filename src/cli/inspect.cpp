#include "cli/inspect.h"

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cli/arguments.h"
#include "cli/json_output.h"
#include "cli/output.h"
#include "io/image.h"
#include "models/checkpoint_names.h"
#include "text/vocabulary.h"

namespace sinter {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

ordered_json inspect_picture(const fs::path& path) {
  auto file = MappedFile::open(path);
  std::string name = path.string();
  ImageFormat format = *image_format(file->bytes());
  Image image = decode_image(file->bytes(), name);
  ordered_json text = ordered_json::object();
  for (auto& [key, value] : image_text(file->bytes(), name)) text[key] = value;
  return {{"kind", "picture"},
          {"format", format == ImageFormat::Png    ? "PNG"
                     : format == ImageFormat::Jpeg ? "JPEG"
                                                   : "WebP"},
          {"width", image.pixels.dim(1)},
          {"height", image.pixels.dim(0)},
          {"alpha", !image.alpha.empty()},
          {"text", text}};
}

namespace {

bool is_vocabulary_name(const fs::path& path) {
  std::string name = path.filename();
  return name == "tokenizer.json" || name == "vocab.json" || name == "merges.txt";
}

/// Whichever reader takes it. merges.txt and vocab.json belong together.
ordered_json inspect_vocabulary(const fs::path& path) {
  auto describe = [](const char* summary, const Tokenizer& t) {
    ordered_json start;
    if (t.start_id()) start = *t.start_id();
    return ordered_json{{"kind", "vocabulary"},
                        {"summary", summary},
                        {"largest_id", t.largest_id()},
                        {"start_id", start},
                        {"end_id", t.end_id()}};
  };
  if (path.filename() != "tokenizer.json")
    return describe("of CLIP", load_clip_tokenizer({.vocab_json = path.parent_path() / "vocab.json",
                                                    .merges = path.parent_path() / "merges.txt"}));
  std::string refused;
  try {
    return describe("of T5", load_t5_tokenizer({.tokenizer_json = path}));
  } catch (const Error& e) {
    refused = e.message();
  }
  try {
    return describe("of CLIP", load_clip_tokenizer({.tokenizer_json = path}));
  } catch (const Error& e) {
    fail(e.code(), "neither a vocabulary of T5:\n  {}\nnor one of CLIP:\n  {}", refused, e.message());
  }
}

ordered_json inspect_weights(const fs::path& path) {
  std::error_code ignored;
  if (fs::exists(path / "model_index.json", ignored)) return inspect_model(path);
  Checkpoint file = Checkpoint::open(path);
  switch (detect_family(file).content) {
    case FileContent::Lora:
      return inspect_lora(file);
    case FileContent::TextualInversion:
      return inspect_embedding(file);
    default:
      return inspect_model(path);
  }
}

ordered_json inspect(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) fail(Code::NotFound, "{}: there is no such file", path.string());
  if (fs::is_directory(path, ignored)) return inspect_weights(path);
  if (is_vocabulary_name(path)) return inspect_vocabulary(path);
  if (image_format(MappedFile::open(path)->bytes())) return inspect_picture(path);
  return inspect_weights(path);
}

// For people.

std::string words_of(const ordered_json& value, const std::string& key) {
  if (value.is_null()) return "-";
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (key == "parameters" && value.is_number()) return human_count(value.get<uint64_t>());
  if (key == "bytes" && value.is_number()) return human_bytes(value.get<uint64_t>());
  return value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string table_of(const ordered_json& objects) {
  std::vector<std::string> columns;
  for (const ordered_json& object : objects)
    for (auto& [key, value] : object.items())
      if (key != "problem" && std::find(columns.begin(), columns.end(), key) == columns.end()) columns.push_back(key);
  std::vector<std::vector<std::string>> rows = {columns};
  std::string problems;
  for (const ordered_json& object : objects) {
    rows.emplace_back();
    for (const std::string& column : columns)
      rows.back().push_back(object.contains(column) ? words_of(object[column], column) : "");
    if (object.contains("problem")) problems += object["problem"].get<std::string>() + "\n";
  }
  return table(rows) + problems;
}

/// "  name  text", the lines of a long text below one another: prompts have several, and people copy them from here.
std::string indented(const std::string& name, const std::string& text) {
  constexpr size_t kLongest = 10000;
  std::string out;
  for (size_t at = 0; at <= text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string line = printable(std::string_view(text).substr(at, end - at), kLongest);
    out += at == 0 ? fmt::format("  {}  {}\n", printable(name), line) : fmt::format("    {}\n", line);
    at = end + 1;
  }
  return out;
}

std::string lines_of(const ordered_json& object) {
  std::vector<std::vector<std::string>> facts;
  std::string below;
  for (auto& [key, value] : object.items()) {
    std::string label = key;
    std::replace(label.begin(), label.end(), '_', ' ');
    if (value.is_array() && value.empty()) continue;
    if (value.is_object() && value.empty()) continue;
    if (value.is_array() && value[0].is_object()) {
      below += "\n" + table_of(value);
    } else if (value.is_array()) {
      std::string list;
      for (const ordered_json& item : value) list += (list.empty() ? "" : ", ") + words_of(item, "");
      facts.push_back({label, list});
    } else if (value.is_object()) {
      below += "\n" + label + "\n";
      for (auto& [name, item] : value.items()) below += indented(name, words_of(item, name));
    } else {
      facts.push_back({label, words_of(value, key)});
    }
  }
  return table(facts) + below;
}

int run_inspect(Arguments arguments) {
  std::string file;
  bool json = false;
  Options options(inspect_verb);
  options.add_option("FILE", file, "checkpoint, LoRA, embedding, vocabulary, picture, or diffusers folder")->required();
  options.add_json(json);
  options.parse_arguments(arguments);

  ordered_json object = {{"file", file}};
  std::error_code ignored;
  if (fs::is_regular_file(file, ignored)) object["bytes"] = fs::file_size(file, ignored);
  object.update(inspect(file));
  if (json)
    print_json(object);
  else
    print(lines_of(object));
  return kSuccess;
}

}  // namespace

const Verb inspect_verb = {.name = "inspect", .summary = "Say what a file is: model, LoRA, picture, ...", .run = run_inspect};

}  // namespace sinter
