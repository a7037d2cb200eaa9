// The emulation of emulation.h, and tests of it.
#define SINTER_DEVICE_EMULATION
#include <doctest/doctest.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "backends/cuda/kernels/device.h"
#include "backends/cuda/kernels/hopper_intrinsics.h"
#include "base/error.h"
#include "tensor/dtype.h"

namespace sinter::device {
namespace {

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 128 * 1024;

struct Kernel {
  std::function<void(std::span<void* const>)> body;
  size_t parameters = 0;
  EmulatedKernel::Kind kind = EmulatedKernel::Kind::Any;
};

std::map<std::string, Kernel, std::less<>>& kernels() {
  static std::map<std::string, Kernel, std::less<>> all;
  return all;
}

/// Where threads wait for each other: all must come for the same reason before one goes on.
struct Meeting {
  int members = 0, arrived = 0;
  int64_t generation = 0;
  const char* reason = nullptr;
};

struct PendingCopy {
  void* to;
  const void* from;
  bool inside;
};

struct PendingProduct {
  float* c;
  int count;
  uint64_t a, b;
  bool bf16, first, turned;             ///< turned: b is one of summed rows
  const uint32_t* registers = nullptr;  ///< where the left matrix lies instead
};

/// A barrier in shared memory.
struct Phases {
  int32_t bytes;  ///< that are announced and have not come
  int16_t missing;
  uint8_t arrivals, parity;
};
static_assert(sizeof(Phases) == 8);

struct Thread {
  ucontext_t context{};
  std::unique_ptr<char[]> stack;
  int number = 0;
  int64_t cluster_generation = 0;  // of the barrier that it arrived at last
  bool finished = false, has_operands = false;
  std::vector<PendingCopy> started;             // not yet in a group
  std::deque<std::vector<PendingCopy>> groups;  // oldest first
  std::vector<PendingProduct> products;
  std::deque<std::vector<PendingProduct>> product_groups;
};

/// What a lane shows to the others of its warp.
struct Shown {
  double value;
  const void* address;
  uint32_t a[4], b[2];
};

/// A cluster of blocks, most often of one.
class Block {
 public:
  Block(const cuda::LaunchShape& shape, cuda::Extent at, uint32_t cluster, const std::function<void()>& body)
      : shape_(shape), at_(at), body_(body), words_(shape.shared_bytes / 16 + 1), shared_(words_ * cluster) {
    const int count = int(shape.block.x * cluster);
    if (shape.block.x % kLanes || shape.block.y != 1 || shape.block.z != 1 || shape.block.x > 1024)
      fail(Code::Internal, "a block of {}x{}x{} threads is not emulated", shape.block.x, shape.block.y, shape.block.z);
    std::memset(shared_.data(), 0xff, shared_.size() * sizeof(Words4));  // NaN, so that what nobody wrote shows
    all_.members = count;
    blocks_.resize(cluster);
    for (Meeting& b : blocks_) b.members = int(shape.block.x);
    warps_.resize(size_t(count / kLanes));
    for (Meeting& w : warps_) w.members = kLanes;
    shown_.resize(size_t(count));
    threads_.resize(size_t(count));
  }

