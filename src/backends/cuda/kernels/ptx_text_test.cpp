#include "backends/cuda/kernels/ptx_text.h"

#include <doctest/doctest.h>

#include "backends/cuda/kernels/kernels.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

constexpr std::string_view kText =
    ".version 7.1\n.extern .shared .b8 memory[];\n"
    "\n.visible .entry one__a(\n.param .u64 one__a_param_0\n)\n{\n{ // inner\n}\nret;\n}\n"
    "// more\n"
    "\n.visible .entry one__ab()\n.maxntid 128\n{\nret;\n}\n";

TEST_CASE("a kernel's text has it alone, with what stands before all") {
  CHECK(kernels_of(kText) == std::vector<std::string_view>{"one__a", "one__ab"});
  CHECK(text_of_kernel(kText, "one__ab") ==
        ".version 7.1\n.extern .shared .b8 memory[];\n\n.visible .entry one__ab()\n.maxntid 128\n{\nret;\n}\n");
  CHECK(text_of_kernel(kText, "one__a").ends_with("{\n{ // inner\n}\nret;\n}\n"));
  CHECK_THROWS_WITH_AS(text_of_kernel(kText, "one"), doctest::Contains("no GPU kernel called one"), Error);
  CHECK_THROWS_AS(text_of_kernel(kText.substr(0, kText.size() - 3), "one__ab"), Error);
}

TEST_CASE("the kernels of all built-in texts share nothing, so that each can be compiled by itself") {
  for (const auto& [name, ptx] : Kernels::all_ptx()) {
    CAPTURE(name);
    const auto kernels = kernels_of(ptx);
    REQUIRE(!kernels.empty());
    const size_t first = ptx.find("\n.visible .entry ");
    for (const char* shared : {"\n.func", "\n.visible .func", "\n.global", "\n.const", "\n.visible .global", "\n.visible .const"})
      CHECK(ptx.find(shared) == ptx.npos);
    // What all kernels leave over is comments.
    size_t bytes = first;
    for (std::string_view kernel : kernels) {
      const std::string text = text_of_kernel(ptx, kernel);
      CHECK(kernels_of(text) == std::vector{kernel});
      CHECK(text.starts_with(ptx.substr(0, first)));
      bytes += text.size() - first - 1;
    }
    CHECK(bytes <= ptx.size());
    CHECK(ptx.size() - bytes < kernels.size() * 400);
  }
}

}  // namespace
}  // namespace sinter::cuda
