#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/utf8.h"
#include "io/safetensors.h"
#include "io/safetensors_types.h"

namespace sinter {
namespace {

constexpr size_t kLengthBytes = 8;
// No tensor library goes further; without a limit a hostile header makes one shape of 50 million axes.
constexpr size_t kMaxAxes = 64;

/// `rule` is the name that the format's reference reader gives to this error.
template <class... Args>
[[noreturn]] void broken(std::string_view path, const char* rule, fmt::format_string<Args...> format, Args&&... args) {
  fail(Code::Corrupt, "{}: not a valid safetensors file: {} ({})", path, fmt::format(format, std::forward<Args>(args)...), rule);
}

/// A name from the file, fit to be shown.
std::string shown(std::string_view name) {
  constexpr size_t kLongest = 120;
  bool cut = name.size() > kLongest;
  size_t end = cut ? kLongest : name.size();
  while (cut && end > 0 && (uint8_t(name[end]) & 0xc0) == 0x80) --end;
  std::string out = "\"";
  for (char c : name.substr(0, end)) out += uint8_t(c) < 0x20 ? '?' : c;
  return out + (cut ? "...\"" : "\"");
}

/// What one entry says, before it is checked against the others.
struct Declared {
  SafetensorsEntry entry;
  uint32_t bits = 0;
  uint64_t begin = 0, end = 0;  // in the data
};

/// Receives the header's JSON piece by piece: a document tree would hide equal keys, and be large.
class HeaderReader {
 public:
  explicit HeaderReader(std::string_view path) : path_(path) {}
  std::vector<Declared> declared;
  Metadata metadata;

  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  bool null() { return other("null"); }
  bool boolean(bool) { return other("a boolean"); }
  bool number_integer(number_integer_t) { return other("a negative number"); }
  bool number_float(number_float_t, const string_t&) { return other("a number that is no 64-bit integer"); }
  bool binary(binary_t&) { return other("binary data"); }

  bool number_unsigned(number_unsigned_t value) {
    if (place_ == Place::Shape) {
      add_size(value);
    } else if (place_ == Place::Offsets) {
      if (numbers_ == 2) refuse("data_offsets has more than two numbers");
      (numbers_++ == 0 ? current().begin : current().end) = value;
    } else {
      return other("a number");
    }
    return true;
  }

  bool string(string_t& text) {
    if (place_ == Place::Metadata) {
      if (!metadata.emplace(key_, std::move(text)).second) refuse("the metadata has the key {} twice", shown(key_));
    } else if (place_ == Place::Entry && field_ == Field::Type) {
      read_type(text);
    } else {
      return other("a text");
    }
    return true;
  }

  bool start_object(size_t) {
    if (place_ == Place::Start) {
      place_ = Place::Root;
    } else if (place_ == Place::Root && key_ == kSafetensorsMetadataKey) {
      if (has_metadata_) refuse("it has {} twice", kSafetensorsMetadataKey);
      has_metadata_ = true;
      place_ = Place::Metadata;
    } else if (place_ == Place::Root) {
      place_ = Place::Entry;
      seen_ = 0;
      declared.push_back({});
      current().entry.name = std::move(key_);
    } else if (!skip_deeper()) {
      return other("an object");
    }
    return true;
  }

  bool start_array(size_t) {
    if (place_ == Place::Entry && (field_ == Field::Shape || field_ == Field::Offsets)) {
      place_ = field_ == Field::Shape ? Place::Shape : Place::Offsets;
      numbers_ = 0;
    } else if (!skip_deeper()) {
      return other("a list");
    }
    return true;
  }

  bool key(string_t& name) {
    if (place_ == Place::Entry)
      start_field(name);
    else if (place_ != Place::Skipped)
      key_ = std::move(name);
    return true;
  }

  bool end_object() { return leave(); }
  bool end_array() { return leave(); }

  template <class Exception>
  bool parse_error(size_t position, const string_t&, const Exception&) {
    broken(path_, "InvalidHeaderDeserialization", "the header is not JSON from its byte {} on", position);
  }

 private:
  enum class Place { Start, Root, Metadata, Entry, Shape, Offsets, Skipped, End };
  enum class Field { None = 0, Type = 1, Shape = 2, Offsets = 4, Unknown = 8 };

  Declared& current() { return declared.back(); }

  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
    std::string what = fmt::format(format, std::forward<Args>(args)...);
    bool inside = place_ == Place::Entry || place_ == Place::Shape || place_ == Place::Offsets;
    if (inside) what = fmt::format("tensor {}: {}", shown(current().entry.name), what);
    broken(path_, "InvalidHeaderDeserialization", "{}", what);
  }

