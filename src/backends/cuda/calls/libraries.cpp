#include "backends/cuda/calls/libraries.h"

#include <dlfcn.h>
#include <fmt/ranges.h>
#include <glob.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>

#include "backends/cuda/driver.h"
#include "base/settings.h"
#include "base/spans.h"

namespace sinter::cuda {
namespace {

namespace fs = std::filesystem;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::vector<fs::path> matches(const std::string& pattern) {
  std::vector<fs::path> found;
  glob_t list{};
  if (glob(pattern.c_str(), GLOB_NOSORT, nullptr, &list) == 0)
    for (size_t i = 0; i < list.gl_pathc; ++i) found.emplace_back(list.gl_pathv[i]);
  globfree(&list);
  std::sort(found.begin(), found.end(), std::greater<>());  // the newer Python first
  return found;
}

std::string path_of(void* handle, const std::string& asked) {
  link_map* map = nullptr;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map && map->l_name && *map->l_name) return map->l_name;
  return asked;
}

/// What was tried for one library.
class Attempts {
 public:
  explicit Attempts(const LibraryRequest& request) : request_(request) {}

  bool open(const std::string& name) {
    // Global, because cuDNN looks for symbols of what it opens by name.
    void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (!handle) {
      const char* reason = dlerror();
      std::error_code ignored;
      if (name.find('/') != name.npos && fs::exists(name, ignored)) problems_.push_back(reason ? reason : name);
      return false;
    }
    std::string path = path_of(handle, name);
    if (std::string problem = request_.problem ? request_.problem(handle) : ""; !problem.empty()) {
      problems_.push_back(fmt::format("{}: {}", path, problem));
      dlclose(handle);
      return false;
    }
    opened_ = {handle, path, {}};
    return true;
  }
  const OpenedLibrary& opened() const { return opened_; }
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  const LibraryRequest& request_;
  OpenedLibrary opened_;
  std::vector<std::string> problems_;
};

std::string message_of_absence(const LibraryRequest& request, const LibraryPlaces& places, const Attempts& attempts) {
  std::vector<std::string> folders;
  for (const auto& f : places.usual_folders()) folders.push_back(f.string());
  std::string text = fmt::format("{} ({}) was not found. Searched: SINTER_CUDA_LIBRARIES ({}), the loader's path", request.what,
                                 fmt::join(request.sonames, " or "), places.chosen.empty() ? "not set" : places.chosen);
  text +=
      folders.empty() ? ", /usr/local/cuda and Python environments (none there)" : fmt::format(", {}", fmt::join(folders, ", "));
  if (!attempts.problems().empty()) text += fmt::format(". Unusable: {}", fmt::join(attempts.problems(), "; "));
  return text + fmt::format(". Install it ({}), or name its folder in SINTER_CUDA_LIBRARIES", request.install);
}

template <class Pointer>
bool resolve(void* library, const char* symbol, Pointer& into) {
  into = reinterpret_cast<Pointer>(dlsym(library, symbol));
  return into != nullptr;
}

/// The first symbol that a library lacks, if any.
std::string missing_symbol(void* library, std::initializer_list<const char*> symbols) {
  for (const char* s : symbols)
    if (!dlsym(library, s)) return fmt::format("it has no {}", s);
  return {};
}

/// The newest CUDA that the driver knows; 0 without a driver.
int driver_cuda_version() {
  auto all = devices();
  return all.empty() ? 0 : all.front().cuda_version;
}

/// Libraries of a newer major CUDA version do not run on an older driver.
std::string problem_with_driver(int library_major) {
  int driver = driver_cuda_version() / 1000;
  if (driver == 0 || driver >= library_major) return {};
  return fmt::format("it is made for CUDA {} and the driver knows CUDA {}", library_major, driver);
}

std::string cublaslt_problem(void* library) {
#define SINTER_VENDOR_CALL(field, symbol, ...) #symbol,
  std::string missing = missing_symbol(library, {
#include "backends/cuda/calls/cublaslt_calls.list"
                                                    "cublasLtGetVersion", "cublasLtGetStatusString"});
#undef SINTER_VENDOR_CALL
  if (!missing.empty()) return missing;
  size_t (*version)() = nullptr;
  resolve(library, "cublasLtGetVersion", version);
  return problem_with_driver(int(version() / 10000));
}

CublasLtCalls load_cublaslt(const OpenedLibrary& library) {
  CublasLtCalls calls;
#define SINTER_VENDOR_CALL(field, symbol, ...) resolve(library.handle, #symbol, calls.field);
#include "backends/cuda/calls/cublaslt_calls.list"
#undef SINTER_VENDOR_CALL
  resolve(library.handle, "cublasLtGetStatusString", calls.status_text);
  size_t (*version)() = nullptr;
  resolve(library.handle, "cublasLtGetVersion", version);
  calls.version = version();
  calls.path = library.path;
  return calls;
}

std::string dotted(size_t version) { return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100); }

