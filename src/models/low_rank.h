#pragma once
#include <vector>

#include "base/thread_pool.h"

namespace sinter {

/// The right factor of products, b[inner, columns] in f32, in the order in which they read it.
class RightFactor {
 public:
  RightFactor(const float* b, int64_t inner, int64_t columns);
  /// out[rows, columns] += factor * (a[rows, inner] . b), row-major, each sum complete before it is scaled.
  void add_product(float* out, const float* a, int64_t rows, float factor) const;
  int64_t inner() const { return inner_; }

 private:
  int64_t inner_, columns_;
  std::vector<float> panels_;
};

/// The same with all threads.
void add_product(float* out, const float* a, const float* b, int64_t rows, int64_t inner, int64_t columns, float factor,
                 ThreadPool& pool);

}  // namespace sinter
