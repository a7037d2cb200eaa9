#include "graph/ops/support.h"

#include <cstdlib>
#include <cstring>
#include <mutex>

#include "base/thread_pool.h"

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

void expect_inputs(const Node& n, size_t count) {
  if (n.inputs.size() != count) fail(Code::InvalidArgument, "takes {} inputs, not {}", count, n.inputs.size());
}

void expect_sizes(const Shape& shape) {
  for (const Dim& dim : shape)
    if (dim.is_constant() && dim.constant() < 0) fail(Code::InvalidArgument, "the shape {} has a negative size", text(shape));
}

std::string types_text(std::span<const Value> values) {
  std::string out;
  for (Value v : values) out += (out.empty() ? "" : ", ") + v->type.text();
  return out;
}

void in_parallel(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  static std::mutex mutex;
  static ThreadPool pool;
  std::unique_lock lock(mutex, std::try_to_lock);
  if (count <= grain || !lock)  // small, or another thread's reference has the pool
    return body(0, count);
  pool.parallel_for(count, grain, [&](int64_t begin, int64_t end, int) { body(begin, end); });
}

namespace {
template <class Word>
void copy_rows(const Tensor& x, Tensor& out, std::span<const int64_t> strides, int64_t offset) {
  const auto& shape = out.shape();
  size_t outer = shape.size() - 1;
  int64_t columns = shape[outer], step = strides[outer];
  auto row_strides = strides_of(std::span(shape).first(outer));
  int64_t rows = columns ? out.count() / columns : 0;
  in_parallel(rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, columns)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      int64_t at = offset, rest = row;
      for (size_t i = 0; i < outer; ++i) {
        at += rest / row_strides[i] * strides[i];
        rest %= row_strides[i];
      }
      auto* from = reinterpret_cast<const Word*>(x.data()) + at;
      auto* to = reinterpret_cast<Word*>(out.data()) + row * columns;
      if (step == 1)
        std::memcpy(to, from, size_t(columns) * sizeof(Word));
      else
        for (int64_t i = 0; i < columns; ++i) to[i] = from[i * step];
    }
  });
}
}  // namespace

Tensor strided_copy(const Tensor& x, std::vector<int64_t> shape, std::span<const int64_t> strides, int64_t offset) {
  if (shape.empty()) {
    Tensor one = strided_copy(x, {1}, std::vector<int64_t>{1}, offset);
    return one.reshaped({});
  }
  Tensor out(x.dtype(), std::move(shape));
  switch (byte_size(x.dtype())) {
    case 1:
      copy_rows<uint8_t>(x, out, strides, offset);
      break;
    case 2:
      copy_rows<uint16_t>(x, out, strides, offset);
      break;
    case 4:
      copy_rows<uint32_t>(x, out, strides, offset);
      break;
    default:
      copy_rows<uint64_t>(x, out, strides, offset);
  }
  return out;
}

std::vector<double> doubles_of(const Tensor& t) {
  std::vector<double> out(size_t(t.count()));
  convert(t.data(), t.dtype(), out.data(), DType::f64, t.count());
  return out;
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
  static constexpr size_t kLongest = 4096;  // sizes are short: anything longer was not written by us
  static constexpr int kDeepest = 32;
  std::string_view text;
  size_t at = 0;
  int depth = 0;

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
      if (++depth > kDeepest) wrong();
      Dim inner = sum();
      --depth;
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
  if (text.size() > DimParser::kLongest) fail(Code::Corrupt, "a size of {} characters is no size", text.size());
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
