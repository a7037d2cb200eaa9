#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sinter::cuda {

/// What we use of the CUDA driver, opened at run time: a program without a driver runs on. Every failed call is an Error with
/// what was attempted and the driver's name and text of it; memory that is not there is Code::OutOfMemory. Handles are the
/// driver's own pointers, as cuBLASLt and cuDNN take them. Constructors leave their context current on the calling thread;
/// launches, copies and events need that (Context::make_current() on each other thread). Nothing may outlive its Context.

using DevicePtr = uint64_t;

struct DeviceInfo {
  int ordinal = 0;
  std::string name;                                ///< "NVIDIA H100 80GB HBM3"
  std::string uuid;                                ///< "GPU-9c1a...", as nvidia-smi writes it
  std::string pci;                                 ///< "0000:65:00.0"
  int capability_major = 0, capability_minor = 0;  ///< 9, 0
  int multiprocessors = 0;
  int64_t total_bytes = 0;  ///< of device memory
  int64_t l2_bytes = 0;
  int64_t shared_bytes = 0;  ///< most shared memory that one block may ask for
  int64_t shared_bytes_per_multiprocessor = 0;
  int max_threads = 0;         ///< of a block
  bool integrated = false;     ///< shares the host's memory
  int cuda_version = 0;        ///< the newest that the driver knows: 13000 is 13.0
  std::string driver_version;  ///< "580.159.04"; empty where the system does not tell

  int capability() const { return capability_major * 10 + capability_minor; }  ///< 90
  bool has_bf16() const { return capability() >= 80; }
  bool has_fp8() const { return capability() >= 89; }
  bool has_fp8_attention() const { return capability() >= 90; }  ///< with cuDNN
  /// Kernels can begin before those queued earlier have ended, also inside captured graphs: LaunchShape::overlaps.
  bool overlaps_launches() const { return capability() >= 90 && cuda_version >= 12040; }
};

/// The CUDA devices, without making a context on any. None: the reason in words in `why_none`, if given.
std::vector<DeviceInfo> devices(std::string* why_none = nullptr);
/// "13.0"
std::string cuda_version_text(int version);

/// A device's primary context, retained: the one that cuBLASLt and cuDNN use too. Making it takes 0.2 s or more.
class Context {
 public:
  /// Code::NotFound where there is no such device ("cuda:3: there is 1 CUDA device").
  explicit Context(int ordinal);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  void make_current() const;
  const DeviceInfo& device() const { return device_; }
  int64_t free_bytes() const;  ///< of device memory, now
  void synchronize() const;    ///< waits for everything that was started
  void* handle() const { return handle_; }

 private:
  DeviceInfo device_;
  int id_ = 0;
  void* handle_ = nullptr;
};

/// Device memory, aligned to 256 bytes; not initialised.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  /// `what` names it in the message when there is not enough. 0 bytes: no memory, address 0.
  DeviceMemory(const Context& context, int64_t bytes, std::string_view what = "device memory");
  DeviceMemory(DeviceMemory&& other) noexcept { swap(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  ~DeviceMemory();

  DevicePtr address() const { return address_; }
  int64_t bytes() const { return bytes_; }

 private:
  void swap(DeviceMemory& other) noexcept;
  void* context_ = nullptr;
  DevicePtr address_ = 0;
  int64_t bytes_ = 0;
};

/// Page-locked host memory, that the bus reads and writes at full speed. Taking it is slow (0.6 s for a GiB). Where the system
/// gives no more of it, ordinary memory takes its place: copies work as they do, at about a seventh of the speed.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  PinnedMemory(const Context& context, int64_t bytes);
  PinnedMemory(PinnedMemory&& other) noexcept { swap(other); }
  PinnedMemory& operator=(PinnedMemory&& other) noexcept;
  ~PinnedMemory();

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  bool locked() const { return locked_; }

 private:
  void swap(PinnedMemory& other) noexcept;
  void* context_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  bool locked_ = false;
};

/// Page-locks host memory that is there already, so that copies from and to it run at the bus's speed. Not for mapped files: on a
/// virtual machine that never returned. The whole pages around [data, data + bytes) are locked, until destruction; the memory
/// must stay mapped so long. A registration that the driver refuses is no error: copies still work then, at about a seventh of
/// the speed.
class HostRegistration {
 public:
  HostRegistration() = default;
  /// Memory that this process may write; the device may too.
  HostRegistration(const Context& context, const void* data, int64_t bytes);
  HostRegistration(HostRegistration&& other) noexcept { swap(other); }
  HostRegistration& operator=(HostRegistration&& other) noexcept;
  ~HostRegistration();

  bool active() const { return begin_ != nullptr; }
  const std::string& why_not() const { return why_not_; }  ///< why it is not active

 private:
  void swap(HostRegistration& other) noexcept;
  void* context_ = nullptr;
  void* begin_ = nullptr;
  std::string why_not_;
};

class Event;

/// A queue of work on the device that does not wait for the default stream.
class Stream {
 public:
  explicit Stream(const Context& context);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void wait(const Event& event) const;  ///< what is queued from now on runs after the event
  /// Whether nothing was launched here since wait(). The first kernel after it begins no earlier than usual: whether a captured
  /// one may depend on both, an event and the early end of a kernel, is nowhere said.
  bool take_wait() const { return std::exchange(waits_, false); }
  void synchronize() const;
  bool idle() const;  ///< everything queued has run
  void* handle() const { return handle_; }

