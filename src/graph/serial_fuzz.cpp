#include "graph/serial.h"

#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"

namespace {

void check(std::string_view text) {
  auto graph = sinter::read_graph(text);
  sinter::verify(*graph);
  auto again = sinter::read_graph(sinter::write_graph(*graph));
  if (sinter::structure_digest(*again) != sinter::structure_digest(*graph)) std::abort();
}

/// The file with the digest that it should have; empty if the message is of something else. Without this, no graph that is not in
/// the corpus would ever be accepted.
std::string with_its_digest(std::string text, const std::string& message) {
  constexpr std::string_view kWords = "the graph's digest is ", kField = "\"digest\": \"";
  constexpr size_t kDigits = 32;
  size_t said = message.find(kWords), place = text.find(kField);
  if (said == std::string::npos || place == std::string::npos) return "";
  place += kField.size();
  return text.replace(place, text.find('"', place) - place, message, said + kWords.size(), kDigits);
}

}  // namespace

// Whatever the text is: an Error, or a graph that keeps every promise and is written and read back as the same structure.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string text(reinterpret_cast<const char*>(data), size);
  for (int i = 0; i < 2 && !text.empty(); ++i) {
    try {
      check(text);
      break;
    } catch (const sinter::Error& e) {
      if (e.code() == sinter::Code::Internal) std::abort();
      text = with_its_digest(std::move(text), e.message());
    }
  }
  return 0;
}
