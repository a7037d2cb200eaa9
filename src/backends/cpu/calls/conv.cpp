#include "backends/cpu/calls/conv.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "backends/cpu/calls/pack.h"
#include "backends/cpu/calls/rows.h"

namespace sinter {
namespace {

constexpr int kMaxBlocks = 128;  // of one piece
constexpr int64_t kMaxRows = 512;

/// Where the microkernels read the input.
enum class Input {
  in_place,  ///< in memory, as it is: nothing to pad, convert or compute
  whole,     ///< in a padded copy of all pictures, made first
  by_tile,   ///< in a padded copy of one tile's input, made by each piece in its own scratch memory
};

/// How a call is cut into pieces of (rows of pictures, columns of pictures, chunk of output channels).
struct Plan {
  PanelLayout layout;
  Reduction reduction;
  DType a_type;
  Input input;
  bool gathered;                // few channels: each output pixel's whole window is copied into one row (by_tile)
  int64_t window_bytes;         // of such a row
  int64_t pixel_bytes;          // of the input as the microkernels read it
  int64_t in_rows, in_columns;  // of one picture, padded (whole), or of one tile (by_tile)
  int64_t tile_h, tile_w;       // in output pixels; tile_h counts rows of all pictures one after the other
  int64_t tiles_h, tiles_w;     // by_tile: tiles_h is for one picture
  int64_t tiles;
  int64_t chunk, chunks, group, tile_stride;
  int64_t shared_bytes, worker_bytes;
  int64_t tile_bytes, a_bytes, staging_bytes;  // of a worker: padded tile, that and the windows, a row to convert
};

struct Tile {
  int64_t h, w;
};

int64_t span(int64_t outputs, int stride, int window) { return (outputs - 1) * stride + window; }

/// The tile with the least estimated cost for each multiply-add: what its blocks of rows waste, the stream of weights, and the
/// borders that are prepared more than once (`halo`). `rows` is how many picture rows a tile may go through.
Tile choose_tile(const ConvShape& s, const Microkernels& kernels, int64_t rows, bool halo, int64_t a_size) {
  Tile best{1, std::min<int64_t>(s.out_w(), kernels.max_rows)};
  double least = 1e30;
  const int64_t out_w = s.out_w();
  for (int64_t parts = 1; parts <= divide_up(out_w, kernels.max_rows); ++parts) {
    const int64_t w = divide_up(out_w, parts), blocks = divide_up(w, kernels.max_rows);
    for (int64_t h = 1; h <= rows && h * w <= kMaxRows && h * blocks <= kMaxBlocks; ++h) {
      double outputs = double(h * w), inputs = double(span(h, s.stride, s.kernel_h) * span(w, s.stride, s.kernel_w));
      double cost = 0.5 * double(blocks) / double(w) + 12 / outputs;
      if (halo) cost += inputs / outputs * 24 / double(s.kernel_h * s.kernel_w * s.out_c);
      double bytes = inputs * double(s.c * a_size);
      if (bytes > double(kernels.l2_bytes) / 2) cost += 0.03 * bytes / double(kernels.l2_bytes);
      cost += double(divide_up(rows, h) * h) / double(rows) * 0.05;  // a last tile that is nearly empty
      if (cost < least) least = cost, best = {h, w};
    }
  }
  return best;
}

Plan make_plan(const ConvShape& s, int threads, const Microkernels& kernels) {
  Plan p;
  p.layout = conv_layout(s.weights, s.out_c, s.c, s.kernel_h, s.kernel_w, kernels);
  p.a_type = s.weights == PanelType::bf16_dot ? DType::bf16 : DType::f32;
  const int64_t a_size = byte_size(p.a_type), out_h = s.out_h(), out_w = s.out_w();
  p.gathered = s.kernel_w * s.c < 64 && s.kernel_h * s.kernel_w > 1;
  // Not many channels: the window's columns lie side by side in memory, so they are summed over as one run.
  const bool merged = s.c < 64 || (p.layout.pairs() && s.c % 2);
  const bool padded = s.pad_top || s.pad_left || s.pad_bottom || s.pad_right;
  const bool conflicts = s.pixel_stride * s.stride * a_size % 4096 == 0;
  const bool in_place = !p.gathered && !s.prologue && s.in == p.a_type && !padded && !conflicts &&
                        (!merged || s.kernel_w == 1 || s.pixel_stride == s.c);

  Tile tile = choose_tile(s, kernels, in_place ? s.n * out_h : out_h, !in_place, a_size);
  auto count = [&](int64_t rows) { return divide_up(rows, tile.h) * divide_up(out_w, tile.w); };
  p.input = in_place ? Input::in_place : Input::by_tile;
  if (p.gathered || p.layout.panels() < 4) {  // nothing to gain from chunks of channels: smaller tiles occupy all threads
    while (tile.h > 1 && s.n * count(out_h) < 6 * threads) tile.h = divide_up(tile.h, 2);
  } else if (!in_place && (s.n * count(out_h) < 6 * threads || s.n * out_h * out_w <= kMaxRows)) {
    p.input = Input::whole;
    tile = choose_tile(s, kernels, s.n * out_h, false, a_size);
  }
  p.tile_h = tile.h, p.tile_w = tile.w;
  p.tiles_h = divide_up(p.input == Input::by_tile ? out_h : s.n * out_h, tile.h);
  p.tiles_w = divide_up(out_w, tile.w);
  p.tiles = p.tiles_h * p.tiles_w * (p.input == Input::by_tile ? s.n : 1);
  double products = conv_flops(s) / 2;
  p.chunk = p.input == Input::by_tile ? round_up(s.out_c, p.layout.columns)
                                      : chunk_columns(s.out_c, p.layout.columns, p.tiles, threads,
                                                      estimated_seconds(products, double(p.layout.bytes()), kernels, s.weights));
  p.chunks = divide_up(s.out_c, p.chunk);

  p.pixel_bytes = in_place ? s.pixel_stride * a_size : merged ? s.c * a_size : scratch_row_bytes(s.c * a_size);
  p.in_rows = p.input == Input::whole ? s.h + s.pad_top + s.pad_bottom : in_place ? s.h : span(tile.h, s.stride, s.kernel_h);
  p.in_columns = p.input == Input::whole ? s.w + s.pad_left + s.pad_right : in_place ? s.w : span(tile.w, s.stride, s.kernel_w);

  Reduction& r = p.reduction;
  r.groups = p.gathered ? 1 : s.kernel_h;
  r.group_bytes = p.in_columns * p.pixel_bytes;
  r.taps = merged ? 1 : s.kernel_w;
  r.tap_bytes = p.pixel_bytes;
  r.channels = p.gathered ? s.kernel_h * p.layout.group_length() : merged ? s.kernel_w * s.c : s.c;
  r.inner_channels = even_part(r.channels, kernels.l1_bytes * 3 / 2 / (p.layout.columns * p.layout.element_bytes()));
  int64_t pixels = span(tile.h, s.stride, s.kernel_h) * span(tile.w, s.stride, s.kernel_w);
  r.outer_channels = std::max(r.inner_channels, even_part(r.channels, kernels.l2_bytes * 5 / 8 / (pixels * a_size)) /
                                                    r.inner_channels * r.inner_channels);

  const int64_t tile_rows = tile.h * tile.w;
  p.group =
      std::min(p.chunk, std::clamp<int64_t>(kernels.l2_bytes / 4 / (tile_rows * p.layout.columns * 4), 1, 32) * p.layout.columns);
  p.tile_stride = p.group + 16;
  p.shared_bytes = p.input == Input::whole ? round_up(s.n * p.in_rows * p.in_columns * p.pixel_bytes, 64) : 0;
  p.window_bytes = p.gathered ? scratch_row_bytes(r.channels * a_size) : 0;
  p.tile_bytes = p.input == Input::by_tile ? round_up(p.in_rows * p.in_columns * p.pixel_bytes, 64) : 0;
  p.a_bytes = p.tile_bytes + tile_rows * p.window_bytes;
  p.staging_bytes = s.prologue && s.in != p.a_type ? round_up(s.c * byte_size(s.in), 64) : 0;
  p.worker_bytes = round_up(p.a_bytes + p.staging_bytes + tile_rows * p.tile_stride * 4, 4096) + 192;
  return p;
}

class Run {
 public:
  Run(const ConvCall& call, const Microkernels& kernels, int threads)
      : call_(call), s_(call.shape), kernels_(kernels), plan_(make_plan(s_, threads, kernels)) {
    if (call.prologue) prologue_.emplace(*call.prologue, 1, plan_.pixel_bytes / byte_size(plan_.a_type));
    if (call.epilogue) epilogue_.emplace(*call.epilogue, 1, plan_.tile_stride);
    source_ = {prologue_ ? &*prologue_ : nullptr, call.in, s_.pixel_stride, s_.in, plan_.a_type, s_.c};
  }

