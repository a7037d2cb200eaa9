#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "backends/cuda/driver.h"
#include "compiler/cache.h"

namespace sinter::cuda {

/// Machine code that is kept in the cache, loaded. What is stored there and is not taken by the device (made for another one, or
/// damaged) is made anew, and replaced.
Module cached_module(const Context& context, Cache& cache, const Digest& key, const CompileFacts& facts,
                     const std::function<std::string()>& make, std::string_view name);

}  // namespace sinter::cuda
