#include "base/error.h"
#include "codegen/generators.h"

namespace sinter {

void add_row_kernel(Emitter&, const std::string& symbol, const RowKernel&) {
  fail(Code::Unsupported, "row kernel {}: this build cannot generate it", symbol);
}

}  // namespace sinter
