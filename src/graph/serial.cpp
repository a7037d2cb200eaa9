#include "graph/serial.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "graph/ops.h"
#include "graph/ops/support.h"

namespace sinter {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kVersion = 1;
/// Functions may call functions: a few lines could stand for more calls than anyone can run.
constexpr int64_t kMostCalls = 1 << 16;

std::string to_hex(const std::byte* data, size_t bytes) {
  constexpr char digits[] = "0123456789abcdef";
  std::string out;
  out.reserve(2 * bytes);
  for (size_t i = 0; i < bytes; ++i) {
    out += digits[uint8_t(data[i]) >> 4];
    out += digits[uint8_t(data[i]) & 15];
  }
  return out;
}

int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

void from_hex(const std::string& text, std::byte* out) {
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    int high = hex_digit(text[i]), low = hex_digit(text[i + 1]);
    if (high < 0 || low < 0) fail(Code::Corrupt, "'{}' are not two hexadecimal digits", text.substr(i, 2));
    out[i / 2] = std::byte(high << 4 | low);
  }
}

class Writer {
 public:
  Json document(const Graph& graph) {
    Json body = graph_json(graph);
    Json out{{"sinter_graph", kVersion}, {"digest", structure_digest(graph).hex()}, {"symbols", Json::object()}};
    for (const auto& [name, facts] : symbols_) out["symbols"][name] = {facts.lower, facts.upper, facts.divisor};
    out["functions"] = functions_;
    out.update(body);
    return out;
  }

 private:
  Json graph_json(const Graph& graph) {
    std::vector<Value> order = graph.inputs();
    for (Value value : topological_order(graph))
      if (value->op != &input_op) order.push_back(value);
    std::map<const Node*, size_t> numbers;
    Json nodes = Json::array();
    for (Value value : order) {
      numbers.emplace(value.node(), numbers.size());
      note_symbols(value.shape());
      Json inputs = Json::array();
      for (Value input : value->inputs) inputs.push_back(numbers.at(input.node()));
      nodes.push_back({{"op", value->op->name}, {"inputs", inputs}, {"attributes", attributes(*value)}});
    }
    Json outputs = Json::array();
    for (const Output& output : graph.outputs()) outputs.push_back({output.name, numbers.at(output.value.node())});
    return {{"nodes", nodes}, {"outputs", outputs}};
  }

  Json attributes(const Node& n) {
    Json out = Json::object();
    if (n.op == &constant_op) {
      const Tensor& value = n.attrs.as<ConstantAttrs>().value;
      out["dtype"] = name(value.dtype());
      out["shape"] = shape_text(value.shape());
      out["bytes"] = to_hex(value.data(), size_t(value.bytes()));
    } else if (n.op == &call_op) {
      const auto& call = n.attrs.as<CallAttrs>();
      out["function"] = std::to_string(function_number(*call.function));
      out["prefix"] = call.prefix;
    } else {
      for (auto& [field, text] : n.attrs.texts()) out[field] = text;
    }
    if (n.op == &slice_op) note_symbols({n.attrs.as<SliceAttrs>().begin});
    return out;
  }

  size_t function_number(const Function& function) {
    if (auto at = function_numbers_.find(&function); at != function_numbers_.end()) return at->second;
    Json body = graph_json(function.graph);  // functions that it calls come first
    Json entry{{"name", function.name}};
    entry.update(body);
    functions_.push_back(entry);
    return function_numbers_[&function] = functions_.size() - 1;
  }

  void note_symbols(const Shape& shape) {
    std::vector<SymbolId> ids;
    for (const Dim& dim : shape) dim.collect_symbols(ids);
    for (SymbolId id : ids) symbols_[symbol_info(id).name] = symbol_info(id).facts;
  }

  std::map<std::string, SymbolFacts> symbols_;
  std::map<const Function*, size_t> function_numbers_;
  Json functions_ = Json::array();
};

/// Anything else could be taken for an expression, or for a quotient's name.
bool is_symbol_name(const std::string& name) {
  auto in_name = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.'; };
  return !name.empty() && !std::isdigit(static_cast<unsigned char>(name[0])) && std::all_of(name.begin(), name.end(), in_name);
}

/// The JSON library would convert a fraction, and one out of range in no defined way.
int64_t whole_number(const Json& json) {
  if (!json.is_number_integer()) fail(Code::Corrupt, "a whole number was expected, and this is a {}", json.type_name());
  return json.get<int64_t>();
}

class Reader {
 public:
  std::unique_ptr<Graph> document(const Json& json) {
    // Only a number is shown: printing a list of a hundred thousand lists would recurse as deep.
    const Json& version = json.at("sinter_graph");
    if (version != kVersion)
      fail(Code::Corrupt, "a graph of version {}, this program reads version {}",
           version.is_number() ? version.dump() : version.type_name(), kVersion);
    for (const auto& [name, facts] : json.at("symbols").items()) declare_symbol(name, facts);
    for (const Json& function : json.at("functions")) {
      auto made = std::make_shared<Function>();
      made->name = function.at("name").get<std::string>();
      in_context("reading function " + std::to_string(functions_.size()),
                 [&] { calls_.push_back(read(function, made->graph) + 1); });
      functions_.push_back(std::move(made));
    }
    auto graph = std::make_unique<Graph>();
    read(json, *graph);
    std::string expected = json.at("digest").get<std::string>(), found = structure_digest(*graph).hex();
    if (expected != found) fail(Code::Corrupt, "the graph's digest is {}, but {} is written", found, expected);
    return graph;
  }