  void operator()(ThreadPool& pool) {
    if (plan_.input == Input::whole) {
      const int64_t rows = s_.n * plan_.in_rows;
      pool.parallel_for(rows, std::max<int64_t>(1, rows / (32 * pool.threads())), [&](int64_t begin, int64_t end, int worker) {
        for (int64_t i = begin; i < end; ++i)
          prepare(i / plan_.in_rows, i % plan_.in_rows - s_.pad_top, -s_.pad_left, plan_.in_columns,
                  shared() + i * plan_.reduction.group_bytes, scratch(worker) + plan_.a_bytes);
      });
    }
    pool.parallel_for(plan_.tiles * plan_.chunks, 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) piece(i % plan_.tiles, i / plan_.tiles, scratch(worker));
    });
  }

 private:
  char* shared() const { return static_cast<char*>(call_.workspace); }
  char* scratch(int worker) const { return shared() + plan_.shared_bytes + worker * plan_.worker_bytes; }

  /// `count` pixels of picture n's row y from column x on, either of which may lie outside of the picture.
  void prepare(int64_t n, int64_t y, int64_t x, int64_t count, char* to, char* staging) const {
    const int64_t bytes = plan_.pixel_bytes;
    int64_t begin = std::clamp<int64_t>(-x, 0, count), end = std::clamp<int64_t>(s_.w - x, begin, count);
    if (y < 0 || y >= s_.h) begin = end = count;
    std::memset(to, 0, size_t(begin * bytes));
    if (begin < end) {
      int64_t first = (n * s_.h + y) * s_.w + x;
      source_.write(first + begin, first + end, to + begin * bytes, bytes, staging);
    }
    std::memset(to + end * bytes, 0, size_t((count - end) * bytes));
  }

