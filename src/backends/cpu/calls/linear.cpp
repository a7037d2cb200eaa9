#include "backends/cpu/calls/linear.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "backends/cpu/calls/rows.h"

namespace sinter {
namespace {

constexpr int kMaxBlocks = 64;  // of one row tile

/// How a call is cut into pieces of (row tile, column chunk), and where its scratch memory lies.
struct Plan {
  PanelLayout layout;
  Reduction reduction;
  DType a_type;         // what the microkernels read
  bool in_place;        // they read A where it is
  bool shared;          // A is prepared for all pieces first, because several chunks need the same rows
  int64_t a_row_bytes;  // of prepared rows
  int64_t tile_rows, tiles;
  int64_t chunk, chunks;  // columns
  int64_t group;          // columns whose results are in scratch memory at a time
  int64_t tile_stride;    // floats
  int64_t shared_bytes, worker_bytes, a_bytes, staging_bytes;
};

Plan make_plan(const LinearShape& s, int threads, const Microkernels& kernels) {
  Plan p;
  p.layout = panel_layout(s.weights, s.n, s.k, 1, kernels);
  p.a_type = s.weights == PanelType::bf16_dot ? DType::bf16 : DType::f32;
  const int64_t a_size = byte_size(p.a_type);
  // Rows that are a multiple of a page apart fall onto the same few lines of the nearest cache.
  const bool conflicts = s.a_stride * a_size % 4096 == 0 && s.m > 1;
  const bool odd_pairs = p.a_type == DType::bf16 && s.k % 2;
  p.in_place = !s.prologue && s.a == p.a_type && !conflicts && !odd_pairs;
  p.a_row_bytes = scratch_row_bytes(s.k * a_size);

  const int64_t most_rows = std::min<int64_t>(kMaxBlocks, kernels.vector_floats == 16 ? 16 : 24) * kernels.max_rows;
  p.tiles = divide_up(s.m, most_rows);
  p.tile_rows = divide_up(s.m, p.tiles);
  double products = double(s.m) * double(s.n) * double(s.k) * s.parts;
  p.chunk = chunk_columns(s.n, p.layout.columns, p.tiles, threads,
                          estimated_seconds(products, double(p.layout.bytes()) * s.parts, kernels, s.weights));
  p.chunks = divide_up(s.n, p.chunk);
  p.shared = !p.in_place && p.chunks > 1;

  p.reduction.channels = s.k;
  p.reduction.inner_channels = even_part(s.k, kernels.l1_bytes * 3 / 2 / (p.layout.columns * p.layout.element_bytes()));
  int64_t inner = p.reduction.inner_channels;
  p.reduction.outer_channels = std::max(inner, even_part(s.k, kernels.l2_bytes / 2 / (p.tile_rows * a_size)) / inner * inner);

  int64_t panel_bytes = p.tile_rows * p.layout.columns * 4 * s.parts;
  p.group = std::min(p.chunk, std::clamp<int64_t>(kernels.l2_bytes / 4 / panel_bytes, 1, 32) * p.layout.columns);
  p.tile_stride = p.group + 16;
  p.shared_bytes = p.shared ? s.m * p.a_row_bytes : 0;
  p.a_bytes = p.in_place || p.shared ? 0 : p.tile_rows * p.a_row_bytes;
  p.staging_bytes = s.prologue && s.a != p.a_type ? round_up(s.k * byte_size(s.a), 64) : 0;
  p.worker_bytes = round_up(p.a_bytes + p.staging_bytes + s.parts * p.tile_rows * p.tile_stride * 4, 4096) + 192;
  return p;
}

class Run {
 public:
  Run(const LinearCall& call, const Microkernels& kernels, int threads)
      : call_(call), s_(call.shape), kernels_(kernels), plan_(make_plan(s_, threads, kernels)) {
    if (call.prologue) prologue_.emplace(*call.prologue, 1, plan_.a_row_bytes / byte_size(plan_.a_type));
    if (call.epilogue) epilogue_.emplace(*call.epilogue, s_.parts, plan_.tile_stride);
    source_ = {prologue_ ? &*prologue_ : nullptr, call.a, s_.a_stride, s_.a, plan_.a_type, s_.k};
  }

  void operator()(ThreadPool& pool) {
    if (plan_.shared) {
      int64_t grain = std::clamp<int64_t>(s_.m / (16 * pool.threads()), 1, 64);
      pool.parallel_for(s_.m, grain, [&](int64_t begin, int64_t end, int worker) {
        source_.write(begin, end, shared() + begin * plan_.a_row_bytes, plan_.a_row_bytes, scratch(worker) + plan_.a_bytes);
      });
    }
    pool.parallel_for(plan_.tiles * plan_.chunks, 1, [&](int64_t begin, int64_t end, int worker) {
      // Tiles run fastest: the weights of one chunk stay in the shared cache while every tile uses them.
      for (int64_t i = begin; i < end; ++i) piece(i % plan_.tiles, i / plan_.tiles, scratch(worker));
    });
  }

