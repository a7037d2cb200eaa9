#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backends/cuda/calls/libraries.h"
#include "backends/cuda/calls/vendor.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

/// cuDNN's numbers for what we use.
enum class CudnnType : int { F32 = 0, F16 = 2, I32 = 4, BF16 = 9, Boolean = 11, F8E4M3 = 12, F8E5M2 = 13 };
enum class Pointwise : int {
  Add = 0,
  Multiply = 1,
  Divide = 6,
  Subtract = 9,
  Exp = 13,
  Log = 15,
  Swish = 106,
  GreaterOrEqual = 303,
  GenerateIndex = 501,
  Select = 601
};
enum class Reduction : int { Add = 0, Max = 3, AbsoluteMax = 4 };

CudnnType cudnn_type(DType type);  ///< Code::InvalidArgument for a type that has none

/// One of the library's descriptors; destroyed with this.
class CudnnObject {
 public:
  CudnnObject() = default;
  CudnnObject(const CudnnCalls& calls, int kind);
  CudnnObject(CudnnObject&& other) noexcept : calls_(other.calls_), handle_(std::exchange(other.handle_, nullptr)) {}
  CudnnObject& operator=(CudnnObject&& other) noexcept {
    std::swap(calls_, other.calls_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~CudnnObject();

  void set(int attribute, int type, std::span<const int64_t> values);
  void set_int64(int attribute, int64_t value);
  void set_number(int attribute, int type, const void* value, int64_t count = 1);
  void set_object(int attribute, const CudnnObject& object);
  void set_objects(int attribute, const std::vector<CudnnObject>& objects);
  void set_text(int attribute, std::string_view text);
  int64_t int64(int attribute) const;
  std::string text(int attribute) const;
  /// Throws with the library's reason; try_finalize gives it instead.
  void finalize(const char* what);
  std::string try_finalize();
  void* handle() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  const CudnnCalls* calls_ = nullptr;
  void* handle_ = nullptr;
};

/// A value of a graph. `id` names it to whoever runs the plan; ids are part of stored plans.
struct CudnnTensor {
  int64_t id = 0;
  std::vector<int64_t> sizes, strides;  ///< strides in elements
  CudnnType type = CudnnType::F32;
  bool is_virtual = false;  ///< never in memory
  bool by_value = false;    ///< a number on the host, read when the plan runs
};

/// Collects operations; sums and intermediate results are f32 unless said otherwise.
class CudnnGraph {
 public:
  explicit CudnnGraph(const CudnnCalls& calls) : calls_(calls) {}

  /// A tensor in memory (or a number on the host).
  int tensor(const CudnnTensor& tensor);
  int number(int64_t id);  ///< one f32 on the host
  /// A value that never reaches memory, dense in the order of its sizes unless strides are given.
  int intermediate(std::vector<int64_t> sizes, CudnnType type = CudnnType::F32, std::vector<int64_t> strides = {});
  const CudnnTensor& operator[](int index) const { return tensors_[size_t(index)]; }

  void matmul(int a, int b, int out);
  void pointwise(Pointwise mode, int x, int b, int out);
  void unary(Pointwise mode, int x, int out) { pointwise(mode, x, -1, out); }
  void index(int axis, int shape_of, int out);  ///< out = position along an axis, as i32
  void select(int mask, int if_true, int if_false, int out);
  void reduce(Reduction operation, int x, int out);
  struct Window {
    std::vector<int64_t> strides, dilations, pad_before, pad_after;
  };
  void convolution(const Window& window, int x, int weights, int out);
  /// What such a convolution of `out` does to gradients: x is of the size of its result.
  void convolution_back(const Window& window, int x, int weights, int out);

  /// With `handle` for that handle's device; without one (null) for a device that is described later.
  CudnnObject finish(void* handle);

 private:
  const CudnnObject& describe(const Window& window);
  /// cuDNN's numbers of a convolution in one direction and of its attributes.
  struct ConvolutionNumbers {
    int kind, alpha, beta, description, x, weights, out;
  };
  void add_convolution(const Window& window, int x, int weights, int out, const ConvolutionNumbers& numbers);
  CudnnObject operation(int kind);
  void connect(CudnnObject& operation, int attribute, int tensor);

  const CudnnCalls& calls_;
  std::vector<CudnnTensor> tensors_;
  std::vector<CudnnObject> objects_;  // of tensors_
  std::vector<CudnnObject> operations_;
  std::vector<CudnnObject> parts_;  // what operations refer to
  int64_t next_id_ = 1'000'000;     // of intermediates
};

/// A device that is not here, for questions of support: the JSON that the library writes of one.
struct DescribedDevice {
  std::string json;
  /// A plausible card of a compute capability (80, 86, 89, 90, 120).
  static DescribedDevice of(int capability);
};

/// What an engine may do to numbers.
struct CudnnNumerics {
  bool f32_inputs = false;  ///< the graph's tensors are f32
  bool allow_tf32 = false;  ///< f32 inputs may be rounded to 10 fraction bits
};

/// The library's proposals for a graph, best first, without engines that add in varying order or, where `numerics` forbids it,
/// round f32 inputs. Empty: not supported, with the reason.
std::vector<CudnnObject> cudnn_configs(const CudnnCalls& calls, const CudnnObject& graph, const CudnnNumerics& numerics,
                                       const DescribedDevice* device, std::string& why_none);

/// A proposal's engine and how its knobs are set, which say nothing of sizes.
std::string cudnn_config_text(const CudnnCalls& calls, const CudnnObject& config);

/// What runs; execute it with a pack of pointers.
struct CudnnExecutable {
  CudnnObject object;
  int64_t workspace_bytes = 0;
  std::string config;  ///< engine and knobs, as timing remembers them; empty for a stored plan
  Choice choice;
};

/// Address (or host number) of each tensor of a graph that is in memory.
struct CudnnArgument {
  int64_t id;
  void* pointer;
};

/// A planned graph, whatever it computes. Shared by attention and convolutions.
class CudnnPlan : public std::enable_shared_from_this<CudnnPlan> {
 public:
  CudnnPlan(Vendor& vendor, CudnnExecutable executable, std::string name)
      : vendor_(vendor), executable_(std::move(executable)), name_(std::move(name)) {}
  int64_t workspace_bytes() const { return executable_.workspace_bytes; }
  const Choice& choice() const { return executable_.choice; }
  const std::string& config() const { return executable_.config; }
  void note_choice(const Choice& choice) { executable_.choice = choice; }
  /// `numbers` are kept by the call; an argument whose pointer is null takes the next of them.
  std::unique_ptr<BoundCall> bind(std::vector<CudnnArgument> arguments, std::vector<float> numbers,
                                  const Workspace& workspace) const;

 private:
  friend class BoundCudnn;
  Vendor& vendor_;
  CudnnExecutable executable_;
  std::string name_;
};

/// What planning a graph needs to know.
struct CudnnRequest {
  std::string kind;    ///< "attention", "conv"
  std::string shape;   ///< in words, complete
  std::string family;  ///< the same but for sizes that change with the picture's
  CudnnNumerics numerics;
  int candidates = 8;  ///< timed at most
  std::function<void(CudnnGraph&)> build;
  std::vector<CudnnArgument> arguments;  ///< for timing
  std::vector<float> numbers;
};

/// Where an engine's candidates are timed.
struct CudnnTuning {
  const Stream& stream;
  Workspace workspace;
  Prepared candidates;
};

/// The stored plan if there is one; else, with `tuning`, the fastest of the first candidates; else the first that builds. Stored
/// in both cases. Null, with the reason: not supported.
Planned<CudnnPlan> plan_cudnn(Vendor& vendor, const CudnnRequest& request, const CudnnTuning* tuning);
/// The candidates that timing will want; null where a choice is stored or there are none.
Prepared prepare_cudnn(Vendor& vendor, const CudnnRequest& request);

/// Whether a graph has an engine on a device that is not here; the reason if not.
std::string why_unsupported(const CudnnCalls& calls, const CudnnRequest& request, const DescribedDevice& device);

}  // namespace sinter::cuda
