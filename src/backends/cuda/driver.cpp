#include "backends/cuda/driver.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <utility>

#include "backends/cuda/driver_api.h"
#include "base/spans.h"

namespace sinter::cuda {
namespace {

/// CUdevice_attribute.
enum Attribute : int {
  kMaxThreadsPerBlock = 1,
  kMultiprocessors = 16,
  kIntegrated = 18,
  kPciBus = 33,
  kPciDevice = 34,
  kL2Bytes = 38,
  kPciDomain = 50,
  kCapabilityMajor = 75,
  kCapabilityMinor = 76,
  kSharedBytesPerMultiprocessor = 81,
  kSharedBytesOptIn = 97,
};

constexpr unsigned kHostAllocPortable = 1;     // CU_MEMHOSTALLOC_PORTABLE: page-locked for every context
constexpr unsigned kHostRegisterPortable = 1;  // CU_MEMHOSTREGISTER_PORTABLE
constexpr unsigned kStreamNonBlocking = 1;     // CU_STREAM_NON_BLOCKING
constexpr unsigned kEventDisableTiming = 2;    // CU_EVENT_DISABLE_TIMING

/// For destructors: makes the context of what is released current, and puts back what was.
class Current {
 public:
  explicit Current(void* context) {
    driver().context_get_current(&before_);
    if (before_ != context) driver().context_set_current(context);
    changed_ = before_ != context;
  }
  ~Current() {
    if (changed_) driver().context_set_current(before_);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  void* before_ = nullptr;
  bool changed_ = false;
};

int attribute(int device, Attribute which) {
  int value = 0;
  // A driver that does not know the attribute yet does not have the feature either.
  return driver().device_attribute(&value, which, device) == Result::Success ? value : 0;
}

std::string uuid_text(const uint8_t (&bytes)[16]) {
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) text += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", bytes[i]);
  return text;
}

std::string kernel_module_version() {
  std::ifstream file("/sys/module/nvidia/version");
  std::string text;
  std::getline(file, text);
  return text;
}

DeviceInfo describe(int ordinal, int device) {
  DeviceInfo d;
  d.ordinal = ordinal;
  char name[256] = {};
  check(driver().device_name(name, sizeof name - 1, device), "asking for the name of cuda:{}", ordinal);
  d.name = name;
  uint8_t uuid[16] = {};
  check(driver().device_uuid(uuid, device), "asking for the identity of cuda:{}", ordinal);
  d.uuid = uuid_text(uuid);
  d.pci = fmt::format("{:04x}:{:02x}:{:02x}.0", attribute(device, kPciDomain), attribute(device, kPciBus),
                      attribute(device, kPciDevice));
  d.capability_major = attribute(device, kCapabilityMajor);
  d.capability_minor = attribute(device, kCapabilityMinor);
  d.multiprocessors = attribute(device, kMultiprocessors);
  size_t total = 0;
  check(driver().device_total_memory(&total, device), "asking for the memory of cuda:{}", ordinal);
  d.total_bytes = int64_t(total);
  d.l2_bytes = attribute(device, kL2Bytes);
  d.shared_bytes = attribute(device, kSharedBytesOptIn);
  d.shared_bytes_per_multiprocessor = attribute(device, kSharedBytesPerMultiprocessor);
  d.max_threads = attribute(device, kMaxThreadsPerBlock);
  d.integrated = attribute(device, kIntegrated) != 0;
  check(driver().driver_version(&d.cuda_version), "asking for the driver's version");
  d.driver_version = kernel_module_version();
  return d;
}

int device_count() {
  int count = 0;
  check(driver().device_count(&count), "counting CUDA devices");
  return count;
}

int device_id(int ordinal) {
  int device = 0;
  check(driver().device_get(&device, ordinal), "opening cuda:{}", ordinal);
  return device;
}

}  // namespace

std::vector<DeviceInfo> devices(std::string* why_none) {
  std::vector<DeviceInfo> all;
  if (!find_driver(why_none)) return all;
  const int count = device_count();
  for (int i = 0; i < count; ++i) all.push_back(describe(i, device_id(i)));
  if (all.empty() && why_none) *why_none = "the NVIDIA driver finds no device";
  return all;
}

std::string cuda_version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

Context::Context(int ordinal) {
  const Span span("make a context");
  const int count = device_count();
  if (ordinal < 0 || ordinal >= count)
    fail(Code::NotFound, "cuda:{}: there {} {} CUDA device{}", ordinal, count == 1 ? "is" : "are", count, count == 1 ? "" : "s");
  id_ = device_id(ordinal);
  device_ = describe(ordinal, id_);
  check(driver().primary_context_retain(&handle_, id_), "making a context on cuda:{} ({})", ordinal, device_.name);
  make_current();
}

Context::~Context() { driver().primary_context_release(id_); }

void Context::make_current() const {
  check(driver().context_set_current(handle_), "making the context of cuda:{} current", device_.ordinal);
}

int64_t Context::free_bytes() const {
  make_current();
  size_t free = 0, total = 0;
  check(driver().memory_info(&free, &total), "asking for the free memory of cuda:{}", device_.ordinal);
  return int64_t(free);
}

void Context::synchronize() const {
  make_current();
  check(driver().context_synchronize(), "waiting for cuda:{}", device_.ordinal);
}

DeviceMemory::DeviceMemory(const Context& context, int64_t bytes, std::string_view what)
    : context_(context.handle()), bytes_(bytes) {
  context.make_current();
  if (bytes == 0) return;
  Result result = driver().memory_allocate(&address_, size_t(bytes));
  if (result == Result::OutOfMemory) fail_out_of_memory(std::string(what), size_t(bytes));
  check(result, "allocating {} bytes for {}", bytes, what);
}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  DeviceMemory(std::move(other)).swap(*this);
  return *this;
}

