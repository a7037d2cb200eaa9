#pragma once
#include "backends/cuda/kernels/device.h"

/// What devices of capability 9.0 have beyond device.h: pairs of blocks that see each other's shared memory, barriers in memory,
/// copies of tiles by a unit of their own, and products of whole warpgroups (four warps). Shared memory is named by its address
/// there. For tests, hopper_emulation.h has the same functions for the host.

namespace sinter::device {

/// Describes a matrix in shared memory to products: rows of 64 16-bit elements (128 bytes) whose chunks of 16 bytes are swizzled
/// by the bits of their address, as copy_tile() writes them. Rows begin at multiples of 128, and after each eight of them the
/// next lie `eight_rows` bytes further, a multiple of 128 too. 16 columns further: + 2; n rows further where all are dense: + 8
/// n.
SINTER_DEVICE_INLINE uint64_t product_operand(uint32_t at, uint32_t eight_rows = 1024) {
  constexpr uint64_t kSwizzled128 = 1;
  return (at & 0x3ffff) >> 4 | uint64_t(1) << 16 | uint64_t(eight_rows / 16) << 32 | kSwizzled128 << 62;
}
/// The same rows as the right matrix of a product that sums over rows, not columns: its columns are 64 of these, the next 64 lie
/// `next_columns` bytes further. 16 rows further: + 128.
SINTER_DEVICE_INLINE uint64_t summed_rows_operand(uint32_t at, uint32_t next_columns) {
  constexpr uint64_t kEightRows = 1024 / 16, kSwizzled128 = 1;
  return (at & 0x3ffff) >> 4 | uint64_t(next_columns / 16) << 16 | kEightRows << 32 | kSwizzled128 << 62;
}

}  // namespace sinter::device

#ifdef SINTER_DEVICE_EMULATION
#include "backends/cuda/kernels/hopper_emulation.h"
#else

/// The address of a kernel's parameter that is too large, or too special, to be copied.
#define SINTER_PARAMETER_ADDRESS(address, parameter, kernel, number) SINTER_PARAMETER_ADDRESS_(address, kernel, number)
#define SINTER_PARAMETER_ADDRESS_(address, kernel, number) \
  asm volatile("{ .reg .b64 p; mov.b64 p, " #kernel "_param_" #number "; cvta.param.u64 %0, p; }" : "=l"(address))

/// A kernel whose blocks come in pairs (ENTRY_DIRECTIVES of sinter_device_code say so to the device).
#define SINTER_DEVICE_PAIR_KERNEL(name, ...) SINTER_DEVICE_KERNEL(name, __VA_ARGS__)
/// A kernel of blocks by themselves that uses what is here.
#define SINTER_DEVICE_HOPPER_KERNEL(name, ...) SINTER_DEVICE_KERNEL(name, __VA_ARGS__)
#define SINTER_UNROLL_SOME _Pragma("unroll 4")

namespace sinter::device {

template <class T>
using Shared = __attribute__((address_space(3))) T;
template <class T>
using Global = __attribute__((address_space(1))) T;
/// What lies at an address in shared memory.
template <class T>
SINTER_DEVICE_INLINE Shared<T>& shared_at(uint32_t at) {
  return *reinterpret_cast<Shared<T>*>(at);
}
/// copy_async() to an address in shared memory.
SINTER_DEVICE_INLINE void copy_chunk(uint32_t to, uint64_t global, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(inside ? 16 : 0) : "memory");
}

/// Which of its cluster a block is.
SINTER_DEVICE_INLINE uint32_t rank_in_cluster() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
/// Waits for `threads` threads that give the same number.
SINTER_DEVICE_INLINE void named_barrier(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
/// Counts for such a barrier without waiting.
SINTER_DEVICE_INLINE void named_arrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

/// Whether it is so in any lane of the warp.
SINTER_DEVICE_INLINE bool any_lane(bool so) {
  uint32_t any;
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %1, 0; vote.sync.any.pred p, p, 0xffffffff; selp.u32 %0, 1, 0, p; }"
               : "=r"(any)
               : "r"(uint32_t(so)));
  return any != 0;
}

