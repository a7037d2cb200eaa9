#pragma once
#include "base/thread_pool.h"

namespace sinter {

/// out[rows, columns] += factor * (a[rows, inner] . b[inner, columns]), row-major f32, each sum complete before it is scaled.
void add_product(float* out, const float* a, const float* b, int64_t rows, int64_t inner, int64_t columns, float factor,
                 ThreadPool& pool);

}  // namespace sinter
