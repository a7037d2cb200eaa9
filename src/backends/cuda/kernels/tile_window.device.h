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
// cache, and 56 KB read from it, in the 640 cycles that the multiplying units need. Of 128 x 80 it is 13 KB, 8 KB and 36 KB in
// 320.
#include "backends/cuda/kernels/ring_place.device.h"
#include "backends/cuda/kernels/tile_results.device.h"
#include "backends/cuda/kernels/tile_turns.device.h"
#include "backends/cuda/kernels/tile_window_rows.device.h"

namespace sinter::device {

template <int kColumns, bool kBf16, class RowMap>
struct WindowProduct : TileTurns {
  static constexpr WindowForm kForm{kColumns};
  static constexpr int kStages = kForm.stages(), kStageBytes = kForm.stage_bytes();
  static_assert(kForm.has_room());
  using Results = TileResults<kColumns, false, kBf16, RowMap>;
  using Sums = typename Results::Sums;

  const TileProductArguments& args;
  const WindowArguments& window;
  const RowMap map;
  const decltype(map.steps(nullptr)) order_of_steps;
  uint32_t stages, pixels, full, empty, arrived, free_slot;  // addresses; the last four: barriers of stages, and of slots
  int steps;

  SINTER_DEVICE_INLINE WindowProduct(const TileProductArguments& a, const WindowArguments& w, const RowMap& rows)
      : TileTurns(a, kColumns), args(a), window(w), map(rows), order_of_steps(rows.steps(&shared_at<uint32_t>(parts_at()))) {
    stages = stages_at();
    pixels = stages + kStages * kStageBytes;
    full = pixels + kForm.pixel_bytes() + 2 * kForm.staging_bytes();
    empty = full + 8 * kStages;
    arrived = empty + 8 * kStages;
    free_slot = arrived + 8 * kMostSlots;
    steps = divide_up(args.k, kTileDepth);
  }

  static SINTER_DEVICE_INLINE uint32_t stages_at() { return (shared_address(shared_memory()) + 1023) & ~1023u; }
  /// Behind the barriers.
  static SINTER_DEVICE_INLINE uint32_t parts_at() {
    return stages_at() + kStages * kStageBytes + kForm.pixel_bytes() + 2 * kForm.staging_bytes() + kForm.barrier_bytes();
  }