/// How many registers a thread of this warpgroup has from here on.
template <int kCount>
SINTER_DEVICE_INLINE void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
SINTER_DEVICE_INLINE void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

// Barriers in shared memory, 8 bytes each. A barrier's phases alternate between parity 0 and 1; one ends when so many have
// arrived as it was made for, and all bytes have come that were announced.

SINTER_DEVICE_INLINE void make_barrier(uint32_t at, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}
/// What was made is there for the other block and for the copying unit.
SINTER_DEVICE_INLINE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
/// Returns once the phase of this parity has ended. It must not be called more than one phase ahead.
SINTER_DEVICE_INLINE void wait_phase(uint32_t at, uint32_t parity) {
  asm volatile(
      "{ .reg .pred done; WAIT: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @done bra DONE; bra WAIT; DONE: }" ::"r"(
          at),
      "r"(parity)
      : "memory");
}
/// Whether the phase of this parity has ended, without waiting.
SINTER_DEVICE_INLINE bool phase_ended(uint32_t at, uint32_t parity) {
  uint32_t ended;
  asm volatile("{ .reg .pred done; mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2; selp.u32 %0, 1, 0, done; }"
               : "=r"(ended)
               : "r"(at), "r"(parity)
               : "memory");
  return ended != 0;
}
/// Arrives, and announces bytes.
SINTER_DEVICE_INLINE void arrive_expecting(uint32_t at, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
/// Arrives at a barrier of this block.
SINTER_DEVICE_INLINE void arrive_at(uint32_t at) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
/// Arrives at the barrier that lies at this address in a block of the cluster. What other threads wait for with it is that this
/// one's products have read what they were given; a release for the whole cluster would wait for all its memory besides, each
/// time.
SINTER_DEVICE_INLINE void arrive_in_cluster(uint32_t at, uint32_t rank) {
  asm volatile(
      "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; mbarrier.arrive.shared::cluster.b64 _, [there]; "
      "}" ::"r"(at),
      "r"(rank)
      : "memory");
}

/// Writes two numbers to this address, a multiple of 8, in the shared memory of the cluster's block `rank`. Their bytes count at
/// its barrier; who has waited there sees them.
SINTER_DEVICE_INLINE void send_in_cluster(uint32_t to, int rank, float first, float second, uint32_t barrier) {
  asm volatile(
      "{ .reg .b32 there, counts; mapa.shared::cluster.u32 there, %0, %2; mapa.shared::cluster.u32 counts, %1, %2; "
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [there], {%3, %4}, [counts]; }" ::"r"(to),
      "r"(barrier), "r"(rank), "f"(first), "f"(second)
      : "memory");
}

