#include "graph/formula.h"

#include <cmath>
#include <unordered_map>

#include "base/error.h"

namespace sinter {
namespace {

struct PrimInfo {
  std::string_view name;
  int arity;
};
constexpr PrimInfo kPrims[] = {{"add", 2},     {"subtract", 2}, {"multiply", 2}, {"divide", 2}, {"maximum", 2},
                               {"minimum", 2}, {"power", 2},    {"less", 2},     {"select", 3}, {"negate", 1},
                               {"exp", 1},     {"log", 1},      {"sqrt", 1},     {"rsqrt", 1},  {"sin", 1},
                               {"cos", 1},     {"tanh", 1},     {"erf", 1},      {"abs", 1},    {"floor", 1}};

std::vector<Formula> make_formulas() {
  std::vector<Formula> list;
  Expr first = Expr::argument(0), second = Expr::argument(1), third = Expr::argument(2);
#define SINTER_FORMULA1(name, x, body) list.push_back({#name, 1, [](Expr x) -> Expr { return body; }(first)});
#define SINTER_FORMULA2(name, a, b, body) list.push_back({#name, 2, [](Expr a, Expr b) -> Expr { return body; }(first, second)});
#define SINTER_FORMULA3(name, a, b, c, body) \
  list.push_back({#name, 3, [](Expr a, Expr b, Expr c) -> Expr { return body; }(first, second, third)});
#include "graph/formulas.list"
#undef SINTER_FORMULA1
#undef SINTER_FORMULA2
#undef SINTER_FORMULA3
  return list;
}

using Values = std::unordered_map<const Expr::Term*, double>;
double evaluate(const Expr& expr, std::span<const double> arguments, Values& seen) {
  switch (expr->kind) {
    case Expr::Term::argument:
      return arguments[size_t(expr->index)];
    case Expr::Term::constant:
      return expr->value;
    case Expr::Term::primitive:
      break;
  }
  if (auto at = seen.find(expr.get()); at != seen.end()) return at->second;
  double v[3] = {};
  for (size_t i = 0; i < expr->inputs.size(); ++i) v[i] = evaluate(expr->inputs[i], arguments, seen);
  return seen[expr.get()] = evaluate(expr->prim, v[0], v[1], v[2]);
}

bool is_constant(const Expr& e, double value) { return e->kind == Expr::Term::constant && e->value == value; }

// Sums and products without the terms that a derivative is full of: 0 + x, 1 * x, 0 * x.
Expr sum(const Expr& a, const Expr& b) { return is_constant(a, 0) ? b : is_constant(b, 0) ? a : a + b; }
Expr product(const Expr& a, const Expr& b) {
  if (is_constant(a, 0) || is_constant(b, 0)) return 0.0;
  return is_constant(a, 1) ? b : is_constant(b, 1) ? a : a * b;
}

/// d prim(inputs) / d inputs[i], as a formula of the inputs and of `value`, the result itself.
Expr local_derivative(Prim prim, const std::vector<Expr>& x, const Expr& value, int i) {
  const Expr& a = x[0];
  switch (prim) {
    case Prim::add:
      return 1.0;
    case Prim::subtract:
      return i == 0 ? 1.0 : -1.0;
    case Prim::multiply:
      return x[size_t(1 - i)];
    case Prim::divide:
      return i == 0 ? 1.0 / x[1] : -value / x[1];
    case Prim::maximum:
      return i == 0 ? 1.0 - less(a, x[1]) : less(a, x[1]);
    case Prim::minimum:
      return i == 0 ? 1.0 - less(x[1], a) : less(x[1], a);
    case Prim::power:
      return i == 0 ? x[1] * pow(a, x[1] - 1.0) : value * log(a);
    case Prim::less:
      return 0.0;
    case Prim::select:
      return i == 0 ? Expr(0.0) : i == 1 ? select(a, 1.0, 0.0) : select(a, 0.0, 1.0);
    case Prim::negate:
      return -1.0;
    case Prim::exp:
      return value;
    case Prim::log:
      return 1.0 / a;
    case Prim::sqrt:
      return 0.5 / value;
    case Prim::rsqrt:
      return -0.5 * value * value * value;
    case Prim::sin:
      return cos(a);
    case Prim::cos:
      return -sin(a);
    case Prim::tanh:
      return 1.0 - value * value;
    case Prim::erf:
      return 1.12837916709551257390 * exp(-(a * a));
    case Prim::abs:
      return select(less(a, 0.0), -1.0, 1.0);
    case Prim::floor:
      return 0.0;
  }
  return 0.0;
}

using Derivatives = std::unordered_map<const Expr::Term*, Expr>;
Expr derivative(const Expr& e, int index, Derivatives& seen) {
  if (e->kind == Expr::Term::constant) return 0.0;
  if (e->kind == Expr::Term::argument) return e->index == index ? 1.0 : 0.0;
  if (auto at = seen.find(e.get()); at != seen.end()) return at->second;
  Expr total = 0.0;
  for (size_t i = 0; i < e->inputs.size(); ++i) {
    Expr inner = derivative(e->inputs[i], index, seen);
    if (!is_constant(inner, 0)) total = sum(total, product(local_derivative(e->prim, e->inputs, e, int(i)), inner));
  }
  return seen[e.get()] = total;
}

}  // namespace

std::string_view name(Prim prim) { return kPrims[int(prim)].name; }
int arity(Prim prim) { return kPrims[int(prim)].arity; }

double evaluate(Prim prim, double a, double b, double c) {
  switch (prim) {
    case Prim::add:
      return a + b;
    case Prim::subtract:
      return a - b;
    case Prim::multiply:
      return a * b;
    case Prim::divide:
      return a / b;
    case Prim::maximum:
      return std::isnan(a) || a > b ? a : b;
    case Prim::minimum:
      return std::isnan(a) || a < b ? a : b;
    case Prim::power:
      return std::pow(a, b);
    case Prim::less:
      return a < b;
    case Prim::select:
      return a != 0 ? b : c;
    case Prim::negate:
      return -a;
    case Prim::exp:
      return std::exp(a);
    case Prim::log:
      return std::log(a);
    case Prim::sqrt:
      return std::sqrt(a);
    case Prim::rsqrt:
      return 1 / std::sqrt(a);
    case Prim::sin:
      return std::sin(a);
    case Prim::cos:
      return std::cos(a);
    case Prim::tanh:
      return std::tanh(a);
    case Prim::erf:
      return std::erf(a);
    case Prim::abs:
      return std::fabs(a);
    case Prim::floor:
      return std::floor(a);
  }
  return 0;
}

Expr::Expr(double value) : term_(std::make_shared<Term>(Term{Term::constant, {}, 0, value, {}})) {}
Expr Expr::argument(int index) {
  Expr e;
  e.term_ = std::make_shared<Term>(Term{Term::argument, {}, index, 0, {}});
  return e;
}
Expr Expr::of(Prim prim, std::vector<Expr> inputs) {
  SINTER_ASSERT(int(inputs.size()) == arity(prim));
  Expr e;
  e.term_ = std::make_shared<Term>(Term{Term::primitive, prim, 0, 0, std::move(inputs)});
  return e;
}

std::span<const Formula> formulas() {
  static const std::vector<Formula> list = make_formulas();
  return list;
}

double evaluate(const Expr& expr, std::span<const double> arguments) {
  Values seen;
  return evaluate(expr, arguments, seen);
}

Expr derivative(const Expr& body, int index) {
  Derivatives seen;
  return derivative(body, index, seen);
}

}  // namespace sinter
