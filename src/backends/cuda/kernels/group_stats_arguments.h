#pragma once
#include <stdint.h>

namespace sinter::device {

/// One launch of group_stats; addresses of 0: none. The grid is chunks x slabs x pictures.
struct GroupStatsArguments {
  uint64_t x = 0;                      ///< [n, pixels, channels], pixels `pixel_stride` elements apart
  uint64_t gamma = 0, beta = 0;        ///< f32 [channels]
  uint64_t addend = 0;                 ///< [n, channels] of an ElementType, rows `addend_stride` apart
  uint64_t out = 0;                    ///< f32 [n, 2, channels]
  uint64_t partial = 0, counters = 0;  ///< where there are several chunks: moments [n][groups][chunks], u32 [n][slabs]
  int64_t pixel_stride = 0, addend_stride = 0;
  int addend_type = 0;
  int pixels = 0, channels = 0, group_width = 0;
  int chunk = 0, chunks = 0;         ///< pixels of a block; how many blocks that makes for a picture
  int slab_groups = 0, vectors = 0;  ///< groups of a block; threads that read one pixel of them
  int lanes = 0;                     ///< pixels that a block reads side by side
  int piece_log = 0;                 ///< so many channels (1 << this) of a thread belong to one group
  int team = 0;                      ///< threads that join what was found out about one group; divides 32
  int tile_groups = 0;               ///< groups whose chunks fit into shared memory together
  float epsilon = 0;
};

}  // namespace sinter::device