/// Starts copying a tile of the matrix that `map` describes, from (row, column) on; what lies outside becomes zero. Its bytes
/// count at `barrier`.
SINTER_DEVICE_INLINE void copy_tile(uint32_t to, uint64_t map, int column, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
/// The same into several blocks of the cluster at the same addresses, a bit of `blocks` each, and counting at each one's barrier.
SINTER_DEVICE_INLINE void copy_tile_to_blocks(uint32_t to, uint64_t map, int column, int row, uint32_t barrier, uint32_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], "
      "[%4], "
      "%5;" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier), "h"(uint16_t(blocks))
      : "memory");
}
SINTER_DEVICE_INLINE void copy_tile_to_pair(uint32_t to, uint64_t map, int column, int row, uint32_t barrier) {
  copy_tile_to_blocks(to, map, column, row, barrier, 3);
}
/// copy_tile() of a map with four axes. Coordinates may be negative.
SINTER_DEVICE_INLINE void copy_box(uint32_t to, uint64_t map, int i, int j, int k, int l, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
      "l"(map), "r"(i), "r"(j), "r"(k), "r"(l), "r"(barrier)
      : "memory");
}
/// Copies so many pixels of a map of pictures (PixelColumns of tensor_map.h), of each 64 channels from `channel` on. The first is
/// that at (x, y) of `picture`, which must be one that the map lets windows begin at; the others follow it as the map says, row
/// after row and picture after picture. All are taken (right, down) of there. What lies outside becomes zero, behind the last
/// picture too.
SINTER_DEVICE_INLINE void copy_pixels(uint32_t to, uint64_t map, int channel, int x, int y, int picture, int right, int down,
                                      uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6], "
      "{%7, %8};" ::"r"(to),
      "l"(map), "r"(channel), "r"(x), "r"(y), "r"(picture), "r"(barrier), "h"(uint16_t(right)), "h"(uint16_t(down))
      : "memory");
}
/// And with three.
SINTER_DEVICE_INLINE void copy_box(uint32_t to, uint64_t map, int i, int j, int k, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(map), "r"(i), "r"(j), "r"(k), "r"(barrier)
      : "memory");
}
/// copy_tile_to_blocks() of a map with three axes.
SINTER_DEVICE_INLINE void copy_box_to_blocks(uint32_t to, uint64_t map, int i, int j, int k, uint32_t barrier, uint32_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3, %4}], "
      "[%5], %6;" ::"r"(to),
      "l"(map), "r"(i), "r"(j), "r"(k), "r"(barrier), "h"(uint16_t(blocks))
      : "memory");
}
SINTER_DEVICE_INLINE void copy_box_to_pair(uint32_t to, uint64_t map, int i, int j, int k, uint32_t barrier) {
  copy_box_to_blocks(to, map, i, j, k, barrier, 3);
}
/// What this thread wrote to shared memory is there for copies that threads start after they waited for this one.
SINTER_DEVICE_INLINE void show_to_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/// Starts copying bytes, a multiple of 16, from this block's shared memory to that of another of the cluster, at whose barrier
/// they count. All three are addresses as in this block.
SINTER_DEVICE_INLINE void copy_to_block(uint32_t to, uint32_t from, uint32_t bytes, uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{ .reg .b32 there, counts; mapa.shared::cluster.u32 there, %0, %4; mapa.shared::cluster.u32 counts, %3, %4; "
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [there], [%1], %2, [counts]; }" ::"r"(to),
      "r"(from), "r"(bytes), "r"(barrier), "r"(rank)
      : "memory");
}
SINTER_DEVICE_INLINE void prefetch_map(uint64_t map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

/// Before the first product after its sums or shared memory were touched otherwise.
SINTER_DEVICE_INLINE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/// Ends a group of products that were started.
SINTER_DEVICE_INLINE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most `kOpen` groups are under way.
template <int kOpen>
SINTER_DEVICE_INLINE void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kOpen) : "memory");
}
/// Sums are not read before here.
template <int N>
SINTER_DEVICE_INLINE void settle(float (&sums)[N]) {
  SINTER_UNROLL
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

/// Keeps waits that follow behind what was computed before. The compiler of machine code moves them in front of arithmetic that
/// they do not depend on, but nothing across a branch: here is one that is never taken. `count`: the same in all threads, not
/// negative.
SINTER_DEVICE_INLINE void stay_behind(int count) {
  asm volatile("{ .reg .pred always; setp.ge.s32 always, %0, 0; @always bra GO; nanosleep.u32 1; GO: }" ::"r"(count) : "memory");
}
/// What products read from registers is not written before here.
template <int N>
SINTER_DEVICE_INLINE void settle(uint32_t (&words)[N]) {
  SINTER_UNROLL
  for (int i = 0; i < N; ++i) asm volatile("" : "+r"(words[i])::"memory");
}

/// c += a . b^T for 64 rows of a and 2 * (count of c) rows of b, 16 columns of each. With g = lane / 4, t = lane % 4 * 2 and w
/// the warp of the warpgroup: c[4 j] and the next are row 16 w + g, columns 8 j + t and the next; c[4 j + 2] and the next of row
/// g + 8. kFirst: c = a . b^T. kTurned: b is of summed_rows_operand().
#define SINTER_PRODUCT_CODE(columns, type, count, after, names, adds, turned)                                              \
  "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." #type "." #type " {" names "}, %" #count ", %" #after ", " #adds \
  ", 1, 1, 0, " #turned ";"
#define SINTER_START_PRODUCT(columns, count, after, names, SUMS)                                                 \
  template <bool kBf16, bool kFirst, bool kTurned = false>                                                       \
  SINTER_DEVICE_INLINE void start_product(float(&c)[count], uint64_t a, uint64_t b) {                            \
    if constexpr (kBf16 && kFirst && !kTurned)                                                                   \
      asm volatile(SINTER_PRODUCT_CODE(columns, bf16, count, after, names, 0, 0) : SUMS("=f") : "l"(a), "l"(b)); \
    else if constexpr (kBf16 && !kTurned)                                                                        \
      asm volatile(SINTER_PRODUCT_CODE(columns, bf16, count, after, names, 1, 0) : SUMS("+f") : "l"(a), "l"(b)); \
    else if constexpr (kFirst && !kTurned)                                                                       \
      asm volatile(SINTER_PRODUCT_CODE(columns, f16, count, after, names, 0, 0) : SUMS("=f") : "l"(a), "l"(b));  \
    else if constexpr (!kTurned)                                                                                 \
      asm volatile(SINTER_PRODUCT_CODE(columns, f16, count, after, names, 1, 0) : SUMS("+f") : "l"(a), "l"(b));  \
    else if constexpr (kBf16 && kFirst)                                                                          \
      asm volatile(SINTER_PRODUCT_CODE(columns, bf16, count, after, names, 0, 1) : SUMS("=f") : "l"(a), "l"(b)); \
    else if constexpr (kBf16)                                                                                    \
      asm volatile(SINTER_PRODUCT_CODE(columns, bf16, count, after, names, 1, 1) : SUMS("+f") : "l"(a), "l"(b)); \
    else if constexpr (kFirst)                                                                                   \
      asm volatile(SINTER_PRODUCT_CODE(columns, f16, count, after, names, 0, 1) : SUMS("=f") : "l"(a), "l"(b));  \
    else                                                                                                         \
      asm volatile(SINTER_PRODUCT_CODE(columns, f16, count, after, names, 1, 1) : SUMS("+f") : "l"(a), "l"(b));  \
  }
#define SINTER_NAMES_4(t) "%" #t "0, %" #t "1, %" #t "2, %" #t "3"
#define SINTER_NAMES_6(t) SINTER_NAMES_4(t) ", %" #t "4, %" #t "5"
#define SINTER_NAMES_8(t) SINTER_NAMES_6(t) ", %" #t "6, %" #t "7"
#define SINTER_NAMES_10(t) SINTER_NAMES_8(t) ", %" #t "8, %" #t "9"
#define SINTER_NAMES_60 \
  SINTER_NAMES_10()     \
  ", " SINTER_NAMES_10(1) ", " SINTER_NAMES_10(2) ", " SINTER_NAMES_10(3) ", " SINTER_NAMES_10(4) ", " SINTER_NAMES_10(5)
#define SINTER_NAMES_40 SINTER_NAMES_10() ", " SINTER_NAMES_10(1) ", " SINTER_NAMES_10(2) ", " SINTER_NAMES_10(3)
#define SINTER_NAMES_80 SINTER_NAMES_60 ", " SINTER_NAMES_10(6) ", " SINTER_NAMES_10(7)
#define SINTER_SUMS_4(as, i) as(c[i]), as(c[i + 1]), as(c[i + 2]), as(c[i + 3])
#define SINTER_SUMS_16(as, i) SINTER_SUMS_4(as, i), SINTER_SUMS_4(as, i + 4), SINTER_SUMS_4(as, i + 8), SINTER_SUMS_4(as, i + 12)
#define SINTER_SUMS_32(as) SINTER_SUMS_16(as, 0), SINTER_SUMS_16(as, 16)
#define SINTER_SUMS_40(as) SINTER_SUMS_32(as), SINTER_SUMS_4(as, 32), SINTER_SUMS_4(as, 36)
#define SINTER_SUMS_64(as) SINTER_SUMS_16(as, 0), SINTER_SUMS_16(as, 16), SINTER_SUMS_16(as, 32), SINTER_SUMS_16(as, 48)
#define SINTER_SUMS_80(as) SINTER_SUMS_64(as), SINTER_SUMS_16(as, 64)

#define SINTER_NAMES_20 SINTER_NAMES_10() ", " SINTER_NAMES_10(1)
#define SINTER_NAMES_30 SINTER_NAMES_20 ", " SINTER_NAMES_10(2)
#define SINTER_SUMS_96(as) SINTER_SUMS_80(as), SINTER_SUMS_16(as, 80)

SINTER_START_PRODUCT(64, 32, 33, SINTER_NAMES_30 ", %30, %31", SINTER_SUMS_32)
SINTER_START_PRODUCT(80, 40, 41, SINTER_NAMES_40, SINTER_SUMS_40)
SINTER_START_PRODUCT(128, 64, 65, SINTER_NAMES_60 ", " SINTER_NAMES_4(6), SINTER_SUMS_64)
SINTER_START_PRODUCT(160, 80, 81, SINTER_NAMES_80, SINTER_SUMS_80)
SINTER_START_PRODUCT(192, 96, 97, SINTER_NAMES_80 ", " SINTER_NAMES_10(8) ", " SINTER_NAMES_6(9), SINTER_SUMS_96)

/// c += a . b for 64 rows of a in registers, as multiply_bf16() has 16 of them for each warp, and b of summed_rows_operand().
#define SINTER_SUMMED_ROWS_CODE(columns, type, a0, a1, a2, a3, b, names)                                                       \
  "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." #type "." #type " {" names "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 \
  "}, %" #b ", 1, 1, 1, 1;"
#define SINTER_ADD_SUMMED_ROWS(columns, count, a0, a1, a2, a3, b, names, SUMS)                    \
  template <bool kBf16>                                                                           \
  SINTER_DEVICE_INLINE void add_summed_rows(float(&c)[count], const uint32_t* a, uint64_t rows) { \
    if constexpr (kBf16)                                                                          \
      asm volatile(SINTER_SUMMED_ROWS_CODE(columns, bf16, a0, a1, a2, a3, b, names)               \
                   : SUMS("+f")                                                                   \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows));                      \
    else                                                                                          \
      asm volatile(SINTER_SUMMED_ROWS_CODE(columns, f16, a0, a1, a2, a3, b, names)                \
                   : SUMS("+f")                                                                   \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows));                      \
  }
