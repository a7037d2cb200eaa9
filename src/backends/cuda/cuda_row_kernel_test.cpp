// Generated row kernels on a GPU. What a CPU that plays a GPU can show is in compiler/kernel/gpu_row_kernel_test.cpp; here are
// the last step to PTX, the functions of the hardware, and conversions.
#include <cmath>
#include <cstring>

#include "backends/cuda/test_device.h"
#include "gpu_cases.h"

namespace sinter::cuda {
namespace {

using namespace row_kernel_cases;
using namespace row_kernel_examples;

struct Compiled {
  Module module;
  Function function;
};

Compiled compile(TestDevice& device, const RowKernel& kernel, const GpuSchedule& schedule) {
  std::vector<NamedGpuKernel> kernels{{"kernel", kernel, schedule}};
  std::string ptx = code_generator().gpu_row_kernels(kernels, gpu_target(device.context.device().capability()));
  Module module(device.context, compile_ptx(device.context, ptx, "row kernel"), "row kernel");
  Function function = module.function("kernel");
  return {std::move(module), function};
}

void launch(TestDevice& device, const Function& function, const GpuLaunch& launch) {
  if (launch.blocks == 0) return;
  void* arguments[] = {const_cast<int64_t*>(launch.arguments.data())};
  LaunchShape shape;
  shape.grid.x = uint32_t(launch.blocks);
  shape.block.x = uint32_t(launch.threads);
  function.launch(shape, device.stream, arguments);
}

/// An operand's bytes on the device, between bytes that must stay as they are.
class Surrounded {
 public:
  Surrounded(TestDevice& device, const std::vector<char>& bytes, size_t shift) : before_(256 + shift), count_(bytes.size()) {
    std::vector<char> all(before_ + count_ + 256, kAround);
    std::copy(bytes.begin(), bytes.end(), all.begin() + ptrdiff_t(before_));
    memory_ = device.upload(all);
  }
  uint64_t address() const { return memory_.address() + before_; }
  std::vector<char> download(TestDevice& device) const {
    auto all = device.download<char>(memory_.address(), size_t(memory_.bytes()));
    auto untouched = [](char c) { return c == kAround; };
    CHECK(std::all_of(all.begin(), all.begin() + ptrdiff_t(before_), untouched));
    CHECK(std::all_of(all.begin() + ptrdiff_t(before_ + count_), all.end(), untouched));
    return {all.begin() + ptrdiff_t(before_), all.begin() + ptrdiff_t(before_ + count_)};
  }

