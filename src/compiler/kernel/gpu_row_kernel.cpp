#include "compiler/kernel/gpu_row_kernel.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace sinter {
namespace {

constexpr int64_t kTop = int64_t(1) << 31;
constexpr int kMaxThreads = 1024;

bool is_power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
/// The largest power of two that divides n and is at most `most`; `most` for 0.
int64_t power_of_two_in(int64_t n, int64_t most) {
  while (n % most != 0) most /= 2;
  return most;
}
int row_strides(const RowKernel& kernel, int i) { return kernel.operands[size_t(i)].row == RowAccess::flat ? 1 : kernel.rank; }

bool reduces(const RowKernel& kernel) {
  return std::any_of(kernel.body.begin(), kernel.body.end(),
                     [](const KernelStep& s) { return s.kind == KernelStep::reduce_sum || s.kind == KernelStep::reduce_max; });
}
bool swaps_pairs(const RowKernel& kernel) {
  return std::any_of(kernel.body.begin(), kernel.body.end(),
                     [](const KernelStep& s) { return s.kind == KernelStep::swap_pairs; });
}

/// Rows of one block of about so many threads, with full warps where that is possible.
int block_rows_for(int row_threads, int threads) {
  int best = 1;
  double most = 0;
  for (int rows = 1; rows * row_threads <= std::max(threads, row_threads); ++rows) {
    int used = rows * row_threads;
    double busy = double(used) / double(ceil_div(used, 32) * 32) + 0.1 * used / threads;
    if (busy > most) most = busy, best = rows;
  }
  return best;
}

/// Columns in one thread side by side: 16 bytes of the narrower element types that are walked densely.
int choose_vector(const RowKernel& kernel, int64_t column_multiple) {
  int64_t wanted = 4;
  for (const KernelOperand& o : kernel.operands)
    if (o.column == ColumnAccess::dense && byte_size(o.dtype) <= 2) wanted = 8;
  int64_t vector = power_of_two_in(column_multiple, wanted);
  if (swaps_pairs(kernel) && vector < 2)
    fail(Code::InvalidArgument, "row kernel: swap_pairs needs an even number of columns, known when the kernel is compiled\n{}",
         kernel.text());
  return int(vector);
}

/// Threads and turns for one chunk, by what they cost: threads without work, few or many elements in a thread, waiting for other
/// warps. The figures order what was tried; they are not times.
struct Shape {
  int threads = 1, turns = 1;
};

double cost(Shape s, int64_t vectors, int vector, bool whole_rows) {
  int64_t covered = int64_t(s.threads) * s.turns, chunks = ceil_div(vectors, covered);
  double idle = double(chunks * covered) / double(std::max<int64_t>(vectors, 1));
  double elements = double(s.turns) * vector, wanted = whole_rows ? 24 : 16;
  double result = idle + 0.05 * std::fabs(std::log2(elements / wanted));
  if (whole_rows && !is_power_of_two(s.threads)) result += 0.02;
  if (whole_rows && s.threads > 32) result += 0.05;
  // A row's threads should fetch whole 128-byte lines.
  if (s.threads < 8 && s.threads < vectors) result += 0.05 * (3 - std::log2(double(s.threads)));
  // Rows side by side in a block are better neighbours in memory than far-apart rows with a chunk of each.
  if (!whole_rows && chunks > 1) result += 0.01 + 0.01 * std::log2(256.0 / s.threads);
  int used = block_rows_for(s.threads, 256) * s.threads;
  if (!whole_rows) result += 0.2 * (1 - double(used) / double(ceil_div(used, 32) * 32)) + (used < 128 ? 0.1 : 0);
  return result;
}

/// The row stays in registers: the threads that hold all of it.
Shape holding_shape(int64_t vectors, int vector, int64_t rows) {
  Shape best{kMaxThreads, int(ceil_div(vectors, kMaxThreads))};
  double least = 1e30;
  for (int threads = 1; threads <= kMaxThreads; threads += threads < 32 ? threads : 32) {
    // A few long rows: more threads for each, or most of the card idles.
    if (threads < 32 && rows * threads < 16384 && vectors > threads) continue;
    int most = std::max(1, (threads > 512 ? 16 : threads > 32 ? 32 : 40) / vector);
    Shape s{threads, int(ceil_div(vectors, threads))};
    double c = cost(s, vectors, vector, true);
    if (s.turns <= most && c < least) least = c, best = s;
  }
  return best;
}

/// Nobody needs the whole row: any part of it.
Shape chunk_shape(int64_t vectors, int vector) {
  Shape best;
  double least = 1e30;
  for (int threads = 1; threads <= 256; ++threads)
    for (int turns = 1; turns <= 4 && turns * vector <= 32; ++turns) {
      double c = cost({threads, turns}, vectors, vector, false);
      if (c < least) least = c, best = {threads, turns};
    }
  return best;
}

/// Rows that a kernel which needs whole rows does not keep in registers are walked, by enough threads to keep loads in flight.
Shape walking_shape(int64_t vectors, int vector) {
  int threads = int(std::clamp<int64_t>(int64_t(std::bit_ceil(uint64_t(std::max<int64_t>(vectors / 4, 1)))), 32, 512));
  return {threads, std::max(1, 16 / vector)};
}

}  // namespace