 private:
  void* context_ = nullptr;
  void* handle_ = nullptr;
  mutable bool waits_ = false;
};

/// A point in a stream's work.
class Event {
 public:
  enum class Timing { No, Yes };
  explicit Event(const Context& context, Timing timing = Timing::No);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(const Stream& stream) const;
  void synchronize() const;
  bool reached() const;  ///< true too where it was never recorded
  /// From `start` to this; both with Timing::Yes, recorded and reached.
  double milliseconds_since(const Event& start) const;
  void* handle() const { return handle_; }

 private:
  void* context_ = nullptr;
  void* handle_ = nullptr;
};

/// Asynchronous where host memory is page-locked; otherwise the call returns when the host memory may be used again.
void copy_to_device(DevicePtr to, const void* from, int64_t bytes, const Stream& stream);
void copy_to_host(void* to, DevicePtr from, int64_t bytes, const Stream& stream);
void copy_on_device(DevicePtr to, DevicePtr from, int64_t bytes, const Stream& stream);
void fill_bytes(DevicePtr to, uint8_t value, int64_t bytes, const Stream& stream);
void fill_words(DevicePtr to, uint32_t value, int64_t words, const Stream& stream);  ///< 4 bytes each, aligned

struct Extent {
  uint32_t x = 1, y = 1, z = 1;
};

struct LaunchShape {
  Extent grid, block;
  uint32_t shared_bytes = 0;  ///< dynamic
  /// The kernel may begin while what was queued before it still runs. Its code waits for that by itself (griddepcontrol.wait),
  /// on every path that reads or writes what another kernel writes or reads. Only where DeviceInfo::overlaps_launches().
  bool overlaps = false;
  /// So many neighbouring blocks in x, at most 8, are on the device at the same time and see each other's shared memory; divides
  /// the grid. Above 1 from capability 9.0 on.
  uint32_t cluster = 1;
};

/// A kernel of a Module; valid as long as that is.
class Function {
 public:
  Function() = default;
  explicit Function(void* handle, std::string name) : handle_(handle), name_(std::move(name)) {}

  /// `arguments` point to the values of the kernel's parameters, which are read during the call.
  void launch(const LaunchShape& shape, const Stream& stream, std::span<void* const> arguments) const;
  /// Each argument must have exactly the type of the kernel's parameter.
  template <class... Args>
  void operator()(const LaunchShape& shape, const Stream& stream, Args... args) const {
    void* pointers[] = {static_cast<void*>(&args)..., nullptr};
    launch(shape, stream, std::span<void* const>(pointers, sizeof...(args)));
  }
  /// Allows dynamic shared memory above 48 KiB; at most DeviceInfo::shared_bytes.
  void allow_shared_bytes(int64_t bytes) const;
  int blocks_per_multiprocessor(int threads, int64_t shared_bytes) const;
  /// How many clusters of such a launch are on the device at once; 0 also where the driver is too old to say.
  int clusters_at_once(const LaunchShape& shape) const;
  int registers() const;         ///< of a thread
  int64_t local_bytes() const;   ///< of a thread: above 0 when registers were spilled or arrays indexed
  int64_t shared_bytes() const;  ///< static ones
  const std::string& name() const { return name_; }
  void* handle() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  void* handle_ = nullptr;
  std::string name_;
};

/// Turns PTX into machine code for the context's device with the driver's own compiler. The Error holds the compiler's log;
/// Code::Unsupported where the driver is older than the PTX. `name` is for messages.
std::string compile_ptx(const Context& context, std::string_view ptx, std::string_view name);

/// Machine code on the device.
class Module {
 public:
  Module() = default;
  /// Code::Unsupported for code of another kind of device, Code::Corrupt for what is no code. `name` is for messages.
  Module(const Context& context, std::string_view cubin, std::string_view name);
  /// PTX, compiled as a program of its own, which the driver keeps in its own cache: for what compile_ptx() cannot make, since
  /// its linker ignores setmaxnreg. Other threads' calls do not wait meanwhile. For drivers of CUDA 12.0 and newer; the Error
  /// holds no log.
  static Module of_ptx(const Context& context, const std::string& ptx, std::string_view name);
  Module(Module&& other) noexcept { swap(other); }
  Module& operator=(Module&& other) noexcept;
  ~Module();

  Function function(const std::string& name) const;  ///< Code::NotFound
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  void swap(Module& other) noexcept;
  void* context_ = nullptr;
  void* handle_ = nullptr;
  void* library_ = nullptr;  // that it is part of: of_ptx()
  std::string name_;
};

/// Recorded launches and copies with all their addresses and scalars, started as one.
class CapturedGraph {
 public:
  CapturedGraph() = default;
  CapturedGraph(CapturedGraph&& other) noexcept { swap(other); }
  CapturedGraph& operator=(CapturedGraph&& other) noexcept;
  ~CapturedGraph();

  void launch(const Stream& stream) const;
  void upload(const Stream& stream) const;  ///< what the first launch would otherwise do
  int64_t nodes() const { return nodes_; }
  explicit operator bool() const { return executable_ != nullptr; }

 private:
  friend class Capture;
  void swap(CapturedGraph& other) noexcept;
  void* executable_ = nullptr;
  int64_t nodes_ = 0;
};

/// While it lives, this thread's work on the stream is recorded and not run. Without finish() the recording is thrown away.
class Capture {
 public:
  explicit Capture(const Stream& stream);
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  CapturedGraph finish();

 private:
  const Stream& stream_;
  bool open_ = false;
};

}  // namespace sinter::cuda