  /// Output rows [row_begin, row_end) of all pictures one after the other, columns [x_begin, x_end).
  struct Area {
    int64_t row_begin, row_end, x_begin, x_end;
    int64_t width() const { return x_end - x_begin; }
  };

  Area area(int64_t tile) const {
    const int64_t out_h = s_.out_h(), ty = tile / plan_.tiles_w, tx = tile % plan_.tiles_w;
    Area a;
    if (plan_.input == Input::by_tile) {
      int64_t n = ty / plan_.tiles_h, y = ty % plan_.tiles_h * plan_.tile_h;
      a.row_begin = n * out_h + y;
      a.row_end = n * out_h + std::min(out_h, y + plan_.tile_h);
    } else {
      a.row_begin = ty * plan_.tile_h;
      a.row_end = std::min(s_.n * out_h, a.row_begin + plan_.tile_h);
    }
    a.x_begin = tx * plan_.tile_w;
    a.x_end = std::min(s_.out_w(), a.x_begin + plan_.tile_w);
    return a;
  }

  /// The first input pixel under the window of output (row, x_begin).
  const char* input_of(const Area& a, int64_t row, const char* scratch) const {
    if (plan_.input == Input::by_tile) return scratch + (row - a.row_begin) * s_.stride * plan_.reduction.group_bytes;
    const char* base = plan_.input == Input::whole ? shared() : static_cast<const char*>(call_.in);
    int64_t n = row / s_.out_h(), y = row % s_.out_h();
    return base + (n * plan_.in_rows + y * s_.stride) * plan_.reduction.group_bytes + a.x_begin * s_.stride * plan_.pixel_bytes;
  }

  void piece(int64_t tile, int64_t chunk, char* scratch) const {
    const Area a = area(tile);
    if (plan_.input == Input::by_tile) {
      int64_t n = a.row_begin / s_.out_h(), y = a.row_begin % s_.out_h() * s_.stride - s_.pad_top;
      int64_t count = span(a.width(), s_.stride, s_.kernel_w);
      for (int64_t i = 0; i < span(a.row_end - a.row_begin, s_.stride, s_.kernel_h); ++i)
        prepare(n, y + i, a.x_begin * s_.stride - s_.pad_left, count, scratch + i * plan_.reduction.group_bytes,
                scratch + plan_.a_bytes);
    }
    if (plan_.gathered) gather(a, scratch);
    auto* results = reinterpret_cast<float*>(scratch + plan_.a_bytes + plan_.staging_bytes);
    RowBlock blocks[kMaxBlocks];
    const int count = cut_into_blocks(a, scratch, a.width(), blocks);
    const int64_t column_end = std::min(s_.out_c, (chunk + 1) * plan_.chunk);
    for (int64_t column = chunk * plan_.chunk; column < column_end; column += plan_.group) {
      int64_t end = std::min(column_end, column + plan_.group);
      const int64_t first = column / plan_.layout.columns, last = divide_up(end, plan_.layout.columns);
      auto multiply = [&](const RowBlock* rows, float* to, int64_t stride) {
        multiply_panels(kernels_, plan_.layout, static_cast<const char*>(call_.weights), plan_.reduction, rows, count,
                        row_bytes(), first, last, to, stride);
      };
      if (!epilogue_ && plan_.layout.ends_whole(end)) {  // whole panels without epilogue go where they belong
        RowBlock placed[kMaxBlocks];
        cut_into_blocks(a, scratch, s_.out_w(), placed);
        multiply(placed, call_.out + (a.row_begin * s_.out_w() + a.x_begin) * call_.out_stride + column, call_.out_stride);
      } else {
        multiply(blocks, results, plan_.tile_stride);
        finish(results, a, column, end);
      }
    }
  }