std::string GpuTarget::text() const { return fmt::format("sm_{}, PTX {}.{}", capability, ptx / 10, ptx % 10); }

GpuTarget gpu_target(int capability) {
  if (capability < 80)
    fail(Code::Unsupported, "compute capability {}.{}: Sinter needs 8.0 (Ampere) or newer", capability / 10, capability % 10);
  if (capability >= 90) return {90, 78};
  if (capability >= 89) return {89, 78};
  return {capability >= 86 ? 86 : 80, 71};
}

std::string GpuSchedule::text() const {
  std::string access;
  for (const Operand& o : operands) access += fmt::format(" {}{}", o.access, o.read_only ? "r" : "");
  return fmt::format("{} columns, {} turns of {}, {} threads a row, {} rows a block{}, access{}",
                     columns > 0 ? std::to_string(columns) : "any", turns, vector, row_threads, block_rows, wide ? ", wide" : "",
                     access);
}

bool needs_whole_rows(const RowKernel& kernel) {
  bool row_stores = std::any_of(kernel.operands.begin(), kernel.operands.end(),
                                [](const KernelOperand& o) { return o.written && o.column == ColumnAccess::broadcast; });
  return reduces(kernel) || row_stores;
}

GpuFacts facts_of(const RowKernel& kernel, std::span<const int64_t> params, std::span<const uint64_t> addresses) {
  SINTER_ASSERT(int(params.size()) == kernel.param_count());
  GpuFacts facts;
  if (params[0] > 0) facts.columns = params[0];
  facts.column_multiple = params[0];
  facts.rough_columns = params[0];
  facts.rough_rows = 1;
  for (int d = 0; d < kernel.rank; ++d) facts.rough_rows *= params[size_t(1 + d)];
  for (int i = 0; i < int(kernel.operands.size()); ++i) {
    const KernelOperand& o = kernel.operands[size_t(i)];
    uint64_t address = addresses.empty() ? 0 : addresses[size_t(i)];
    int64_t bytes = byte_size(o.dtype), multiple = std::gcd(int64_t(256), int64_t(address % 256)) / bytes;
    multiple = std::max<int64_t>(multiple, 1);
    for (int d = 0; d < row_strides(kernel, i); ++d) {
      int64_t stride = params[size_t(kernel.operand_params(i) + d)];
      if (o.row == RowAccess::flat || params[size_t(1 + d)] > 1) multiple = std::gcd(multiple, stride);
      if (std::abs(stride) * bytes >= kTop) facts.large = true;
    }
    if (std::abs(params[size_t(kernel.operand_params(i) + kernel.rank)]) * bytes >= kTop) facts.large = true;
    facts.operands.push_back({multiple, false});
  }
  return facts;
}

