#pragma once
#include <stdint.h>

#include <functional>
#include <span>
#include <string_view>

#include "backends/cuda/driver.h"

/// The threads of a block on the host, so that device code can be tested without a GPU: each is a fibre that runs until it waits
/// for the others. The functions are those of device_intrinsics.h, with the matrix instructions computed as the PTX manual
/// defines them. A test includes kernel sources with SINTER_DEVICE_EMULATION defined.

#define SINTER_DEVICE_KERNEL(name, ...)                                          \
  void name(__VA_ARGS__);                                                        \
  static const ::sinter::device::EmulatedKernel registered_##name(#name, &name); \
  void name(__VA_ARGS__)
#define SINTER_DEVICE_INLINE inline
#define SINTER_INLINE_LAMBDA
#define SINTER_UNROLL
#define SINTER_NO_UNROLL

namespace sinter::device {

/// Makes a kernel known by name to emulated_launch().
class EmulatedKernel {
 public:
  /// What a kernel needs: any device, one of capability 9.0, or there blocks in pairs.
  enum class Kind { Any, Hopper, HopperPair };

  template <class... Args>
  EmulatedKernel(const char* name, void (*kernel)(Args...), Kind kind = Kind::Any) {
    add(
        name, [kernel](std::span<void* const> arguments) { call(kernel, arguments, std::index_sequence_for<Args...>()); },
        sizeof...(Args), kind);
  }

 private:
  template <class... Args, size_t... I>
  static void call(void (*kernel)(Args...), std::span<void* const> arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_cvref_t<Args>*>(arguments[I])...);
  }
  static void add(const char* name, std::function<void(std::span<void* const>)> body, size_t parameters, Kind kind);
};

/// Runs all blocks of a launch, one cluster after the other.
void emulated_launch(std::string_view kernel, const cuda::LaunchShape& shape, std::span<void* const> arguments);

int thread_x();
int threads_x();
int block_x();
int block_y();
int block_z();
int blocks_x();
void barrier();
void cluster_arrive();
void cluster_wait();
/// Kernels before are always over; but who should wait for them has to (see need_operands).
void wait_for_operands();
uint32_t arrive(uint32_t* counter);
inline void add_to(int64_t* sum, int64_t value) { *sum += value; }
void prefetch(const void* at);
char* shared_memory();
float shuffle_xor(float value, int lanes);
double shuffle_xor(double value, int lanes);
uint32_t shuffle_xor(uint32_t value, int lanes);
void warp_barrier();
void warp_add_words(int32_t* values, int count);
template <int N>
void warp_add(int32_t (&values)[N]) {
  warp_add_words(values, N);
}

inline int32_t warp_min(int32_t value) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const auto other = int32_t(shuffle_xor(uint32_t(value), lanes));
    value = other < value ? other : value;
  }
  return value;
}

float fused_multiply_add(float a, float b, float c);
float rounded_product(float a, float b);
float larger(float a, float b);
float exp2_fast(float x);
float reciprocal_fast(float x);
float log2_fast(float x);
float sine_fast(float x);
float cosine_fast(float x);
float inverse_root_fast(float x);
float square_root(float x);
double square_root(double x);

float f16_bits_to_float(uint16_t bits);
uint16_t float_to_f16_bits(float value);
uint32_t floats_to_bf16_pair(float low, float high);
uint32_t floats_to_f16_pair(float low, float high);

inline void load_or_zero(uint32_t (&out)[4], const void* global, bool inside) {
  for (int i = 0; i < 4; ++i) out[i] = inside ? static_cast<const uint32_t*>(global)[i] : 0;
}

/// Copies at once, but into shared memory only when the group is waited for: a missing wait shows.
void copy_async(void* shared, const void* global, bool inside);
void copy_async_commit();
void copy_async_wait_for(int open);
template <int kOpen>
void copy_async_wait() {
  copy_async_wait_for(kOpen);
}

void load_matrices(uint32_t (&out)[4], const void* row);
void load_matrices_transposed(uint32_t (&out)[4], const void* row);
void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void multiply_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

}  // namespace sinter::device
