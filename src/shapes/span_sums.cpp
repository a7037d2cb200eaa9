#include "shapes/span_sums.h"

#include <immintrin.h>

#include "base/settings.h"

namespace sinter::shapes {

namespace {

/// So many pixels cannot bring any lane to 2^31 (kChannels * 255 * 255 each), so 32 bits hold their sums.
constexpr int64_t kPixelsIn32Bits = 11'000;

void sum_scalar(const int32_t* table, const SpanPlaces* spans, int count, int64_t, int64_t* lanes) {
  for (int i = 0; i < count; ++i) {
    const int32_t* begin = table + size_t(spans[i].begin) * kSumLanes;
    const int32_t* end = table + size_t(spans[i].end) * kSumLanes;
    for (int lane = 0; lane < kSumLanes; ++lane) lanes[lane] += int32_t(uint32_t(end[lane]) - uint32_t(begin[lane]));
  }
}

__attribute__((target("avx2"))) inline __m256i span_avx2(const int32_t* table, SpanPlaces span) {
  const auto* places = reinterpret_cast<const __m256i*>(table);
  return _mm256_sub_epi32(_mm256_load_si256(places + span.end), _mm256_load_si256(places + span.begin));
}

__attribute__((target("avx2"))) void sum_avx2(const int32_t* table, const SpanPlaces* spans, int count, int64_t pixels,
                                              int64_t* lanes) {
  __m256i low = _mm256_setzero_si256(), high = low;
  int i = 0;
  if (pixels <= kPixelsIn32Bits) {
    __m256i even = low, odd = low;
    for (; i + 1 < count; i += 2) {
      even = _mm256_add_epi32(even, span_avx2(table, spans[i]));
      odd = _mm256_add_epi32(odd, span_avx2(table, spans[i + 1]));
    }
    if (i < count) even = _mm256_add_epi32(even, span_avx2(table, spans[i]));
    even = _mm256_add_epi32(even, odd);
    low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(even));
    high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(even, 1));
  } else {
    for (; i < count; ++i) {
      __m256i sums = span_avx2(table, spans[i]);
      low = _mm256_add_epi64(low, _mm256_cvtepi32_epi64(_mm256_castsi256_si128(sums)));
      high = _mm256_add_epi64(high, _mm256_cvtepi32_epi64(_mm256_extracti128_si256(sums, 1)));
    }
  }
  auto* out = reinterpret_cast<__m256i*>(lanes);
  _mm256_storeu_si256(out, _mm256_add_epi64(_mm256_loadu_si256(out), low));
  _mm256_storeu_si256(out + 1, _mm256_add_epi64(_mm256_loadu_si256(out + 1), high));
}

__attribute__((target("avx512f,avx512vl,avx2"))) void sum_avx512(const int32_t* table, const SpanPlaces* spans, int count,
                                                                 int64_t pixels, int64_t* lanes) {
  if (pixels <= kPixelsIn32Bits) return sum_avx2(table, spans, count, pixels, lanes);
  const auto* places = reinterpret_cast<const __m256i*>(table);
  __m512i sums = _mm512_setzero_si512();
  for (int i = 0; i < count; ++i) {
    __m256i span = _mm256_sub_epi32(_mm256_load_si256(places + spans[i].end), _mm256_load_si256(places + spans[i].begin));
    sums = _mm512_add_epi64(sums, _mm512_maskz_cvtepi32_epi64(0xff, span));
  }
  _mm512_storeu_si512(lanes, _mm512_add_epi64(_mm512_loadu_si512(lanes), sums));
}

}  // namespace

Simd widest_simd() {
  if (!__builtin_cpu_supports("avx2")) return Simd::scalar;
  bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
  return wide && setting("SINTER_CPU_TARGET") != "avx2" ? Simd::avx512 : Simd::avx2;
}

SumSpans span_sums(Simd simd) {
  switch (simd) {
    case Simd::avx2:
      return sum_avx2;
    case Simd::avx512:
      return sum_avx512;
    case Simd::scalar:
      break;
  }
  return sum_scalar;
}

}  // namespace sinter::shapes