 private:
  static void declare_symbol(const std::string& name, const Json& json) {
    SymbolFacts facts{whole_number(json.at(0)), whole_number(json.at(1)), whole_number(json.at(2))};
    if (!is_symbol_name(name)) fail(Code::Corrupt, "'{}' is not a symbol's name", name);
    if (facts.lower < 0 || facts.upper < facts.lower || facts.divisor < 1)
      fail(Code::Corrupt, "the symbol '{}' cannot be from {} to {} and a multiple of {}", name, facts.lower, facts.upper,
           facts.divisor);
    Dim dim = Dim::symbol(name, facts);
    const SymbolFacts& known = symbol_info(dim.terms().at(0).symbols.at(0)).facts;
    if (known.lower != facts.lower || known.upper != facts.upper || known.divisor != facts.divisor)
      fail(Code::Unsupported, "the symbol '{}' is from {} to {} and a multiple of {} in the file; {}, {} and {} here", name,
           facts.lower, facts.upper, facts.divisor, known.lower, known.upper, known.divisor);
  }

  /// Fills `graph`; gives the number of calls that running it takes.
  int64_t read(const Json& json, Graph& graph) {
    std::vector<Value> values;
    int64_t calls = 0;
    for (const Json& node : json.at("nodes"))
      in_context("reading node " + std::to_string(values.size()),
                 [&] { values.push_back(read_node(node, values, graph, calls)); });
    for (const Json& output : json.at("outputs"))
      graph.output(output.at(0).get<std::string>(), values.at(size_t(whole_number(output.at(1)))));
    return calls;
  }

  Value read_node(const Json& json, const std::vector<Value>& values, Graph& graph, int64_t& calls) {
    std::string op_name = json.at("op").get<std::string>();
    const OpDef* op = find_op(op_name);
    if (!op) fail(Code::Corrupt, "there is no op '{}'", op_name);
    std::vector<Value> inputs;
    for (const Json& input : json.at("inputs")) inputs.push_back(values.at(size_t(whole_number(input))));
    AttrTexts texts;
    for (const auto& [field, text] : json.at("attributes").items()) texts[field] = text.get<std::string>();
    Attrs attrs = read_attributes(*op, texts, calls);
    if (op != &input_op) return graph.add(*op, std::move(inputs), std::move(attrs));
    if (!inputs.empty()) fail(Code::Corrupt, "an input has inputs");
    const auto& named = attrs.as<NameAttrs>();
    return graph.input(named.name, named.type());
  }

  Attrs read_attributes(const OpDef& op, const AttrTexts& texts, int64_t& calls) {
    if (op.read_attrs) return op.read_attrs(texts);
    if (&op == &constant_op) return Attrs::of(ConstantAttrs{read_constant(texts)});
    if (&op != &call_op) return {};
    FieldReader field{texts};
    int64_t number = 0;
    CallAttrs call;
    field("function", number), field("prefix", call.prefix);
    if (number < 0 || number >= int64_t(functions_.size())) fail(Code::Corrupt, "there is no function {} yet", number);
    call.function = functions_[size_t(number)];
    calls += calls_[size_t(number)];
    if (calls > kMostCalls) fail(Code::Corrupt, "the graph stands for more than {} calls", kMostCalls);
    return Attrs::of(std::move(call));
  }

  static Tensor read_constant(const AttrTexts& texts) {
    FieldReader field{texts};
    DType dtype{};
    std::vector<int64_t> shape;
    field("dtype", dtype), field("shape", shape);
    const std::string& bytes = field.text("bytes");
    int64_t count = element_count(std::span<const int64_t>(shape));
    // By division: the product of hostile sizes may not fit.
    if (bytes.size() % (2 * size_t(byte_size(dtype))) != 0 || int64_t(bytes.size()) / (2 * byte_size(dtype)) != count)
      fail(Code::Corrupt, "a constant {}{} has {} hexadecimal digits", name(dtype), shape_text(shape), bytes.size());
    Tensor value(dtype, shape);
    from_hex(bytes, value.data());
    return value;
  }

  std::vector<std::shared_ptr<const Function>> functions_;
  std::vector<int64_t> calls_;  ///< for each function, the calls that one call of it takes
};

}  // namespace

std::string write_graph(const Graph& graph) {
  try {
    return Writer().document(graph).dump(1);
  } catch (const nlohmann::json::exception& e) {
    fail(Code::InvalidArgument, "the graph cannot be written: {}", e.what());  // a name that is not UTF-8
  }
}

std::unique_ptr<Graph> read_graph(std::string_view text) {
  try {
    return Reader().document(Json::parse(text));
  } catch (const nlohmann::json::exception& e) {
    fail(Code::Corrupt, "not a graph of ours: {}", e.what());
  } catch (const std::out_of_range& e) {
    fail(Code::Corrupt, "not a graph of ours: a number of a node that does not come before ({})", e.what());
  } catch (const Error& e) {
    if (e.code() != Code::InvalidArgument) throw;
    fail(Code::Corrupt, "not a graph of ours: {}", e.message());
  }
}

}  // namespace sinter
