#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace sinter::cuda {

/// The names of the kernels in a PTX text, in its order.
std::vector<std::string_view> kernels_of(std::string_view ptx);

/// A text with one kernel of a text's, and what stands before the first. Kernels that share nothing but that are compiled apart:
/// each when it is needed, and several at once. Code::NotFound.
std::string text_of_kernel(std::string_view ptx, std::string_view kernel);

}  // namespace sinter::cuda
