#pragma once
#include <utility>
#include <vector>

#include "backends/cuda/kernels/emulation.h"

/// hopper_intrinsics.h on the host. A pair of blocks runs as one of twice as many threads, each half with shared memory of its
/// own, whose addresses count from its beginning. Tiles are copied at once, but products read them only when they are waited for:
/// a stage that is freed too early shows.

#define SINTER_DEVICE_PAIR_KERNEL(name, ...) SINTER_EMULATED_HOPPER_KERNEL(name, HopperPair, __VA_ARGS__)
#define SINTER_DEVICE_HOPPER_KERNEL(name, ...) SINTER_EMULATED_HOPPER_KERNEL(name, Hopper, __VA_ARGS__)
#define SINTER_EMULATED_HOPPER_KERNEL(name, kind, ...)                                                                         \
  void name(__VA_ARGS__);                                                                                                      \
  static const ::sinter::device::EmulatedKernel registered_##name(#name, &name, ::sinter::device::EmulatedKernel::Kind::kind); \
  void name(__VA_ARGS__)
#define SINTER_PARAMETER_ADDRESS(address, parameter, kernel, number) address = uint64_t(uintptr_t(&parameter))
#define SINTER_UNROLL_SOME

namespace sinter::device {

/// What emulated copies read in place of the driver's map.
struct EmulatedMap {
  uint64_t base;
  int64_t rows, columns, row_stride, box_rows;
  bool early;  ///< may be read before wait_for_operands()
};
/// Fails where this thread has not waited for the kernels before, which may still write what it is about to touch.
void need_operands();

/// The same with up to four axes, the innermost, which is dense, first.
struct EmulatedBoxMap {
  uint64_t base;
  int64_t sizes[4], strides[4];  // strides in elements
  int32_t box[4], steps[4];      // of a box, every so manyth element along an axis
  bool early;                    // as above
};
static_assert(sizeof(EmulatedBoxMap) <= 128);
/// Of pictures, [n, h, w, c] and dense, whose pixels are copied for one tap of a window.
struct EmulatedPixelMap {
  uint64_t base;
  int64_t sizes[4];          // c, w, h, n
  int64_t first[2], end[2];  // where windows begin along w and h, and where none begins any more
  int32_t stride, pixels;    // from one to the next; so many are copied
};
static_assert(sizeof(EmulatedPixelMap) <= 128);

template <class T>
using Shared = T;
template <class T>
using Global = T;

uint32_t shared_address(const void* shared);
char* shared_bytes(uint32_t at);
template <class T>
T& shared_at(uint32_t at) {
  return *reinterpret_cast<T*>(shared_bytes(at));
}
inline void copy_chunk(uint32_t to, uint64_t global, bool inside) {
  need_operands();
  copy_async(shared_bytes(to), reinterpret_cast<const void*>(uintptr_t(global)), inside);
}

uint32_t rank_in_cluster();
void named_barrier(int number, int threads);
void named_arrive(int number, int threads);
inline bool any_lane(bool so) {
  uint32_t any = so;
  for (int lanes = 16; lanes > 0; lanes /= 2) any |= shuffle_xor(any, lanes);
  return any != 0;
}
template <int kCount>
void more_registers() {}
template <int kCount>
void fewer_registers() {}

void make_barrier(uint32_t at, uint32_t arrivals);
inline void publish_barriers() {}
void wait_phase(uint32_t at, uint32_t parity);
bool phase_ended(uint32_t at, uint32_t parity);
void arrive_expecting(uint32_t at, uint32_t bytes);
void arrive_at(uint32_t at);
void arrive_in_cluster(uint32_t at, uint32_t rank);
void send_in_cluster(uint32_t to, int rank, float first, float second, uint32_t barrier);
void copy_tile(uint32_t to, uint64_t map, int column, int row, uint32_t barrier);
void copy_tile_to_blocks(uint32_t to, uint64_t map, int column, int row, uint32_t barrier, uint32_t blocks);
inline void copy_tile_to_pair(uint32_t to, uint64_t map, int column, int row, uint32_t barrier) {
  copy_tile_to_blocks(to, map, column, row, barrier, 3);
}
void copy_box(uint32_t to, uint64_t map, int i, int j, int k, int l, uint32_t barrier);
void copy_box(uint32_t to, uint64_t map, int i, int j, int k, uint32_t barrier);
void copy_box_to_blocks(uint32_t to, uint64_t map, int i, int j, int k, uint32_t barrier, uint32_t blocks);
inline void copy_box_to_pair(uint32_t to, uint64_t map, int i, int j, int k, uint32_t barrier) {
  copy_box_to_blocks(to, map, i, j, k, barrier, 3);
}
void copy_pixels(uint32_t to, uint64_t map, int channel, int x, int y, int picture, int right, int down, uint32_t barrier);
inline void show_to_copies() {}
void copy_to_block(uint32_t to, uint32_t from, uint32_t bytes, uint32_t barrier, uint32_t rank);
inline void prefetch_map(uint64_t) {}

inline void begin_products() {}
void commit_products();
void wait_products_for(int open);
template <int kOpen>
void wait_products() {
  wait_products_for(kOpen);
}
template <int N>
void settle(float (&)[N]) {}
template <int N>
void settle(uint32_t (&)[N]) {}
inline void stay_behind(int) {}
void start_product_of(float* c, int count, uint64_t a, uint64_t b, bool bf16, bool first, bool turned);
template <bool kBf16, bool kFirst, bool kTurned = false, int N>
void start_product(float (&c)[N], uint64_t a, uint64_t b) {
  start_product_of(c, N, a, b, kBf16, kFirst, kTurned);
}

void add_summed_rows_of(float* c, int count, const uint32_t* a, uint64_t rows, bool bf16);
template <bool kBf16, int N>
void add_summed_rows(float (&c)[N], const uint32_t* a, uint64_t rows) {
  add_summed_rows_of(c, N, a, rows, kBf16);
}

}  // namespace sinter::device
