#pragma once
// Convolutions of 16-bit pictures on devices of capability 9.0, as products: rows are pixels of the result, columns are filters.
//
// As in tile_product.device.h, blocks come in pairs that share their filters, and of their three warpgroups one lets the copying
// unit bring what the two others multiply in turns. But filters and pixels have rings of their own: what several pixels of the
// window ("taps") need of the picture comes once, as a box of pixels with a margin, and each tap's products begin at another
// pixel of it. For that the rows of a product are patches of 8 x 8 pixels: eight neighbours of a row lie one behind the other,
// and the next eight a row of the box further. Chunks are swizzled by the bits of their address in shared memory, in copies and
// products alike, so rows may begin at any multiple of 128 bytes. What lies outside of the picture comes as zeros, which is the
// padding.
//
// Of 128 x 160 sums and 64 columns, with 3 x 3 taps, 23 KB are written to shared memory, 13 KB of them read from the second
// cache, and 56 KB read from it, in the 640 cycles that the multiplying units need.
#include "backends/cuda/kernels/ring_place.device.h"
#include "backends/cuda/kernels/tile_results.device.h"
#include "backends/cuda/kernels/tile_window_arguments.h"

namespace sinter::device {

/// Taps whose pixels come as one box, and the first of the channels that are multiplied.
struct WindowPart {
  int channel, x, y, width, height;  // x, y: its first tap; width, height: in taps
};
/// A tap of a part.
struct WindowStep {
  WindowPart part;
  int x, y;

  SINTER_DEVICE_INLINE bool is_last() const { return x + 1 == part.width && y + 1 == part.height; }
};

/// The order of steps.
struct WindowSteps {
  const WindowArguments& window;

  SINTER_DEVICE_INLINE WindowPart first_part() const { return sized({0, 0, 0, 0, 0}); }
  SINTER_DEVICE_INLINE void advance(WindowPart& part) const {
    part.x = next(part.x, window.kernel_w);
    if (part.x == 0) part.y = next(part.y, window.kernel_h);
    if (part.x == 0 && part.y == 0) part.channel += kTileDepth;
    part = sized(part);
  }
  SINTER_DEVICE_INLINE WindowStep first() const { return {first_part(), 0, 0}; }
  SINTER_DEVICE_INLINE void advance(WindowStep& step) const {
    if (++step.x < step.part.width) return;
    step.x = 0;
    if (++step.y < step.part.height) return;
    step.y = 0;
    advance(step.part);
  }
  SINTER_DEVICE_INLINE int tap_x(const WindowStep& step) const { return step.part.x + step.x * window.stride; }
  SINTER_DEVICE_INLINE int tap_y(const WindowStep& step) const { return step.part.y + step.y * window.stride; }

 private:
  /// The first tap of the part behind that which begins at `tap`, along an axis: 0 after the last.
  SINTER_DEVICE_INLINE int next(int tap, int kernel) const {
    if (tap + kPartSide * window.stride < kernel) return tap + kPartSide * window.stride;
    const int phase = tap % window.stride + 1;
    return phase < least(window.stride, kernel) ? phase : 0;
  }
  SINTER_DEVICE_INLINE int taps(int first, int kernel) const {
    return least(kPartSide, divide_up(kernel - first, window.stride));
  }
  SINTER_DEVICE_INLINE WindowPart sized(const WindowPart& part) const {
    return {part.channel, part.x, part.y, taps(part.x, window.kernel_w), taps(part.y, window.kernel_h)};
  }
};

/// Of the filters, rows are [tap, channel].
struct WindowRows {
  static constexpr bool kTurned = false;
  const WindowArguments& window;

  struct Patch {
    int x, y, picture;  // of its first pixel
  };
  struct Tile {
    Patch first, second;
  };
  SINTER_DEVICE_INLINE Patch patch(int number) const {
    const int above = number / window.patches_x;
    return {number % window.patches_x * kPatchSide, above % window.patches_y * kPatchSide, above / window.patches_y};
  }
  SINTER_DEVICE_INLINE Tile tile(int row) const {
    const int number = row / kTileRows * kTilePatches;
    return {patch(number), patch(number + 1)};
  }