  /// A value of a kind that nothing here expects: an error, unless it belongs to a field that is not ours.
  bool other(const char* kind) {
    switch (place_) {
      case Place::Start:
        refuse("the header is {}, where an object was expected", kind);
      case Place::Root:
        refuse("{} is {}, where an object was expected", shown(key_), kind);
      case Place::Metadata:
        refuse("the metadata entry {} is {}, where a text was expected", shown(key_), kind);
      case Place::Shape:
        refuse("the shape holds {}, where a size was expected", kind);
      case Place::Offsets:
        refuse("data_offsets holds {}, where an offset was expected", kind);
      case Place::Entry:
        if (field_ == Field::Type) refuse("dtype is {}, where a text was expected", kind);
        if (field_ != Field::Unknown)
          refuse("{} is {}, where a list was expected", field_ == Field::Shape ? "shape" : "data_offsets", kind);
        return true;
      case Place::Skipped:
        return true;
      case Place::End:
        break;
    }
    SINTER_ASSERT(false);
  }

  bool skip_deeper() {
    if (place_ == Place::Entry && field_ == Field::Unknown)
      place_ = Place::Skipped;
    else if (place_ != Place::Skipped)
      return false;
    ++depth_;
    return true;
  }

  bool leave() {
    switch (place_) {
      case Place::Skipped:
        if (--depth_ == 0) place_ = Place::Entry;
        return true;
      case Place::Offsets:
        if (numbers_ != 2) refuse("data_offsets has {} numbers, where two were expected", numbers_);
        [[fallthrough]];
      case Place::Shape:
        place_ = Place::Entry;
        return true;
      case Place::Entry:
        finish_entry();
        [[fallthrough]];
      case Place::Metadata:
        place_ = Place::Root;
        return true;
      default:
        place_ = Place::End;
        return true;
    }
  }

  void start_field(std::string_view name) {
    field_ = name == "dtype"          ? Field::Type
             : name == "shape"        ? Field::Shape
             : name == "data_offsets" ? Field::Offsets
                                      : Field::Unknown;
    if (field_ == Field::Unknown) return;
    if (seen_ & unsigned(field_)) refuse("it has {} twice", name);
    seen_ |= unsigned(field_);
  }

  void finish_entry() {
    if (!(seen_ & unsigned(Field::Type))) refuse("it has no dtype");
    if (!(seen_ & unsigned(Field::Shape))) refuse("it has no shape");
    if (!(seen_ & unsigned(Field::Offsets))) refuse("it has no data_offsets");
  }

  void read_type(std::string_view text) {
    auto found = std::find_if(kSafetensorsTypes.begin(), kSafetensorsTypes.end(), [&](auto& t) { return t.name == text; });
    if (found == kSafetensorsTypes.end()) refuse("the dtype {} is unknown", shown(text));
    current().entry.type = found->name;
    current().entry.dtype = found->dtype;
    current().bits = found->bits;
  }

  void add_size(uint64_t size) {
    auto& shape = current().entry.shape;
    if (shape.size() == kMaxAxes) refuse("the shape has more than {} axes", kMaxAxes);
    if (size > uint64_t(INT64_MAX))
      broken(path_, "ValidationOverflow", "tensor {}: the size {} is too large", shown(current().entry.name), size);
    shape.push_back(int64_t(size));
  }

  std::string_view path_;
  Place place_ = Place::Start;
  Field field_ = Field::None;
  std::string key_;
  unsigned seen_ = 0;  // a bit for each Field
  int numbers_ = 0;
  size_t depth_ = 0;
  bool has_metadata_ = false;
};

/// The bytes that the shape and the type need.
uint64_t needed_bytes(const Declared& tensor, std::string_view path) {
  uint64_t bits = tensor.bits, count = 1;
  bool overflow = false;
  for (int64_t size : tensor.entry.shape) overflow |= __builtin_mul_overflow(count, uint64_t(size), &count);
  overflow |= count > uint64_t(INT64_MAX);
  overflow |= __builtin_mul_overflow(count, bits, &bits);
  const auto& entry = tensor.entry;
  if (overflow)
    broken(path, "ValidationOverflow", "tensor {}: the shape {} of {} has more bits than can be counted", shown(entry.name),
           shape_text(entry.shape), entry.type);
  if (bits % 8 != 0)
    broken(path, "MisalignedSlice", "tensor {}: the shape {} of {} is no whole number of bytes", shown(entry.name),
           shape_text(entry.shape), entry.type);
  return bits / 8;
}

/// Checks that the tensors cover the data without holes and overlaps, and fills in where each one is.
void place_tensors(std::vector<Declared>& tensors, uint64_t data_begin, uint64_t data_bytes, std::string_view path) {
  std::vector<uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  auto range = [&](uint32_t i) { return std::pair(tensors[i].begin, tensors[i].end); };
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return range(a) < range(b); });
  uint64_t at = 0;
  for (uint32_t i : order) {
    Declared& tensor = tensors[i];
    auto& entry = tensor.entry;
    if (tensor.begin != at || tensor.end < tensor.begin)
      broken(path, "InvalidOffset", "tensor {}: its data are at [{}, {}), where the previous tensor ended at {}{}",
             shown(entry.name), tensor.begin, tensor.end, at,
             tensor.end < tensor.begin ? ""
             : tensor.begin > at       ? ": there is a hole"
                                       : ": they overlap");
    entry.bytes = needed_bytes(tensor, path);
    if (entry.bytes != tensor.end - tensor.begin)
      broken(path, "TensorInvalidInfo", "tensor {}: {} {} needs {} bytes, and data_offsets give {}", shown(entry.name),
             entry.type, shape_text(entry.shape), entry.bytes, tensor.end - tensor.begin);
    entry.offset = data_begin + tensor.begin;  // cannot overflow where the whole is inside the file, which is checked below
    at = tensor.end;
  }
  if (at > data_bytes)
    broken(path, "MetadataIncompleteBuffer", "the tensors need {} bytes, and the file has {}: it is cut short", at, data_bytes);
  if (at < data_bytes) broken(path, "MetadataIncompleteBuffer", "{} bytes follow the last tensor", data_bytes - at);
}