 private:
  char* shared() const { return static_cast<char*>(call_.workspace); }
  char* scratch(int worker) const { return shared() + round_up(plan_.shared_bytes, 64) + worker * plan_.worker_bytes; }

  void piece(int64_t tile, int64_t chunk, char* scratch) const {
    const int64_t row_begin = tile * plan_.tile_rows, row_end = std::min(s_.m, row_begin + plan_.tile_rows);
    const char* a;
    int64_t a_row_bytes = plan_.a_row_bytes;
    if (plan_.in_place) {
      a_row_bytes = s_.a_stride * byte_size(s_.a);
      a = static_cast<const char*>(call_.a) + row_begin * a_row_bytes;
    } else if (plan_.shared) {
      a = shared() + row_begin * a_row_bytes;
    } else {
      source_.write(row_begin, row_end, scratch, a_row_bytes, scratch + plan_.a_bytes);
      a = scratch;
    }
    const int64_t rows = row_end - row_begin;
    RowBlock blocks[kMaxBlocks];
    const int count = int(divide_up(rows, kernels_.max_rows));
    for (int i = 0; i < count; ++i) {
      int64_t first = rows * i / count;
      blocks[i] = {a + first * a_row_bytes, first, int(rows * (i + 1) / count - first)};
    }
    auto* results = reinterpret_cast<float*>(scratch + plan_.a_bytes + plan_.staging_bytes);
    const int64_t column_end = std::min(s_.n, (chunk + 1) * plan_.chunk);
    for (int64_t column = chunk * plan_.chunk; column < column_end; column += plan_.group) {
      int64_t end = std::min(column_end, column + plan_.group);
      // Whole panels without epilogue go where they belong; a padded panel would write past its row.
      const bool direct = !epilogue_ && plan_.layout.ends_whole(end);
      if (direct) {
        multiply_panels(kernels_, plan_.layout, static_cast<const char*>(call_.weights), plan_.reduction, blocks, count,
                        a_row_bytes, column / plan_.layout.columns, divide_up(end, plan_.layout.columns),
                        call_.out + row_begin * call_.out_stride + column, call_.out_stride);
        continue;
      }
      for (int part = 0; part < s_.parts; ++part) {
        const char* weights = static_cast<const char*>(call_.weights) + part * plan_.layout.bytes();
        multiply_panels(kernels_, plan_.layout, weights, plan_.reduction, blocks, count, a_row_bytes,
                        column / plan_.layout.columns, divide_up(end, plan_.layout.columns),
                        results + part * plan_.tile_rows * plan_.tile_stride, plan_.tile_stride);
      }
      finish(results, row_begin, row_end, column, end);
    }
  }

  void finish(float* results, int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end) const {
    if (!epilogue_) {
      for (int64_t row = row_begin; row < row_end; ++row)
        std::memcpy(call_.out + row * call_.out_stride + column_begin, results + (row - row_begin) * plan_.tile_stride,
                    size_t(column_end - column_begin) * 4);
      return;
    }
    char* bases[TileKernelCall::kTiles];
    for (int part = 0; part < s_.parts; ++part)
      bases[part] =
          reinterpret_cast<char*>(results) + ((part * plan_.tile_rows - row_begin) * plan_.tile_stride - column_begin) * 4;
    (*epilogue_)(bases, row_begin, row_end, column_begin, column_end);
  }

  const LinearCall& call_;
  const LinearShape& s_;
  const Microkernels& kernels_;
  Plan plan_;
  std::optional<TileKernelCall> prologue_, epilogue_;
  RowSource source_;
};

}  // namespace

int64_t linear_workspace_bytes(const LinearShape& shape, int threads, const Microkernels& kernels) {
  Plan plan = make_plan(shape, threads, kernels);
  return round_up(plan.shared_bytes, 64) + threads * plan.worker_bytes;
}

void linear(const LinearCall& call, const Microkernels& kernels, ThreadPool& pool) {
  SINTER_ASSERT(!call.shape.prologue == !call.prologue && !call.shape.epilogue == !call.epilogue);
  SINTER_ASSERT(call.epilogue || call.shape.parts == 1);
  if (call.shape.m <= 0 || call.shape.n <= 0) return;
  Run run(call, kernels, pool.threads());
  run(pool);
}

}  // namespace sinter
