#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace sinter {

/// The arithmetic that every generator knows. A formula is written in these; nothing else needs a device's attention.
/// `less` gives 1 or 0; `select` takes its second argument where the first is not 0.
enum class Prim : uint8_t {
  add,
  subtract,
  multiply,
  divide,
  maximum,
  minimum,
  power,
  less,
  select,
  negate,
  exp,
  log,
  sqrt,
  rsqrt,
  sin,
  cos,
  tanh,
  erf,
  abs,
  floor
};
std::string_view name(Prim prim);
int arity(Prim prim);
double evaluate(Prim prim, double a, double b, double c);

/// A formula as a graph of primitives over its arguments. Terms may be shared: whoever walks it must remember what it has seen.
class Expr {
 public:
  struct Term {
    enum Kind : uint8_t { argument, constant, primitive } kind;
    Prim prim{};
    int index = 0;     // of an argument
    double value = 0;  // of a constant
    std::vector<Expr> inputs;
  };
  Expr() = default;
  Expr(double value);  // NOLINT: formulas mix terms and plain numbers
  static Expr argument(int index);
  static Expr of(Prim prim, std::vector<Expr> inputs);
  const Term& operator*() const { return *term_; }
  const Term* operator->() const { return term_.get(); }
  const Term* get() const { return term_.get(); }

 private:
  std::shared_ptr<const Term> term_;
};

#define SINTER_EXPR2(symbol, prim) \
  inline Expr symbol(const Expr& a, const Expr& b) { return Expr::of(Prim::prim, {a, b}); }
#define SINTER_EXPR1(symbol, prim) \
  inline Expr symbol(const Expr& a) { return Expr::of(Prim::prim, {a}); }
SINTER_EXPR2(operator+, add)
SINTER_EXPR2(operator-, subtract)
SINTER_EXPR2(operator*, multiply)
SINTER_EXPR2(operator/, divide)
SINTER_EXPR2(max, maximum)
SINTER_EXPR2(min, minimum)
SINTER_EXPR2(pow, power)
SINTER_EXPR2(less, less)
SINTER_EXPR1(operator-, negate)
SINTER_EXPR1(exp, exp)
SINTER_EXPR1(log, log)
SINTER_EXPR1(sqrt, sqrt)
SINTER_EXPR1(rsqrt, rsqrt)
SINTER_EXPR1(sin, sin)
SINTER_EXPR1(cos, cos)
SINTER_EXPR1(tanh, tanh)
SINTER_EXPR1(erf, erf)
SINTER_EXPR1(abs, abs)
SINTER_EXPR1(floor, floor)
#undef SINTER_EXPR1
#undef SINTER_EXPR2
inline Expr select(const Expr& condition, const Expr& yes, const Expr& no) {
  return Expr::of(Prim::select, {condition, yes, no});
}

/// An elementwise function of one to three arguments, one line in formulas.list.
struct Formula {
  std::string_view name;
  int arguments;
  Expr body;
};
/// All formulas, in the order of formulas.list.
std::span<const Formula> formulas();
double evaluate(const Expr& expr, std::span<const double> arguments);
/// The derivative of `body` by argument `index`.
Expr derivative(const Expr& body, int index);

}  // namespace sinter
