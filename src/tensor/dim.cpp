#include "tensor/dim.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <unordered_map>

#include "base/error.h"

namespace sinter {
namespace {

struct Registry {
  std::mutex mutex;
  std::deque<Symbol> symbols;
  std::unordered_map<std::string, SymbolId> by_name;
};
Registry& registry() {
  static Registry r;
  return r;
}

SymbolId intern(Symbol symbol) {
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  auto [at, fresh] = r.by_name.try_emplace(symbol.name, SymbolId(r.symbols.size()));
  if (fresh) r.symbols.push_back(std::move(symbol));
  return at->second;
}

int64_t checked_product(int64_t a, int64_t b) {
  int64_t out;
  if (__builtin_mul_overflow(a, b, &out)) fail(Code::InvalidArgument, "a size is too large to count: {} times {}", a, b);
  return out;
}
int64_t checked_sum(int64_t a, int64_t b) {
  int64_t out;
  if (__builtin_add_overflow(a, b, &out)) fail(Code::InvalidArgument, "a size is too large to count: {} and {}", a, b);
  return out;
}

int64_t floor_quotient(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

int64_t symbol_value(SymbolId id, const Bindings& bindings) {
  if (auto at = bindings.find(id); at != bindings.end()) return at->second;
  const Symbol& symbol = symbol_info(id);
  if (symbol.divisor == 0) fail(Code::InvalidArgument, "the size '{}' has no value in this binding", symbol.name);
  return floor_quotient(symbol.numerator.value(bindings), symbol.divisor);
}

}  // namespace

const Symbol& symbol_info(SymbolId id) {
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  return r.symbols.at(id);
}

Dim::Dim(int64_t constant) {
  if (constant != 0) terms_.push_back({{}, constant});
}

Dim Dim::symbol(const std::string& name, SymbolFacts facts) {
  Dim dim;
  dim.terms_.push_back({{intern({name, facts, {}, 0})}, 1});
  return dim;
}

Dim Dim::from_terms(std::vector<Term> terms) {
  std::sort(terms.begin(), terms.end(), [](const Term& a, const Term& b) { return a.symbols < b.symbols; });
  Dim dim;
  for (Term& term : terms) {
    if (!dim.terms_.empty() && dim.terms_.back().symbols == term.symbols)
      dim.terms_.back().coefficient = checked_sum(dim.terms_.back().coefficient, term.coefficient);
    else
      dim.terms_.push_back(std::move(term));
    if (dim.terms_.back().coefficient == 0) dim.terms_.pop_back();
  }
  return dim;
}

bool Dim::is_constant() const { return terms_.empty() || (terms_.size() == 1 && terms_[0].symbols.empty()); }

int64_t Dim::constant() const {
  if (!is_constant()) fail(Code::Internal, "the size {} is not a constant", text());
  return terms_.empty() ? 0 : terms_[0].coefficient;
}

Dim operator+(const Dim& a, const Dim& b) {
  std::vector<Dim::Term> terms = a.terms_;
  terms.insert(terms.end(), b.terms_.begin(), b.terms_.end());
  return Dim::from_terms(std::move(terms));
}

Dim operator-(const Dim& a, const Dim& b) { return a + b * Dim(-1); }

Dim operator*(const Dim& a, const Dim& b) {
  std::vector<Dim::Term> terms;
  for (const auto& x : a.terms_)
    for (const auto& y : b.terms_) {
      Dim::Term term{x.symbols, checked_product(x.coefficient, y.coefficient)};
      term.symbols.insert(term.symbols.end(), y.symbols.begin(), y.symbols.end());
      std::sort(term.symbols.begin(), term.symbols.end());
      terms.push_back(std::move(term));
    }
  return Dim::from_terms(std::move(terms));
}

Dim floor_div(const Dim& a, int64_t divisor) {
  SINTER_ASSERT(divisor > 0);
  if (a.is_constant()) return Dim(floor_quotient(a.constant(), divisor));
  // Terms that divide leave the quotient: (2h + 1) / 2 = h.
  std::vector<Dim::Term> whole, rest;
  for (const auto& term : a.terms_) {
    if (term.coefficient % divisor == 0)
      whole.push_back({term.symbols, term.coefficient / divisor});
    else
      rest.push_back(term);
  }
  Dim quotient = Dim::from_terms(whole), remainder = Dim::from_terms(rest);
  if (remainder.is_constant()) return quotient + Dim(floor_quotient(remainder.constant(), divisor));
  Symbol symbol{"(" + remainder.text() + ")/" + std::to_string(divisor), {0, int64_t(1) << 31, 1}, remainder, divisor};
  Dim rounded;
  rounded.terms_.push_back({{intern(std::move(symbol))}, 1});
  return quotient + rounded;
}

std::optional<Dim> exact_div(const Dim& a, const Dim& b) {
  if (b.terms_.size() != 1) return a == b && !b.terms_.empty() ? std::optional<Dim>(Dim(1)) : std::nullopt;
  const Dim::Term& divisor = b.terms_[0];
  std::vector<Dim::Term> terms;
  for (Dim::Term term : a.terms_) {
    if (divisor.coefficient == -1) {
      term.coefficient = checked_product(term.coefficient, -1);  // the lowest number has no negative
    } else {
      if (term.coefficient % divisor.coefficient != 0) return {};
      term.coefficient /= divisor.coefficient;
    }
    for (SymbolId id : divisor.symbols) {
      auto at = std::find(term.symbols.begin(), term.symbols.end(), id);
      if (at == term.symbols.end()) return {};
      term.symbols.erase(at);
    }
    terms.push_back(std::move(term));
  }
  return Dim::from_terms(std::move(terms));
}

int64_t Dim::value(const Bindings& bindings) const {
  int64_t sum = 0;
  for (const Term& term : terms_) {
    int64_t product = term.coefficient;
    for (SymbolId id : term.symbols)
      if (__builtin_mul_overflow(product, symbol_value(id, bindings), &product))
        fail(Code::InvalidArgument, "the size {} is too large to count", text());
    if (__builtin_add_overflow(sum, product, &sum)) fail(Code::InvalidArgument, "the size {} is too large to count", text());
  }
  return sum;
}

Dim Dim::substitute(const Bindings& bindings) const {
  Dim sum;
  for (const Term& term : terms_) {
    Dim product(term.coefficient);
    for (SymbolId id : term.symbols) {
      const Symbol& symbol = symbol_info(id);
      if (auto at = bindings.find(id); at != bindings.end())
        product = product * Dim(at->second);
      else if (symbol.divisor)
        product = product * floor_div(symbol.numerator.substitute(bindings), symbol.divisor);
      else
        product = product * Dim::from_terms({{{id}, 1}});
    }
    sum = sum + product;
  }
  return sum;
}

void Dim::collect_symbols(std::vector<SymbolId>& symbols) const {
  for (const Term& term : terms_)
    for (SymbolId id : term.symbols) {
      const Symbol& symbol = symbol_info(id);
      if (symbol.divisor)
        symbol.numerator.collect_symbols(symbols);
      else if (std::find(symbols.begin(), symbols.end(), id) == symbols.end())
        symbols.push_back(id);
    }
}

bool Dim::divisible_by(int64_t n) const {
  for (const Term& term : terms_) {
    int64_t known = term.coefficient;
    for (SymbolId id : term.symbols)
      if (__builtin_mul_overflow(known, symbol_info(id).facts.divisor, &known)) return false;
    if (known % n != 0) return false;
  }
  return true;
}

std::string Dim::text() const {
  if (terms_.empty()) return "0";
  std::string out;
  // The constant sorts first; people expect it last.
  for (size_t k = 0; k < terms_.size(); ++k) {
    const Term& term = terms_[(k + (terms_[0].symbols.empty() ? 1 : 0)) % terms_.size()];
    int64_t c = term.coefficient;
    if (!out.empty())
      out += c < 0 ? "-" : "+";
    else if (c < 0)
      out += "-";
    uint64_t magnitude = c < 0 ? 0 - uint64_t(c) : uint64_t(c);
    if (term.symbols.empty() || magnitude != 1) out += std::to_string(magnitude);
    for (size_t i = 0; i < term.symbols.size(); ++i) {
      if (i > 0 || magnitude != 1) out += "*";
      out += symbol_info(term.symbols[i]).name;
    }
  }
  return out;
}

Dim element_count(const Shape& shape) {
  Dim count = 1;
  for (const Dim& dim : shape) count = count * dim;
  return count;
}

std::string text(const Shape& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + shape[i].text();
  return out + "]";
}

}  // namespace sinter
