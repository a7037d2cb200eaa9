#include "backends/cuda/calls/libraries.h"

#include <dlfcn.h>
#include <doctest/doctest.h>

#include <fstream>

#include "temporary_folder.h"

namespace sinter::cuda {
namespace {

namespace fs = std::filesystem;

LibraryRequest request_for(const std::string& soname) {
  return {.what = "Nothing", .sonames = {soname}, .install = "pip install nothing"};
}

void make_file(const fs::path& file, const std::string& content) {
  fs::create_directories(file.parent_path());
  std::ofstream(file) << content;
}

TEST_CASE("a library that is nowhere gives a message with its name, the places searched and what installs it") {
  TemporaryFolder folder;
  LibraryPlaces places{.chosen = "/no/such/place", .root = folder.path()};
  fs::create_directories(folder / "usr/local/cuda/lib64");
  OpenedLibrary none = open_library(request_for("libsinter_nothing.so.9"), places);
  CHECK(none.handle == nullptr);
  for (const std::string& word :
       {std::string("Nothing (libsinter_nothing.so.9) was not found"), std::string("/no/such/place"),
        (folder / "usr/local/cuda/lib64").string(), std::string("pip install nothing"), std::string("SINTER_CUDA_LIBRARIES")})
    CHECK_MESSAGE(none.why_none.find(word) != std::string::npos, word, " in: ", none.why_none);
}

TEST_CASE("Python environments are searched in the layouts of both CUDA generations, the active one first") {
  TemporaryFolder folder;
  std::string env = (folder / "env").string();
  const fs::path wanted[] = {folder / "usr/local/cuda/lib64", folder / "env/lib/python3.12/site-packages/nvidia/cu13/lib",
                             folder / "env/lib/python3.12/site-packages/nvidia/cudnn/lib",
                             folder / "env/lib/python3.9/site-packages/nvidia/cublas/lib",
                             folder / "opt/app/.venv/lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib"};
  for (const auto& f : wanted) fs::create_directories(f);
  fs::create_directories(folder / "env/lib/python3.12/site-packages/nvidia/other/lib");
  auto found = LibraryPlaces{.virtual_env = env, .root = folder.path()}.usual_folders();
  // The order between Python 3.9 and 3.12 of one environment is that of their names and of no consequence.
  REQUIRE(found.size() == 5);
  CHECK(found.front() == wanted[0]);
  CHECK(found.back() == wanted[4]);
  for (const auto& f : wanted) CHECK(std::find(found.begin(), found.end(), f) != found.end());
}

TEST_CASE("folders in SINTER_CUDA_LIBRARIES are separated by colons and empty ones are ignored") {
  LibraryPlaces places{.chosen = ":/a/b::/c:"};
  CHECK(places.chosen_folders() == std::vector<fs::path>{"/a/b", "/c"});
  CHECK(LibraryPlaces{}.chosen_folders().empty());
}

TEST_CASE("a file that is no library is passed over and named in the message") {
  TemporaryFolder folder;
  make_file(folder / "usr/local/cuda/lib64/libsinter_nothing.so.9", "not a library");
  OpenedLibrary none = open_library(request_for("libsinter_nothing.so.9"), {.root = folder.path()});
  CHECK(none.handle == nullptr);
  CHECK(none.why_none.find("Unusable: ") != std::string::npos);
  CHECK(none.why_none.find("libsinter_nothing.so.9:") != std::string::npos);
}

TEST_CASE("a library that is refused is named with the reason, and the next one is taken") {
  LibraryRequest request = request_for("libm.so.6");
  request.sonames = {"libm.so.6", "libdl.so.2"};
  request.problem = [](void* library) { return dlsym(library, "cos") ? "it knows the cosine" : ""; };
  OpenedLibrary opened = open_library(request, {});
  REQUIRE(opened.handle);
  CHECK(opened.path.find("libdl") != std::string::npos);
  request.sonames = {"libm.so.6"};
  OpenedLibrary refused = open_library(request, {.root = "/no/such/root"});
  CHECK(refused.handle == nullptr);
  CHECK(refused.why_none.find("it knows the cosine") != std::string::npos);
}

TEST_CASE("cuBLASLt and cuDNN are opened with a version we know, or the reason says what to install") {
  std::string why;
  if (const CublasLtCalls* calls = find_cublaslt(&why)) {
    CHECK(calls->version >= 120000);
    CHECK(calls->version_text().find('.') != std::string::npos);
    CHECK(fs::exists(calls->path));
  } else {
    MESSAGE("skipped: cuBLASLt (" << why << ")");
    CHECK(why.find("Install it") != std::string::npos);
  }
  if (const CudnnCalls* calls = find_cudnn(&why)) {
    CHECK(calls->version >= kOldestCudnn);
    CHECK(calls->nvrtc.empty() != calls->nvrtc_problem.empty());
  } else {
    MESSAGE("skipped: cuDNN (" << why << ")");
    CHECK(why.find("Install it") != std::string::npos);
  }
}

}  // namespace
}  // namespace sinter::cuda
