#pragma once
#include <stdint.h>

namespace sinter::device {

/// Channels side by side in one thread: 16 bytes.
inline constexpr int kGroupNormWide = 8;
/// How many vectors of as many channels a thread keeps in registers: there are kernels for either.
inline constexpr int kGroupNormFew = 3, kGroupNormMany = 9;

/// One launch of group_norm; addresses of 0: none. The grid is blocks of a cluster x slabs x pictures.
struct GroupNormArguments {
  uint64_t x = 0, out = 0;       ///< [n, pixels, channels], pixels `x_stride` and `out_stride` elements apart
  uint64_t gamma = 0, beta = 0;  ///< f32 [channels]
  uint64_t addend = 0;           ///< [n, channels] of an ElementType, rows `addend_stride` apart
  int64_t x_stride = 0, out_stride = 0, addend_stride = 0;
  int addend_type = 0;
  int pixels = 0, group_width = 0;
  int chunk = 0;                     ///< pixels of a block
  int slab_groups = 0, vectors = 0;  ///< groups of a cluster; threads that hold one pixel of them
  int lanes = 0;                     ///< pixels that a block reads side by side
  int piece_log = 0;                 ///< so many channels (1 << this) of a thread belong to one group
  int rest = 0;                      ///< pixels of a block, for which its registers have no room
  int blocks = 0;                    ///< of a cluster
  float share = 0;                   ///< of an element of a group in its mean
  float epsilon = 0;

  constexpr int channels() const { return slab_groups * group_width; }
  // Where things are in shared memory: the rest of the block's part of the map first.
  constexpr int received_at() const { return rest * vectors * 16; }                      ///< Sums [group][block]
  constexpr int meeting_at() const { return received_at() + slab_groups * blocks * 8; }  ///< where they come in
  constexpr int factors_at() const { return (meeting_at() + 8 + 15) / 16 * 16; }         ///< f32 [3][channels]
  constexpr int sums_at() const { return factors_at() + 3 * channels() * 4; }            ///< Sums [piece][lane]
  constexpr int shared_bytes() const { return sums_at() + lanes * (channels() >> piece_log) * 8; }
};

}  // namespace sinter::device
