#include "compiler/lowering/program.h"

#include <doctest/doctest.h>

#include "compiler/lowering/lower.h"
#include "random_network.h"

using namespace sinter;

namespace {

struct Lowered {
  Graph source, graph;
  Program program;
  explicit Lowered(uint32_t seed, bool fuse = true) {
    RandomNetwork(seed).fill(source, 10);
    legalise(source, graph, {fuse, false});
    program = lower(graph, {fuse, false});
    program.code = {std::byte{1}, std::byte{2}, std::byte{3}};
  }
};

/// Reads it; true if that worked, false for Code::Corrupt. Anything else fails the test.
bool reads(std::span<const std::byte> bytes, const Graph& graph) {
  try {
    program_from_bytes(bytes, graph);
    return true;
  } catch (const Error& e) {
    CHECK_MESSAGE(e.code() == Code::Corrupt, e.message());
    return false;
  }
}

}  // namespace

TEST_CASE("programs of random networks read back to the same bytes") {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    Lowered l(seed, seed % 2);
    auto bytes = to_bytes(l.program, l.graph);
    CHECK(to_bytes(program_from_bytes(bytes, l.graph), l.graph) == bytes);
  }
}

TEST_CASE("a program that ends too early, or goes on too long, is corrupt") {
  Lowered l(3);
  auto bytes = to_bytes(l.program, l.graph);
  for (size_t size = 0; size < bytes.size(); size += 1 + bytes.size() / 300)
    CHECK_FALSE(reads(std::span(bytes).first(size), l.graph));
  bytes.push_back({});
  CHECK_FALSE(reads(bytes, l.graph));
}

TEST_CASE("a program with wrong bytes is corrupt or still a program, never a crash") {
  std::mt19937 random(1);
  int refused = 0;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    Lowered l(seed, seed % 2);
    auto bytes = to_bytes(l.program, l.graph);
    for (int i = 0; i < 300; ++i) {
      auto damaged = bytes;
      damaged[random() % damaged.size()] = std::byte(random() % 3 ? random() : 0xff);
      refused += !reads(damaged, l.graph);
    }
  }
  CHECK(refused > 1000);
}

TEST_CASE("numbers that refer to nothing are corrupt") {
  Lowered l(3);
  auto refused = [&](auto change) {
    Program p = l.program;
    change(p);
    CHECK_FALSE(reads(to_bytes(p, l.graph), l.graph));
  };
  REQUIRE(!l.program.temporaries.empty());
  REQUIRE(!l.program.kernels.empty());
  refused([](Program& p) { p.temporaries.pop_back(); });
  refused([](Program& p) { p.kernels.pop_back(); });
  refused([](Program& p) { p.temporaries[0].last_step = 1 << 20; });
  refused([](Program& p) { p.kernels[0].body[0].kind = KernelStep::Kind(77); });
  refused([](Program& p) { p.kernels[0].operands[0].dtype = DType(99); });
  refused([](Program& p) { p.weights.push_back({{1000}, WeightSlot::plain, PanelType::f32, 1}); });
  refused([](Program& p) { p.steps.push_back(CallStep{1000, {}, {}}); });
}

TEST_CASE("a step that would write an input, a weight or a constant is corrupt") {
  int tried = 0;
  for (uint32_t seed = 0; seed < 40; ++seed) {
    Lowered l(seed, false);
    for (size_t i = 0; i < l.program.steps.size(); ++i) {
      Program p = l.program;
      BufferRef* out = nullptr;
      std::visit(
          [&](auto& step) {
            if constexpr (requires { step.out.at; }) {
              out = &step.out.at.buffer;
            } else if constexpr (requires { step.epilogue; }) {
              if (!step.epilogue) out = &step.out.buffer;
            } else if constexpr (requires { step.out; }) {
              out = &step.out.buffer;
            }
          },
          p.steps[i]);
      if (!out) continue;
      *out = {BufferRef::parameter, 0};
      CHECK_FALSE(reads(to_bytes(p, l.graph), l.graph));
      ++tried;
    }
  }
  CHECK(tried > 20);
}

TEST_CASE("paddings of a convolution that cannot be counted are corrupt") {
  int tried = 0;
  for (uint32_t seed = 0; seed < 40; ++seed) {
    Lowered l(seed);
    for (Step& step : l.program.steps)
      if (auto* conv = std::get_if<ConvStep>(&step))
        for (int64_t wrong : {INT64_MAX, INT64_MIN, int64_t(-1)}) {
          int64_t right = std::exchange(conv->top, wrong);
          CHECK_FALSE(reads(to_bytes(l.program, l.graph), l.graph));
          conv->top = right;
          ++tried;
        }
  }
  CHECK(tried > 0);
}

TEST_CASE("a constant with bytes left over is corrupt") {
  Graph graph;
  graph.output("y", graph.input("x", {DType::f32, {16}}));
  std::vector<std::byte> bytes = to_bytes(Program{.constants = {Tensor(DType::f32, {16})}}, graph);
  REQUIRE(reads(bytes, graph));
  // No steps, no weights; one constant of type f32, with one axis of 16, and then the number of its bytes.
  size_t size_at = 8 + 8 + 8 + 1 + 8 + 8;
  REQUIRE(bytes[size_at] == std::byte(64));
  bytes[size_at] = std::byte(67);
  bytes.insert(bytes.begin() + ptrdiff_t(size_at) + 8, 3, std::byte(0));
  CHECK_FALSE(reads(bytes, graph));
}

TEST_CASE("a program serves a graph of equal structure whose symbols have other names, in any order of their making") {
  auto fill = [](Graph& graph, const std::string& h_name, const std::string& w_name) {
    Dim h = Dim::symbol(h_name), w = Dim::symbol(w_name);
    Value x = graph.input("x", {DType::f32, {h * 2 + w * w, 3}});
    graph.output("y", reshape(silu(x), {3, h * 2 + w * w}));
  };
  Dim::symbol("program_a"), Dim::symbol("program_b"), Dim::symbol("program_d"), Dim::symbol("program_c");
  Graph one, other;
  fill(one, "program_a", "program_b");
  fill(other, "program_c", "program_d");
  REQUIRE(structure_digest(one) == structure_digest(other));
  auto bytes = to_bytes(lower(one, {}), one);
  CHECK(to_bytes(program_from_bytes(bytes, other), other) == to_bytes(lower(other, {}), other));
}

TEST_CASE("a symbol that no input mentions can be written and read") {
  Graph graph;
  Dim rows = Dim::symbol("program_rows");
  Value x = graph.input("x", {DType::f32, {4}});
  graph.output("y", broadcast(x, {rows, 4}) + iota(graph, {rows, 4}, 0, DType::f32));
  auto bytes = to_bytes(lower(graph, {}), graph);
  CHECK(to_bytes(program_from_bytes(bytes, graph), graph) == bytes);
}
