#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "backends/cpu/host.h"
#include "backends/cpu/object_code.h"
#include "backends/cuda/schedules.h"
#include "base/file.h"
#include "compiler/lowering/lower.h"
#include "gpu_rehearsal.h"
#include "graph/ops.h"
#include "lowered.h"
#include "models/flux.h"
#include "temporary_folder.h"

using namespace sinter;
namespace fs = std::filesystem;

namespace {

struct Fp8Lowered : Lowered {
  explicit Fp8Lowered(const Graph& source, int64_t fp8_width = 64) : Lowered(source, {.vendor = true, .fp8_width = fp8_width}) {}
  size_t fp8_linears() const {
    auto linears = all<LinearStep>();
    return size_t(std::count_if(linears.begin(), linears.end(), [](auto* l) { return l->a_type == DType::f8e4m3; }));
  }
};

/// Layers of weights [n, k] in bf16.
struct TokenNetwork {
  Graph graph;
  Value tokens(int64_t width, const char* name = "x") {
    return graph.input(name, {DType::bf16, {Dim::symbol("fp8_batch"), Dim::symbol("fp8_tokens"), width}});
  }
  Value weight(const char* name, Shape shape) { return graph.weight(name, {DType::bf16, std::move(shape)}); }
  Value layer(Value x, const char* name, int64_t n) { return linear(x, weight(name, {n, x.dim(-1)})); }
};

}  // namespace

TEST_CASE("wide linear layers of tokens multiply in f8e4m3, small ones and those of one vector do not") {
  for (auto [k, n, fp8] : {std::tuple{64, 64, 1}, {64, 48, 0}, {48, 64, 0}, {72, 64, 0}, {64, 72, 0}, {128, 80, 1}}) {
    CAPTURE(k);
    CAPTURE(n);
    TokenNetwork net;
    net.graph.output("y", net.layer(net.tokens(k), "w", n));
    CHECK(Fp8Lowered(net.graph).fp8_linears() == size_t(fp8));
    CHECK(Fp8Lowered(net.graph, 0).fp8_linears() == 0);
  }
  TokenNetwork vector;
  Value x = vector.graph.input("x", {DType::bf16, {Dim::symbol("fp8_batch"), 64}});
  vector.graph.output("y", vector.layer(x, "w", 64));
  CHECK(Fp8Lowered(vector.graph).fp8_linears() == 0);
}

TEST_CASE("an f8e4m3 product reads what was quantised just before, dense, with a factor for each row") {
  TokenNetwork net;
  net.graph.output("y", net.layer(slice(net.tokens(256), 2, 32, 64), "w", 96));
  Fp8Lowered l(net.graph);
  REQUIRE(l.program.steps.size() == 2);
  const auto& quantise = *l.all<QuantiseStep>().at(0);
  const auto& product = *l.all<LinearStep>().at(0);
  Dim rows = Dim::symbol("fp8_batch") * Dim::symbol("fp8_tokens");
  CHECK(quantise.type == DType::bf16);
  CHECK(quantise.k == 64);
  CHECK(quantise.batch * quantise.m == rows);
  CHECK(quantise.x_stride == Dim(256));
  CHECK(quantise.x.offset == Dim(32));
  CHECK(product.a.buffer == quantise.out.buffer);
  CHECK(product.a_scales.buffer == quantise.scales.buffer);
  CHECK(product.a_stride == Dim(64));
  CHECK(product.tail->out_type == DType::bf16);
  const WeightSlot& slot = l.program.weights.at(size_t(product.weight));
  CHECK(slot.form == WeightSlot::e4m3_rows);
  CHECK(l.program.temporaries.at(size_t(quantise.out.buffer.index)).bytes == rows * Dim(64));
  CHECK(l.program.temporaries.at(size_t(quantise.scales.buffer.index)).bytes == rows * Dim(4));
}

TEST_CASE("rows that are no single matrix are quantised batch by batch") {
  TokenNetwork net;
  Dim half = Dim::symbol("fp8_half");
  Value x = net.graph.input("x", {DType::bf16, {Dim::symbol("fp8_batch"), half * 2, 64}});
  net.graph.output("y", net.layer(slice(x, 1, half, half), "w", 64));
  Fp8Lowered l(net.graph);
  const auto& quantise = *l.all<QuantiseStep>().at(0);
  CHECK(quantise.batch == Dim::symbol("fp8_batch"));
  CHECK(quantise.m == half);
  CHECK(quantise.x_batch_stride == half * Dim(128));
  CHECK(l.all<LinearStep>().at(0)->batch == Dim(1));  // the result of quantising is dense
}