#define SINTER_SUMS_20(as) SINTER_SUMS_16(as, 0), SINTER_SUMS_4(as, 16)
SINTER_ADD_SUMMED_ROWS(40, 20, 20, 21, 22, 23, 24, SINTER_NAMES_20, SINTER_SUMS_20)
SINTER_ADD_SUMMED_ROWS(64, 32, 32, 33, 34, 35, 36, SINTER_NAMES_30 ", %30, %31", SINTER_SUMS_32)
SINTER_ADD_SUMMED_ROWS(80, 40, 40, 41, 42, 43, 44, SINTER_NAMES_40, SINTER_SUMS_40)
SINTER_ADD_SUMMED_ROWS(128, 64, 64, 65, 66, 67, 68, SINTER_NAMES_60 ", " SINTER_NAMES_4(6), SINTER_SUMS_64)
SINTER_ADD_SUMMED_ROWS(160, 80, 80, 81, 82, 83, 84, SINTER_NAMES_80, SINTER_SUMS_80)
#undef SINTER_ADD_SUMMED_ROWS
#undef SINTER_SUMMED_ROWS_CODE
#undef SINTER_NAMES_20
#undef SINTER_NAMES_30
#undef SINTER_SUMS_20
#undef SINTER_START_PRODUCT
#undef SINTER_PRODUCT_CODE
#undef SINTER_NAMES_4
#undef SINTER_NAMES_6
#undef SINTER_NAMES_8
#undef SINTER_NAMES_10
#undef SINTER_NAMES_40
#undef SINTER_NAMES_60
#undef SINTER_NAMES_80
#undef SINTER_SUMS_4
#undef SINTER_SUMS_16
#undef SINTER_SUMS_32
#undef SINTER_SUMS_40
#undef SINTER_SUMS_64
#undef SINTER_SUMS_80
#undef SINTER_SUMS_96

}  // namespace sinter::device

#endif
