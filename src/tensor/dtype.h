#pragma once
#include <cstdint>
#include <optional>
#include <string_view>

namespace sinter {

/// Element types. f8e4m3 is the "fn" form (bias 7, no infinity, NaN 0x7f and 0xff, largest 448); f8e5m2 has infinities.
enum class DType : uint8_t { f32, f16, bf16, f8e4m3, f8e5m2, f64, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

int64_t byte_size(DType type);
std::string_view name(DType type);                        ///< "f32", "bf16", ...
std::optional<DType> parse_dtype(std::string_view text);  ///< the inverse of name()
bool is_float(DType type);

/// Converts `count` elements; any type to any type. Floats round to nearest even, out of range becomes infinity (or NaN for
/// f8e4m3); float to integer truncates and saturates. `from` and `to` need no alignment and must not overlap.
void convert(const void* from, DType from_type, void* to, DType to_type, int64_t count);

float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);
inline float bf16_to_f32(uint16_t bits) { return __builtin_bit_cast(float, uint32_t(bits) << 16); }
uint16_t f32_to_bf16(float value);

}  // namespace sinter
