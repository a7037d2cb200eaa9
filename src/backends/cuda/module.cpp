// The part of driver.h that deals with code: modules, functions, captured graphs.
#include <algorithm>
#include <cctype>
#include <cstring>
#include <utility>

#include "backends/cuda/driver.h"
#include "backends/cuda/driver_api.h"
#include "base/spans.h"

namespace sinter::cuda {
namespace {

/// CUjit_option and CUjitInputType.
enum JitOption : int { kInfoLog = 3, kInfoLogBytes = 4, kErrorLog = 5, kErrorLogBytes = 6 };
constexpr int kInputPtx = 1;

/// CUfunction_attribute.
enum FunctionAttribute : int { kStaticSharedBytes = 1, kLocalBytes = 3, kRegisters = 4, kMaxDynamicSharedBytes = 8 };

constexpr int kCaptureThreadLocal = 1;  // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may do what they like meanwhile

/// The ".version" of PTX text: "7.8"; empty where there is none.
std::string ptx_version(std::string_view ptx) {
  constexpr std::string_view kWord = ".version ";
  size_t at = ptx.find(kWord);
  if (at == ptx.npos) return {};
  ptx.remove_prefix(at + kWord.size());
  auto end = std::find_if(ptx.begin(), ptx.end(), [](char c) { return !std::isdigit(uint8_t(c)) && c != '.'; });
  return std::string(ptx.begin(), end);
}

/// The CUDA release that brought a PTX version; they rose together from 11.0 to 12.5.
std::string cuda_of_ptx(const std::string& version) {
  if (version.starts_with("7.")) return "11." + version.substr(2);
  if (version.size() == 3 && version.starts_with("8.") && version[2] <= '5') return "12." + version.substr(2);
  return {};
}

[[noreturn]] void fail_old_driver(const Context& context, std::string_view ptx, std::string_view name) {
  const std::string version = ptx_version(ptx), needed = cuda_of_ptx(version);
  const DeviceInfo& d = context.device();
  fail(Code::Unsupported, "{}: the NVIDIA driver{} knows CUDA {}, which is older than this code's PTX {}; update the driver{}",
       name, d.driver_version.empty() ? "" : " " + d.driver_version, cuda_version_text(d.cuda_version), version,
       needed.empty() ? "" : " to one for CUDA " + needed + " or newer");
}

/// Reads a number of an ELF file; the caller has looked at the size.
template <class T>
T number_at(std::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// The driver takes all sizes from the image itself: those that lead outside of it must not reach the driver.
bool is_whole_image(std::string_view image) {
  constexpr std::string_view kElf =
      "\x7f"
      "ELF\x02\x01";  // 64 bits, little-endian
  constexpr size_t kHeader = 64, kSection = 64;
  constexpr uint16_t kCudaMachine = 190;
  constexpr uint32_t kNoBits = 8;  // a section without bytes in the file
  if (image.size() < kHeader || !image.starts_with(kElf) || number_at<uint16_t>(image, 18) != kCudaMachine) return false;
  auto inside = [&](uint64_t offset, uint64_t bytes) { return offset <= image.size() && bytes <= image.size() - offset; };
  const auto programs = number_at<uint64_t>(image, 32), sections = number_at<uint64_t>(image, 40);
  const size_t program_bytes = size_t(number_at<uint16_t>(image, 54)) * number_at<uint16_t>(image, 56);
  const size_t section_bytes = number_at<uint16_t>(image, 58), count = number_at<uint16_t>(image, 60);
  if (!inside(programs, program_bytes) || (count > 0 && section_bytes != kSection)) return false;
  if (!inside(sections, count * section_bytes)) return false;
  for (size_t i = 0; i < count; ++i) {
    std::string_view s = image.substr(size_t(sections) + i * section_bytes, section_bytes);
    if (number_at<uint32_t>(s, 4) != kNoBits && !inside(number_at<uint64_t>(s, 24), number_at<uint64_t>(s, 32))) return false;
  }
  return true;
}

/// A linker of the driver. It writes into the logs until it is destroyed.
class Linker {
 public:
  Linker() {
    int options[] = {kInfoLog, kInfoLogBytes, kErrorLog, kErrorLogBytes};
    void* size = reinterpret_cast<void*>(uintptr_t(kLogBytes));  // NOLINT(performance-no-int-to-ptr): the driver takes numbers so
    void* values[] = {info_.data(), size, errors_.data(), size};
    check(driver().link_create(4, options, values, &state_), "making a linker");
  }
  ~Linker() { driver().link_destroy(state_); }
  Linker(const Linker&) = delete;
  Linker& operator=(const Linker&) = delete;

  Result add(std::string& ptx, const std::string& name) {
    // The terminating zero is part of PTX text for the driver.
    return driver().link_add_data(state_, kInputPtx, ptx.data(), ptx.size() + 1, name.c_str(), 0, nullptr, nullptr);
  }
  Result complete(std::string& cubin) {
    void* data = nullptr;
    size_t bytes = 0;
    Result result = driver().link_complete(state_, &data, &bytes);
    if (result == Result::Success) cubin.assign(static_cast<const char*>(data), bytes);
    return result;
  }
  std::string errors() const {
    std::string text(errors_.data());
    while (!text.empty() && std::isspace(uint8_t(text.back()))) text.pop_back();
    return text;
  }

 private:
  static constexpr size_t kLogBytes = 16384;
  std::vector<char> info_ = std::vector<char>(kLogBytes + 1), errors_ = std::vector<char>(kLogBytes + 1);
  void* state_ = nullptr;
};

}  // namespace

std::string compile_ptx(const Context& context, std::string_view ptx, std::string_view name) {
  const Span span("compile", name);
  context.make_current();
  std::string text(ptx), cubin;
  Linker linker;
  Result result = linker.add(text, std::string(name));
  if (result == Result::Success) result = linker.complete(cubin);
  if (result == Result::Success) return cubin;
  if (result == Result::UnsupportedPtxVersion) fail_old_driver(context, ptx, name);
  if (result == Result::JitCompilerNotFound)
    fail(Code::Unsupported,
         "{}: the NVIDIA driver's compiler is missing (libnvidia-ptxjitcompiler.so.1); install the whole driver package. {}",
         name, result_text(result));
  const std::string log = linker.errors();
  fail_call(result,
            fmt::format("compiling the PTX of {} for {}{}{}", name, context.device().name, log.empty() ? "" : "\n  ", log));
}

Module::Module(const Context& context, std::string_view cubin, std::string_view name) : context_(context.handle()), name_(name) {
  context.make_current();
  const Span span("load", name);
  if (!is_whole_image(cubin)) fail(Code::Corrupt, "{}: {} bytes that are no machine code of a CUDA device", name, cubin.size());
  check(driver().module_load(&handle_, cubin.data()), "loading the machine code of {} on {}", name, context.device().name);
}

Module Module::of_ptx(const Context& context, const std::string& ptx, std::string_view name) {
  context.make_current();
  Module made;
  made.context_ = context.handle();
  made.name_ = name;
  const Span span("compile", name);
  // A library is compiled before it belongs to a context. A module would be inside, and lock it: every copy waits then.
  check(driver().library_load(&made.library_, ptx.c_str(), nullptr, nullptr, 0, nullptr, nullptr, 0), "compiling {} for {}", name,
        context.device().name);
  check(driver().library_module(&made.handle_, made.library_), "loading {} on {}", name, context.device().name);
  return made;
}

Module& Module::operator=(Module&& other) noexcept {
  Module(std::move(other)).swap(*this);
  return *this;
}

Module::~Module() {
  if (!handle_ && !library_) return;
  void* before = nullptr;
  driver().context_get_current(&before);
  driver().context_set_current(context_);
  library_ ? driver().library_unload(library_) : driver().module_unload(handle_);
  driver().context_set_current(before);
}

void Module::swap(Module& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(handle_, other.handle_);
  std::swap(library_, other.library_);
  std::swap(name_, other.name_);
}

Function Module::function(const std::string& name) const {
  void* handle = nullptr;
  Result result = driver().module_function(&handle, handle_, name.c_str());
  if (result == Result::NotFound) fail(Code::NotFound, "{}: there is no kernel {} in this module", name_, name);
  check(result, "looking up the kernel {} in {}", name, name_);
  return Function(handle, name);
}

namespace {
/// CUlaunchAttributeID.
enum LaunchAttributeId : int { kClusterDimension = 4, kProgrammaticStreamSerialization = 6 };

/// What a launch is beside its sizes.
struct LaunchAttributes {
  LaunchAttribute all[2];
  unsigned count = 0;

