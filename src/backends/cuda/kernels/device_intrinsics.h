#pragma once
#include <stdint.h>

/// The device's own instructions, as functions: what device.h builds on when it is compiled for a GPU.
/// emulation.h has the same functions for the host.

#define SINTER_DEVICE_KERNEL(name, ...) extern "C" __attribute__((nvptx_kernel)) void name(__VA_ARGS__)
#define SINTER_DEVICE_INLINE __attribute__((always_inline)) inline
#define SINTER_INLINE_LAMBDA __attribute__((always_inline))  // after its parameters
#define SINTER_UNROLL _Pragma("unroll")                      // the loop that follows
#define SINTER_NO_UNROLL _Pragma("nounroll")

extern "C" __attribute__((address_space(3), aligned(16))) char sinter_dynamic_shared[];

namespace sinter::device {

SINTER_DEVICE_INLINE int thread_x() { return __nvvm_read_ptx_sreg_tid_x(); }
SINTER_DEVICE_INLINE int threads_x() { return __nvvm_read_ptx_sreg_ntid_x(); }
SINTER_DEVICE_INLINE int block_x() { return __nvvm_read_ptx_sreg_ctaid_x(); }
SINTER_DEVICE_INLINE int block_y() { return __nvvm_read_ptx_sreg_ctaid_y(); }
SINTER_DEVICE_INLINE int block_z() { return __nvvm_read_ptx_sreg_ctaid_z(); }
SINTER_DEVICE_INLINE int blocks_x() { return __nvvm_read_ptx_sreg_nctaid_x(); }

/// Waits for all threads of the block; what they wrote to memory before is seen after.
SINTER_DEVICE_INLINE void barrier() { __syncthreads(); }

/// Lets the kernels that were queued after this one begin, and waits for those queued before it: before the first access to what
/// they write or read. Devices without that begin nothing early.
SINTER_DEVICE_INLINE void wait_for_operands() {
#if SINTER_DEVICE_ARCH >= 90
  asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
#endif
}

/// Adds one to a counter in memory and gives what it was. Who sees all others' counts also sees what their blocks wrote before a
/// barrier before this.
SINTER_DEVICE_INLINE uint32_t arrive(uint32_t* counter) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

/// Adds to a number in memory that others add to as well.
SINTER_DEVICE_INLINE void add_to(int64_t* sum, int64_t value) {
  asm volatile("red.relaxed.gpu.add.u64 [%0], %1;" ::"l"(sum), "l"(value) : "memory");
}

/// Brings the line of an address closer.
SINTER_DEVICE_INLINE void prefetch(const void* at) {
  asm volatile("{ .reg .u64 global; cvta.to.global.u64 global, %0; prefetch.global.L2 [global]; }" ::"l"(at));
}

/// The dynamic shared memory of the block, aligned to 16 bytes.
SINTER_DEVICE_INLINE char* shared_memory() { return (char*)sinter_dynamic_shared; }

/// The value of the lane whose number differs in these bits; all 32 lanes take part.
SINTER_DEVICE_INLINE float shuffle_xor(float value, int lanes) {
  return __builtin_bit_cast(float, __nvvm_shfl_sync_bfly_i32(0xffffffffu, __builtin_bit_cast(int, value), lanes, 0x1f));
}
SINTER_DEVICE_INLINE double shuffle_xor(double value, int lanes) {
  const auto bits = __builtin_bit_cast(uint64_t, value);
  const auto low = uint32_t(__nvvm_shfl_sync_bfly_i32(0xffffffffu, int(uint32_t(bits)), lanes, 0x1f));
  const auto high = uint32_t(__nvvm_shfl_sync_bfly_i32(0xffffffffu, int(uint32_t(bits >> 32)), lanes, 0x1f));
  return __builtin_bit_cast(double, uint64_t(high) << 32 | low);
}

/// The lanes of a warp wait for each other; what they wrote to memory before is seen after.
SINTER_DEVICE_INLINE void warp_barrier() { __nvvm_bar_warp_sync(0xffffffffu); }
SINTER_DEVICE_INLINE uint32_t shuffle_xor(uint32_t value, int lanes) {
  return uint32_t(__nvvm_shfl_sync_bfly_i32(0xffffffffu, int(value), lanes, 0x1f));
}
/// Each value becomes its sum over the 32 lanes.
template <int N>
SINTER_DEVICE_INLINE void warp_add(int32_t (&values)[N]) {
  SINTER_UNROLL
  for (int i = 0; i < N; ++i) asm volatile("redux.sync.add.s32 %0, %0, 0xffffffff;" : "+r"(values[i]));
}

/// The smallest of the 32 lanes' values.
SINTER_DEVICE_INLINE int32_t warp_min(int32_t value) {
  int32_t result;
  asm volatile("redux.sync.min.s32 %0, %1, 0xffffffff;" : "=r"(result) : "r"(value));
  return result;
}

/// a * b + c rounded once.
SINTER_DEVICE_INLINE float fused_multiply_add(float a, float b, float c) { return __nvvm_fma_rn_f(a, b, c); }
/// a * b rounded, whatever is done with it.
SINTER_DEVICE_INLINE float rounded_product(float a, float b) { return __nvvm_mul_rn_f(a, b); }
/// The other one where one is NaN.
SINTER_DEVICE_INLINE float larger(float a, float b) { return __nvvm_fmax_f(a, b); }
SINTER_DEVICE_INLINE float exp2_fast(float x) { return __nvvm_ex2_approx_ftz_f(x); }
SINTER_DEVICE_INLINE float reciprocal_fast(float x) { return __nvvm_rcp_approx_ftz_f(x); }
SINTER_DEVICE_INLINE float log2_fast(float x) { return __nvvm_lg2_approx_ftz_f(x); }
SINTER_DEVICE_INLINE float sine_fast(float x) { return __nvvm_sin_approx_ftz_f(x); }
SINTER_DEVICE_INLINE float cosine_fast(float x) { return __nvvm_cos_approx_ftz_f(x); }
SINTER_DEVICE_INLINE float inverse_root_fast(float x) { return __nvvm_rsqrt_approx_ftz_f(x); }
SINTER_DEVICE_INLINE float square_root(float x) { return __nvvm_sqrt_rn_f(x); }
SINTER_DEVICE_INLINE double square_root(double x) { return __nvvm_sqrt_rn_d(x); }

SINTER_DEVICE_INLINE float f16_bits_to_float(uint16_t bits) { return float(__builtin_bit_cast(_Float16, bits)); }
SINTER_DEVICE_INLINE uint16_t float_to_f16_bits(float value) { return __builtin_bit_cast(uint16_t, _Float16(value)); }

/// Two values as a word: the first in the low half.
SINTER_DEVICE_INLINE uint32_t floats_to_bf16_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
SINTER_DEVICE_INLINE uint32_t floats_to_f16_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
#if SINTER_DEVICE_ARCH >= 89
SINTER_DEVICE_INLINE uint16_t floats_to_e4m3_pair(float low, float high) {
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
}
#endif

SINTER_DEVICE_INLINE uint32_t shared_address(const void* shared) {
  return uint32_t(uint64_t((__attribute__((address_space(3))) const char*)shared));
}

// Clusters: neighbouring blocks in x that run together and read each other's shared memory (LaunchShape::cluster). Devices before
// 9.0 know none: there a block is one by itself.

/// Counts for the cluster's barrier. It says nothing of memory: that would wait for all that the device has under way, 0.4 us.
SINTER_DEVICE_INLINE void cluster_arrive() {
#if SINTER_DEVICE_ARCH >= 90
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}
/// Waits until all threads of the cluster have arrived; each arrives before, once.
SINTER_DEVICE_INLINE void cluster_wait() {
#if SINTER_DEVICE_ARCH >= 90
  asm volatile("barrier.cluster.wait;" ::: "memory");
#else
  barrier();
#endif
}
/// 16 bytes of global memory, at a multiple of that; where not `inside`, zeros, and nothing is read.
SINTER_DEVICE_INLINE void load_or_zero(uint32_t (&out)[4], const void* global, bool inside) {
  uint64_t address;
  asm("cvta.to.global.u64 %0, %1;" : "=l"(address) : "l"(global));
  asm volatile(
      "{ .reg .pred inside; setp.ne.s32 inside, %5, 0; mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; mov.b32 %3, 0; "
      "@inside ld.global.v4.b32 {%0, %1, %2, %3}, [%4]; }"
      : "=&r"(out[0]), "=&r"(out[1]), "=&r"(out[2]), "=&r"(out[3])
      : "l"(address), "r"(int(inside))
      : "memory");
}

/// Starts copying 16 bytes to shared memory, both aligned to 16; where not `inside`, zeros are written and nothing is read.
SINTER_DEVICE_INLINE void copy_async(void* shared, const void* global, bool inside) {
  const int bytes = inside ? 16 : 0;
  uint64_t address;
  asm("cvta.to.global.u64 %0, %1;" : "=l"(address) : "l"(global));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(address), "r"(bytes)
               : "memory");
}
/// Ends a group of copies that were started.
SINTER_DEVICE_INLINE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `kOpen` of this thread's groups are under way.
template <int kOpen>
SINTER_DEVICE_INLINE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}

/// Four 8x8 matrices of 16-bit numbers: lane i gives the address of row i % 8 of matrix i / 8 (16 bytes in shared memory) and
/// gets of each matrix the numbers (i % 4) * 2 and the next of row i / 4.
SINTER_DEVICE_INLINE void load_matrices(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
/// The same with each matrix transposed.
SINTER_DEVICE_INLINE void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

/// c += a . b for a 16x16 and an 16x8 matrix of bf16 (or f16) that the warp holds. With g = lane / 4 and t = lane % 4 * 2:
/// a[0] is row g, columns t and t + 1; a[1] row g + 8; a[2] row g, columns t + 8 and on; a[3] row g + 8, columns t + 8 and on.
/// b[0] is rows t and t + 1 of column g; b[1] rows t + 8 and on. c[0] and c[1] are row g, columns t and t + 1; c[2], c[3] row
/// g + 8.
SINTER_DEVICE_INLINE void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
SINTER_DEVICE_INLINE void multiply_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace sinter::device
