#include "backends/cuda/cached_module.h"

#include "compiler/compiled_graph.h"

namespace sinter::cuda {
namespace {

std::string_view text_of(const Blob& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

}  // namespace

Module cached_module(const Context& context, Cache& cache, const Digest& key, const CompileFacts& facts,
                     const std::function<std::string()>& make, std::string_view name) {
  auto make_blob = [&] {
    const std::string code = make();
    const auto* bytes = reinterpret_cast<const std::byte*>(code.data());
    return Blob(bytes, bytes + code.size());
  };
  Lookup lookup;
  Blob code = cache.find_or_compile(key, facts, make_blob, &lookup);
  try {
    return Module(context, text_of(code), name);
  } catch (const Error& e) {
    if (!lookup.hit || !making_anew_may_help(e)) throw;
  }
  code = make_blob();
  cache.put(key, code, facts);
  return Module(context, text_of(code), name);
}

}  // namespace sinter::cuda