  SINTER_DEVICE_INLINE void copy_patch(uint32_t to, uint64_t map, const WindowPart& part, const Patch& patch, int left, int top,
                                       uint32_t barrier) const {
    copy_box(to, map, part.channel, patch.x * window.stride + part.x - left, patch.y * window.stride + part.y - top,
             patch.picture, barrier);
  }
  SINTER_DEVICE_INLINE void copy_pixels(uint32_t to, uint64_t map, const WindowPart& part, const Tile& tile,
                                        uint32_t barrier) const {
    copy_patch(to, map, part, tile.first, window.left, window.top, barrier);
    copy_patch(to + uint32_t(window.patch_bytes), map, part, tile.second, window.left, window.top, barrier);
  }
  SINTER_DEVICE_INLINE void copy_filters(uint32_t to, uint64_t map, const WindowStep& step, const Tile&, int filter,
                                         uint32_t barrier) const {
    const WindowSteps steps{window};
    copy_box_to_pair(to, map, step.part.channel, steps.tap_y(step) * window.kernel_w + steps.tap_x(step), filter, barrier);
  }

  /// The pixel that is a tile's row.
  SINTER_DEVICE_INLINE Patch pixel(const Tile& tile, int row) const {
    constexpr int kPixels = kPatchSide * kPatchSide;
    Patch at = tile.first;
    if (row >= kPixels) at = tile.second;
    return {at.x + row % kPatchSide, at.y + row % kPixels / kPatchSide, at.picture};
  }
  SINTER_DEVICE_INLINE bool inside(const Patch& p) const {
    return p.x < window.width && p.y < window.height && p.picture < window.pictures;
  }
  SINTER_DEVICE_INLINE int out_row(const Tile& tile, int row) const {
    const Patch p = pixel(tile, row);
    return inside(p) ? (p.picture * window.height + p.y) * window.width + p.x : -1;
  }
};

/// The result is twice as large: four convolutions with windows of 2 x 2, whose results are even or odd pixels of even or odd
/// rows ("places"). Filters are [channel, 4 x 4, filter] as of a gradient: each place has other four of the 4 x 4. The padding in
/// front is 1, less where the place is odd.
struct DoubledRows {
  static constexpr bool kTurned = true;
  const WindowArguments& window;

  struct Tile {
    WindowRows::Tile of;
    int odd_x, odd_y;
  };
  SINTER_DEVICE_INLINE Tile tile(int row) const {
    const int of_place = window.place_tiles * kTileRows, place = row / of_place;
    return {WindowRows{window}.tile(row - place * of_place), place & 1, place >> 1};
  }
  SINTER_DEVICE_INLINE void copy_pixels(uint32_t to, uint64_t map, const WindowPart& part, const Tile& tile,
                                        uint32_t barrier) const {
    const WindowRows rows{window};
    rows.copy_patch(to, map, part, tile.of.first, 1 - tile.odd_x, 1 - tile.odd_y, barrier);
    rows.copy_patch(to + uint32_t(window.patch_bytes), map, part, tile.of.second, 1 - tile.odd_x, 1 - tile.odd_y, barrier);
  }
  SINTER_DEVICE_INLINE void copy_filters(uint32_t to, uint64_t map, const WindowStep& step, const Tile& tile, int filter,
                                         uint32_t barrier) const {
    const int tap = (3 - 2 * step.y - tile.odd_y) * 4 + 3 - 2 * step.x - tile.odd_x;
    copy_box_to_pair(to, map, filter, tap, step.part.channel, barrier);
  }
  SINTER_DEVICE_INLINE int out_row(const Tile& tile, int row) const {
    const WindowRows rows{window};
    const WindowRows::Patch p = rows.pixel(tile.of, row);
    return rows.inside(p) ? ((p.picture * window.height + p.y) * 2 + tile.odd_y) * 2 * window.width + 2 * p.x + tile.odd_x : -1;
  }
};

template <int kColumns, bool kBf16, class RowMap>
struct WindowProduct {
  static constexpr WindowForm kForm{kColumns};
  static constexpr int kStages = kForm.stages(), kStageBytes = kForm.stage_bytes();
  static constexpr int kWarps = 4;  // of a warpgroup
  static constexpr int kTurn = 1;   // named barriers kTurn and kTurn + 1: when a warpgroup may multiply
  using Results = TileResults<kColumns, false, kBf16, RowMap>;
  using Sums = typename Results::Sums;