std::string cudnn_problem(void* library) {
#define SINTER_VENDOR_CALL(field, symbol, ...) #symbol,
  std::string missing =
      missing_symbol(library, {
#include "backends/cuda/calls/cudnn_calls.list"
                                  "cudnnGetVersion", "cudnnGetErrorString", "cudnnGetLastErrorString", "cudnnGetCudartVersion"});
#undef SINTER_VENDOR_CALL
  if (!missing.empty()) return missing;
  size_t (*version)() = nullptr;
  resolve(library, "cudnnGetVersion", version);
  if (version() < kOldestCudnn)
    return fmt::format("it is version {}, at least {} is needed", dotted(version()), dotted(kOldestCudnn));
  size_t (*cuda)() = nullptr;
  resolve(library, "cudnnGetCudartVersion", cuda);
  return problem_with_driver(int(cuda() / 1000));
}

/// cuDNN opens its compiler by name when it first needs it; one that is open already is found under that name.
void open_nvrtc(CudnnCalls& calls) {
  size_t major = calls.cuda_version / 1000;
  LibraryRequest request{.what = "NVRTC",
                         .sonames = {fmt::format("libnvrtc.so.{}", major)},
                         .install = major >= 13 ? "pip install nvidia-cuda-nvrtc" : "pip install nvidia-cuda-nvrtc-cu12"};
  LibraryPlaces places = LibraryPlaces::of_this_process();
  // Its own folder is as good as a chosen one.
  places.chosen += (places.chosen.empty() ? "" : ":") + fs::path(calls.path).parent_path().string();
  OpenedLibrary nvrtc = open_library(request, places);
  calls.nvrtc = nvrtc.path;
  calls.nvrtc_problem = nvrtc.why_none;
}

CudnnCalls load_cudnn(const OpenedLibrary& library) {
  CudnnCalls calls;
#define SINTER_VENDOR_CALL(field, symbol, ...) resolve(library.handle, #symbol, calls.field);
#include "backends/cuda/calls/cudnn_calls.list"
#undef SINTER_VENDOR_CALL
  resolve(library.handle, "cudnnGetErrorString", calls.status_text);
  resolve(library.handle, "cudnnGetLastErrorString", calls.last_error);
  size_t (*version)() = nullptr;
  resolve(library.handle, "cudnnGetVersion", version);
  calls.version = version();
  resolve(library.handle, "cudnnGetCudartVersion", version);
  calls.cuda_version = version();
  calls.path = library.path;
  open_nvrtc(calls);
  return calls;
}

template <class Calls>
struct Found {
  Calls calls;
  bool there = false;
  std::string why_none;
};

}  // namespace

std::string CublasLtCalls::version_text() const { return dotted(version); }
std::string CudnnCalls::version_text() const { return dotted(version); }

LibraryPlaces LibraryPlaces::of_this_process() {
  return {.chosen = setting("SINTER_CUDA_LIBRARIES").value_or(""),
          .virtual_env = variable("VIRTUAL_ENV"),
          .conda = variable("CONDA_PREFIX"),
          .home = variable("HOME")};
}

