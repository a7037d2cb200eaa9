#include "backends/cuda/kernels/elements.h"

#include <algorithm>

#include "backends/cuda/kernels/element_types.h"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kWide = 8;         // elements of a thread, as in elements.device.cpp
constexpr int64_t kHeld = 4;         // vectors of a thread that quantise_rows holds
constexpr int64_t kProductRows = 4;  // of a thread that adds products, as there
constexpr int64_t kThreads = 256;
constexpr int64_t kMostThreads = 1024;

int source_type(const char* what, DType type) {
  switch (type) {
    case DType::f32:
      return device::kF32;
    case DType::f16:
      return device::kF16;
    case DType::bf16:
      return device::kBf16;
    case DType::f8e4m3:
      return device::kE4m3;
    case DType::f8e5m2:
      return device::kE5m2;
    default:
      fail(Code::Unsupported, "{}: no kernel reads {}", what, name(type));
  }
}

int target_type(const char* what, DType type) {
  if (type == DType::f8e5m2) fail(Code::Unsupported, "{}: no kernel writes {}", what, name(type));
  return source_type(what, type);
}

LaunchShape one_pass(int64_t count) { return {.grid = {uint32_t(divide_up(count, kThreads * kWide))}, .block = {kThreads}}; }

}  // namespace

void cast(KernelTarget& target, const CastCall& c) {
  if (c.count == 0) return;
  if (c.row_scales && c.columns <= 0) fail(Code::InvalidArgument, "cast: scales for rows of {} columns", c.columns);
  target("elements__cast", one_pass(c.count), c.from, source_type("cast", c.from_type), c.to, target_type("cast", c.to_type),
         c.count, c.scale, c.row_scales, c.columns);
}

void fill_normal(KernelTarget& target, DevicePtr to, DType type, int64_t count, uint64_t seed, float mean, float factor) {
  if (count == 0) return;
  target("elements__normals", one_pass(count), to, target_type("fill_normal", type), count, seed, mean, factor);
}

void gather_rows(KernelTarget& target, const GatherRowsCall& c) {
  if (c.count == 0 || c.columns == 0) return;
  const int64_t bytes = byte_size(c.type), row = c.columns * bytes, to_row = (c.to_stride ? c.to_stride : c.columns) * bytes;
  const bool wide = row % 16 == 0 && to_row % 16 == 0 && c.table % 16 == 0 && c.to % 16 == 0;
  const int64_t unit = wide ? 16 : 1;
  const LaunchShape shape{.grid = {uint32_t(c.count)}, .block = {128}};
  target(wide ? "elements__gather_rows_16" : "elements__gather_rows_1", shape, c.table, c.rows, c.indices, c.to, int(row / unit),
         row / unit, to_row / unit);
}

void gate_rows(KernelTarget& target, const GateRowsCall& c) {
  if (c.rows == 0 || c.columns == 0) return;
  const int64_t chunks = divide_up(c.columns, kWide), threads = std::min(kThreads, divide_up(chunks, 32) * 32);
  const int64_t stride = c.to_stride ? c.to_stride : c.columns, bytes = byte_size(c.type);
  const int type = target_type("gate_rows", c.type);
  constexpr int64_t kMostGridY = 65535;
  for (int64_t row = 0; row < c.rows; row += kMostGridY) {
    const LaunchShape shape{.grid = {uint32_t(divide_up(chunks, threads)), uint32_t(std::min(kMostGridY, c.rows - row))},
                            .block = {uint32_t(threads)}};
    target("elements__gate_rows", shape, c.from + DevicePtr(row * 2 * c.columns * bytes), c.to + DevicePtr(row * stride * bytes),
           type, int(c.columns), stride);
  }
}

void add_products(KernelTarget& target, const AddProductsCall& c) {
  if (c.rows == 0 || c.columns == 0 || c.products == 0) return;
  constexpr int64_t kLanes = 32, kRows = kThreads / kLanes * kProductRows;
  const LaunchShape shape{.grid = {uint32_t(divide_up(c.rows, kRows)), uint32_t(divide_up(c.columns, kLanes * kWide))},
                          .block = {kThreads}};
  target("elements__add_products", shape, c.weight, target_type("add_products", c.type), c.rows, c.columns, c.table, c.products);
}