  const TileProductArguments& args;
  const WindowArguments& window;
  const RowMap map;
  const WindowSteps order_of_steps;
  const TileOrder order;
  const int group, warp, lane;                               // group: of the two that multiply
  uint32_t stages, pixels, full, empty, arrived, free_slot;  // addresses; the last four: barriers of stages, and of slots
  uint32_t rank;
  int steps, first_pair, next_pair;

  SINTER_DEVICE_INLINE WindowProduct(const TileProductArguments& a, const WindowArguments& w)
      : args(a),
        window(w),
        map{w},
        order_of_steps{w},
        order(a.m, a.n, kColumns, a.group),
        group(thread_x() / 128 - 1),
        warp(thread_x() / 32 % kWarps),
        lane(thread_x() % 32) {
    stages = (shared_address(shared_memory()) + 1023) & ~1023u;
    pixels = stages + kStages * kStageBytes;
    full = pixels + kForm.pixel_bytes() + 2 * kForm.staging_bytes();
    empty = full + 8 * kStages;
    arrived = empty + 8 * kStages;
    free_slot = arrived + 8 * kMostSlots;
    rank = rank_in_cluster();
    steps = divide_up(args.k, kTileDepth);
    first_pair = block_x() / 2;
    next_pair = blocks_x() / 2;
  }

  SINTER_DEVICE_INLINE void prepare() {
    if (thread_x() == 0) {
      for (int s = 0; s < kStages; ++s) {
        make_barrier(full + 8 * s, 1);
        make_barrier(empty + 8 * s, 2 * kWarps);  // both blocks read it
      }
      for (int s = 0; s < window.slots; ++s) {
        make_barrier(arrived + 8 * s, 1);
        make_barrier(free_slot + 8 * s, kWarps);
      }
      publish_barriers();
    }
    cluster_arrive();
    cluster_wait();
  }

  // One thread of those that bring would do; but the others of its warp, waiting elsewhere, would hold it up. Nobody waits for a
  // place that was never used: the phase before the first has ended.

  SINTER_DEVICE_INLINE auto tile_of(int pair_row) const { return map.tile((pair_row * 2 + int(rank)) * kTileRows); }

  /// Brings this block's half of the filters to both.
  SINTER_DEVICE_INLINE void bring_filters(uint64_t filters_map) {
    constexpr int kHalf = kColumns / 2;
    prefetch_map(filters_map);
    if (!args.early_weights) wait_for_operands();
    RingPlace stage;
    for (int pair = first_pair; pair < order.pairs(); pair += next_pair) {
      const auto [pair_row, column] = order.place(pair);
      const auto tile = tile_of(pair_row);
      WindowStep what = order_of_steps.first();
      for (int step = 0; step < steps; ++step) {
        wait_phase(empty + 8 * stage.at, stage.parity ^ 1);
        if (lane == 0) {
          const uint32_t barrier = full + 8 * stage.at;
          arrive_expecting(barrier, kStageBytes);
          map.copy_filters(stages + stage.at * kStageBytes + rank * kHalf * kTileDepth * 2, filters_map, what, tile,
                           column * kColumns + int(rank) * kHalf, barrier);
        }
        warp_barrier();
        order_of_steps.advance(what);
        stage.advance(kStages);
      }
    }
    // The other block counts at these barriers as well: it must find them.
    for (int s = 0; s < kStages; ++s, stage.advance(kStages)) wait_phase(empty + 8 * stage.at, stage.parity ^ 1);
  }