 private:
  static constexpr char kAround = 0x5b;
  size_t before_, count_;
  DeviceMemory memory_;
};

/// Does to the case's memory what the device does. `choose` gives the schedule for the addresses; elements lie at addresses that
/// are as odd as `shift` says, in elements.
template <class Choose>
void run_case(TestDevice& device, Case& c, size_t shift, Choose&& choose) {
  std::vector<Surrounded> operands;
  std::vector<uint64_t> addresses;
  for (size_t i = 0; i < c.memory.size(); ++i) {
    // Element 0, not the first byte, is what is aligned.
    auto size = size_t(byte_size(c.kernel.operands[i].dtype)), zero = size_t(c.memory[i].zero);
    operands.emplace_back(device, c.memory[i].bytes, (256 - zero % 256) % 256 + shift * size);
  }
  for (size_t i = 0; i < c.memory.size(); ++i) {
    size_t home = c.shares[i] >= 0 ? size_t(c.shares[i]) : i;
    addresses.push_back(operands[home].address() + uint64_t(c.memory[home].zero));
  }
  GpuSchedule schedule = choose(addresses);
  GpuLaunch how = launch_of(c.kernel, schedule, c.params);
  set_addresses(how, c.kernel, schedule, addresses);
  Compiled compiled = compile(device, c.kernel, schedule);
  launch(device, compiled.function, how);
  device.stream.synchronize();
  for (size_t i = 0; i < c.memory.size(); ++i) c.memory[i].bytes = operands[i].download(device);
}

TEST_CASE("row kernels on a GPU do what the reference does") {
  TestDevice* device = test_device();
  if (!device) return;
  for (uint64_t i = 0; i < 300; ++i) {
    Random random(seed() + i);
    Case c = whole_case(random);
    GpuSchedule schedule;
    std::string wrong = difference(c, [&](Case& now) {
      run_case(*device, now, i % 3 == 0 ? i % 5 : 0,
               [&](const std::vector<uint64_t>& addresses) { return schedule = any_schedule(random, now, addresses); });
    });
    CHECK_MESSAGE(wrong.empty(), report(c, schedule, seed() + i, wrong));
  }
}

TEST_CASE("the main kernels on a GPU do what the reference does") {
  TestDevice* device = test_device();
  if (!device) return;
  for (DType type : {DType::bf16, DType::f16, DType::f32})
    for (const Example& e : small_main_kernels(type)) {
      Random random(seed());
      Case c = example_case(random, e);
      std::string wrong = difference(
          c, [&](Case& now) { run_case(*device, now, 0, [&](const std::vector<uint64_t>&) { return schedule_of(e); }); });
      CHECK_MESSAGE(wrong.empty(), e.name, "\n", report(c, schedule_of(e), seed(), wrong));
    }
}

/// One row of dense operands, the last one written; its bytes.
std::vector<char> run_row(TestDevice& device, const RowKernel& k, const std::vector<std::vector<char>>& inputs, int64_t columns) {
  std::vector<DeviceMemory> memory;
  for (const auto& input : inputs) memory.push_back(device.upload(input));
  size_t out_bytes = size_t(columns * byte_size(k.operands.back().dtype));
  memory.push_back(device.upload(std::vector<char>(out_bytes, 0x5b)));
  std::vector<uint64_t> addresses;
  for (const DeviceMemory& m : memory) addresses.push_back(m.address());
  std::vector<int64_t> params(size_t(k.param_count()), 0);
  params[0] = columns;
  params[1] = 1;
  GpuSchedule schedule = choose_schedule(k, facts_of(k, params));
  GpuLaunch how = launch_of(k, schedule, params);
  set_addresses(how, k, schedule, addresses);
  Compiled compiled = compile(device, k, schedule);
  launch(device, compiled.function, how);
  return device.download<char>(memory.back().address(), out_bytes);
}

template <class T>
std::vector<char> bytes_of(const std::vector<T>& values) {
  const char* data = reinterpret_cast<const char*>(values.data());
  return {data, data + values.size() * sizeof(T)};
}
std::vector<float> floats_of(const std::vector<char>& bytes) {
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

TEST_CASE("the functions of one argument are as accurate on a GPU as they promise, give or take two units") {
  TestDevice* device = test_device();
  if (!device) return;
  constexpr int64_t kCount = 300'000;
  for (const Accuracy& a : kAccuracies) {
    std::vector<float> x = arguments_of(a, kCount);
    std::vector<float> y = floats_of(run_row(*device, elementwise(a.prim), {bytes_of(x)}, kCount));
    double worst = 0;
    float where = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      double apart = units_apart(y[i], evaluate(a.prim, x[i], 0, 0));
      if (apart > worst) worst = apart, where = x[i];
    }
    INFO(name(a.prim), " on ", a.low, " .. ", a.high, ": ", worst, " units at ", where);
    CHECK(worst <= a.units + (a.units > 0 ? 2 : 0));
    if (std::getenv("SINTER_TEST_VERBOSE"))
      MESSAGE(name(a.prim), " on ", a.low, " .. ", a.high, ": ", worst, " units at ", where);
  }
}

TEST_CASE("infinities, zeros, subnormals and NaN go through every primitive on a GPU as through C's functions") {
  TestDevice* device = test_device();
  if (!device) return;
  std::vector<float> in[3];
  special_arguments(in);
  for (int p = 0; p <= int(Prim::floor); ++p) {
    if (Prim(p) == Prim::power) continue;  // tested where it can be compared with pow
    std::vector<std::vector<char>> inputs;
    for (int i = 0; i < arity(Prim(p)); ++i) inputs.push_back(bytes_of(in[i]));
    std::vector<float> y = floats_of(run_row(*device, elementwise(Prim(p)), inputs, int64_t(in[0].size())));
    bool trigonometric = Prim(p) == Prim::sin || Prim(p) == Prim::cos;
    for (size_t i = 0; i < y.size(); ++i) {
      float a = in[0][i], b = in[1][i], c = in[2][i];
      if (trigonometric && std::fabs(a) > 1e15f && std::isfinite(a)) {
        CHECK(std::fabs(y[i]) <= 1);
        continue;
      }
      double expected = evaluate(Prim(p), a, b, c);
      CHECK_MESSAGE(units_apart(y[i], expected) <= 4, name(Prim(p)), "(", a, ", ", b, ", ", c, ") gave ", y[i], ", not ",
                    expected);
    }
  }
}

TEST_CASE("every element type is loaded and stored on a GPU with the values that convert gives") {
  TestDevice* device = test_device();
  if (!device) return;
  std::vector<float> values = conversion_values();
  while (values.size() % 8 != 0) values.push_back(1);
  for (size_t odd : {size_t(0), size_t(3)}) {  // in pairs and wide accesses; one by one
    std::vector<float> x(values.begin() + ptrdiff_t(odd), values.end());
    auto count = int64_t(x.size());
    for (int t = 0; t <= int(DType::boolean); ++t) {
      auto type = DType(t);
      CAPTURE(name(type));
      std::vector<char> expected(size_t(byte_size(type) * count));
      convert(x.data(), DType::f32, expected.data(), type, count);
      std::vector<char> found = run_row(*device, conversion(DType::f32, type), {bytes_of(x)}, count);
      std::vector<float> exact(x.size());
      convert(expected.data(), type, exact.data(), DType::f32, count);
      std::vector<float> back = floats_of(run_row(*device, conversion(type, DType::f32), {expected}, count));
      int64_t size = byte_size(type), wrong = 0;
      for (size_t i = 0; i < x.size() && wrong < 3; ++i) {
        double f, e;
        convert(found.data() + int64_t(i) * size, type, &f, DType::f64, 1);
        convert(expected.data() + int64_t(i) * size, type, &e, DType::f64, 1);
        bool stored = std::memcmp(found.data() + int64_t(i) * size, expected.data() + int64_t(i) * size, size_t(size)) == 0 ||
                      (std::isnan(f) && std::isnan(e));
        bool loaded = back[i] == exact[i] || (std::isnan(back[i]) && std::isnan(exact[i]));
        wrong += !stored || !loaded;
        CHECK_MESSAGE(stored, x[i], " is stored as ", f, ", not ", e);
        CHECK_MESSAGE(loaded, exact[i], " is loaded as ", back[i]);
      }
    }
  }
}

TEST_CASE("the error of a sum on a GPU does not grow with the length of the row") {
  TestDevice* device = test_device();
  if (!device) return;
  RowKernel k;
  k.operands = {{}, {.column = ColumnAccess::broadcast, .written = true}};
  k.body = {load(0), sum(0), store(1, 1)};
  std::vector<float> x(3'000'001, 0.1f);
  float total = floats_of(run_row(*device, k, {bytes_of(x)}, int64_t(x.size())))[0];
  CHECK(std::fabs(total / (double(0.1f) * double(x.size())) - 1) < 1e-6);
}

}  // namespace
}  // namespace sinter::cuda