GpuSchedule choose_schedule(const RowKernel& kernel, const GpuFacts& facts) {
  SINTER_ASSERT(facts.operands.size() == kernel.operands.size());
  GpuSchedule s;
  int64_t columns = facts.columns.value_or(facts.rough_columns);
  s.columns = facts.columns.value_or(0);
  s.vector = choose_vector(kernel, facts.columns ? *facts.columns : std::max<int64_t>(facts.column_multiple, 1));
  s.wide = facts.large;
  for (size_t i = 0; i < kernel.operands.size(); ++i) {
    const KernelOperand& o = kernel.operands[i];
    int64_t access = 1;
    if (o.column == ColumnAccess::dense)
      access =
          power_of_two_in(facts.operands[i].multiple, std::min<int64_t>(s.vector, std::max<int64_t>(16 / byte_size(o.dtype), 1)));
    s.operands.push_back({int(access), !o.written && facts.operands[i].alone});
  }
  bool whole = needs_whole_rows(kernel), fixed = s.columns > 0 && s.columns <= 16384;
  int64_t vectors = ceil_div(std::max<int64_t>(columns, 1), s.vector);
  Shape shape = !whole  ? chunk_shape(vectors, s.vector)
                : fixed ? holding_shape(vectors, s.vector, facts.rough_rows)
                        : walking_shape(vectors, s.vector);
  s.row_threads = shape.threads;
  s.turns = shape.turns;
  bool several = !whole || is_power_of_two(shape.threads);
  s.block_rows = several ? block_rows_for(shape.threads, whole ? 128 : 256) : 1;
  return s;
}

Digest digest_of(const RowKernel& kernel, const GpuSchedule& s) {
  Hasher h;
  h.add(kernel.digest()).add(s.columns).add(s.vector).add(s.turns).add(s.row_threads).add(s.block_rows).add(s.wide);
  for (const GpuSchedule::Operand& o : s.operands) h.add(o.access).add(o.read_only);
  return h.digest();
}

int GpuArguments::operand(int i) const {
  int at = size(kernel.rank);
  for (int k = 0; k < i; ++k) {
    const KernelOperand& o = kernel.operands[size_t(k)];
    at += row_strides(kernel, k) + 1 + (o.row == RowAccess::scaled ? 3 * kernel.rank : 0);
  }
  return at;
}
int GpuArguments::column_stride(int i) const { return operand(i) + row_strides(kernel, i); }

GpuDivisor divisor(int64_t d) {
  // With l = ceil(log2 d) and m = ceil(2^(31 + l) / d), m * d exceeds 2^(31 + l) by less than 2^l: n * m / 2^(31 + l) is n / d
  // rounded down for every n < 2^31.
  SINTER_ASSERT(d > 0 && d <= kTop);
  uint32_t l = 0;
  while ((int64_t(1) << l) < d) ++l;
  uint64_t top = uint64_t(1) << (31 + l);
  return {uint32_t((top + uint64_t(d) - 1) / uint64_t(d)), l};
}

namespace {

class LaunchWriter {
 public:
  LaunchWriter(const RowKernel& kernel, const GpuSchedule& schedule, std::span<const int64_t> params)
      : kernel_(kernel), schedule_(schedule), params_(params), slots_{kernel} {}

  GpuLaunch write() {
    check_shape();
    launch_.arguments.assign(size_t(slots_.count()), 0);
    int64_t rows = 1;
    for (int d = 0; d < kernel_.rank; ++d) rows *= params_[size_t(1 + d)];
    require(rows <= kTop, "rows", rows);
    launch_.threads = schedule_.block_threads();
    if (rows == 0) return launch_;
    int64_t columns = params_[0];
    int64_t chunks = needs_whole_rows(kernel_) ? 1 : std::max<int64_t>(1, ceil_div(columns, schedule_.chunk()));
    launch_.blocks = ceil_div(rows, schedule_.block_rows) * chunks;
    require(launch_.blocks < kTop, "blocks", launch_.blocks);
    set(slots_.rows(), rows);
    set(slots_.columns(), columns);
    set(slots_.chunks(), chunks);
    set_divisor(slots_.chunks() + 1, chunks);
    for (int d = 1; d < kernel_.rank; ++d) {
      set(slots_.size(d), params_[size_t(1 + d)]);
      set_divisor(slots_.size(d) + 1, params_[size_t(1 + d)]);
    }
    for (int i = 0; i < int(kernel_.operands.size()); ++i) operand(i);
    return launch_;
  }