  LaunchAttributes(const LaunchShape& shape, bool overlaps) {
    if (overlaps) {  // leave to begin early; captured, it becomes an edge of the graph that says the same
      all[count].id = kProgrammaticStreamSerialization;
      all[count++].value.number = 1;
    }
    if (shape.cluster > 1) {
      const unsigned sizes[3] = {shape.cluster, 1, 1};
      all[count].id = kClusterDimension;
      std::memcpy(all[count++].value.bytes, sizes, sizeof sizes);
    }
  }
};

LaunchConfig config_of(const LaunchShape& s, LaunchAttributes& attributes, void* stream) {
  return {s.grid.x,  s.grid.y,       s.grid.z, s.block.x,      s.block.y,
          s.block.z, s.shared_bytes, stream,   attributes.all, attributes.count};
}
}  // namespace

void Function::launch(const LaunchShape& s, const Stream& stream, std::span<void* const> arguments) const {
  auto** pointers = const_cast<void**>(arguments.data());
  const bool waits = stream.take_wait();
  LaunchAttributes attributes(s, s.overlaps && !waits && driver().launch_with);
  const LaunchConfig config = config_of(s, attributes, stream.handle());
  Result result = attributes.count > 0 ? driver().launch_with(&config, handle_, pointers, nullptr)
                                       : driver().launch(handle_, s.grid.x, s.grid.y, s.grid.z, s.block.x, s.block.y, s.block.z,
                                                         s.shared_bytes, stream.handle(), pointers, nullptr);
  check(result, "launching {} with {}x{}x{} blocks of {}x{}x{} threads and {} bytes of shared memory", name_, s.grid.x, s.grid.y,
        s.grid.z, s.block.x, s.block.y, s.block.z, s.shared_bytes);
}

void Function::allow_shared_bytes(int64_t bytes) const {
  check(driver().function_set_attribute(handle_, kMaxDynamicSharedBytes, int(bytes)), "allowing {} bytes of shared memory for {}",
        bytes, name_);
}

int Function::blocks_per_multiprocessor(int threads, int64_t shared_bytes) const {
  int blocks = 0;
  check(driver().function_occupancy(&blocks, handle_, threads, size_t(shared_bytes)), "asking for the occupancy of {}", name_);
  return blocks;
}

int Function::clusters_at_once(const LaunchShape& shape) const {
  if (!driver().function_clusters) return 0;
  int clusters = 0;
  LaunchAttributes attributes(shape, false);
  const LaunchConfig config = config_of(shape, attributes, nullptr);
  const Result result = driver().function_clusters(&clusters, handle_, &config);
  if (result == Result::InvalidClusterSize) return 0;
  check(result, "asking how many clusters of {} have room", name_);
  return clusters;
}

namespace {
int function_attribute(void* handle, FunctionAttribute which, const std::string& name) {
  int value = 0;
  check(driver().function_attribute(&value, which, handle), "asking for an attribute of {}", name);
  return value;
}
}  // namespace

int Function::registers() const { return function_attribute(handle_, kRegisters, name_); }
int64_t Function::local_bytes() const { return function_attribute(handle_, kLocalBytes, name_); }
int64_t Function::shared_bytes() const { return function_attribute(handle_, kStaticSharedBytes, name_); }

CapturedGraph& CapturedGraph::operator=(CapturedGraph&& other) noexcept {
  CapturedGraph(std::move(other)).swap(*this);
  return *this;
}

CapturedGraph::~CapturedGraph() {
  if (executable_) driver().graph_executable_destroy(executable_);
}

void CapturedGraph::swap(CapturedGraph& other) noexcept {
  std::swap(executable_, other.executable_);
  std::swap(nodes_, other.nodes_);
}

void CapturedGraph::launch(const Stream& stream) const {
  check(driver().graph_launch(executable_, stream.handle()), "launching a captured graph of {} nodes", nodes_);
}

void CapturedGraph::upload(const Stream& stream) const {
  check(driver().graph_upload(executable_, stream.handle()), "uploading a captured graph of {} nodes", nodes_);
}

Capture::Capture(const Stream& stream) : stream_(stream) {
  check(driver().stream_begin_capture(stream.handle(), kCaptureThreadLocal), "beginning to capture a stream");
  open_ = true;
}

Capture::~Capture() {
  void* graph = nullptr;
  if (open_ && driver().stream_end_capture(stream_.handle(), &graph) == Result::Success && graph) driver().graph_destroy(graph);
}

CapturedGraph Capture::finish() {
  open_ = false;
  void* graph = nullptr;
  check(driver().stream_end_capture(stream_.handle(), &graph), "ending the capture of a stream");
  CapturedGraph captured;
  size_t nodes = 0;
  Result result = driver().graph_nodes(graph, nullptr, &nodes);
  if (result == Result::Success) result = driver().graph_instantiate(&captured.executable_, graph, 0);
  driver().graph_destroy(graph);
  if (result == Result::OutOfMemory) fail_out_of_memory(fmt::format("a captured graph of {} nodes", nodes), 0);
  check(result, "instantiating a captured graph of {} nodes", nodes);
  captured.nodes_ = int64_t(nodes);
  return captured;
}

}  // namespace sinter::cuda