  void run() {
    now_ = this;
    for (size_t i = 0; i < threads_.size(); ++i) begin(int(i));
    // Another order each round: code that relies on one fails sooner or later.
    std::minstd_rand random(uint32_t(at_.x * 31 + at_.y * 17 + at_.z + 1) + order_seed());
    std::vector<size_t> order(threads_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    size_t left = threads_.size();
    while (left > 0) {
      std::shuffle(order.begin(), order.end(), random);
      progress_ = false;
      for (size_t i : order) {
        Thread& t = threads_[i];
        if (t.finished) continue;
        current_ = &t;
        swapcontext(&main_, &t.context);
        if (t.finished) {
          --left;
          progress_ = true;
        }
      }
      deliver(random);
      if (!progress_) fail(Code::Internal, "threads wait for others that never come");
    }
    if (!under_way_.empty()) problem_ = "a block ends before what it started to copy has arrived";
    now_ = nullptr;
  }

  /// What a unit of its own does: some time later, in any order. From and to are blocks of the cluster whose shared memory it
  /// touches; they must not have ended then.
  void later(int from, int to, std::function<void()> body) { under_way_.push_back({from, to, std::move(body)}); }

  void meet(Meeting& m, const char* reason) {
    if (m.arrived == 0) m.reason = reason;
    if (m.reason != reason) problem_ = "threads wait in different places";
    const int64_t generation = m.generation;
    progress_ = true;
    if (++m.arrived == m.members) {
      m.arrived = 0;
      ++m.generation;
      return;
    }
    while (m.generation == generation) yield();
  }
  /// Threads of one block that give the same number wait for each other, or only count.
  void meet_named(int number, int threads, bool waits) {
    Meeting& m = named_[{rank(), number}];
    const int64_t generation = m.generation;
    progress_ = true;
    if (++m.arrived == threads) {
      m.arrived = 0;
      ++m.generation;
      return;
    }
    while (waits && m.generation == generation) yield();
  }
  void meet_block() { meet(blocks_[size_t(rank())], "barrier"); }
  void arrive_in_cluster() {
    Thread& t = thread();
    progress_ = true;
    t.cluster_generation = all_.generation;
    if (++all_.arrived < all_.members) return;
    all_.arrived = 0;
    ++all_.generation;
  }
  void wait_in_cluster() {
    const int64_t generation = thread().cluster_generation;
    while (all_.generation == generation) yield();
  }
  void meet_warp(const char* reason) { meet(warps_[size_t(current_->number / kLanes)], reason); }
  void yield() { swapcontext(&current_->context, &main_); }

  Shown& shown() { return shown_[size_t(current_->number)]; }
  Shown& shown(int lane) { return shown_[size_t(current_->number / kLanes * kLanes + lane)]; }
  int lane() const { return current_->number % kLanes; }
  Thread& thread() { return *current_; }
  const cuda::LaunchShape& shape() const { return shape_; }
  cuda::Extent at() const { return at_; }
  int rank() const { return current_->number / int(shape_.block.x); }
  char* shared() { return shared_of(rank()); }
  char* shared_of(int rank) {
    if (has_ended(rank)) problem_ = "a block's shared memory is used after it has ended";
    if (size_t(rank) >= blocks_.size()) fail(Code::Internal, "a cluster of {} blocks has no block {}", blocks_.size(), rank);
    return reinterpret_cast<char*>(shared_.data() + size_t(rank) * words_);
  }
  void note_progress() { progress_ = true; }
  const char* problem() const { return problem_; }
  void note_problem(const char* problem) { problem_ = problem; }

  static Block* now_;

 private:
  struct UnderWay {
    int from, to;
    std::function<void()> body;
  };
  /// Other orders of everything where the environment says so, for those who want more of them.
  static uint32_t order_seed() {
    static const char* text = std::getenv("SINTER_EMULATION_SEED");
    return text ? uint32_t(std::atoi(text)) * 7919 : 0;
  }
  bool has_ended(int rank) const {
    const auto begin = threads_.begin() + rank * int(shape_.block.x);
    return std::all_of(begin, begin + int(shape_.block.x), [](const Thread& t) { return t.finished; });
  }
  /// Some of what is under way arrives; if nobody can go on before, something does.
  void deliver(std::minstd_rand& random) {
    std::shuffle(under_way_.begin(), under_way_.end(), random);
    size_t count = under_way_.empty() ? 0 : random() % (under_way_.size() + 1);
    if (!progress_ && count == 0) count = std::min<size_t>(1, under_way_.size());
    for (; count > 0; --count) {
      const UnderWay one = std::move(under_way_.back());
      under_way_.pop_back();
      if (has_ended(one.from) || has_ended(one.to)) problem_ = "a block ends before what it copies, or is given, has arrived";
      one.body();
      progress_ = true;
    }
  }
  void begin(int number) {
    Thread& t = threads_[size_t(number)];
    t.number = number;
    t.stack.reset(new char[kStackBytes]);
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack.get();
    t.context.uc_stack.ss_size = kStackBytes;
    t.context.uc_link = &main_;
    makecontext(&t.context, reinterpret_cast<void (*)()>(&Block::enter), 0);
  }
  static void enter() {
    now_->body_();
    now_->current_->finished = true;
  }

  cuda::LaunchShape shape_;
  cuda::Extent at_;
  const std::function<void()>& body_;
  size_t words_;  // of a block's shared memory
  std::vector<Words4> shared_;
  std::vector<Thread> threads_;
  std::vector<Shown> shown_;
  Meeting all_;
  std::vector<Meeting> blocks_, warps_;
  std::map<std::pair<int, int>, Meeting> named_;
  ucontext_t main_{};
  Thread* current_ = nullptr;
  bool progress_ = false;
  std::vector<UnderWay> under_way_;
  const char* problem_ = nullptr;
};

Block* Block::now_ = nullptr;
Block& block() { return *Block::now_; }

float number_of(uint32_t pair, int half, bool bf16) {
  const auto bits = uint16_t(pair >> (16 * half));
  return bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool bf16, const char* reason) {
  Block& b = block();
  std::copy(a, a + 4, b.shown().a);
  b.shown().b[0] = b0;
  b.shown().b[1] = b1;
  b.meet_warp(reason);
  const int g = b.lane() / 4, t = b.lane() % 4 * 2;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = t + i % 2;
    double sum = c[i];
    for (int k = 0; k < 16; ++k) {
      // The lane and register that hold a[row][k] and b[k][column].
      const uint32_t left = b.shown(row % 8 * 4 + k % 8 / 2).a[row / 8 + k / 8 * 2];
      const uint32_t right = b.shown(column * 4 + k % 8 / 2).b[k / 8];
      sum += double(number_of(left, k % 2, bf16)) * double(number_of(right, k % 2, bf16));
    }
    c[i] = float(sum);
  }
  b.meet_warp(reason);
}

void load(uint32_t (&out)[4], const void* row, bool transposed) {
  Block& b = block();
  const char* reason = transposed ? "load_matrices_transposed" : "load_matrices";
  if (uintptr_t(row) % 16) fail(Code::Internal, "{}: the address is not aligned to 16 bytes", reason);
  b.shown().address = row;
  b.meet_warp(reason);
  const int g = b.lane() / 4, t = b.lane() % 4 * 2;
  for (int matrix = 0; matrix < 4; ++matrix) {
    auto at = [&](int y, int x) {
      uint16_t bits;
      std::memcpy(&bits, static_cast<const char*>(b.shown(matrix * 8 + y).address) + x * 2, 2);
      return uint32_t(bits);
    };
    out[matrix] = transposed ? at(t, g) | at(t + 1, g) << 16 : at(g, t) | at(g, t + 1) << 16;
  }
  b.meet_warp(reason);
}

}  // namespace

void EmulatedKernel::add(const char* name, std::function<void(std::span<void* const>)> body, size_t parameters, Kind kind) {
  kernels()[name] = {std::move(body), parameters, kind};
}

void emulated_launch(std::string_view kernel, const cuda::LaunchShape& shape, std::span<void* const> arguments) {
  auto found = kernels().find(kernel);
  if (found == kernels().end()) fail(Code::NotFound, "the kernel {} is not emulated", kernel);
  if (found->second.parameters != arguments.size())
    fail(Code::Internal, "{} has {} parameters, not {}", kernel, found->second.parameters, arguments.size());
  using Kind = EmulatedKernel::Kind;
  const uint32_t cluster = found->second.kind == Kind::HopperPair ? 2 : shape.cluster;
  const bool hopper = cluster > 1 || found->second.kind != Kind::Any;
  if (shape.shared_bytes > (hopper ? 227 : 164) * 1024)
    fail(Code::Internal, "{} bytes of shared memory are more than {} has", shape.shared_bytes, hopper ? "sm_90" : "sm_80");
  if (cluster < 1 || cluster > 8 || shape.grid.x % cluster)
    fail(Code::Internal, "{}: {} blocks are no clusters of {}", kernel, shape.grid.x, cluster);
  if (shape.grid.y > 65535 || shape.grid.z > 65535) fail(Code::Internal, "{}: the grid is too large in y or z", kernel);
  const std::function<void()> body = [&] { found->second.body(arguments); };
  for (uint32_t z = 0; z < shape.grid.z; ++z)
    for (uint32_t y = 0; y < shape.grid.y; ++y)
      for (uint32_t x = 0; x < shape.grid.x; x += cluster) {
        Block b(shape, {x, y, z}, cluster, body);
        b.run();
        if (b.problem()) fail(Code::Internal, "{}: {}", kernel, b.problem());
      }
}

int thread_x() { return block().thread().number % threads_x(); }
int threads_x() { return int(block().shape().block.x); }
int block_x() { return int(block().at().x) + block().rank(); }
int block_y() { return int(block().at().y); }
int block_z() { return int(block().at().z); }
int blocks_x() { return int(block().shape().grid.x); }
void barrier() { block().meet_block(); }
void cluster_arrive() { block().arrive_in_cluster(); }
void cluster_wait() { block().wait_in_cluster(); }
void wait_for_operands() { block().thread().has_operands = true; }
void need_operands() {
  if (!block().thread().has_operands)
    block().note_problem("memory is touched before the kernels that may write it were waited for");
}
uint32_t arrive(uint32_t* counter) { return (*counter)++; }
void prefetch(const void*) {}
char* shared_memory() { return block().shared(); }

namespace {
template <class T>
T exchange(T value, int lanes) {
  Block& b = block();
  b.shown().value = value;
  b.meet_warp("shuffle_xor");
  const auto other = T(b.shown(b.lane() ^ lanes).value);
  b.meet_warp("shuffle_xor");
  return other;
}
}  // namespace
float shuffle_xor(float value, int lanes) { return exchange(value, lanes); }
double shuffle_xor(double value, int lanes) { return exchange(value, lanes); }
uint32_t shuffle_xor(uint32_t value, int lanes) { return exchange(value, lanes); }

void warp_barrier() { block().meet_warp("warp_barrier"); }
void warp_add_words(int32_t* values, int count) {
  Block& b = block();
  b.shown().address = values;
  b.meet_warp("warp_add");
  std::vector<int32_t> sums(size_t(count), 0);
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < count; ++i)
      sums[size_t(i)] = int32_t(uint32_t(sums[size_t(i)]) + uint32_t(static_cast<const int32_t*>(b.shown(lane).address)[i]));
  b.meet_warp("warp_add");
  std::copy(sums.begin(), sums.end(), values);
}

