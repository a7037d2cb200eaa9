#include "io/exif.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/utf8.h"

namespace sinter {
namespace {

using namespace std::string_view_literals;

constexpr uint16_t kOrientation = 0x0112, kExifBlock = 0x8769, kUserComment = 0x9286;
constexpr uint16_t kAscii = 2, kShort = 3, kLong = 4, kUndefined = 7;
constexpr std::string_view kUnicode = "UNICODE\0"sv, kAsciiCode = "ASCII\0\0\0"sv, kNoCode = "\0\0\0\0\0\0\0\0"sv;
constexpr std::string_view kParameters = "parameters";
// Where ComfyUI keeps "prompt:..." and then, counting down, every further key.
constexpr std::array<uint16_t, 4> kTextTags = {0x0110, 0x010f, 0x010e, 0x010d};
constexpr size_t kHeaderBytes = 8, kEntryBytes = 12;

/// TIFF with its byte order; reading outside gives nothing.
class Tiff {
 public:
  explicit Tiff(std::string_view bytes) : bytes_(bytes), high_first_(bytes.starts_with("MM")) {}

  bool valid() const { return (bytes_.starts_with("MM") || bytes_.starts_with("II")) && integer(2, 2) == 42u; }
  bool high_first() const { return high_first_; }

  std::optional<uint32_t> integer(size_t at, size_t count) const {
    if (at > bytes_.size() || count > bytes_.size() - at) return std::nullopt;
    uint32_t out = 0;
    for (size_t i = 0; i < count; ++i) out = out << 8 | uint8_t(bytes_[at + (high_first_ ? i : count - 1 - i)]);
    return out;
  }

  std::string_view range(size_t at, size_t count) const {
    if (at > bytes_.size() || count > bytes_.size() - at) return {};
    return bytes_.substr(at, count);
  }

