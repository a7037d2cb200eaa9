#pragma once
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/charsmap.h"
#include "text/tokenizer_json.h"

namespace sinter {

/// The normaliser of a unigram tokenizer.json: character map, strip, replacement of text or of two and more blanks.
class Normalizer {
 public:
  Normalizer() = default;
  /// Code::Unsupported for a step that we do not read; errors name the file `name`.
  Normalizer(const std::vector<NormalizerStep>& steps, const std::string& name);
  std::string apply(std::string_view text) const;

 private:
  struct Strip {
    bool left, right;
  };
  struct Replace {
    std::string pattern, content;
  };
  struct ReplaceBlanks {  ///< runs of at least `least` blanks
    size_t least;
    std::string content;
  };
  std::vector<std::variant<CharsMap, Strip, Replace, ReplaceBlanks>> steps_;
};

}  // namespace sinter