float fused_multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
float rounded_product(float a, float b) { return a * b; }
float larger(float a, float b) { return std::fmax(a, b); }
float exp2_fast(float x) { return std::exp2(x); }
float reciprocal_fast(float x) { return 1.f / x; }
float log2_fast(float x) { return std::log2(x); }
float sine_fast(float x) { return std::sin(x); }
float cosine_fast(float x) { return std::cos(x); }
float inverse_root_fast(float x) { return 1 / std::sqrt(x); }
float square_root(float x) { return std::sqrt(x); }
double square_root(double x) { return std::sqrt(x); }

float f16_bits_to_float(uint16_t bits) { return f16_to_f32(bits); }
uint16_t float_to_f16_bits(float value) { return f32_to_f16(value); }
uint32_t floats_to_bf16_pair(float low, float high) { return f32_to_bf16(low) | uint32_t(f32_to_bf16(high)) << 16; }
uint32_t floats_to_f16_pair(float low, float high) { return f32_to_f16(low) | uint32_t(f32_to_f16(high)) << 16; }

void copy_async(void* shared, const void* global, bool inside) {
  if (uintptr_t(shared) % 16 || uintptr_t(global) % 16) fail(Code::Internal, "copy_async: not aligned to 16 bytes");
  block().thread().started.push_back({shared, global, inside});
}
void copy_async_commit() {
  Thread& t = block().thread();
  t.groups.push_back(std::move(t.started));
  t.started.clear();
}
void copy_async_wait_for(int open) {
  Thread& t = block().thread();
  for (; int(t.groups.size()) > open; t.groups.pop_front())
    for (const PendingCopy& c : t.groups.front()) {
      if (c.inside)
        std::memcpy(c.to, c.from, 16);
      else
        std::memset(c.to, 0, 16);
    }
}

