#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace sinter::cuda {

/// The entry points of cuBLASLt that we use. Handles and descriptors are the library's own pointers.
struct CublasLtCalls {
#define SINTER_VENDOR_CALL(field, symbol, ...) int (*field)(__VA_ARGS__) = nullptr;
#include "backends/cuda/calls/cublaslt_calls.list"
#undef SINTER_VENDOR_CALL
  const char* (*status_text)(int) = nullptr;
  size_t version = 0;  ///< 130100 is 13.1.0
  std::string path;    ///< of the file
  std::string version_text() const;
};

/// The entry points of cuDNN that we use.
struct CudnnCalls {
#define SINTER_VENDOR_CALL(field, symbol, ...) int (*field)(__VA_ARGS__) = nullptr;
#include "backends/cuda/calls/cudnn_calls.list"
#undef SINTER_VENDOR_CALL
  const char* (*status_text)(int) = nullptr;
  void (*last_error)(char*, size_t) = nullptr;  ///< why the last call of this thread failed
  size_t version = 0;                           ///< 91900 is 9.19.0
  size_t cuda_version = 0;                      ///< what it was built for: 13000 is 13.0
  std::string path;
  std::string nvrtc;          ///< the file of the compiler that its attention and fused engines need; empty: not found
  std::string nvrtc_problem;  ///< why not
  std::string version_text() const;
};

/// Older versions lack parts that we use or give wrong attention (9.10.0 and 9.10.1).
inline constexpr size_t kOldestCudnn = 91100;

/// Opened once for the process, and kept; null where that is impossible. `why_none` then names the library, what was searched,
/// what was found there, and what installs it.
const CublasLtCalls* find_cublaslt(std::string* why_none = nullptr);
const CudnnCalls* find_cudnn(std::string* why_none = nullptr);

/// Where libraries are looked for besides the system's loader; parameters, so that tests can give their own.
struct LibraryPlaces {
  std::string chosen;       ///< SINTER_CUDA_LIBRARIES: folders, separated by colons; they come before the loader's
  std::string virtual_env;  ///< VIRTUAL_ENV
  std::string conda;        ///< CONDA_PREFIX
  std::string home;         ///< HOME
  std::filesystem::path root = "/";
  static LibraryPlaces of_this_process();

  std::vector<std::filesystem::path> chosen_folders() const;
  /// The toolkit's folder, then every Python environment's packages of NVIDIA's libraries; only folders that exist.
  std::vector<std::filesystem::path> usual_folders() const;
};

struct LibraryRequest {
  std::string what;                  ///< "cuDNN"
  std::vector<std::string> sonames;  ///< newest first
  std::string install;               ///< what a user can do: "pip install nvidia-cudnn-cu13"
  /// Says what is wrong with an opened library, or nothing.
  std::function<std::string(void*)> problem;
};

struct OpenedLibrary {
  void* handle = nullptr;
  std::string path;
  std::string why_none;
};

/// The first that has no problem, of: chosen folders, the loader's own search, the usual folders; each soname everywhere before
/// the next one.
OpenedLibrary open_library(const LibraryRequest& request, const LibraryPlaces& places);

}  // namespace sinter::cuda
