#include "backends/cpu/calls/vector_kernels.h"

#include <immintrin.h>

#include <cstring>

// Products may be contracted with additions; nothing else is relaxed.
#pragma GCC optimize("O3", "fp-contract=fast")
#pragma GCC diagnostic ignored "-Wpsabi"

namespace sinter {
namespace {

namespace avx2 {
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define SINTER_FLOATS 8
#include "backends/cpu/calls/vector_kernels.inc"
#undef SINTER_FLOATS
#pragma GCC pop_options
}  // namespace avx2

namespace avx512 {
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#define SINTER_FLOATS 16
#include "backends/cpu/calls/vector_kernels.inc"
#undef SINTER_FLOATS
#pragma GCC pop_options
}  // namespace avx512

}  // namespace

const VectorKernels& vector_kernels(int vector_floats) {
  static constexpr VectorKernels narrow{avx2::softmax, avx2::column_sums, avx2::transpose, avx2::scale, avx2::exp2};
  static constexpr VectorKernels wide{avx512::softmax, avx512::column_sums, avx512::transpose, avx512::scale, avx512::exp2};
  return vector_floats == 16 ? wide : narrow;
}

}  // namespace sinter
