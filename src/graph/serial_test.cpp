#include "graph/serial.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "graph/interpreter.h"
#include "graph/print.h"
#include "random_graph.h"
#include "refusal.h"

using namespace sinter;

namespace {
std::string with(const std::string& text, const std::string& from, const std::string& to) {
  size_t at = text.find(from);
  REQUIRE(at != text.npos);
  return text.substr(0, at) + to + text.substr(at + from.size());
}

/// Symbols, quotients, a function, a constant and names that need escapes.
void fill(Graph& g) {
  Dim rows = Dim::symbol("serial_rows", {2, 64, 2}), columns = Dim::symbol("serial_columns");
  auto function = std::make_shared<Function>();
  function->name = "a \"block\"";
  Value p = function->graph.input("p", {DType::f32, {1, rows, columns, 3}});
  Value w = function->graph.weight("w", {DType::f32, {4, 3, 3, 3}});
  function->graph.output("y", conv2d(p, w, {2, 1, 1, 1, 1}));
  function->graph.output("z", slice(p, 1, rows - 1, 1) * 0.1);
  Value x = g.input("x", {DType::f32, {1, rows, columns, 3}});
  g.input("unused", {DType::i64, {rows * columns + 1}});
  auto a = call(function, {x}, "down.0.");
  g.output("y", reduce_sum(a[0], {1, 2}));
  g.output("z", a[1] + constant(g, Tensor::of({3}, std::vector<float>{1, -0.5f, 1e-20f})));
}
}  // namespace

TEST_CASE("random graphs read back as the same structure under the same names") {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    INFO("seed ", seed);
    Graph graph;
    RandomGraph(seed).fill(graph, 15);
    std::string text = write_graph(graph);
    auto read = read_graph(text);
    verify(*read);
    CHECK(structure_digest(*read) == structure_digest(graph));
    CHECK(graph_text(*read) == graph_text(graph));
    CHECK(write_graph(*read) == text);
  }
}

TEST_CASE("symbols, quotients, functions, constants and unused inputs survive") {
  Graph graph;
  fill(graph);
  auto read = read_graph(write_graph(graph));
  CHECK(structure_digest(*read) == structure_digest(graph));
  CHECK(graph_text(*read) == graph_text(graph));
  REQUIRE(read->inputs().size() == 2);
  CHECK(read->inputs()[1]->type == graph.inputs()[1]->type);
  CHECK(weights_of(*read).at(0).name == "down.0.w");
}

TEST_CASE("a changed file is corrupt, and the error says where") {
  Graph graph;
  fill(graph);
  std::string good = write_graph(graph);
  auto says = [&](const std::string& from, const std::string& to, const std::string& words) {
    std::string found = refusal([&] { read_graph(with(good, from, to)); });
    INFO("'", from, "' -> '", to, "': ", found);
    CHECK(contains(found, words));
  };
  says("\"conv2d\"", "\"conv5d\"", "no op 'conv5d'");
  says("\"conv2d\"", "\"conv5d\"", "while reading function 0");
  says("\"stride\": \"2\"", "\"stride\": \"1\"", "digest");
  says("\"stride\": \"2\"", "\"stride\": \"0\"", "stride must be at least 1");
  says("\"stride\": \"2\"", "\"steps\": \"2\"", "stride is missing");
  says("\"function\": \"0\"", "\"function\": \"1\"", "no function 1");
  says("\"sinter_graph\": 1", "\"sinter_graph\": 2", "version 2");
  says("\"serial_rows\": [\n   2,", "\"serial_rows\": [\n   2e70,", "a whole number was expected");
  says("serial_rows-1", "serial_rows", "do not lie in axis 1");
}

TEST_CASE("no prefix of a file, and no file with a byte changed, does more than fail") {
  Graph graph;
  fill(graph);
  std::string good = write_graph(graph);
  Digest digest = structure_digest(graph);
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) {
    std::string bad = good;
    if (i < 500)
      bad.resize(random() % good.size());
    else
      for (uint32_t k = random() % 3 + 1; k > 0; --k) bad[random() % bad.size()] = "0123456789-[]{}\",:*+/()ae"[random() % 25];
    try {
      auto read = read_graph(bad);
      verify(*read);
      CHECK(structure_digest(*read) == digest);  // names may have changed
    } catch (const Error& e) {
      INFO(e.message());
      CHECK((e.code() == Code::Corrupt || e.code() == Code::Unsupported));
    }
  }
}

TEST_CASE("hostile sizes are refused before memory is asked for") {
  auto text = [](const std::string& symbols, const std::string& functions, const std::string& nodes) {
    return R"({"sinter_graph":1,"digest":"","symbols":{)" + symbols + R"(},"functions":[)" + functions + R"(],"nodes":[)" +
           nodes + R"(],"outputs":[]})";
  };
  auto node = [](const std::string& op, const std::string& attributes) {
    return R"({"op":")" + op + R"(","inputs":[],"attributes":{)" + attributes + "}}";
  };
  auto refused = [&](const std::string& file, const std::string& words) {
    std::string found = refusal([&] { read_graph(file); });
    INFO(found);
    CHECK(contains(found, words));
  };
  refused(text("", "", node("constant", R"("dtype":"f32","shape":"[1000000000, 1000000000]","bytes":"")")), "hexadecimal digits");
  refused(text("", "", node("constant", R"("dtype":"f32","shape":"[4000000000, 4000000000]","bytes":"")")), "too many elements");
  std::string huge = R"("name":"x","dtype":"f32","shape":"[9000000000000000000*a*a + 9000000000000000000*a*a]")";
  refused(text("", "", node("input", huge)), "too large to count");
  std::string deep = "a";
  for (int i = 0; i < 200; ++i) deep = "(" + deep + ")/2";
  refused(text("", "", node("input", R"("name":"x","dtype":"f32","shape":"[)" + deep + "]\"")), "is not a size");
  refused(text(R"("(a)/2":[1,2,1])", "", ""), "not a symbol's name");
  refused(text(R"("serial_q":[1,2,0])", "", ""), "cannot be");
  refused(R"([)", "not a graph of ours");
  // A printer that recursed would run out of stack.
  refused(R"({"sinter_graph":)" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}", "a graph of version array");
  refused(R"({"sinter_graph":1})", "not a graph of ours");

  std::string input = node("input", R"("name":"p","dtype":"f32","shape":"[1]")"), functions;
  for (int i = 0; i < 30; ++i) {
    auto call = [&](const std::string& prefix) {
      return R"(,{"op":"call","inputs":[0],"attributes":{"function":")" + std::to_string(i - 1) + R"(","prefix":")" + prefix +
             "\"}}";
    };
    functions += (i ? "," : "") + std::string(R"({"name":"f","nodes":[)") + input + (i ? call("a") + call("b") : "") +
                 R"(],"outputs":[["y",0]]})";
  }
  refused(text("", functions, ""), "more than 65536 calls");
}
