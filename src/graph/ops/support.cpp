#include "graph/ops/support.h"

#include <cstdlib>

namespace sinter {

int64_t normal_axis(int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) fail(Code::InvalidArgument, "axis {} does not exist in rank {}", axis, rank);
  return axis < 0 ? axis + rank : axis;
}

void expect_rank(Value v, int rank, std::string_view what) {
  if (v.rank() != rank) fail(Code::InvalidArgument, "{} must have rank {}, not {}", what, rank, v->type.text());
}

void expect_float(Value v, std::string_view what) {
  if (!is_float(v.dtype())) fail(Code::InvalidArgument, "{} must be of a floating type, not {}", what, name(v.dtype()));
}

void expect_same_dtype(const Node& n) {
  for (Value v : n.inputs)
    if (v.dtype() != n.inputs[0].dtype())
      fail(Code::InvalidArgument, "inputs must have one dtype, not {} and {}", name(n.inputs[0].dtype()), name(v.dtype()));
}

std::vector<int64_t> strides_of(std::span<const int64_t> shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape[i];
  }
  return strides;
}

std::vector<int64_t> sizes(const Shape& shape, const Bindings& bindings) {
  std::vector<int64_t> out;
  for (const Dim& dim : shape) out.push_back(dim.value(bindings));
  return out;
}

Tensor result_of(const Node& n, const Bindings& bindings) { return Tensor(n.type.dtype, sizes(n.type.shape, bindings)); }

namespace {
template <class T>
T parse_number(const char* name, const std::string& text) {
  T value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    fail(Code::Corrupt, "the attribute {} should be a number, not '{}'", name, text);
  return value;
}

/// Splits "[a, b, (c+1)/2]" at its commas.
std::vector<std::string> list_items(const char* name, const std::string& text) {
  if (text.size() < 2 || text.front() != '[' || text.back() != ']')
    fail(Code::Corrupt, "the attribute {} should be a list in brackets, not '{}'", name, text);
  std::vector<std::string> items;
  std::string item;
  for (char c : text.substr(1, text.size() - 2)) {
    if (c == ',') {
      items.push_back(item);
      item.clear();
    } else if (c != ' ') {
      item += c;
    }
  }
  if (!item.empty()) items.push_back(item);
  return items;
}

/// sum := [-] product {(+|-) product};  product := factor {* factor};  factor := number | name | (sum)/number
struct DimParser {
  std::string_view text;
  size_t at = 0;

  [[noreturn]] void wrong() const { fail(Code::Corrupt, "'{}' is not a size (at character {})", text, at); }
  bool take(char c) {
    if (at >= text.size() || text[at] != c) return false;
    ++at;
    return true;
  }
  int64_t number() {
    int64_t value = 0;
    auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), value);
    if (error != std::errc()) wrong();
    at = size_t(end - text.data());
    return value;
  }
  Dim factor() {
    if (take('(')) {
      Dim inner = sum();
      if (!take(')') || !take('/')) wrong();
      int64_t divisor = number();
      if (divisor <= 0) wrong();
      return floor_div(inner, divisor);
    }
    if (at < text.size() && std::isdigit(static_cast<unsigned char>(text[at]))) return number();
    size_t begin = at;
    while (at < text.size() && (std::isalnum(static_cast<unsigned char>(text[at])) || text[at] == '_' || text[at] == '.')) ++at;
    if (at == begin) wrong();
    return Dim::symbol(std::string(text.substr(begin, at - begin)));
  }
  Dim product() {
    Dim value = factor();
    while (take('*')) value = value * factor();
    return value;
  }
  Dim sum() {
    bool negative = take('-');
    Dim value = product();
    if (negative) value = Dim(0) - value;
    for (;;) {
      if (take('+'))
        value = value + product();
      else if (take('-'))
        value = value - product();
      else
        return value;
    }
  }
};
}  // namespace

Dim parse_dim(std::string_view text) {
  DimParser parser{text};
  Dim dim = parser.sum();
  if (parser.at != text.size()) parser.wrong();
  return dim;
}

const std::string& FieldReader::text(const char* name) const {
  auto at = texts.find(name);
  if (at == texts.end()) fail(Code::Corrupt, "the attribute {} is missing", name);
  return at->second;
}
void FieldReader::operator()(const char* name, int64_t& value) const { value = parse_number<int64_t>(name, text(name)); }
void FieldReader::operator()(const char* name, double& value) const {
  const std::string& t = text(name);
  char* end = nullptr;
  value = std::strtod(t.c_str(), &end);
  if (t.empty() || *end) fail(Code::Corrupt, "the attribute {} should be a number, not '{}'", name, t);
}
void FieldReader::operator()(const char* name, bool& value) const {
  const std::string& t = text(name);
  if (t != "true" && t != "false") fail(Code::Corrupt, "the attribute {} should be true or false, not '{}'", name, t);
  value = t == "true";
}
void FieldReader::operator()(const char* name, std::string& value) const { value = text(name); }
void FieldReader::operator()(const char* name, DType& value) const {
  auto parsed = parse_dtype(text(name));
  if (!parsed) fail(Code::Corrupt, "the attribute {} should be a dtype, not '{}'", name, text(name));
  value = *parsed;
}
void FieldReader::operator()(const char* name, Dim& value) const { value = parse_dim(text(name)); }
void FieldReader::operator()(const char* name, Shape& value) const {
  value.clear();
  for (const std::string& item : list_items(name, text(name))) value.push_back(parse_dim(item));
}
void FieldReader::operator()(const char* name, std::vector<int64_t>& value) const {
  value.clear();
  for (const std::string& item : list_items(name, text(name))) value.push_back(parse_number<int64_t>(name, item));
}

}  // namespace sinter