void quantise_rows(KernelTarget& target, const QuantiseRowsCall& c) {
  if (c.rows == 0 || c.columns == 0) return;
  const int64_t threads = std::min(kMostThreads, divide_up(divide_up(c.columns, kWide * kHeld), 32) * 32);
  const bool held = c.columns <= threads * kWide * kHeld;
  const LaunchShape shape{
      .grid = {uint32_t(c.rows)}, .block = {uint32_t(threads)}, .shared_bytes = uint32_t(threads / 32 * sizeof(float))};
  target(held ? "elements__quantise_rows" : "elements__quantise_long_rows", shape, c.x, source_type("quantise_rows", c.type),
         c.x_stride ? c.x_stride : c.columns, int(c.columns), c.to, c.to_stride ? c.to_stride : c.columns, c.scales);
}

void double_picture(KernelTarget& target, const DoublePictureCall& c) {
  const int64_t chunks = divide_up(c.c, kWide), count = c.n * c.h * c.w * chunks;
  if (count == 0) return;
  const LaunchShape shape{.grid = {uint32_t(divide_up(count, kThreads))}, .block = {uint32_t(kThreads)}};
  target("elements__double_picture", shape, c.from, c.to, target_type("double_picture", c.type), count, int(c.h), int(c.w),
         int(c.c));
}

namespace {
void by_filter_and_channel(KernelTarget& target, const char* kernel, const FiltersCall& c) {
  const int64_t count = c.k * c.c;
  if (count == 0) return;
  const LaunchShape shape{.grid = {uint32_t(divide_up(count, int64_t(kThreads)))}, .block = {kThreads}};
  target(fmt::format("elements__{}", kernel), shape, c.from, source_type(kernel, c.from_type), c.to,
         target_type(kernel, c.to_type), c.k, c.c);
}
}  // namespace

void filters_doubled(KernelTarget& target, const FiltersCall& c) {
  if (c.taps != 9) fail(Code::InvalidArgument, "filters_doubled: {} taps, windows of 3 x 3 have 9", c.taps);
  by_filter_and_channel(target, "filters_doubled", c);
}

void filters_undoubled(KernelTarget& target, const FiltersCall& c) {
  if (c.taps != 16) fail(Code::InvalidArgument, "filters_undoubled: {} taps, windows of 4 x 4 have 16", c.taps);
  by_filter_and_channel(target, "filters_undoubled", c);
}

void filters_of_places(KernelTarget& target, const FiltersCall& c) {
  if (c.taps != 16) fail(Code::InvalidArgument, "filters_of_places: {} taps, windows of 4 x 4 have 16", c.taps);
  by_filter_and_channel(target, "filters_of_places", c);
}

void filters_channels_last(KernelTarget& target, const FiltersCall& c) {
  if (c.k == 0 || c.c == 0 || c.taps == 0) return;
  constexpr int64_t kHeldFloats = 4096, kMostTaps = 12288;
  if (c.taps > kMostTaps) fail(Code::Unsupported, "filters_channels_last: {} taps are more than {}", c.taps, kMostTaps);
  const int64_t channels = std::min(c.c, std::max<int64_t>(1, kHeldFloats / c.taps));
  constexpr int64_t kMostGridY = 65535;
  for (int64_t k = 0; k < c.k; k += kMostGridY) {
    const int64_t count = std::min(kMostGridY, c.k - k), elements = k * c.c * c.taps;
    const LaunchShape shape{.grid = {uint32_t(divide_up(c.c, channels)), uint32_t(count)},
                            .block = {kThreads},
                            .shared_bytes = uint32_t(channels * c.taps * int64_t(sizeof(float)))};
    target("elements__filters_channels_last", shape, c.from + DevicePtr(elements * byte_size(c.from_type)),
           source_type("filters_channels_last", c.from_type), c.to + DevicePtr(elements * byte_size(c.to_type)),
           target_type("filters_channels_last", c.to_type), c.c, int(c.taps), int(channels));
  }
}

}  // namespace sinter::cuda
