#include "models/weights.h"

#include <cstring>
#include <nlohmann/json.hpp>

namespace sinter {
namespace {

Tensor transposed(const Tensor& matrix) {
  int64_t rows = matrix.dim(0), columns = matrix.dim(1), bytes = byte_size(matrix.dtype());
  Tensor out(matrix.dtype(), {columns, rows});
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      std::memcpy(out.data() + (j * rows + i) * bytes, matrix.data() + (i * columns + j) * bytes, size_t(bytes));
  return out;
}

std::vector<int64_t> without_trailing_ones(std::vector<int64_t> shape) {
  while (!shape.empty() && shape.back() == 1) shape.pop_back();
  return shape;
}

}  // namespace

Weights Weights::plain(Checkpoint checkpoint) {
  Weights source(std::move(checkpoint));
  for (const std::string& name : source.checkpoint_.names()) source.add(name, {{name}});
  return source;
}

std::vector<std::string> Weights::names() const {
  std::vector<std::string> names;
  for (auto& [name, parts] : weights_) names.push_back(name);
  return names;
}

std::string Weights::path() const { return empty() ? "(no checkpoint)" : checkpoint_.path().string(); }

const std::vector<WeightPart>& Weights::parts(const std::string& name) const {
  auto found = weights_.find(name);
  if (found == weights_.end()) fail(Code::NotFound, "{}: there is no weight '{}'", path(), name);
  return found->second;
}

TensorInfo Weights::info(const WeightPart& part) const {
  auto info = checkpoint_.find(part.tensor);
  if (!info) fail(Code::NotFound, "{}: there is no tensor '{}'", path(), part.tensor);
  return *info;
}

std::vector<int64_t> Weights::part_shape(const WeightPart& part) const {
  std::vector<int64_t> shape = info(part).shape;
  if (part.transpose) {
    if (shape.size() != 2)
      fail(Code::Corrupt, "{}: '{}' has the shape {}, where a matrix is expected", path(), part.tensor, shape_text(shape));
    std::swap(shape[0], shape[1]);
  }
  if (part.rows < 0) return shape;
  if (shape.empty() || part.begin + part.rows > shape[0])
    fail(Code::Corrupt, "{}: '{}' has the shape {}, where at least {} rows are expected", path(), part.tensor, shape_text(shape),
         part.begin + part.rows);
  shape[0] = part.rows;
  return shape;
}

std::vector<int64_t> Weights::shape(const std::string& name) const {
  const auto& all = parts(name);
  std::vector<int64_t> whole = part_shape(all.at(0));
  for (size_t i = 1; i < all.size(); ++i) {
    std::vector<int64_t> next = part_shape(all[i]);
    bool fits = !next.empty() && next.size() == whole.size() && std::equal(next.begin() + 1, next.end(), whole.begin() + 1);
    if (!fits)
      fail(Code::Corrupt, "{}: '{}' with the shape {} and '{}' with {} do not make one weight '{}'", path(), all[0].tensor,
           shape_text(part_shape(all[0])), all[i].tensor, shape_text(next), name);
    whole[0] += next[0];
  }
  return whole;
}

int64_t Weights::size(const std::string& name, int axis) const {
  std::vector<int64_t> sizes = shape(name);
  if (axis >= int(sizes.size()))
    fail(Code::Corrupt, "{}: '{}' has the shape {}, where at least {} axes are expected", path(), name, shape_text(sizes),
         axis + 1);
  return sizes[size_t(axis)];
}

DType Weights::dtype(const std::string& name) const {
  const WeightPart& first = parts(name).at(0);
  TensorInfo tensor = info(first);
  if (!tensor.dtype) fail(Code::Unsupported, "{}: '{}' has the element type {}", path(), first.tensor, tensor.type);
  return *tensor.dtype;
}

std::string Weights::file(const std::string& name) const { return info(parts(name).at(0)).file; }

std::vector<Weights::Piece> Weights::pieces(const std::string& name) const {
  DType type = dtype(name);
  shape(name);  // the parts fit one another
  std::vector<Piece> pieces;
  int64_t row = 0;
  for (const WeightPart& part : parts(name)) {
    Tensor tensor = checkpoint_.tensor(part.tensor);
    if (part.transpose) tensor = transposed(tensor);
    if (part.rows >= 0) tensor = tensor.rows(part.begin, part.begin + part.rows);
    int64_t rows = tensor.rank() > 0 ? tensor.dim(0) : 1;
    pieces.push_back({tensor.to(type), row, row + rows});
    row += rows;
  }
  return pieces;
}

Tensor Weights::load(const std::string& name) const {
  std::vector<Piece> all = pieces(name);
  if (all.size() == 1) return all[0].rows;
  Tensor whole(dtype(name), shape(name));
  std::byte* to = whole.data();
  for (const Piece& piece : all) {
    std::memcpy(to, piece.rows.data(), size_t(piece.rows.bytes()));
    to += piece.rows.bytes();
  }
  return whole;
}

Tensor Weights::load(const std::string& name, const std::vector<int64_t>& shape) const {
  Tensor tensor = load(name);
  if (without_trailing_ones(tensor.shape()) != without_trailing_ones(shape))
    fail(Code::Corrupt, "{}: '{}' has the shape {}, expected {}", path(), name, shape_text(tensor.shape()), shape_text(shape));
  return tensor.reshaped(shape);
}

int64_t Weights::reading_bytes(const std::string& name) const {
  const auto& all = parts(name);
  int64_t read = 0, copied = 0;
  for (const WeightPart& part : all) {
    TensorInfo tensor = info(part);
    read += int64_t(tensor.bytes);
    if (part.transpose) copied += int64_t(tensor.bytes);
    if (tensor.dtype != dtype(name)) copied += int64_t(tensor.bytes);
  }
  if (all.size() > 1) {
    std::vector<int64_t> whole = shape(name);
    copied += element_count(std::span<const int64_t>(whole)) * byte_size(dtype(name));
  }
  return read + copied;
}

void Weights::will_need(const std::string& name) const {
  for (const WeightPart& part : parts(name)) checkpoint_.will_need(part.tensor);
}

void Weights::drop(const std::string& name) const {
  for (const WeightPart& part : parts(name)) checkpoint_.drop(part.tensor);
}

int64_t Weights::tiny_config(const char* part, const char* key, int64_t fallback) const {
  if (empty()) return fallback;
  const Metadata& metadata = checkpoint_.metadata();
  auto found = metadata.find("tiny_config");
  if (found == metadata.end()) return fallback;
  auto config = nlohmann::json::parse(found->second, nullptr, false);
  if (!config.is_object() || !config.contains(part) || !config[part].is_object() || !config[part].contains(key)) return fallback;
  const auto& value = config[part][key];
  if (!value.is_number_integer() || value.get<int64_t>() <= 0)
    fail(Code::Corrupt, "{}: the metadata 'tiny_config' gives {} as {}.{}, where a positive integer is expected", path(),
         value.is_number() ? value.dump() : value.type_name(), part, key);  // a deep list would be printed by recursion
  return value.get<int64_t>();
}

void check_weights(std::span<const WeightUse> uses, const Weights& source) {
  constexpr size_t kListed = 10;
  std::string list;
  size_t wrong = 0;
  for (const WeightUse& use : uses) {
    std::vector<int64_t> expected;
    for (const Dim& dim : use.type.shape) expected.push_back(dim.constant());
    std::string found = "nothing";
    if (source.has(use.name)) {
      std::vector<int64_t> shape = source.shape(use.name);
      if (without_trailing_ones(shape) == without_trailing_ones(expected)) continue;
      found = shape_text(shape);
    }
    if (++wrong <= kListed) list += fmt::format("\n  {}: expected {}, found {}", use.name, shape_text(expected), found);
  }
  if (wrong == 0) return;
  if (wrong > kListed) list += fmt::format("\n  and {} more", wrong - kListed);
  fail(Code::Corrupt,
       "{}: {} of {} weights are missing or have another shape; is the file complete, and of this kind of model?{}",
       source.path(), wrong, uses.size(), list);
}

}  // namespace sinter
