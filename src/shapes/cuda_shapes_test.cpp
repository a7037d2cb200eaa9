// The search on a GPU against the CPU's. The emulated cases run the very kernels on the host.
#define SINTER_DEVICE_EMULATION
#include <doctest/doctest.h>

#include <sys/wait.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <memory>
#include <vector>

#include "backends/cuda/test_device.h"
#include "base/error.h"
#include "base/file.h"
#include "shapes/gpu_search.h"
#include "shapes/run.h"
#include "shapes/shape_search.device.cpp"
#include "shapes/test_tools.h"
#include "temporary_folder.h"

namespace sinter::shapes {
namespace {

class EmulatedMachine final : public SearchMachine {
 public:
  explicit EmulatedMachine(int warps) : warps_(warps) {}
  void launch(std::string_view kernel, const cuda::LaunchShape& shape, std::span<void* const> arguments) override {
    device::emulated_launch(kernel, shape, arguments);
  }
  int multiprocessors() const override { return 3; }
  cuda::DevicePtr allocate(int64_t bytes) override {
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, size_t(bytes))) throw std::bad_alloc();
    std::memset(memory, 0xa5, size_t(bytes));  // what nobody wrote shows
    memory_.emplace_back(memory, &std::free);
    return cuda::DevicePtr(uintptr_t(memory));
  }
  void* allocate_on_host(int64_t bytes) override {
    void* memory = pointer(allocate(bytes));
    std::memset(memory, 0, size_t(bytes));
    return memory;
  }
  void upload(cuda::DevicePtr to, const void* from, int64_t bytes) override { std::memcpy(pointer(to), from, size_t(bytes)); }
  int climbing_warps() override { return warps_; }
  void repeat(const std::function<void()>& launches) override { launches(); }
  void wait() override {}

 private:
  static void* pointer(cuda::DevicePtr address) { return reinterpret_cast<void*>(uintptr_t(address)); }
  int warps_;
  std::vector<std::unique_ptr<void, void (*)(void*)>> memory_;
};

Result emulated(int warps, const Image& picture, const Options& options, const Result* start = nullptr) {
  auto make = [&](const Canvas& canvas, uint32_t number, const RecentSizes& sizes) {
    return std::make_unique<GpuSearcher>(std::make_unique<EmulatedMachine>(warps), canvas, options, number, sizes);
  };
  return run_with(make, picture, options, start);
}

Options small(KindSet kinds, int64_t shapes = 3) {
  Options o;
  o.shapes = shapes;
  o.climbers = 6, o.candidates = 20, o.mutations = 10;
  o.compute_size = 64;
  o.kinds = kinds;
  o.seed = 4;
  return o;
}

void check_equal(const Result& seen, const Result& expected) {
  CHECK(seen.steps == expected.steps);
  CHECK(seen.candidates == expected.candidates);
  CHECK(seen.stop == expected.stop);
}

}  // namespace

TEST_CASE("the GPU's kernels, emulated, find every kind of shape that the CPU finds") {
  Image picture = test_image(48, 33);
  for (int kind = 0; kind < kKinds; ++kind) {
    CAPTURE(kind_name(Kind(kind)));
    Options options = small(kind_bit(Kind(kind)), 2);
    check_equal(emulated(3, picture, options), run(picture, options));
  }
}

TEST_CASE("emulated warps of any number find the same, and a result is resumed") {
  Image picture = test_image(64, 50);
  Options options = small(kMixedKinds, 4);
  const Result whole = run(picture, options);
  for (int warps : {1, 4, 7}) check_equal(emulated(warps, picture, options), whole);
  options.shapes = 2;
  const Result part = run(picture, options);
  check_equal(emulated(4, picture, options, &part), whole);
  options.anneal = true;
  for (int climbers : {1, 6}) {
    options.climbers = climbers;
    check_equal(emulated(3, picture, options), run(picture, options));
  }
}

