#pragma once
#include <cstdint>

#include "shapes/scoring.h"

namespace sinter::shapes {

/// A span as two places in the table of running sums; a place counts groups of kSumLanes words.
struct SpanPlaces {
  uint32_t begin, end;
};

/// Adds table[end] - table[begin] over spans to `lanes`; `pixels` is how many they cover together.
using SumSpans = void (*)(const int32_t* table, const SpanPlaces* spans, int count, int64_t pixels, int64_t* lanes);

enum class Simd { scalar, avx2, avx512 };
/// The widest that this processor has, or avx2 where SINTER_CPU_TARGET asks for that.
Simd widest_simd();
/// All of them give the same integers; search_test.cpp checks that. `simd` must be one that the processor has.
SumSpans span_sums(Simd simd);

}  // namespace sinter::shapes
