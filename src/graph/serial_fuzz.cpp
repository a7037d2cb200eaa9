#include "graph/serial.h"

#include <cstdint>
#include <cstdlib>

#include "base/error.h"

// Whatever the text is: an Error, or a graph that keeps every promise and is written and read back as the same structure.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    auto graph = sinter::read_graph({reinterpret_cast<const char*>(data), size});
    sinter::verify(*graph);
    auto again = sinter::read_graph(sinter::write_graph(*graph));
    if (sinter::structure_digest(*again) != sinter::structure_digest(*graph)) std::abort();
  } catch (const sinter::Error& e) {
    if (e.code() == sinter::Code::Internal) std::abort();
  }
  return 0;
}
