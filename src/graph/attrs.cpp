#include "graph/attrs.h"

#include <fmt/core.h>

#include "graph/graph.h"

namespace sinter {

void SymbolNumbering::add_symbol(Hasher& h, SymbolId id) {
  auto [at, fresh] = numbers_.try_emplace(id, uint32_t(numbers_.size()));
  h.add(at->second);
  if (!fresh) return;
  const Symbol& symbol = symbol_info(id);
  h.add(symbol.facts.lower).add(symbol.facts.upper).add(symbol.facts.divisor).add(symbol.divisor);
  if (symbol.divisor) add(h, symbol.numerator);
}

void SymbolNumbering::add(Hasher& h, const Dim& dim) {
  h.add(uint64_t(dim.terms().size()));
  for (const Dim::Term& term : dim.terms()) {
    h.add(term.coefficient).add(uint64_t(term.symbols.size()));
    for (SymbolId id : term.symbols) add_symbol(h, id);
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
