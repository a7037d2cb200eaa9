#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "tensor/dtype.h"

namespace sinter {

/// An element type of the safetensors format; those without a DType are listed and checked, never computed with.
struct SafetensorsType {
  std::string_view name;
  uint32_t bits;
  std::optional<DType> dtype;
};

inline constexpr std::array<SafetensorsType, 22> kSafetensorsTypes = {{
    {"F32", 32, DType::f32},          {"F16", 16, DType::f16},
    {"BF16", 16, DType::bf16},        {"F64", 64, DType::f64},
    {"F8_E4M3", 8, DType::f8e4m3},    {"F8_E5M2", 8, DType::f8e5m2},
    {"I64", 64, DType::i64},          {"I32", 32, DType::i32},
    {"I16", 16, DType::i16},          {"I8", 8, DType::i8},
    {"U64", 64, DType::u64},          {"U32", 32, DType::u32},
    {"U16", 16, DType::u16},          {"U8", 8, DType::u8},
    {"BOOL", 8, DType::boolean},      {"F8_E8M0", 8, std::nullopt},
    {"F8_E4M3FNUZ", 8, std::nullopt}, {"F8_E5M2FNUZ", 8, std::nullopt},
    {"C64", 64, std::nullopt},        {"F4", 4, std::nullopt},
    {"F6_E2M3", 6, std::nullopt},     {"F6_E3M2", 6, std::nullopt},
}};

/// The first 8 bytes give the length of the header, which may not be more than this.
inline constexpr uint64_t kSafetensorsHeaderLimit = 100'000'000;
inline constexpr std::string_view kSafetensorsMetadataKey = "__metadata__";

}  // namespace sinter
