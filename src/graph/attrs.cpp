#include "graph/attrs.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "graph/graph.h"

namespace sinter {

namespace {
/// What tells symbols of one size apart without their names: facts, definition, and the terms they stand in.
Digest appearance(SymbolId id, const Dim& dim) {
  Hasher h;
  const Symbol& symbol = symbol_info(id);
  h.add(symbol.facts.lower).add(symbol.facts.upper).add(symbol.facts.divisor).add(symbol.divisor);
  std::vector<std::tuple<int64_t, int64_t, int64_t>> terms;
  for (const Dim::Term& term : dim.terms())
    if (int64_t power = std::count(term.symbols.begin(), term.symbols.end(), id))
      terms.emplace_back(term.coefficient, int64_t(term.symbols.size()), power);
  std::sort(terms.begin(), terms.end());
  for (auto [coefficient, degree, power] : terms) h.add(coefficient).add(degree).add(power);
  return h.digest();
}
}  // namespace

void SymbolNumbering::number_new_symbols(Hasher& h, const Dim& dim) {
  std::set<std::tuple<Digest, std::string, SymbolId>> fresh;
  for (const Dim::Term& term : dim.terms())
    for (SymbolId id : term.symbols)
      if (!numbers_.contains(id)) fresh.emplace(appearance(id, dim), symbol_info(id).name, id);
  for (const auto& [looks, name, id] : fresh) {
    const Symbol& symbol = symbol_info(id);
    if (symbol.divisor) add(h, symbol.numerator);
    numbers_.emplace(id, uint32_t(numbers_.size()));
    h.add(looks);
  }
}

void SymbolNumbering::add(Hasher& h, const Dim& dim) {
  number_new_symbols(h, dim);
  std::vector<std::pair<std::vector<uint32_t>, int64_t>> terms;
  for (const Dim::Term& term : dim.terms()) {
    std::vector<uint32_t> numbers;
    for (SymbolId id : term.symbols) numbers.push_back(numbers_.at(id));
    std::sort(numbers.begin(), numbers.end());
    terms.emplace_back(std::move(numbers), term.coefficient);
  }
  std::sort(terms.begin(), terms.end());
  h.add(uint64_t(terms.size()));
  for (const auto& [numbers, coefficient] : terms) {
    h.add(coefficient).add(uint64_t(numbers.size()));
    for (uint32_t number : numbers) h.add(number);
  }
}

void FieldHasher::add(const char*, const std::string&) {}
void FieldHasher::add(const char*, const Dim& dim) { numbering.add(h, dim); }
void FieldHasher::add(const char*, const Shape& shape) {
  h.add(uint64_t(shape.size()));
  for (const Dim& dim : shape) numbering.add(h, dim);
}
void FieldHasher::add(const char*, const std::vector<int64_t>& values) {
  h.add(uint64_t(values.size()));
  for (int64_t value : values) h.add(value);
}
void FieldHasher::add(const char*, const Tensor& tensor) {
  h.add(field_text(tensor)).add(digest_of(tensor.data(), size_t(tensor.bytes())));
}
void FieldHasher::add(const char*, const std::shared_ptr<const Function>& function) { h.add(structure_digest(function->graph)); }

std::string field_text(int64_t value) { return std::to_string(value); }
std::string field_text(double value) { return fmt::format("{}", value); }  // the shortest text that reads back exactly
std::string field_text(bool value) { return value ? "true" : "false"; }
std::string field_text(const std::string& value) { return value; }
std::string field_text(DType value) { return std::string(name(value)); }
std::string field_text(const Dim& value) { return value.text(); }
std::string field_text(const Shape& value) { return text(value); }
std::string field_text(const std::vector<int64_t>& value) { return shape_text(value); }
std::string field_text(const Tensor& value) {
  return fmt::format("{}{} {}", name(value.dtype()), shape_text(value.shape()),
                     digest_of(value.data(), size_t(value.bytes())).hex());
}
std::string field_text(const std::shared_ptr<const Function>& value) { return value->name; }
uint64_t pointer_identity(const std::shared_ptr<const Function>& function) { return reinterpret_cast<uintptr_t>(function.get()); }

Attrs substitute(const Attrs& attrs, const Bindings& bindings) {
  if (!attrs.holder_ || bindings.empty()) return attrs;
  Attrs out;
  out.holder_ = attrs.holder_->substituted(bindings);
  return out;
}

}  // namespace sinter
