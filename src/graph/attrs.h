#pragma once
#include <map>
#include <memory>
#include <string>
#include <typeinfo>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "tensor/dim.h"
#include "tensor/tensor.h"

namespace sinter {

struct Function;

/// Numbers symbols in order of first appearance, so that digests depend on structure and never on names or creation order.
/// Symbols that appear together first (height * width) are told apart by what is known of them, in the end by name: give sizes
/// that are one symbol alone first.
class SymbolNumbering {
 public:
  void add(Hasher& h, const Dim& dim);
  /// What was numbered, rounded quotients too, by symbol.
  const std::map<SymbolId, uint32_t>& numbers() const { return numbers_; }

 private:
  void number_new_symbols(Hasher& h, const Dim& dim);
  std::map<SymbolId, uint32_t> numbers_;
};

/// What an attribute's text says is read back by the same visitor: "epsilon" -> "1e-05".
using AttrTexts = std::map<std::string, std::string>;

/// The attributes of one node: a struct with `void fields(auto& field)`, type-erased. Hashing, printing, comparing and reading
/// back all come from that visitor. Field types: int64_t, double, bool, std::string, DType, Dim, Shape, std::vector<int64_t>,
/// Tensor (constants) and std::shared_ptr<const Function> (calls).
class Attrs {
 public:
  Attrs() = default;
  template <class T>
  static Attrs of(T value) {
    Attrs a;
    a.holder_ = std::make_shared<Model<T>>(std::move(value));
    return a;
  }
  template <class T>
  const T& as() const {
    SINTER_ASSERT(holder_ && holder_->type() == typeid(T));
    return static_cast<const Model<T>&>(*holder_).value;
  }
  bool empty() const { return !holder_; }
  /// Adds the digest of the structure: names and prefixes of weights are not part of it.
  void hash(Hasher& h, SymbolNumbering& numbering) const {
    if (holder_) holder_->hash(h, numbering);
  }
  /// Adds everything, names too: two attributes with the same identity are interchangeable within one graph.
  void identity(Hasher& h) const {
    if (holder_) holder_->identity(h);
  }
  /// field=value pairs in the order of the visitor.
  std::vector<std::pair<std::string, std::string>> texts() const {
    return holder_ ? holder_->texts() : std::vector<std::pair<std::string, std::string>>{};
  }

 private:
  struct Holder {
    virtual ~Holder() = default;
    virtual const std::type_info& type() const = 0;
    virtual void hash(Hasher& h, SymbolNumbering& numbering) const = 0;
    virtual void identity(Hasher& h) const = 0;
    virtual std::vector<std::pair<std::string, std::string>> texts() const = 0;
    virtual std::shared_ptr<Holder> substituted(const Bindings& bindings) const = 0;
  };
  template <class T>
  struct Model;
  std::shared_ptr<const Holder> holder_;
  friend Attrs substitute(const Attrs& attrs, const Bindings& bindings);
};

/// With the symbols of `bindings` replaced by their values.
Attrs substitute(const Attrs& attrs, const Bindings& bindings);

/// The visitors behind Attrs.
struct FieldHasher {
  Hasher& h;
  SymbolNumbering& numbering;
  template <class T>
  void operator()(const char* name, const T& value) {
    if constexpr (std::is_arithmetic_v<T> || std::is_enum_v<T>)
      h.add(value);
    else
      add(name, value);
  }
  void add(const char* name, const std::string& text);  // names of inputs and weights, prefixes: not structure
  void add(const char* name, const Dim& dim);
  void add(const char* name, const Shape& shape);
  void add(const char* name, const std::vector<int64_t>& values);
  void add(const char* name, const Tensor& tensor);
  void add(const char* name, const std::shared_ptr<const Function>& function);
};
std::string field_text(int64_t value);
std::string field_text(double value);
std::string field_text(bool value);
std::string field_text(const std::string& value);
std::string field_text(DType value);
std::string field_text(const Dim& value);
std::string field_text(const Shape& value);
std::string field_text(const std::vector<int64_t>& value);
std::string field_text(const Tensor& value);
std::string field_text(const std::shared_ptr<const Function>& value);
uint64_t pointer_identity(const std::shared_ptr<const Function>& function);

template <class T>
struct Attrs::Model final : Attrs::Holder {
  explicit Model(T v) : value(std::move(v)) {}
  const std::type_info& type() const override { return typeid(T); }
  void hash(Hasher& h, SymbolNumbering& numbering) const override {
    FieldHasher visitor{h, numbering};
    const_cast<T&>(value).fields(visitor);  // visitors that write are used on mutable values only
  }
  void identity(Hasher& h) const override {
    auto visitor = [&]<class F>(const char*, const F& field) {
      if constexpr (std::is_same_v<F, std::shared_ptr<const Function>>)
        h.add(pointer_identity(field));
      else if constexpr (std::is_same_v<F, Tensor>)
        h.add(digest_of(field.data(), size_t(field.bytes()))).add(field_text(field));
      else if constexpr (std::is_arithmetic_v<F>)
        h.add(field);
      else
        h.add(field_text(field));
    };
    const_cast<T&>(value).fields(visitor);
  }
  std::vector<std::pair<std::string, std::string>> texts() const override {
    std::vector<std::pair<std::string, std::string>> out;
    auto visitor = [&](const char* name, const auto& field) { out.emplace_back(name, field_text(field)); };
    const_cast<T&>(value).fields(visitor);
    return out;
  }
  std::shared_ptr<Holder> substituted(const Bindings& bindings) const override {
    auto copy = std::make_shared<Model>(value);
    auto visitor = [&]<class F>(const char*, F& field) {
      if constexpr (std::is_same_v<F, Dim>) field = field.substitute(bindings);
      if constexpr (std::is_same_v<F, Shape>)
        for (Dim& dim : field) dim = dim.substitute(bindings);
    };
    copy->value.fields(visitor);
    return copy;
  }
  T value;
};

}  // namespace sinter