TEST_CASE("layers that read the same rows share what was quantised, and other rows are quantised apart") {
  TokenNetwork net;
  Value x = net.tokens(64);
  // Residuals: layers that are followed by a sum are not joined into one.
  Value y = net.layer(x, "a", 64) + x, z = net.layer(x, "b", 64) + y;
  net.graph.output("y", z);
  net.graph.output("w", net.layer(y, "c", 64) + z);
  Fp8Lowered l(net.graph);
  CHECK(l.fp8_linears() == 3);
  CHECK(l.all<QuantiseStep>().size() == 2);
  CHECK(l.all<LinearStep>().at(0)->a.buffer == l.all<LinearStep>().at(1)->a.buffer);
  CHECK(!(l.all<LinearStep>().at(2)->a.buffer == l.all<LinearStep>().at(0)->a.buffer));
}

TEST_CASE("a row kernel that only f8e4m3 products read quantises its result itself") {
  TokenNetwork net;
  Value x = net.tokens(64);
  Value rows = reshape(layer_norm(x, 1e-6) * 3.0, {x.dim(0) * x.dim(1), 1, 64});
  net.graph.output("y", net.layer(rows, "a", 64) + net.graph.input("r", {DType::bf16, {x.dim(0) * x.dim(1), 1, 64}}));
  net.graph.output("z", net.layer(rows, "b", 128));
  Fp8Lowered l(net.graph);
  CHECK(l.fp8_linears() == 2);
  CHECK(l.all<QuantiseStep>().empty());
  REQUIRE(l.all<RowStep>().size() == 1);
  const KernelUse& use = l.all<RowStep>()[0]->use;
  const RowKernel& kernel = l.program.kernels.at(size_t(use.kernel));
  size_t count = use.operands.size();
  CHECK(kernel.operands[count - 2].dtype == DType::f8e4m3);
  CHECK(kernel.operands[count - 1].dtype == DType::f32);
  CHECK(kernel.operands[count - 1].column == ColumnAccess::broadcast);
  CHECK(use.operands[count - 1].strides == std::vector<Dim>{1});
  for (const LinearStep* product : l.all<LinearStep>()) {
    CHECK(product->a.buffer == use.operands[count - 2].buffer);
    CHECK(product->a_scales.buffer == use.operands[count - 1].buffer);
  }
}

TEST_CASE("rows that a kernel quantises are its result to within half a step of f8e4m3, in its GPU form") {
  constexpr int64_t kRows = 5, kColumns = 96;
  TokenNetwork net;
  Value x = net.tokens(kColumns);
  net.graph.output("y", net.layer(x * 3.0 + 1.0, "w", 64));
  Fp8Lowered l(net.graph);
  const KernelUse& use = l.all<RowStep>().at(0)->use;
  const RowKernel& kernel = l.program.kernels.at(size_t(use.kernel));
  REQUIRE(kernel.operands.size() == 3);
  REQUIRE(use.outer.size() == 1);

  std::vector<float> values(kRows * kColumns);
  std::mt19937 random(3);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::normal_distribution<float>(0, float(i / kColumns * 100))(random);
  Tensor in = Tensor::of({kRows, kColumns}, values).to(DType::bf16);
  Tensor rows(DType::f8e4m3, {kRows, kColumns}), scales(DType::f32, {kRows});
  std::vector<int64_t> params(size_t(kernel.param_count()));
  params[0] = kColumns, params[1] = kRows;
  params[size_t(kernel.operand_params(0))] = params[size_t(kernel.operand_params(1))] = kColumns;
  params[size_t(kernel.operand_params(2))] = 1;
  GpuSchedule schedule = choose_schedule(kernel, facts_of(kernel, params));
  CHECK(schedule.holds_row());
  ObjectCode code(code_generator().gpu_rehearsal(std::vector<NamedGpuKernel>{{"kernel", kernel, schedule}}, host_target()));
  GpuLaunch launch = launch_of(kernel, schedule, params);
  std::vector<uint64_t> addresses;
  for (Tensor* t : {&in, &rows, &scales}) addresses.push_back(reinterpret_cast<uintptr_t>(t->data()));
  set_addresses(launch, kernel, schedule, addresses);
  RehearsedGpu().run(code.function<GpuRehearsalFunction>("kernel"), launch);

  std::vector<float> wide(values.size());
  convert(in.data(), DType::bf16, wide.data(), DType::f32, in.count());
  Tensor stored = rows.to(DType::f32);
  for (int64_t r = 0; r < kRows; ++r) {
    float largest = 0, scale = scales.f32()[size_t(r)];
    for (int64_t c = 0; c < kColumns; ++c) largest = std::max(largest, std::fabs(wide[size_t(r * kColumns + c)] * 3 + 1));
    CHECK(scale == doctest::Approx(largest / 448));
    for (int64_t c = 0; c < kColumns; ++c) {
      float expected = wide[size_t(r * kColumns + c)] * 3 + 1, seen = stored.f32()[size_t(r * kColumns + c)] * scale;
      // Half of the last of three fraction bits, or of the smallest step there is.
      CHECK(std::fabs(seen - expected) <= std::max(std::fabs(expected) * 0x1.01p-4f, scale * 0x1.01p-10f));
    }
  }
}