std::vector<SafetensorsEntry> sorted_by_name(std::vector<Declared>& tensors, std::string_view path) {
  std::vector<SafetensorsEntry> entries;
  entries.reserve(tensors.size());
  for (Declared& tensor : tensors) entries.push_back(std::move(tensor.entry));
  std::sort(entries.begin(), entries.end(), [](auto& a, auto& b) { return a.name < b.name; });
  auto twice = std::adjacent_find(entries.begin(), entries.end(), [](auto& a, auto& b) { return a.name == b.name; });
  if (twice != entries.end()) broken(path, "InvalidHeaderDeserialization", "it has the tensor {} twice", shown(twice->name));
  return entries;
}

/// Fails with what the file seems to be instead, if its first bytes tell.
void refuse_foreign(std::span<const std::byte> file, std::string_view path) {
  std::string what = describe_foreign_weights(file);
  if (!what.empty()) fail(Code::Unsupported, "{}: not a safetensors file: this is {}", path, what);
}

std::string_view header_text(std::span<const std::byte> file, std::string_view path) {
  if (file.size() < kLengthBytes) {
    refuse_foreign(file, path);
    broken(path, "HeaderTooSmall", "the file has {} bytes, where at least {} were expected", file.size(), kLengthBytes);
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= uint64_t(file[i]) << (8 * i);
  if (length > kSafetensorsHeaderLimit) {
    refuse_foreign(file, path);
    broken(path, "HeaderTooLarge", "the header has {} bytes, and at most {} are allowed", length, kSafetensorsHeaderLimit);
  }
  if (length > file.size() - kLengthBytes) {
    refuse_foreign(file, path);
    broken(path, "InvalidHeaderLength", "the header has {} bytes, and the file only {}: it is cut short", length, file.size());
  }
  std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, size_t(length));
  if (size_t at = find_invalid_utf8(text); at != std::string_view::npos)
    broken(path, "InvalidHeader", "the header is not UTF-8 from its byte {} on", at);
  return text;
}

}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view path) {
  std::string_view text = header_text(file, path);
  // The JSON reader takes a zero byte for the end of the text, and skips a byte order mark: neither is JSON.
  if (size_t at = text.find('\0'); at != std::string_view::npos)
    broken(path, "InvalidHeaderDeserialization", "the header is not JSON from its byte {} on", at);
  if (text.starts_with("\xef\xbb\xbf")) broken(path, "InvalidHeaderDeserialization", "the header starts with a byte order mark");

  HeaderReader reader(path);
  nlohmann::json::sax_parse(text.data(), text.data() + text.size(), &reader);
  uint64_t data_begin = kLengthBytes + text.size();
  place_tensors(reader.declared, data_begin, file.size() - data_begin, path);
  return {sorted_by_name(reader.declared, path), std::move(reader.metadata)};
}

std::string describe_foreign_weights(std::span<const std::byte> file) {
  std::string_view start(reinterpret_cast<const char*>(file.data()), std::min<size_t>(file.size(), 512));
  if (start.empty()) return "an empty file; download it again";
  if (start.starts_with("PK\x03\x04")) return "a zip archive, most likely a PyTorch checkpoint; convert it to safetensors";
  if (start.size() > 1 && start[0] == '\x80' && start[1] >= 2 && start[1] <= 5)
    return "a Python pickle, most likely an old PyTorch checkpoint; convert it to safetensors";
  if (start.starts_with("GGUF")) return "a GGUF file; convert it to safetensors";
  if (start.starts_with("version https://git-lfs"))
    return "a Git LFS pointer, which stands for a file that was not fetched; run `git lfs pull`";
  std::string lower;
  for (char c : start.substr(std::min(start.find_first_not_of(" \t\r\n"), start.size()))) lower += char(std::tolower(uint8_t(c)));
  if (lower.starts_with("<!doctype") || lower.starts_with("<html") || lower.starts_with("<?xml"))
    return "an HTML or XML page, most likely what a server sent in place of the file; download it again";
  if (lower.starts_with("{")) return "JSON text, without the 8 bytes of length that a safetensors file starts with";
  return "";
}

}  // namespace sinter