TEST_CASE("an emulated search ends where nothing helps, and on pictures of a row, a column and a pixel") {
  Options options = small(kAllKinds);
  Pixels even{30, 20, std::vector<uint8_t>(30 * 20 * 3, 99)};
  Result nothing = emulated(2, image_of(even), options);
  CHECK(nothing.stop == Stop::no_improvement);
  CHECK(nothing.steps.empty());
  check_equal(nothing, run(image_of(even), options));
  options.fill_auto = false;
  options.fill = {10, 20, 200};
  for (auto [width, height] : {std::pair{1, 1}, {1, 50}, {50, 1}}) {
    Image picture = test_image(width, height);
    check_equal(emulated(2, picture, options), run(picture, options));
  }
}

TEST_CASE("a device that does nothing is no endless wait") {
  class Idle : public SearchMachine {
   public:
    void launch(std::string_view, const cuda::LaunchShape&, std::span<void* const>) override {}
    int multiprocessors() const override { return 1; }
    cuda::DevicePtr allocate(int64_t bytes) override { return cuda::DevicePtr(uintptr_t(allocate_on_host(bytes))); }
    void* allocate_on_host(int64_t bytes) override { return held_.emplace_back(size_t(bytes / 8 + 1)).data(); }
    void upload(cuda::DevicePtr, const void*, int64_t) override {}
    int climbing_warps() override { return 1; }
    void repeat(const std::function<void()>& launches) override { launches(); }
    void wait() override {}

   private:
    std::deque<std::vector<int64_t>> held_;
  };
  auto make = [&](const Canvas& canvas, uint32_t number, const RecentSizes& sizes) {
    return std::make_unique<GpuSearcher>(std::make_unique<Idle>(), canvas, small(kAllKinds), number, sizes);
  };
  CHECK_THROWS_WITH_AS(run_with(make, test_image(), small(kAllKinds)),
                       "the search on the GPU stands still after 0 shapes; give --device cpu", Error);
}

TEST_CASE("the kernels assemble for the devices that they may run on, without spilling, and fill a multiprocessor") {
  CHECK(cuda::shape_search_ptx.find(".target sm_80\n") != std::string_view::npos);
  CHECK(cuda::shape_search_ptx.find(".extern .func") == std::string_view::npos);
  const std::string ptxas = "/usr/local/cuda/bin/ptxas";
  if (!std::filesystem::exists(ptxas)) {
    MESSAGE("skipped: ptxas not found");
    return;
  }
  TemporaryFolder folder;
  write_atomically(folder / "in.ptx", cuda::shape_search_ptx);
  for (const char* target : {"sm_80", "sm_89", "sm_90"}) {
    CAPTURE(target);
    const std::string command = fmt::format("{} -arch {} -v -o {} {} > {} 2>&1", ptxas, target, (folder / "out.cubin").string(),
                                            (folder / "in.ptx").string(), (folder / "log.txt").string());
    const int status = std::system(command.c_str());
    const std::string log = read_file(folder / "log.txt");
    REQUIRE_MESSAGE((WIFEXITED(status) && WEXITSTATUS(status) == 0), log);
    for (size_t at = log.find("bytes spill stores"); at != log.npos; at = log.find("bytes spill stores", at + 1))
      CHECK_MESSAGE(log.substr(at - 2, 2) == "0 ", log);
    for (size_t at = log.find("Used "); at != log.npos; at = log.find("Used ", at + 1))
      CHECK(std::stoi(log.substr(at + 5)) <= 65536 / (kDrawWarps * 32));
    // Shapes and sums stay in registers, but for random_shape_of(); and 16 warps climb together.
    auto after = [&](const char* kernel, const char* words) {
      const size_t entry = log.find(fmt::format("Compiling entry function 'shape_search__{}'", kernel));
      REQUIRE(entry != log.npos);
      return log.find(words, entry);
    };
    for (const char* kernel : {"measure", "draw", "count", "rebuild"})
      CHECK_MESSAGE(log.substr(after(kernel, " bytes stack frame") - 2, 2) == " 0", kernel);
    CHECK(std::stoi(log.substr(after("round", "Used ") + 5)) <= 65536 / (16 * 32));
  }
}