 private:
  std::string_view bytes_;
  bool high_first_;
};

struct Entry {
  uint16_t tag = 0, type = 0;
  size_t place = 0;
};

/// The entries of the directory at `at`, as far as they are inside the block.
std::vector<Entry> read_directory(const Tiff& tiff, size_t at) {
  std::vector<Entry> out;
  uint32_t count = tiff.integer(at, 2).value_or(0);
  for (uint32_t i = 0; i < count; ++i) {
    size_t place = at + 2 + size_t(i) * kEntryBytes;
    if (tiff.range(place, kEntryBytes).empty()) break;
    out.push_back({uint16_t(*tiff.integer(place, 2)), uint16_t(*tiff.integer(place + 2, 2)), place});
  }
  return out;
}

/// The bytes of an entry of single-byte elements: in the entry itself up to four, elsewhere beyond.
std::string_view entry_bytes(const Tiff& tiff, const Entry& entry) {
  uint32_t count = *tiff.integer(entry.place + 4, 4);
  return tiff.range(count <= 4 ? entry.place + 8 : *tiff.integer(entry.place + 8, 4), count);
}

/// Most writers put the high byte first whatever the block's order; some follow the block. Text is mostly ASCII, whose high bytes
/// are zero, and that tells.
bool utf16_high_first(std::string_view text, bool otherwise) {
  int even = 0, odd = 0;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    even += text[i] == 0;
    odd += text[i + 1] == 0;
  }
  return even == odd ? otherwise : even > odd;
}

std::string without_zeros_at_the_end(std::string text) {
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

std::string to_utf8(std::string_view text) { return is_utf8(text) ? std::string(text) : latin1_to_utf8(text); }

std::string read_user_comment(std::string_view bytes, bool block_high_first) {
  std::string_view code = bytes.substr(0, 8), text = bytes.substr(std::min<size_t>(8, bytes.size()));
  if (code == kAsciiCode || code == kNoCode) return without_zeros_at_the_end(to_utf8(text));
  if (code != kUnicode) return "";
  if (text.starts_with("\xfe\xff")) return without_zeros_at_the_end(utf16_to_utf8(text.substr(2), true));
  if (text.starts_with("\xff\xfe")) return without_zeros_at_the_end(utf16_to_utf8(text.substr(2), false));
  return without_zeros_at_the_end(utf16_to_utf8(text, utf16_high_first(text, block_high_first || text.size() < 2)));
}

/// Splits "key:value" as ComfyUI writes it; a camera's name is none.
void add_keyed_text(std::string_view bytes, ImageText& out) {
  std::string text = without_zeros_at_the_end(to_utf8(bytes));
  size_t colon = text.find(':');
  if (colon == std::string::npos || colon == 0) return;
  bool word = std::all_of(text.begin(), text.begin() + ptrdiff_t(colon),
                          [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-' || c == '.'; });
  if (word) out.emplace_back(text.substr(0, colon), text.substr(colon + 1));
}

// --- writing: big-endian, one directory, and the Exif block behind it where there is a UserComment

void put(std::string& out, uint32_t value, int bytes) {
  for (int i = bytes; i-- > 0;) out += char(value >> (8 * i));
}

struct NewEntry {
  uint16_t tag, type;
  std::string bytes;  // the value, or for kLong the number itself in four bytes
};

/// A directory at `offset` of the block, followed by the values that do not fit into their entries.
std::string directory_bytes(const std::vector<NewEntry>& entries, size_t offset) {
  std::string out, values;
  size_t values_at = offset + 2 + entries.size() * kEntryBytes + 4;
  put(out, uint32_t(entries.size()), 2);
  for (auto& entry : entries) {
    put(out, entry.tag, 2);
    put(out, entry.type, 2);
    put(out, entry.type == kLong ? 1 : uint32_t(entry.bytes.size()), 4);
    if (entry.bytes.size() <= 4) {
      out += entry.bytes + std::string(4 - entry.bytes.size(), '\0');
      continue;
    }
    put(out, uint32_t(values_at + values.size()), 4);
    values += entry.bytes;
    if (values.size() % 2) values += '\0';  // values start at even places
  }
  put(out, 0, 4);  // no further directory
  return out + values;
}

}  // namespace

Exif parse_exif(std::string_view bytes) {
  Exif out;
  Tiff tiff(bytes);
  if (!tiff.valid()) return out;
  auto entries = read_directory(tiff, tiff.integer(4, 4).value_or(0));
  auto find = [](const std::vector<Entry>& all, uint16_t tag, uint16_t type) -> const Entry* {
    for (auto& entry : all)
      if (entry.tag == tag && entry.type == type) return &entry;
    return nullptr;
  };
  if (auto* entry = find(entries, kOrientation, kShort)) {
    uint32_t value = *tiff.integer(entry->place + 8, 2);
    if (value >= 1 && value <= 8) out.orientation = int(value);
  }
  if (auto* block = find(entries, kExifBlock, kLong)) {
    auto inner = read_directory(tiff, *tiff.integer(block->place + 8, 4));
    if (auto* entry = find(inner, kUserComment, kUndefined)) {
      std::string text = read_user_comment(entry_bytes(tiff, *entry), tiff.high_first());
      if (!text.empty()) out.text.emplace_back(kParameters, std::move(text));
    }
  }
  for (uint16_t tag : kTextTags)
    if (auto* entry = find(entries, tag, kAscii)) add_keyed_text(entry_bytes(tiff, *entry), out.text);
  return out;
}

std::string build_exif(const ImageText& text) {
  if (text.empty()) return "";
  std::vector<NewEntry> entries;
  std::string comment;
  for (auto& [key, value] : text) {
    if (!is_utf8(key) || !is_utf8(value)) fail(Code::InvalidArgument, "the text \"{}\" for the picture is not UTF-8", key);
    if (key == kParameters && comment.empty()) {
      comment = std::string(kUnicode) + utf8_to_utf16_big_endian(value);
    } else if (entries.size() == kTextTags.size()) {
      fail(Code::InvalidArgument, "EXIF holds \"parameters\" and {} other texts, and \"{}\" is one more; write a PNG",
           kTextTags.size(), key);
    } else {
      entries.push_back({kTextTags[entries.size()], kAscii, key + ":" + value + std::string(1, '\0')});
    }
  }
  if (!comment.empty()) entries.push_back({kExifBlock, kLong, std::string(4, '\0')});
  std::sort(entries.begin(), entries.end(), [](auto& a, auto& b) { return a.tag < b.tag; });
  std::string out("MM\0\x2a\0\0\0\x08", kHeaderBytes);
  if (!comment.empty()) {
    std::string place;
    put(place, uint32_t(kHeaderBytes + directory_bytes(entries, kHeaderBytes).size()), 4);
    entries.back().bytes = place;
  }
  out += directory_bytes(entries, kHeaderBytes);
  if (!comment.empty()) out += directory_bytes({{kUserComment, kUndefined, comment}}, out.size());
  return out;
}

Tensor upright(const Tensor& picture, int orientation) {
  if (orientation <= 1 || orientation > 8) return picture;
  bool swap = orientation >= 5;
  bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  int64_t height = picture.dim(0), width = picture.dim(1);
  std::vector<int64_t> shape = picture.shape();
  if (swap) std::swap(shape[0], shape[1]);
  Tensor out(picture.dtype(), shape);
  size_t pixel = size_t(picture.bytes() / (height * width));
  for (int64_t y = 0; y < shape[0]; ++y) {
    for (int64_t x = 0; x < shape[1]; ++x) {
      int64_t from_y = swap ? x : y, from_x = swap ? y : x;
      if (flip_y) from_y = height - 1 - from_y;
      if (flip_x) from_x = width - 1 - from_x;
      std::memcpy(out.data() + size_t(y * shape[1] + x) * pixel, picture.data() + size_t(from_y * width + from_x) * pixel, pixel);
    }
  }
  return out;
}

}  // namespace sinter