 private:
  void set(int slot, int64_t value) { launch_.arguments[size_t(slot)] = value; }
  void set_divisor(int slot, int64_t d) {
    GpuDivisor by = divisor(d);
    set(slot, by.multiplier);
    set(slot + 1, by.shift);
  }
  void require(bool good, const char* what, int64_t found) const {
    if (!good)
      fail(Code::InvalidArgument, "a row kernel compiled for {} cannot run with {} {}\n{}", schedule_.text(), found, what,
           kernel_.text());
  }

  void check_shape() const {
    const GpuSchedule& s = schedule_;
    SINTER_ASSERT(int(params_.size()) == kernel_.param_count() && s.operands.size() == kernel_.operands.size());
    require(params_[0] >= 0 && params_[0] < kTop, "columns", params_[0]);
    require(s.columns == 0 || s.columns == params_[0], "columns", params_[0]);
    require(params_[0] % s.vector == 0, "columns", params_[0]);
  }

  void stride(int slot, int64_t elements, int64_t bytes) {
    require(schedule_.wide || std::abs(elements) < kTop / bytes, "elements from one row or column to the next", elements);
    set(slot, elements * bytes);
  }

  void operand(int i) {
    const KernelOperand& o = kernel_.operands[size_t(i)];
    int at = kernel_.operand_params(i);
    int64_t bytes = byte_size(o.dtype), access = schedule_.operands[size_t(i)].access;
    for (int d = 0; d < row_strides(kernel_, i); ++d) {
      int64_t elements = params_[size_t(at + d)];
      bool used = o.row == RowAccess::flat || params_[size_t(1 + d)] > 1;
      require(!used || elements % access == 0, "elements from one row to the next (alignment)", elements);
      stride(slots_.operand(i) + d, elements, bytes);
    }
    if (o.column == ColumnAccess::strided) stride(slots_.column_stride(i), params_[size_t(at + kernel_.rank)], bytes);
    if (o.row != RowAccess::scaled) return;
    for (int d = 0; d < kernel_.rank; ++d) {
      int64_t numerator = params_[size_t(at + kernel_.rank + 1 + 2 * d)];
      int64_t denominator = params_[size_t(at + kernel_.rank + 2 + 2 * d)];
      require(numerator >= 0 && denominator > 0 && denominator < kTop && numerator * params_[size_t(1 + d)] <= kTop,
              "as the numerator of a resize", numerator);
      set(slots_.scale(i, d), numerator);
      set_divisor(slots_.scale(i, d) + 1, denominator);
    }
  }

  const RowKernel& kernel_;
  const GpuSchedule& schedule_;
  std::span<const int64_t> params_;
  GpuArguments slots_;
  GpuLaunch launch_;
};

}  // namespace

GpuLaunch launch_of(const RowKernel& kernel, const GpuSchedule& schedule, std::span<const int64_t> params) {
  return LaunchWriter(kernel, schedule, params).write();
}

void set_addresses(GpuLaunch& launch, const RowKernel& kernel, const GpuSchedule& schedule, std::span<const uint64_t> addresses) {
  SINTER_ASSERT(addresses.size() == kernel.operands.size());
  for (size_t i = 0; i < addresses.size(); ++i) {
    uint64_t alignment = uint64_t(schedule.operands[i].access) * uint64_t(byte_size(kernel.operands[i].dtype));
    if (addresses[i] % alignment != 0)
      fail(Code::InvalidArgument, "operand {} of a row kernel lies at {:#x}, but its code takes {} bytes at once\n{}", i,
           addresses[i], alignment, kernel.text());
    launch.arguments[i] = int64_t(addresses[i]);
  }
}

}  // namespace sinter