void load_matrices(uint32_t (&out)[4], const void* row) { load(out, row, false); }
void load_matrices_transposed(uint32_t (&out)[4], const void* row) { load(out, row, true); }
void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply(c, a, b0, b1, true, "multiply_bf16");
}
void multiply_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply(c, a, b0, b1, false, "multiply_f16");
}

uint32_t shared_address(const void* shared) { return uint32_t(static_cast<const char*>(shared) - block().shared()); }
char* shared_bytes(uint32_t at) { return block().shared() + at; }
uint32_t rank_in_cluster() { return uint32_t(block().rank()); }
void named_barrier(int number, int threads) { block().meet_named(number, threads, true); }
void named_arrive(int number, int threads) { block().meet_named(number, threads, false); }

namespace {
Phases& phases(uint32_t at, int rank) { return *reinterpret_cast<Phases*>(block().shared_of(rank) + at); }
void end_phase(Phases& p) {
  block().note_progress();
  if (p.missing != 0 || p.bytes != 0) return;
  p.missing = p.arrivals;
  p.parity ^= 1;
}
void count_bytes(uint32_t barrier, int rank, size_t bytes) {
  Phases& p = phases(barrier, rank);
  p.bytes -= int32_t(bytes);
  end_phase(p);
}

/// Where in shared memory copies write, and products read, what belongs at an address.
uint32_t swizzled(uint32_t at) { return at ^ (at >> 7 & 7) << 4; }

void copy_tile_into(int rank, uint32_t to, const EmulatedMap& map, int column, int row, uint32_t barrier) {
  constexpr int kColumns = 64;
  if (to % 1024) fail(Code::Internal, "a tile is copied to {}, no multiple of 1024", to);
  if (!map.early) need_operands();
  block().later(rank, rank, [=] {
    char* shared = block().shared_of(rank);
    for (int r = 0; r < map.box_rows; ++r)
      for (int c = 0; c < kColumns; ++c) {
        uint16_t value = 0;
        if (row + r < map.rows && column + c < map.columns)
          std::memcpy(&value, reinterpret_cast<const uint16_t*>(map.base) + (row + r) * map.row_stride + column + c, 2);
        std::memcpy(shared + swizzled(to + uint32_t(r * 128 + c * 2)), &value, 2);
      }
    count_bytes(barrier, rank, size_t(map.box_rows * kColumns * 2));
  });
}

void copy_box_into(int rank, uint32_t to, const EmulatedBoxMap& map, const std::array<int, 4>& first, uint32_t barrier) {
  if (!map.early) need_operands();
  if (to % 128) fail(Code::Internal, "a box is copied to {}, no multiple of 128", to);
  std::array<int, 4> counts;
  for (size_t i = 0; i < 4; ++i) counts[i] = (map.box[i] + map.steps[i] - 1) / map.steps[i];
  const int elements = counts[0] * counts[1] * counts[2] * counts[3];
  block().later(rank, rank, [=] {
    char* shared = block().shared_of(rank);
    for (int e = 0; e < elements; ++e) {
      int64_t at = 0, rest = e;
      bool inside = true;
      for (size_t i = 0; i < 4; rest /= counts[i], ++i) {
        const int64_t position = first[i] + rest % counts[i] * map.steps[i];
        inside = inside && position >= 0 && position < map.sizes[i];
        at += position * map.strides[i];
      }
      uint16_t value = 0;
      if (inside) std::memcpy(&value, reinterpret_cast<const uint16_t*>(map.base) + at, 2);
      std::memcpy(shared + swizzled(to + uint32_t(e / counts[0] * 128 + e % counts[0] * 2)), &value, 2);
    }
    count_bytes(barrier, rank, size_t(elements * 2));
  });
}

/// What the PTX manual says of im2col mode (5.5.4): the first pixel is one where windows begin, and so are those that follow,
/// `stride` apart along w; behind the last of a row comes the first of the next, `stride` further along h, behind the last row
/// the next picture. What is copied is a tap away from there; where that lies outside of the picture, or the pictures have ended,
/// or behind the last channel, it is zero. All bytes count.
///
/// It does not say what happens where the first pixel is none of those, or in a picture that there is not: here that is an error.
/// Nor does it say in words, and no device has shown us yet, that with a stride as well each row begins where the first did, and
/// that corners are given to the driver x first: NVIDIA's CUTLASS relies on both.
void copy_pixels_into(int rank, uint32_t to, const EmulatedPixelMap& map, int channel, std::array<int64_t, 3> at, int right,
                      int down, uint32_t barrier) {
  constexpr int kChannels = 64;
  if (to % 1024) fail(Code::Internal, "pixels are copied to {}, no multiple of 1024", to);
  need_operands();
  for (size_t i = 0; i < 2; ++i)
    if (at[i] < map.first[i] || at[i] >= map.end[i] || (at[i] - map.first[i]) % map.stride)
      fail(Code::Internal, "pixels are copied from {} on along axis {}, where no window begins", at[i], i);
  if (at[2] < 0 || at[2] >= map.sizes[3]) fail(Code::Internal, "pixels are copied of picture {}, which there is not", at[2]);
  block().later(rank, rank, [=]() mutable {
    char* shared = block().shared_of(rank);
    for (int pixel = 0; pixel < map.pixels; ++pixel) {
      const int64_t x = at[0] + right, y = at[1] + down;
      const bool inside = x >= 0 && x < map.sizes[1] && y >= 0 && y < map.sizes[2] && at[2] < map.sizes[3];
      for (int c = 0; c < kChannels; ++c) {
        const int64_t element = ((at[2] * map.sizes[2] + y) * map.sizes[1] + x) * map.sizes[0] + channel + c;
        uint16_t value = 0;
        if (inside && channel + c < map.sizes[0]) std::memcpy(&value, reinterpret_cast<const uint16_t*>(map.base) + element, 2);
        std::memcpy(shared + swizzled(to + uint32_t(pixel * 128 + c * 2)), &value, 2);
      }
      if ((at[0] += map.stride) < map.end[0]) continue;
      at[0] = map.first[0];
      if ((at[1] += map.stride) < map.end[1]) continue;
      at[1] = map.first[1];
      ++at[2];
    }
    count_bytes(barrier, rank, size_t(map.pixels * kChannels * 2));
  });
}

template <class Body>
void for_each_rank(uint32_t blocks, const Body& body) {
  for (int rank = 0; blocks >> rank != 0; ++rank)
    if (blocks >> rank & 1) body(rank);
}

/// What a matrix in shared memory, described to products, has at an offset.
float operand_number(uint64_t operand, uint32_t offset, bool bf16) {
  const auto at = uint32_t(operand & 0x3fff) * 16 + offset;
  uint16_t bits;
  std::memcpy(&bits, block().shared() + swizzled(at), 2);
  return bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}
uint32_t operand_step(uint64_t operand, int shift) { return uint32_t(operand >> shift & 0x3fff) * 16; }
/// As the PTX manual lays out a matrix whose columns lie next to each other: 64 of a row, 8 rows to a swizzled piece, then the
/// next 8 rows a stride further and the next 64 columns a leading distance further.
float summed_rows_number(uint64_t operand, int row, int column, bool bf16) {
  return operand_number(operand,
                        uint32_t(column / 64) * operand_step(operand, 16) + uint32_t(row / 8) * operand_step(operand, 32) +
                            uint32_t(row % 8 * 128 + column % 64 * 2),
                        bf16);
}

void run_product(const PendingProduct& p) {
  auto number = [&](uint64_t operand, int row, int column) {
    return operand_number(operand, uint32_t(row / 8) * operand_step(operand, 32) + uint32_t(row % 8 * 128 + column * 2), p.bf16);
  };
  const int warp = thread_x() / kLanes % 4, g = block().lane() / 4, t = block().lane() % 4 * 2;
  for (int i = 0; i < p.count; ++i) {
    const int row = warp * 16 + g + i / 2 % 2 * 8, column = i / 4 * 8 + t + i % 2;
    float sum = p.first ? 0 : p.c[i];
    for (int k = 0; k < 16; ++k)
      sum += number(p.a, row, k) * (p.turned ? summed_rows_number(p.b, k, column, p.bf16) : number(p.b, column, k));
    p.c[i] = sum;
  }
}

void run_summed_rows(const PendingProduct& p) {
  Block& b = block();
  b.shown().address = p.registers;
  b.meet_warp("summed rows");
  const int g = b.lane() / 4, t = b.lane() % 4 * 2;
  for (int i = 0; i < p.count; ++i) {
    const int row = g + i / 2 % 2 * 8, column = i / 4 * 8 + t + i % 2;
    float sum = p.c[i];
    for (int k = 0; k < 16; ++k) {
      const auto* a = static_cast<const uint32_t*>(b.shown(row % 8 * 4 + k % 8 / 2).address);
      sum += number_of(a[row / 8 + k / 8 * 2], k % 2, p.bf16) * summed_rows_number(p.b, k, column, p.bf16);
    }
    p.c[i] = sum;
  }
  b.meet_warp("summed rows");
}
}  // namespace

