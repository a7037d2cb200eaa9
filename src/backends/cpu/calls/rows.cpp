#include "backends/cpu/calls/rows.h"

#include <immintrin.h>

#include <cstring>

namespace sinter {
namespace {

/// Element i of memory that need not be aligned: weights in mapped files.
template <class T>
T at(const void* from, int64_t i) {
  T value;
  std::memcpy(&value, static_cast<const char*>(from) + i * int64_t(sizeof(T)), sizeof(T));
  return value;
}

__attribute__((target("avx2,f16c"))) void f16_to_f32_row(const char* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 2 * i))));
  for (; i < count; ++i) to[i] = f16_to_f32(at<uint16_t>(from, i));
}

__attribute__((target("avx2"))) void bf16_to_f32_row(const char* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 2 * i)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm256_slli_epi32(wide, 16));
  }
  for (; i < count; ++i) to[i] = bf16_to_f32(at<uint16_t>(from, i));
}

__attribute__((target("avx2"))) __m256i bf16_bits(__m256 value) {
  __m256i bits = _mm256_castps_si256(value);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}

__attribute__((target("avx2"))) void f32_to_bf16_row(const char* from, uint16_t* to, int64_t count) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    auto* source = reinterpret_cast<const float*>(from + 4 * i);
    __m256i low = bf16_bits(_mm256_loadu_ps(source)), high = bf16_bits(_mm256_loadu_ps(source + 8));
    __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0b11011000);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), both);
  }
  for (; i + 8 <= count; i += 8) {
    __m256i bits = bf16_bits(_mm256_loadu_ps(reinterpret_cast<const float*>(from + 4 * i)));
    __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), packed);
  }
  for (; i < count; ++i) to[i] = f32_to_bf16(at<float>(from, i));
}

}  // namespace

void convert_row(const void* from, DType from_type, void* to, DType to_type, int64_t count) {
  auto* bytes = static_cast<const char*>(from);
  if (from_type == to_type) {
    std::memcpy(to, from, size_t(count * byte_size(to_type)));
  } else if (to_type == DType::f32 && from_type == DType::f16) {
    f16_to_f32_row(bytes, static_cast<float*>(to), count);
  } else if (to_type == DType::f32 && from_type == DType::bf16) {
    bf16_to_f32_row(bytes, static_cast<float*>(to), count);
  } else if (to_type == DType::bf16 && from_type == DType::f32) {
    f32_to_bf16_row(bytes, static_cast<uint16_t*>(to), count);
  } else {
    convert(from, from_type, to, to_type, count);
  }
}

void RowSource::write(int64_t begin, int64_t end, char* to, int64_t row_bytes, char* staging) const {
  const int64_t bytes = byte_size(type);
  const bool pad = wanted == DType::bf16 && columns % 2;  // pairs: the odd one out is multiplied by zero, and must not be NaN
  if (prologue && type == wanted) {
    char* base = to - begin * row_bytes;
    (*prologue)(&base, begin, end, 0, columns);
  }
  for (int64_t row = begin; row < end; ++row) {
    char* target = to + (row - begin) * row_bytes;
    if (prologue && type != wanted) {
      char* base = staging - row * row_bytes / byte_size(wanted) * bytes;  // the prologue's stride in its own elements
      (*prologue)(&base, row, row + 1, 0, columns);
      convert_row(staging, type, target, wanted, columns);
    } else if (!prologue) {
      convert_row(static_cast<const char*>(data) + row * stride * bytes, type, target, wanted, columns);
    }
    if (pad) std::memset(target + columns * 2, 0, 2);
  }
}

}  // namespace sinter