DeviceMemory::~DeviceMemory() {
  if (!address_) return;
  Current current(context_);
  driver().memory_free(address_);
}

void DeviceMemory::swap(DeviceMemory& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
}

PinnedMemory::PinnedMemory(const Context& context, int64_t bytes) : context_(context.handle()), bytes_(bytes) {
  context.make_current();
  if (bytes == 0) return;
  void* data = nullptr;
  Result result = driver().host_allocate(&data, size_t(bytes), kHostAllocPortable);
  locked_ = result == Result::Success;
  if (result == Result::OutOfMemory) {
    data = std::malloc(size_t(bytes));
    if (!data) fail(Code::OutOfMemory, "{} bytes of host memory for copies to and from the device are not to be had", bytes);
  } else {
    check(result, "page-locking {} bytes of host memory", bytes);
  }
  data_ = static_cast<std::byte*>(data);
}

PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  PinnedMemory(std::move(other)).swap(*this);
  return *this;
}

PinnedMemory::~PinnedMemory() {
  if (!data_) return;
  if (!locked_) {
    std::free(data_);
    return;
  }
  Current current(context_);
  driver().host_free(data_);
}

void PinnedMemory::swap(PinnedMemory& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(locked_, other.locked_);
}

HostRegistration::HostRegistration(const Context& context, const void* data, int64_t bytes) : context_(context.handle()) {
  context.make_current();
  if (bytes == 0) {
    why_not_ = "there is nothing to register";
    return;
  }
  const auto page = uintptr_t(sysconf(_SC_PAGESIZE));
  const uintptr_t before = uintptr_t(data) % page;  // what lies in the first page before the data
  void* begin = static_cast<char*>(const_cast<void*>(data)) - before;
  const size_t length = (before + size_t(bytes) + page - 1) / page * page;
  const Result result = driver().host_register(begin, length, kHostRegisterPortable);
  if (result == Result::Success)
    begin_ = begin;
  else
    why_not_ = fmt::format("the driver refuses to page-lock {} bytes: {}", length, result_text(result));
}

HostRegistration& HostRegistration::operator=(HostRegistration&& other) noexcept {
  HostRegistration(std::move(other)).swap(*this);
  return *this;
}

HostRegistration::~HostRegistration() {
  if (!begin_) return;
  Current current(context_);
  driver().host_unregister(begin_);
}

void HostRegistration::swap(HostRegistration& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(begin_, other.begin_);
  std::swap(why_not_, other.why_not_);
}

Stream::Stream(const Context& context) : context_(context.handle()) {
  context.make_current();
  check(driver().stream_create(&handle_, kStreamNonBlocking), "making a stream");
}

Stream::~Stream() {
  Current current(context_);
  driver().stream_destroy(handle_);
}

void Stream::wait(const Event& event) const {
  check(driver().stream_wait_event(handle_, event.handle(), 0), "letting a stream wait for an event");
  waits_ = true;
}

void Stream::synchronize() const { check(driver().stream_synchronize(handle_), "waiting for the device"); }

bool Stream::idle() const {
  Result result = driver().stream_query(handle_);
  if (result == Result::NotReady) return false;
  check(result, "asking whether a stream is idle");
  return true;
}

Event::Event(const Context& context, Timing timing) : context_(context.handle()) {
  context.make_current();
  check(driver().event_create(&handle_, timing == Timing::Yes ? 0 : kEventDisableTiming), "making an event");
}

Event::~Event() {
  Current current(context_);
  driver().event_destroy(handle_);
}

void Event::record(const Stream& stream) const { check(driver().event_record(handle_, stream.handle()), "recording an event"); }

void Event::synchronize() const { check(driver().event_synchronize(handle_), "waiting for an event on the device"); }

bool Event::reached() const {
  Result result = driver().event_query(handle_);
  if (result == Result::NotReady) return false;
  check(result, "asking whether an event was reached");
  return true;
}

double Event::milliseconds_since(const Event& start) const {
  float milliseconds = 0;
  check(driver().event_elapsed(&milliseconds, start.handle_, handle_), "reading the time between two events");
  return milliseconds;
}

void copy_to_device(DevicePtr to, const void* from, int64_t bytes, const Stream& stream) {
  if (bytes == 0) return;
  check(driver().copy_to_device(to, from, size_t(bytes), stream.handle()), "copying {} bytes to the device", bytes);
}

void copy_to_host(void* to, DevicePtr from, int64_t bytes, const Stream& stream) {
  if (bytes == 0) return;
  check(driver().copy_to_host(to, from, size_t(bytes), stream.handle()), "copying {} bytes from the device", bytes);
}

void copy_on_device(DevicePtr to, DevicePtr from, int64_t bytes, const Stream& stream) {
  if (bytes == 0) return;
  check(driver().copy_on_device(to, from, size_t(bytes), stream.handle()), "copying {} bytes on the device", bytes);
}

void fill_bytes(DevicePtr to, uint8_t value, int64_t bytes, const Stream& stream) {
  if (bytes == 0) return;
  check(driver().set_bytes(to, value, size_t(bytes), stream.handle()), "filling {} bytes on the device", bytes);
}

void fill_words(DevicePtr to, uint32_t value, int64_t words, const Stream& stream) {
  if (words == 0) return;
  check(driver().set_words(to, value, size_t(words), stream.handle()), "filling {} words on the device", words);
}

}  // namespace sinter::cuda