void make_barrier(uint32_t at, uint32_t arrivals) { phases(at, block().rank()) = {0, int16_t(arrivals), uint8_t(arrivals), 0}; }
void wait_phase(uint32_t at, uint32_t parity) {
  while (phases(at, block().rank()).parity == parity) block().yield();
}
bool phase_ended(uint32_t at, uint32_t parity) { return phases(at, block().rank()).parity != parity; }
void arrive_expecting(uint32_t at, uint32_t bytes) {
  Phases& p = phases(at, block().rank());
  p.bytes += int32_t(bytes);
  --p.missing;
  end_phase(p);
}
void arrive_at(uint32_t at) { arrive_in_cluster(at, uint32_t(block().rank())); }
void arrive_in_cluster(uint32_t at, uint32_t rank) {
  const auto arrive = [at, rank] {
    Phases& p = phases(at, int(rank));
    --p.missing;
    end_phase(p);
  };
  if (int(rank) == block().rank()) return arrive();
  block().later(int(rank), int(rank), arrive);
}
void copy_tile(uint32_t to, uint64_t map, int column, int row, uint32_t barrier) {
  copy_tile_into(block().rank(), to, *reinterpret_cast<const EmulatedMap*>(map), column, row, barrier);
}
void copy_tile_to_blocks(uint32_t to, uint64_t map, int column, int row, uint32_t barrier, uint32_t blocks) {
  for_each_rank(blocks,
                [&](int rank) { copy_tile_into(rank, to, *reinterpret_cast<const EmulatedMap*>(map), column, row, barrier); });
}
void copy_box(uint32_t to, uint64_t map, int i, int j, int k, int l, uint32_t barrier) {
  copy_box_into(block().rank(), to, *reinterpret_cast<const EmulatedBoxMap*>(map), {i, j, k, l}, barrier);
}
void copy_box(uint32_t to, uint64_t map, int i, int j, int k, uint32_t barrier) { copy_box(to, map, i, j, k, 0, barrier); }
void copy_box_to_blocks(uint32_t to, uint64_t map, int i, int j, int k, uint32_t barrier, uint32_t blocks) {
  for_each_rank(blocks, [&](int rank) {
    copy_box_into(rank, to, *reinterpret_cast<const EmulatedBoxMap*>(map), {i, j, k, 0}, barrier);
  });
}
void copy_pixels(uint32_t to, uint64_t map, int channel, int x, int y, int picture, int right, int down, uint32_t barrier) {
  copy_pixels_into(block().rank(), to, *reinterpret_cast<const EmulatedPixelMap*>(map), channel, {x, y, picture}, right, down,
                   barrier);
}
void send_in_cluster(uint32_t to, int rank, float first, float second, uint32_t barrier) {
  if (to % 8) fail(Code::Internal, "two numbers are sent to {}, no multiple of 8", to);
  block().later(rank, rank, [=] {
    const float both[] = {first, second};
    std::memcpy(block().shared_of(rank) + to, both, sizeof both);
    count_bytes(barrier, rank, sizeof both);
  });
}
void copy_to_block(uint32_t to, uint32_t from, uint32_t bytes, uint32_t barrier, uint32_t rank) {
  if (to % 16 || from % 16 || bytes % 16) fail(Code::Internal, "copy_to_block: not aligned to 16 bytes");
  const int own = block().rank(), other = int(rank);
  block().later(own, other, [=] {
    std::memcpy(block().shared_of(other) + to, block().shared_of(own) + from, bytes);
    count_bytes(barrier, other, bytes);
  });
}
void add_summed_rows_of(float* c, int count, const uint32_t* a, uint64_t rows, bool bf16) {
  block().thread().products.push_back({c, count, 0, rows, bf16, false, true, a});
}
void start_product_of(float* c, int count, uint64_t a, uint64_t b, bool bf16, bool first, bool turned) {
  block().thread().products.push_back({c, count, a, b, bf16, first, turned});
}
void commit_products() {
  Thread& t = block().thread();
  t.product_groups.push_back(std::move(t.products));
  t.products.clear();
}
void wait_products_for(int open) {
  Thread& t = block().thread();
  for (; int(t.product_groups.size()) > open; t.product_groups.pop_front())
    for (const PendingProduct& p : t.product_groups.front()) p.registers ? run_summed_rows(p) : run_product(p);
  block().meet_warp("wait_products");  // whoever frees a stage then does so for its whole warp
}

