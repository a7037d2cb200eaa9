#pragma once
#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace sinter {

class Dim;

/// A named size that is known only when a program is bound: `batch`, `height`, `tokens`. Two symbols of one name are the same.
using SymbolId = uint32_t;

/// What kernels may rely on: lower <= value <= upper, and value is a multiple of divisor.
struct SymbolFacts {
  int64_t lower = 1;
  int64_t upper = int64_t(1) << 31;
  int64_t divisor = 1;
};

/// The values of symbols at one binding.
using Bindings = std::map<SymbolId, int64_t>;

/// A size: a polynomial with integer coefficients in symbols. Canonical: equal sizes compare equal. Rounded quotients (a strided
/// convolution's output) become symbols of their own, defined by the quotient, so that equal quotients are equal too.
class Dim {
 public:
  Dim() = default;
  Dim(int64_t constant);  // NOLINT: sizes are written as plain numbers everywhere
  Dim(int constant) : Dim(int64_t(constant)) {}
  static Dim symbol(const std::string& name, SymbolFacts facts = {});

  bool is_constant() const;
  /// The value of a constant size; Code::Internal for any other.
  int64_t constant() const;
  bool operator==(const Dim&) const = default;
  auto operator<=>(const Dim&) const = default;

  friend Dim operator+(const Dim& a, const Dim& b);
  friend Dim operator-(const Dim& a, const Dim& b);
  friend Dim operator*(const Dim& a, const Dim& b);
  /// The quotient rounded down; divisor > 0.
  friend Dim floor_div(const Dim& a, int64_t divisor);
  friend Dim ceil_div(const Dim& a, int64_t divisor) { return floor_div(a + Dim(divisor - 1), divisor); }
  /// a / b if that is a size again without rounding, for b a constant or one term.
  friend std::optional<Dim> exact_div(const Dim& a, const Dim& b);

  /// The value under `bindings`; Code::InvalidArgument names a symbol that has none.
  int64_t value(const Bindings& bindings) const;
  /// With every symbol of `bindings` replaced by its value.
  Dim substitute(const Bindings& bindings) const;
  /// The symbols that a binding must give (quotients count by what they are quotients of), in order of first appearance.
  void collect_symbols(std::vector<SymbolId>& symbols) const;
  /// True if the size is certain to be a multiple of n.
  bool divisible_by(int64_t n) const;

  std::string text() const;

  /// One product of symbols with its coefficient; no symbols: the constant term.
  struct Term {
    std::vector<SymbolId> symbols;  // sorted
    int64_t coefficient = 0;
    auto operator<=>(const Term&) const = default;
  };
  const std::vector<Term>& terms() const { return terms_; }
  static Dim from_terms(std::vector<Term> terms);

 private:
  std::vector<Term> terms_;  // sorted by symbols, no zero coefficient; zero is no terms
};

struct Symbol {
  std::string name;
  SymbolFacts facts;
  Dim numerator;        // of a rounded quotient
  int64_t divisor = 0;  // 0: a free symbol
};
/// The record of a symbol; valid for the life of the program.
const Symbol& symbol_info(SymbolId id);

using Shape = std::vector<Dim>;
Dim element_count(const Shape& shape);
std::string text(const Shape& shape);

}  // namespace sinter