TEST_CASE("modulated rows of FLUX's width are quantised in registers, in whole lines, on every card with fp8 units") {
  fs::path ptxas = "/usr/local/cuda/bin/ptxas";
  if (!fs::exists(ptxas)) MESSAGE("skipped: " << ptxas << " not found (spills are not looked for)");
  TokenNetwork net;
  Value x = net.tokens(3072), scale = net.graph.input("scale", {DType::bf16, {x.dim(0), 1, 3072}}),
        shift = net.graph.input("shift", {DType::bf16, {x.dim(0), 1, 3072}});
  net.graph.output("y", net.layer((scale + 1.0) * layer_norm(x, 1e-6) + shift, "w", 9216));
  Fp8Lowered l(net.graph, kFp8Width);
  REQUIRE(l.all<RowStep>().size() == 1);
  CHECK(l.all<QuantiseStep>().empty());
  cuda::schedule_kernels(l.program);
  REQUIRE(l.program.variants.size() == 1);
  const KernelVariant& variant = l.program.variants[0];
  CAPTURE(variant.schedule.text());
  CHECK(variant.schedule.holds_row());
  std::vector<NamedGpuKernel> kernels{{"kernel", l.program.kernels[size_t(variant.kernel)], variant.schedule}};
  for (int capability : {89, 90}) {
    CAPTURE(capability);
    std::string ptx = code_generator().gpu_row_kernels(kernels, gpu_target(capability));
    CHECK(ptx.find("st.global.v2") != ptx.npos);  // eight elements of a byte
    CHECK(ptx.find("st.global.u8") == ptx.npos);
    CHECK(ptx.find(".local") == ptx.npos);
    if (!fs::exists(ptxas)) continue;
    TemporaryFolder folder;
    write_atomically(folder / "k.ptx", ptx);
    std::string command = fmt::format("'{}' -v -arch=sm_{} '{}' -o '{}' > '{}' 2>&1", ptxas.string(), capability,
                                      (folder / "k.ptx").string(), (folder / "k.cubin").string(), (folder / "log").string());
    CHECK(std::system(command.c_str()) == 0);
    std::string log = read_file(folder / "log");
    CHECK_MESSAGE(log.find("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") != log.npos, log);
  }
}

TEST_CASE("a result that something else reads too stays in bf16 and is quantised apart") {
  for (int other : {0, 1, 2}) {
    CAPTURE(other);
    TokenNetwork net;
    Value x = net.tokens(64), rows = silu(x) * 3.0;
    Value y = net.layer(rows, "a", 64);
    net.graph.output("y", other == 0 ? y + rows : y);
    if (other == 1) net.graph.output("z", rows);
    if (other == 2) net.graph.output("z", net.layer(rows, "b", 48) + net.tokens(48, "r"));
    Fp8Lowered l(net.graph);
    CHECK(l.fp8_linears() == 1);
    CHECK(l.all<QuantiseStep>().size() == 1);
  }
}

TEST_CASE("programs of FLUX blocks with f8e4m3 products read back to the same bytes") {
  Graph whole;
  FluxConfig c;
  c.width = 128, c.in_channels = c.out_channels = 4, c.head_size = 32, c.mlp = 256, c.context_width = 64, c.vector_width = 32;
  c.double_blocks = c.single_blocks = 1, c.axes = {4, 14, 14};
  auto size = [](const char* name) { return Dim::symbol(name); };
  build_flux(whole, c, {size("batch"), size("height"), size("width"), size("text")}, {.compute = DType::bf16, .storage = {}});
  size_t fp8 = 0, quantised = 0;
  for (Value v : topological_order(whole)) {
    if (v->op != &call_op) continue;
    Fp8Lowered l(v->attrs.as<CallAttrs>().function->graph);
    auto bytes = to_bytes(l.program, l.graph);
    CHECK(to_bytes(program_from_bytes(bytes, l.graph), l.graph) == bytes);
    fp8 += l.fp8_linears();
    quantised += l.all<QuantiseStep>().size();
  }
  // qkv, proj and two of the MLP for each of two streams; linear1 in two parts, linear2.
  CHECK(fp8 == 8 + 3);
  // Attention and GELU are calls; modulated rows come quantised from their kernels.
  CHECK(quantised == 2 * 2 + 1);
}

TEST_CASE("a program with an f8e4m3 product of other weights, or of none, is corrupt") {
  TokenNetwork net;
  net.graph.output("y", net.layer(net.tokens(64), "w", 64));
  Fp8Lowered l(net.graph);
  auto refused = [&](auto change) {
    Program p = l.program;
    change(p);
    CHECK_THROWS_AS(validate(p, l.graph), Error);
  };
  refused([](Program& p) { p.weights[0].form = WeightSlot::rows; });
  refused([](Program& p) { std::get<LinearStep>(p.steps[1]).a_scales.buffer.index = 99; });
  refused([](Program& p) { std::get<LinearStep>(p.steps[1]).tail.reset(); });
  refused([](Program& p) { std::get<QuantiseStep>(p.steps[0]).out.buffer = {BufferRef::parameter, 0}; });
  refused([](Program& p) { std::get<QuantiseStep>(p.steps[0]).k = 0; });
}
