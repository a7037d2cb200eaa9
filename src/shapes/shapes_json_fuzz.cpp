#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "shapes/json.h"
#include "shapes/render.h"
#include "shapes/svg.h"

using namespace sinter;

// Whatever the text is: a result that can be drawn at any size and reads back as itself, or an Error.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static ThreadPool pool(1);
  try {
    shapes::Result result = shapes::from_json({reinterpret_cast<const char*>(data), size}, "fuzz");
    if (shapes::from_json(shapes::to_json(result), "again").steps != result.steps) std::abort();
    shapes::render(result, 61, 43, pool);
    if (shapes::svg(result, 61, 43).empty()) std::abort();
    if (result.width <= 256 && result.height <= 256) shapes::draw(result);
  } catch (const Error&) {
  }
  return 0;
}