  SINTER_DEVICE_INLINE uint32_t slot_at(int slot) const { return pixels + uint32_t(slot * kTilePatches * window.patch_bytes); }

  SINTER_DEVICE_INLINE void bring_pixels(uint64_t pixels_map) {
    prefetch_map(pixels_map);
    wait_for_operands();
    RingPlace slot;
    for (int pair = first_pair; pair < order.pairs(); pair += next_pair) {
      const auto tile = tile_of(order.place(pair).pair_row);
      WindowPart part = order_of_steps.first_part();
      for (int i = 0; i < window.parts; ++i) {
        wait_phase(free_slot + 8 * slot.at, slot.parity ^ 1);
        if (lane == 0) {
          const uint32_t barrier = arrived + 8 * slot.at;
          arrive_expecting(barrier, uint32_t(kTilePatches * window.patch_bytes));
          map.copy_pixels(slot_at(slot.at), pixels_map, part, tile, barrier);
        }
        warp_barrier();
        order_of_steps.advance(part);
        slot.advance(window.slots);
      }
    }
  }

  /// A tile's steps as they are multiplied, and what describes the next one's operands to products.
  struct Walk {
    WindowStep what;
    RingPlace stage, slot;
    uint64_t pixels, filters;
    bool ready;  // the filters are there
  };
  SINTER_DEVICE_INLINE uint64_t filters_at(int stage) const {
    const uint32_t at = stages + stage * kStageBytes;
    return RowMap::kTurned ? summed_rows_operand(at, kTileDepth * 128) : product_operand(at);
  }
  SINTER_DEVICE_INLINE uint64_t pixels_at(int slot) const { return product_operand(slot_at(slot), uint32_t(window.pitch * 128)); }

  /// The i-th 16 columns of all rows. kFirst: the sums begin.
  template <bool kFirst>
  SINTER_DEVICE_INLINE void start_columns(Sums& sums, uint64_t pixels_of, uint64_t filters_of, int i) const {
    const uint64_t patch = uint64_t(uint32_t(window.patch_bytes) / 16);
    SINTER_UNROLL
    for (int b = 0; b < Results::kBlocks; ++b)
      start_product<kBf16, kFirst, RowMap::kTurned>(sums[b], pixels_of + uint64_t(i * 2) + (b ? patch : 0),
                                                    filters_of + uint64_t(i * (RowMap::kTurned ? 128 : 2)));
  }
  /// Makes the next step's place of this one's, as if its part went on; without a branch, as it must be among products.
  SINTER_DEVICE_INLINE void go_on(Walk& at) const {
    const bool row_ends = at.what.x + 1 == at.what.part.width;
    at.pixels += uint64_t(8 * (row_ends ? window.pitch - at.what.x : 1));
    at.what.y += row_ends ? 1 : 0;
    at.what.x = row_ends ? 0 : at.what.x + 1;
    at.stage.advance(kStages);
    at.filters = filters_at(at.stage.at);
    at.ready = phase_ended(full + 8 * at.stage.at, at.stage.parity);
  }
  /// Only few products are queued at a time: when the last of a step has been started there is little time until the first of the
  /// next must be. So that is prepared among them; in one piece of code without branches, or each piece would count as a group.
  template <bool kFirst>
  SINTER_DEVICE_INLINE void multiply_step(Sums& sums, Walk& at, const Walk& before) const {
    if (!at.ready) wait_phase(full + 8 * at.stage.at, at.stage.parity);
    const uint64_t pixels_of = at.pixels, filters_of = at.filters;
    begin_products();
    start_columns<kFirst>(sums, pixels_of, filters_of, 0);
    start_columns<false>(sums, pixels_of, filters_of, 1);
    go_on(at);
    start_columns<false>(sums, pixels_of, filters_of, 2);
    start_columns<false>(sums, pixels_of, filters_of, 3);
    commit_products();
    if (kFirst) return;
    wait_products<1>();
    release(before);
  }
  static_assert(kTileDepth == 4 * 16);

