#include "compiler/kernel/code_generator.h"

#include <dlfcn.h>

#include <atomic>
#include <filesystem>

#include "base/error.h"

namespace sinter {
namespace {

constexpr const char* kModule = "libsinter_codegen.so";
constexpr const char* kEntry = "sinter_code_generator";
std::atomic<bool> loaded{false};

std::filesystem::path folder_of_this_library() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<const void*>(&code_generator_loaded), &info) || !info.dli_fname) return ".";
  return std::filesystem::absolute(info.dli_fname).parent_path();
}

CodeGenerator& open_module() {
  std::string path = (folder_of_this_library() / kModule).string();
  // Local: LLVM's symbols must not meet those of another LLVM in the process, such as a graphics driver's.
  void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!module)
    fail(Code::NotFound,
         "the code generator cannot be opened: {}\n  it must lie beside libsinter, as {}, and LLVM 19 must be installed",
         dlerror(), path);
  auto entry = reinterpret_cast<CodeGenerator* (*)()>(dlsym(module, kEntry));
  if (!entry) fail(Code::NotFound, "{} has no entry {}: it belongs to another version; install both files again", path, kEntry);
  CodeGenerator* generator = entry();
  loaded = true;
  return *generator;
}

}  // namespace

std::string CpuTarget::text() const {
  return fmt::format("{} {}, vectors of {} floats{}{}", cpu, features, vector_floats, f16c ? ", f16c" : "",
                     bf16_dot ? ", bf16 dot" : "");
}

CodeGenerator& code_generator() {
  static CodeGenerator& generator = open_module();
  return generator;
}

bool code_generator_loaded() { return loaded; }

}  // namespace sinter