// Each thread gives its number to the next through shared memory; then each warp sums.
SINTER_DEVICE_KERNEL(emulation__ring, float* out, int add) {
  auto* values = reinterpret_cast<float*>(shared_memory());
  values[(thread_x() + 1) % threads_x()] = float(thread_x() + add);
  barrier();
  out[block_x() * threads_x() + thread_x()] = warp_sum(values[thread_x()]);
}

SINTER_DEVICE_KERNEL(emulation__stuck, int) {
  if (thread_x() < 40) barrier();
}

TEST_CASE("emulated threads meet at barriers and exchange values") {
  std::vector<float> out(128);
  float* address = out.data();
  int add = 5;
  void* arguments[] = {&address, &add};
  emulated_launch("emulation__ring", {{2}, {64}, 256}, arguments);
  for (int block = 0; block < 2; ++block)
    for (int i = 0; i < 64; ++i) {
      // Lanes of the first warp hold the numbers 63, 0, 1, ..., 30; of the second 31 ... 62.
      const float expected = i < 32 ? 63 + 30 * 31 / 2 + 32 * 5 : (31 + 62) * 16 + 32 * 5;
      CHECK(out[size_t(block * 64 + i)] == expected);
    }
}

TEST_CASE("emulated threads that wait for others that never come are found") {
  int nothing = 0;
  void* arguments[] = {&nothing};
  CHECK_THROWS_AS(emulated_launch("emulation__stuck", {{1}, {64}}, arguments), Error);
}

