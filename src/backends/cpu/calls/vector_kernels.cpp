#include "backends/cpu/calls/vector_kernels.h"

#include <immintrin.h>

#include <cstring>

// Products may be contracted with additions; nothing else is relaxed. The two compilers spell it, and targets, differently.
#ifdef __clang__
#pragma clang fp contract(fast)
#define SINTER_PRAGMA(text) _Pragma(#text)
#define SINTER_TARGET_BEGIN(features) SINTER_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define SINTER_TARGET_END _Pragma("clang attribute pop")
#define SINTER_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
#else
#pragma GCC optimize("O3", "fp-contract=fast")
#pragma GCC diagnostic ignored "-Wpsabi"
#pragma GCC diagnostic ignored "-Wuninitialized"  // what GCC 12's own intrinsics pass as "undefined"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define SINTER_PRAGMA(text) _Pragma(#text)
#define SINTER_TARGET_BEGIN(features) _Pragma("GCC push_options") SINTER_PRAGMA(GCC target(features))
#define SINTER_TARGET_END _Pragma("GCC pop_options")
#define SINTER_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512"
#endif

namespace sinter {
namespace {

namespace avx2 {
SINTER_TARGET_BEGIN("avx2,fma,f16c")
#define SINTER_FLOATS 8
#include "backends/cpu/calls/vector_kernels.inc"
#undef SINTER_FLOATS
SINTER_TARGET_END
}  // namespace avx2

namespace avx512 {
SINTER_TARGET_BEGIN(SINTER_AVX512)
#define SINTER_FLOATS 16
#include "backends/cpu/calls/vector_kernels.inc"
#undef SINTER_FLOATS
SINTER_TARGET_END
}  // namespace avx512

}  // namespace

const VectorKernels& vector_kernels(int vector_floats) {
  static constexpr VectorKernels narrow{avx2::softmax,          nullptr,     avx2::column_sums, avx2::transpose,
                                        avx2::transpose_halves, avx2::scale, avx2::exp2};
  static constexpr VectorKernels wide{avx512::softmax,          avx512::softmax_pairs, avx512::column_sums, avx512::transpose,
                                      avx512::transpose_halves, avx512::scale,         avx512::exp2};
  return vector_floats == 16 ? wide : narrow;
}

}  // namespace sinter