  SINTER_DEVICE_INLINE void release(const Walk& of) const {
    if (lane < 2) arrive_in_cluster(empty + 8 * of.stage.at, lane);
    if (lane == 0 && of.what.is_last()) arrive_at(free_slot + 8 * of.slot.at);
  }
  SINTER_DEVICE_INLINE void begin_part(Walk& at) const {
    wait_phase(arrived + 8 * at.slot.at, at.slot.parity);
    at.pixels = pixels_at(at.slot.at);
  }

  /// All steps of the tile that comes after so many others of this block.
  SINTER_DEVICE_INLINE void multiply_tile(Sums& sums, int tiles_before, bool others_follow) const {
    Walk at;
    at.what = order_of_steps.first();
    at.stage = RingPlace::after(uint32_t(tiles_before) * uint32_t(steps), kStages);
    at.slot = RingPlace::after(uint32_t(tiles_before) * uint32_t(window.parts), window.slots);
    at.filters = filters_at(at.stage.at);
    at.ready = false;
    begin_part(at);
    Walk last = at, now = at;
    multiply_step<true>(sums, at, last);
    for (int step = 1; step < steps; ++step) {
      if (now.what.is_last()) {
        at.what = now.what;
        order_of_steps.advance(at.what);
        at.slot.advance(window.slots);
        begin_part(at);
      }
      last = now, now = at;
      multiply_step<false>(sums, at, last);
    }
    if (others_follow) named_arrive(kTurn + 1 - group, 256);
    wait_products<0>();
    release(now);
    SINTER_UNROLL
    for (int b = 0; b < Results::kBlocks; ++b) settle(sums[b]);
  }

  SINTER_DEVICE_INLINE void multiply() {
    wait_for_operands();
    const Results results{args, map, warp, lane,
                          pixels + kForm.pixel_bytes() + uint32_t(group * kWarps + warp) * (kForm.staging_bytes() / kWarps)};
    if (group == 1 && first_pair < order.pairs()) named_arrive(kTurn, 256);
    int sequence = group;
    for (int pair = first_pair + group * next_pair; pair < order.pairs(); pair += 2 * next_pair, sequence += 2) {
      const auto [pair_row, column] = order.place(pair);
      const int row = (pair_row * 2 + int(rank)) * kTileRows;
      if (args.residual) results.fetch_residual(row, column * kColumns);
      const auto bias = results.bias(column * kColumns);
      Sums sums;
      named_barrier(kTurn + group, 256);
      multiply_tile(sums, sequence, pair + next_pair < order.pairs());
      results.finish(sums, bias, row, column * kColumns);
    }
  }

  SINTER_DEVICE_INLINE void run(uint64_t maps) {
    prepare();
    if (group < 0) {
      fewer_registers<40>();
      if (warp == 0) bring_filters(maps + sizeof(TileMaps::a));
      if (warp == 1) bring_pixels(maps);
    } else {
      more_registers<232>();
      multiply();
    }
  }
};

}  // namespace sinter::device

#define SINTER_TILE_WINDOW_KERNEL(module, columns, bf16, rows)                                                              \
  SINTER_DEVICE_PAIR_KERNEL(module##__plain, sinter::device::TileMaps maps, sinter::device::TileProductArguments arguments, \
                            sinter::device::WindowArguments window) {                                                       \
    (void)maps;                                                                                                             \
    uint64_t at;                                                                                                            \
    SINTER_PARAMETER_ADDRESS(at, maps, module##__plain, 0);                                                                 \
    sinter::device::WindowProduct<columns, bf16, sinter::device::rows>(arguments, window).run(at);                          \
  }
/// The kernel of one form and type, a module of its own as those of products.
#define SINTER_TILE_WINDOW(columns, type, bf16) \
  SINTER_TILE_WINDOW_KERNEL(tile_window_##columns##_##type, columns, bf16, WindowRows)
#define SINTER_TILE_DOUBLED(columns, type, bf16) \
  SINTER_TILE_WINDOW_KERNEL(tile_doubled_##columns##_##type, columns, bf16, DoubledRows)