TEST_CASE("the conversion to e4m3 by integer arithmetic rounds as convert() does, up to 448") {
  for (int i = 0; i < 256; ++i) {
    const auto bits = uint8_t(i);
    float expected = 0;
    convert(&bits, DType::f8e4m3, &expected, DType::f32, 1);
    const float seen = to_float(E4m3{bits});
    CHECK((seen == expected || (std::isnan(seen) && std::isnan(expected))));
  }
  std::mt19937 random(3);
  int different = 0;
  for (int i = 0; i < 300000; ++i) {
    float value = as_float(uint32_t(random()));
    if (i % 2) value = std::ldexp(float(random() % 4096) / 4096.f - 0.5f, int(random() % 22) - 12);
    if (!(std::fabs(value) <= 448.f)) continue;
    uint8_t expected = 0;
    convert(&value, DType::f32, &expected, DType::f8e4m3, 1);
    different += float_to_e4m3_in_software(value) != expected;
  }
  CHECK(different == 0);
  CHECK(int(float_to_e4m3_in_software(1e9f)) == 0x7e);
  CHECK(int(float_to_e4m3_in_software(-INFINITY)) == 0xfe);
  CHECK(int(float_to_e4m3_in_software(NAN) & 0x7f) == 0x7f);
}

}  // namespace sinter::device
