#include "backends/cuda/kernels/ptx_text.h"

#include "base/error.h"

namespace sinter::cuda {
namespace {

constexpr std::string_view kEntry = "\n.visible .entry ";

/// Where the kernel whose declaration begins at `begin` ends. Its parameters and its body are the only things in braces: strings
/// and comments of compiled code have none.
size_t end_of_kernel(std::string_view ptx, size_t begin) {
  int depth = 0;
  for (size_t at = begin; at < ptx.size(); ++at) {
    if (ptx[at] == '{') ++depth;
    if (ptx[at] == '}' && --depth == 0) return at + 1;
  }
  fail(Code::Corrupt, "a kernel has no end in its PTX");
}

std::string_view name_at(std::string_view ptx, size_t entry) {
  const size_t begin = entry + kEntry.size();
  return ptx.substr(begin, ptx.find_first_of("( \n", begin) - begin);
}

}  // namespace

std::vector<std::string_view> kernels_of(std::string_view ptx) {
  std::vector<std::string_view> names;
  for (size_t at = ptx.find(kEntry); at != ptx.npos; at = ptx.find(kEntry, at + 1)) names.push_back(name_at(ptx, at));
  return names;
}

std::string text_of_kernel(std::string_view ptx, std::string_view kernel) {
  const size_t first = ptx.find(kEntry);
  for (size_t at = first; at != ptx.npos; at = ptx.find(kEntry, at + 1))
    if (name_at(ptx, at) == kernel)
      return std::string(ptx.substr(0, first)).append(ptx.substr(at, end_of_kernel(ptx, at) - at)).append("\n");
  fail(Code::NotFound, "there is no GPU kernel called {}", kernel);
}

}  // namespace sinter::cuda
