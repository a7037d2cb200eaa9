#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compiler/kernel/row_kernel.h"

namespace sinter {

/// What PTX text is written for. Newer cards than 9.0 take the text for 9.0.
struct GpuTarget {
  int capability = 80;  ///< 80, 86, 89 or 90: compute capability times ten
  int ptx = 71;         ///< version of the PTX language times ten; decides the oldest driver
  /// Kernels wait by themselves for those queued before them, and may be launched so that they begin earlier.
  bool overlaps_launches() const { return capability >= 90; }
  bool operator==(const GpuTarget&) const = default;
  /// The oldest driver that takes it, as CUDA numbers itself: 11080 is 11.8.
  int cuda_version() const { return (ptx / 10 + 4) * 1000 + ptx % 10 * 10; }
  std::string text() const;
};

/// The target for a card of this compute capability (times ten): the newest one that it runs, with the lowest PTX version that
/// can say it. Code::Unsupported below 8.0.
GpuTarget gpu_target(int capability);

/// How a row kernel is spread over the threads of a GPU, and what its code may take for granted. Part of a compiled kernel's
/// identity.
///
/// A group of `row_threads` threads works on one row. Thread t takes the columns [(u * row_threads + t) * vector, + vector) for
/// each u < `turns`; together that is a chunk. If the columns are fixed and one chunk holds them, the row stays in registers from
/// its first load to its last store. If not, a kernel that needs the whole row walks its chunks, once for each pass; any other
/// takes one chunk a group, and its groups share no row.
struct GpuSchedule {
  struct Operand {
    int access = 1;          ///< elements of one memory access, aligned to its size; a power of two, 1 for strided columns
    bool read_only = false;  ///< no operand written is the same memory: loads may take the read-only path
    bool operator==(const Operand&) const = default;
  };
  int64_t columns = 0;   ///< fixed number of columns; 0: given at run time
  int vector = 1;        ///< columns side by side in one thread: 1, 2, 4 or 8; divides the columns
  int turns = 1;         ///< vectors in one thread
  int row_threads = 32;  ///< at most 1024; for a kernel that needs whole rows 1, 2, 4, 8, 16 or a multiple of 32
  int block_rows = 4;    ///< rows of one block; for such a kernel blocks are full warps, and 1 unless a power of two
  bool wide = false;     ///< strides of 64 bits; else launch_of refuses strides of 2^31 bytes and more
  std::vector<Operand> operands;

  bool operator==(const GpuSchedule&) const = default;
  int64_t chunk() const { return int64_t(row_threads) * turns * vector; }
  bool holds_row() const { return columns > 0 && chunk() >= columns; }
  int block_threads() const { return row_threads * block_rows; }
  std::string text() const;
};

/// What is known about every run of a kernel.
struct GpuFacts {
  struct Operand {
    int64_t multiple = 1;  ///< in elements: divides the address of element 0 and every stride of an outer dim longer than 1
    bool alone = false;    ///< no operand written is the same memory
  };
  std::optional<int64_t> columns;
  int64_t column_multiple = 1;  ///< divides the columns
  int64_t rough_rows = 4096, rough_columns = 1024;
  bool large = false;  ///< strides may reach 2^31 bytes
  std::vector<Operand> operands;
};

/// What one set of params shows, and the addresses of element 0 of each operand (none: aligned to 256 bytes). Nothing is `alone`.
GpuFacts facts_of(const RowKernel& kernel, std::span<const int64_t> params, std::span<const uint64_t> addresses = {});

/// A schedule that works for everything that the facts allow. Code::InvalidArgument if there is none: swap_pairs where the
/// columns are not known to be even.
GpuSchedule choose_schedule(const RowKernel& kernel, const GpuFacts& facts);

/// True for kernels whose threads of a row must wait for each other: reductions, and values stored once a row.
bool needs_whole_rows(const RowKernel& kernel);

Digest digest_of(const RowKernel& kernel, const GpuSchedule& schedule);

/// Where a compiled kernel finds its arguments: one struct of 64-bit slots, the kernel's only parameter. Slots of 32-bit numbers
/// use the low half. A divisor d takes two: n / d = mulhi(2n, slot) >> (slot + 1) in unsigned 32 bits, for n < 2^31.
struct GpuArguments {
  const RowKernel& kernel;
  int address(int operand) const { return operand; }
  int rows() const { return int(kernel.operands.size()); }
  int columns() const { return rows() + 1; }
  int chunks() const { return columns() + 1; }                                ///< of a row: their number, divisor
  int size(int dim) const { return chunks() + 3 * dim; }                      ///< dims from 1 on: size, divisor
  int operand(int i) const;                                                   ///< strides in bytes, one for each dim (flat: one)
  int column_stride(int i) const;                                             ///< in bytes, strided columns only
  int scale(int i, int dim) const { return column_stride(i) + 1 + 3 * dim; }  ///< scaled rows only: numerator, divisor
  int count() const { return operand(int(kernel.operands.size())); }
};

/// The machine that a kernel sees when its GPU form runs on a CPU, one function call for each thread: for tests of everything but
/// the last step to PTX. `shuffle` and `barrier` get a pointer to this struct.
struct GpuRehearsal {
  uint32_t thread = 0, block = 0;
  float* shared = nullptr;
  float (*shuffle)(GpuRehearsal* machine, float value, uint32_t distance) = nullptr;
  void (*barrier)(GpuRehearsal* machine) = nullptr;
  float (*exp2)(float value) = nullptr;
};
using GpuRehearsalFunction = void (*)(const int64_t* arguments, GpuRehearsal* machine);

struct GpuDivisor {
  uint32_t multiplier = 0, shift = 0;
};
/// For 0 < d <= 2^31.
GpuDivisor divisor(int64_t d);

struct GpuLaunch {
  int64_t blocks = 0;              ///< 0: nothing to do
  int threads = 0;                 ///< of a block
  std::vector<int64_t> arguments;  ///< the slots of GpuArguments; addresses are 0 until `set_addresses`
};

/// The launch of a compiled kernel for params as in row_kernel.h, all rows and columns. Code::InvalidArgument names what the
/// schedule does not allow.
GpuLaunch launch_of(const RowKernel& kernel, const GpuSchedule& schedule, std::span<const int64_t> params);
/// Fills in where element 0 of each operand is. Code::InvalidArgument if one is not aligned as the schedule promises.
void set_addresses(GpuLaunch& launch, const RowKernel& kernel, const GpuSchedule& schedule, std::span<const uint64_t> addresses);

}  // namespace sinter