std::vector<fs::path> LibraryPlaces::chosen_folders() const {
  std::vector<fs::path> folders;
  for (size_t at = 0; at <= chosen.size();) {
    size_t end = std::min(chosen.find(':', at), chosen.size());
    if (end > at) folders.emplace_back(chosen.substr(at, end - at));
    at = end + 1;
  }
  return folders;
}

std::vector<fs::path> LibraryPlaces::usual_folders() const {
  std::vector<fs::path> folders;
  std::error_code ignored;
  auto add = [&](const fs::path& folder) {
    if (fs::is_directory(folder, ignored) && std::find(folders.begin(), folders.end(), folder) == folders.end())
      folders.push_back(folder);
  };
  add(root / "usr/local/cuda/lib64");
  std::vector<std::string> patterns;
  for (const auto& prefix : {virtual_env, conda})
    if (!prefix.empty()) patterns.push_back(prefix + "/lib/python3*/site-packages");
  for (const char* pattern :
       {"opt/*/.venv/lib/python3*/site-packages", "opt/venv/lib/python3*/site-packages", "opt/conda/lib/python3*/site-packages",
        "usr/local/lib/python3*/dist-packages", "usr/local/lib/python3*/site-packages", "usr/lib/python3*/site-packages"})
    patterns.push_back((root / pattern).string());
  if (!home.empty()) patterns.push_back(home + "/.local/lib/python3*/site-packages");
  for (const auto& pattern : patterns)
    for (const auto& packages : matches(pattern))
      for (const char* part : {"nvidia/cu13/lib", "nvidia/cudnn/lib", "nvidia/cublas/lib", "nvidia/cuda_nvrtc/lib"})
        add(packages / part);
  return folders;
}

OpenedLibrary open_library(const LibraryRequest& request, const LibraryPlaces& places) {
  const Span span("open a library", request.what);
  Attempts attempts(request);
  for (const auto& soname : request.sonames) {
    std::vector<std::string> names;
    for (const auto& folder : places.chosen_folders()) names.push_back((folder / soname).string());
    names.push_back(soname);
    for (const auto& folder : places.usual_folders()) names.push_back((folder / soname).string());
    for (const auto& name : names)
      if (attempts.open(name)) return attempts.opened();
  }
  return {nullptr, {}, message_of_absence(request, places, attempts)};
}

const CublasLtCalls* find_cublaslt(std::string* why_none) {
  static const Found<CublasLtCalls> found = [] {
    OpenedLibrary library = open_library({.what = "cuBLASLt",
                                          .sonames = {"libcublasLt.so.13", "libcublasLt.so.12"},
                                          .install = "pip install nvidia-cublas, or the CUDA toolkit",
                                          .problem = cublaslt_problem},
                                         LibraryPlaces::of_this_process());
    if (!library.handle) return Found<CublasLtCalls>{{}, false, library.why_none};
    return Found<CublasLtCalls>{load_cublaslt(library), true, {}};
  }();
  if (!found.there && why_none) *why_none = found.why_none;
  return found.there ? &found.calls : nullptr;
}

const CudnnCalls* find_cudnn(std::string* why_none) {
  static const Found<CudnnCalls> found = [] {
    OpenedLibrary library = open_library({.what = "cuDNN",
                                          .sonames = {"libcudnn.so.9"},
                                          .install = "pip install nvidia-cudnn-cu13 (nvidia-cudnn-cu12 for CUDA 12)",
                                          .problem = cudnn_problem},
                                         LibraryPlaces::of_this_process());
    if (!library.handle) return Found<CudnnCalls>{{}, false, library.why_none};
    return Found<CudnnCalls>{load_cudnn(library), true, {}};
  }();
  if (!found.there && why_none) *why_none = found.why_none;
  return found.there ? &found.calls : nullptr;
}

}  // namespace sinter::cuda