TEST_CASE("square roots by single precision are those of double precision") {
  int64_t wrong = 0;
  auto check_one = [&](int64_t n) { wrong += n > 0 && square_root_by_float(n) != square_root(n); };
  for (int64_t n = 0; n < 1 << 20; ++n) check_one(n);
  for (uint32_t i = 0; i < 1 << 20; ++i) {
    Random random(3, 0, 0, i);
    const int64_t root = int64_t(random.next()) >> (1 + random.below(31));
    for (int64_t near : {root * root - 1, root * root, root * root + 1, root * root + root}) check_one(near);
  }
  CHECK(wrong == 0);
}

TEST_CASE("quotients by size are those of 64 bits") {
  int64_t wrong = 0;
  for (uint32_t i = 0; i < 1 << 18; ++i) {
    Random random(5, 0, 0, i);
    const auto number = [&] { return int64_t(uint64_t(random.next()) << 32 | random.next()) >> (2 + random.below(61)); };
    const int64_t a = number(), b = number();
    const int64_t divisor = b < 0 ? -(b + 1) : b;
    if (divisor <= 0) continue;
    const int64_t quotient = detail::floor_div_by_size(a, divisor), rest = a - quotient * divisor;
    wrong += quotient != floor_div(a, divisor) || rest < 0 || rest >= divisor;
  }
  for (int64_t a : {INT64_C(-2147483648), INT64_C(-2147483649), INT64_C(2147483647), INT64_C(2147483648)})
    for (int64_t b : {INT64_C(1), INT64_C(2), INT64_C(2147483647), INT64_C(2147483648)})
      wrong += detail::floor_div_by_size(a, b) != floor_div(a, b);
  CHECK(wrong == 0);
}

TEST_CASE("the GPU finds the shapes of the CPU, whatever is asked for") {
  if (!cuda::test_device()) return;
  auto gpu = open_gpu(0);
  auto compare = [&](const Image& picture, Options options) {
    const Result expected = run(picture, options);
    options.gpu = gpu;
    check_equal(run(picture, options), expected);
  };
  for (int kind = 0; kind < kKinds; ++kind) {
    CAPTURE(kind_name(Kind(kind)));
    Options options = small(kind_bit(Kind(kind)), 40);
    options.compute_size = 128;
    compare(test_image(160, 120), options);
  }
  Options options;
  options.shapes = 100;
  compare(test_image(256, 200), options);
  options.anneal = true;
  compare(test_image(256, 200), options);
  options.kinds = kAllKinds;
  options.alpha = parse_style("crispy");
  options.seed = uint64_t(1) << 40;
  options.compute_size = 1024;
  options.shapes = 20;
  compare(test_image(1024, 700), options);
  options = small(kAllKinds, 5);
  options.compute_size = 2048;
  compare(test_image(2048, 300), options);
  options = small(kMixedKinds, 10);
  options.climbers = 4096, options.candidates = 1, options.mutations = 1;
  compare(test_image(), options);
  options = small(kMixedKinds, 10);
  options.climbers = 1, options.candidates = 5000, options.mutations = 3000;
  compare(test_image(), options);
  for (auto [width, height] : {std::pair{1, 1}, {1, 50}, {700, 3}}) compare(test_image(width, height), small(kAllKinds));
}

TEST_CASE("a search on the GPU stops early, is resumed, and ends where nothing helps") {
  if (!cuda::test_device()) return;
  Options options = small(kMixedKinds, 60);
  options.gpu = open_gpu(0);
  Image picture = test_image();
  const Result whole = run(picture, options);
  CHECK(whole.steps.size() == 60);
  const Result told = run(picture, options, nullptr, [](const Progress& p) { return p.done < 7; });
  CHECK(told.stop == Stop::cancelled);
  CHECK(told.steps.size() == 7);
  options.shapes = 53;
  CHECK(run(picture, options, &told).steps == whole.steps);
  options.target_error = score(whole.steps[19].error, whole.width, whole.height) + 1e-12;
  CHECK(run(picture, options).steps.size() == 20);
  options.target_error = 0;
  Pixels even{30, 20, std::vector<uint8_t>(30 * 20 * 3, 99)};
  CHECK(run(image_of(even), options).stop == Stop::no_improvement);
}

}  // namespace sinter::shapes