  SINTER_DEVICE_INLINE void prepare() {
    if (thread_x() == 0) {
      SINTER_UNROLL
      for (int i = 0; i < kMostParts; ++i) shared_at<uint32_t>(parts_at() + 4 * i) = window.part[i];
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

  SINTER_DEVICE_INLINE auto tile_of(int pair_row) const { return map.tile(first_row(pair_row)); }

  /// Brings this block's half of the filters to both.
  SINTER_DEVICE_INLINE void bring_filters(uint64_t filters_map) {
    constexpr int kHalf = kColumns / 2;
    prefetch_map(filters_map);
    if constexpr (RowMap::kHasShortcut) prefetch_map(filters_map + sizeof(TileMaps));
    if (!args.early_weights) wait_for_operands();
    RingPlace stage;
    for (int pair = first_pair; pair < order.pairs(); pair += next_pair) {
      const auto [pair_row, column] = order.place(pair);
      const auto tile = tile_of(pair_row);
      WindowStep what = first_step(order_of_steps);
      for (int step = 0; step < steps; ++step) {
        wait_phase(empty + 8 * stage.at, stage.parity ^ 1);
        if (lane == 0) {
          const uint32_t barrier = full + 8 * stage.at;
          arrive_expecting(barrier, kStageBytes);
          map.copy_filters(stages + stage.at * kStageBytes + rank * kHalf * kTileDepth * 2, filters_map, what, tile,
                           column * kColumns + int(rank) * kHalf, barrier);
        }
        warp_barrier();
        advance(order_of_steps, what);
        stage.advance(kStages);
      }
    }
    // The other block counts at these barriers as well: it must find them.
    for (int s = 0; s < kStages; ++s, stage.advance(kStages)) wait_phase(empty + 8 * stage.at, stage.parity ^ 1);
  }

  SINTER_DEVICE_INLINE uint32_t slot_at(int slot) const { return pixels + map.slot_offset(slot); }

  SINTER_DEVICE_INLINE void bring_pixels(uint64_t pixels_map) {
    prefetch_map(pixels_map);
    if constexpr (RowMap::kHasShortcut) prefetch_map(pixels_map + sizeof(TileMaps));
    wait_for_operands();
    RingPlace slot;
    for (int pair = first_pair; pair < order.pairs(); pair += next_pair) {
      const auto tile = tile_of(order.place(pair).pair_row);
      WindowBox box = order_of_steps.first_box();
      for (int i = 0; i < window.tile_parts; ++i) {
        const bool takes_two = order_of_steps.takes_two_slots(box);
        wait_phase(free_slot + 8 * slot.at, slot.parity ^ 1);
        if (takes_two) wait_phase(free_slot + 8 * slot.at + 8, slot.parity ^ 1);
        if (lane == 0) {
          const uint32_t barrier = arrived + 8 * slot.at;
          if (takes_two) arrive_at(barrier + 8);  // nobody waits there; but it counts its phases
          arrive_expecting(barrier, uint32_t(kTilePatches * map.patch_bytes(box)));
          map.copy_pixels(slot_at(slot.at), pixels_map, box, tile, barrier);
        }
        warp_barrier();
        order_of_steps.advance(box);
        slot.advance(window.slots);
        if (takes_two) slot.advance(window.slots);
      }
    }
  }

  /// A step as it is multiplied, and what describes its operands to products.
  struct Walk {
    WindowStep what;
    RingPlace stage, slot;
    uint64_t filters;
    int tap;         // where its pixels lie in their slot, in chunks of 16 bytes
    bool ready;      // they and the filters are there
    bool ends_part;  // nobody needs the pixels after it
  };
  SINTER_DEVICE_INLINE uint64_t filters_at(int stage) const {
    const uint32_t at = stages + stage * kStageBytes;
    return RowMap::kTurned ? summed_rows_operand(at, kTileDepth * 128) : product_operand(at);
  }
  SINTER_DEVICE_INLINE uint64_t pixels_of(const Walk& at) const {
    return product_operand(slot_at(at.slot.at), uint32_t(map.row_bytes(at.what.box))) + uint64_t(uint32_t(at.tap));
  }

  /// The i-th 16 columns of all rows; patch: from one to the next, in chunks. kFirst: the sums begin.
  template <bool kFirst>
  SINTER_DEVICE_INLINE void start_columns(Sums& sums, uint64_t taps, uint64_t filters, uint64_t patch, int i) const {
    SINTER_UNROLL
    for (int b = 0; b < Results::kBlocks; ++b)
      start_product<kBf16, kFirst, RowMap::kTurned>(sums[b], taps + uint64_t(i * 2) + (b ? patch : 0),
                                                    filters + uint64_t(i * (RowMap::kTurned ? 128 : 2)));
  }
  /// Where the pixels of the next box lie; without a branch.
  SINTER_DEVICE_INLINE RingPlace slot_behind(const Walk& at) const {
    RingPlace one = at.slot;
    one.advance(window.slots);
    RingPlace two = one;
    two.advance(window.slots);
    const bool takes_two = order_of_steps.takes_two_slots(at.what.box);
    return {takes_two ? two.at : one.at, takes_two ? two.parity : one.parity};
  }
  /// Makes the next step of this one, all but the sizes of the part where it is another; without a branch, as it must be among
  /// products.
  SINTER_DEVICE_INLINE void go_on(Walk& at) const {
    const bool row_ends = at.what.x + 1 == at.what.box.part.width;
    const RingPlace next_slot = slot_behind(at);
    at.slot.at = at.ends_part ? next_slot.at : at.slot.at;
    at.slot.parity = at.ends_part ? next_slot.parity : at.slot.parity;
    const int next_row = 8 * (window.pitch - at.what.x);
    at.tap = at.ends_part ? 0 : at.tap + (row_ends ? next_row : 8);
    at.what.y = at.ends_part ? 0 : at.what.y + (row_ends ? 1 : 0);
    at.what.x = row_ends ? 0 : at.what.x + 1;
    at.stage.advance(kStages);
    at.filters = filters_at(at.stage.at);
    const bool has_filters = phase_ended(full + 8 * at.stage.at, at.stage.parity);
    const bool has_pixels = phase_ended(arrived + 8 * at.slot.at, at.slot.parity);
    at.ready = has_filters & has_pixels;
  }
  /// Only few products are queued at a time: when the last of a step has been started there is little time until the first of the
  /// next must be. So that is prepared among them; in one piece of code without branches, or each piece would count as a group.
  /// `before`: what was multiplied before, whose memory is free then.
  template <bool kFirst>
  SINTER_DEVICE_INLINE void multiply_step(Sums& sums, Walk& at, Walk& before) const {
    if (!at.ready) {
      wait_phase(arrived + 8 * at.slot.at, at.slot.parity);
      wait_phase(full + 8 * at.stage.at, at.stage.parity);
    }
    const Walk now = at;
    const uint64_t taps = pixels_of(now), patch = uint64_t(uint32_t(map.patch_bytes(now.what.box)) / 16);
    begin_products();
    start_columns<kFirst>(sums, taps, now.filters, patch, 0);
    start_columns<false>(sums, taps, now.filters, patch, 1);
    go_on(at);
    start_columns<false>(sums, taps, now.filters, patch, 2);
    start_columns<false>(sums, taps, now.filters, patch, 3);
    commit_products();
    if (!kFirst) {
      wait_products<1>();
      release(before);
    }
    before = now;
    if (now.ends_part) order_of_steps.advance(at.what.box);
    at.ends_part = at.what.is_last();
  }
  static_assert(kTileDepth == 4 * 16);

  SINTER_DEVICE_INLINE void release(const Walk& of) const {
    if (lane < 2) arrive_in_cluster(empty + 8 * of.stage.at, lane);
    if (lane == 0 && of.ends_part) {
      arrive_at(free_slot + 8 * of.slot.at);
      if (order_of_steps.takes_two_slots(of.what.box)) arrive_at(free_slot + 8 * of.slot.at + 8);
    }
  }

  /// All steps of the tile that comes after so many others of this block.
  SINTER_DEVICE_INLINE void multiply_tile(Sums& sums, int tiles_before, bool others_follow) const {
    Walk at;
    at.what = first_step(order_of_steps);
    at.stage = RingPlace::after(uint32_t(tiles_before) * uint32_t(steps), kStages);
    at.slot = RingPlace::after(uint32_t(tiles_before) * uint32_t(order_of_steps.tile_slots()), window.slots);
    at.tap = 0;
    at.filters = filters_at(at.stage.at);
    at.ready = false;
    at.ends_part = at.what.is_last();
    Walk before = at;
    await_turn();
    multiply_step<true>(sums, at, before);
    for (int step = 1; step < steps; ++step) multiply_step<false>(sums, at, before);
    if (others_follow) end_turn();
    wait_products<0>();
    release(before);
    Results::settle_all(sums);
  }

  SINTER_DEVICE_INLINE void multiply() {
    wait_for_operands();
    const Results results{args, map, warp, lane,
                          pixels + kForm.pixel_bytes() + uint32_t(group * kWarps + warp) * (kForm.staging_bytes() / kWarps)};
    make_tiles(results, [&](Sums& sums, int tiles_before, int column, bool others_follow) SINTER_INLINE_LAMBDA {
      multiply_tile(sums, tiles_before, others_follow);
      // Read only now: tiles of 160 columns have no registers for both.
      if constexpr (RowMap::kHasShortcut)
        if (map.shortcut.bias) results.add(sums, results.bias(map.shortcut.bias, column));
    });
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
    using Rows = sinter::device::rows;                                                                                      \
    sinter::device::WindowProduct<columns, bf16, Rows>(arguments, window, Rows{{window}}).run(at);                          \
  }
/// The kernel of one form and type, a module of its own as those of products.
#define SINTER_TILE_WINDOW(columns, type, bf16) \
  SINTER_TILE_WINDOW_KERNEL(tile_window_##columns##_##type, columns, bf16, WindowRows)
#define SINTER_TILE_DOUBLED(columns, type, bf16) \
  SINTER_TILE_WINDOW_KERNEL(tile_doubled_##columns##_##type, columns, bf16, DoubledRows)
/// With a shortcut.
#define SINTER_TILE_SHORTCUT(columns, type, bf16)                                                                   \
  SINTER_DEVICE_PAIR_KERNEL(tile_shortcut_##columns##_##type##__plain, sinter::device::ShortcutMaps maps,           \
                            sinter::device::TileProductArguments arguments, sinter::device::WindowArguments window, \
                            sinter::device::ShortcutArguments shortcut) {                                           \
    (void)maps;                                                                                                     \
    uint64_t at;                                                                                                    \
    SINTER_PARAMETER_ADDRESS(at, maps, tile_shortcut_##columns##_##type##__plain, 0);                               \
    using Rows = sinter::device::ShortcutRows;                                                                      \
    sinter::device::WindowProduct<columns, bf16, Rows>(arguments, window, Rows{{{window}}, shortcut}).run(at);      \
  }
