#pragma once

namespace sinter::device {

// What the launch function and the kernel must agree on.

constexpr int kResidentThreads = 128;
constexpr int kResidentKeys = 80;  ///< whose scores are in registers at a time; a prompt has 77, or a multiple

/// From one row to the next in shared memory, in elements of 16 bits: eight rows begin in eight different sets of banks.
constexpr int resident_pitch(int d) { return d + 8; }

}  // namespace sinter::device