  /// From one output pixel to the next in what the microkernels read.
  int64_t row_bytes() const { return plan_.gathered ? plan_.window_bytes : s_.stride * plan_.pixel_bytes; }

  /// Copies the window of each output pixel into one row, group after group as the weights lie.
  void gather(const Area& a, char* scratch) const {
    const int64_t bytes = plan_.layout.k * byte_size(plan_.a_type), step = plan_.layout.group_length() * byte_size(plan_.a_type);
    char* to = scratch + plan_.tile_bytes;
    for (int64_t row = a.row_begin; row < a.row_end; ++row)
      for (int64_t x = 0; x < a.width(); ++x, to += plan_.window_bytes)
        for (int i = 0; i < s_.kernel_h; ++i) {
          const char* from =
              scratch + ((row - a.row_begin) * s_.stride + i) * plan_.reduction.group_bytes + x * s_.stride * plan_.pixel_bytes;
          std::memcpy(to + i * step, from, size_t(bytes));
          std::memset(to + i * step + bytes, 0, size_t(step - bytes));
        }
  }

  /// Blocks lie within one picture row; results of picture rows are `row_distance` rows apart. Returns how many there are.
  int cut_into_blocks(const Area& a, const char* scratch, int64_t row_distance, RowBlock* blocks) const {
    int count = 0;
    const int64_t step = row_bytes(), parts = divide_up(a.width(), kernels_.max_rows);
    for (int64_t row = a.row_begin; row < a.row_end; ++row) {
      const char* input = plan_.gathered ? scratch + plan_.tile_bytes + (row - a.row_begin) * a.width() * plan_.window_bytes
                                         : input_of(a, row, scratch);
      for (int64_t i = 0; i < parts; ++i) {
        int64_t first = a.width() * i / parts, last = a.width() * (i + 1) / parts;
        blocks[count++] = {input + first * step, (row - a.row_begin) * row_distance + first, int(last - first)};
      }
    }
    return count;
  }

  void finish(float* results, const Area& a, int64_t column_begin, int64_t column_end) const {
    // Where the tile is as wide as the picture its pixels are consecutive: one run.
    const bool one_run = a.width() == s_.out_w();
    const int64_t run = one_run ? (a.row_end - a.row_begin) * a.width() : a.width();
    for (int64_t row = a.row_begin; row < a.row_end; row += one_run ? a.row_end - a.row_begin : 1) {
      const int64_t pixel = row * s_.out_w() + a.x_begin;
      float* from = results + (row - a.row_begin) * a.width() * plan_.tile_stride;
      if (epilogue_) {
        char* base = reinterpret_cast<char*>(from) - (pixel * plan_.tile_stride + column_begin) * 4;
        (*epilogue_)(&base, pixel, pixel + run, column_begin, column_end);
      } else {
        for (int64_t i = 0; i < run; ++i)
          std::memcpy(call_.out + (pixel + i) * call_.out_stride + column_begin, from + i * plan_.tile_stride,
                      size_t(column_end - column_begin) * 4);
      }
    }
  }

  const ConvCall& call_;
  const ConvShape& s_;
  const Microkernels& kernels_;
  Plan plan_;
  std::optional<TileKernelCall> prologue_, epilogue_;
  RowSource source_;
};

}  // namespace

int64_t conv_workspace_bytes(const ConvShape& shape, int threads, const Microkernels& kernels) {
  Plan plan = make_plan(shape, threads, kernels);
  return plan.shared_bytes + threads * plan.worker_bytes;
}

void conv(const ConvCall& call, const Microkernels& kernels, ThreadPool& pool) {
  const ConvShape& s = call.shape;
  SINTER_ASSERT(!s.prologue == !call.prologue && !s.epilogue == !call.epilogue);
  if (s.weights == PanelType::bf16_dot && s.c % 2)
    fail(Code::Unsupported, "conv: bf16 dot products need an even number of channels, not {}; pack the weights as bf16", s.c);
  if (s.n <= 0 || s.out_c <= 0 || s.out_h() <= 0 || s.out_w() <= 0) return;
  Run run(call, kernels, pool.threads());
  run(pool);
}

}  // namespace sinter
