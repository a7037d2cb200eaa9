#pragma once

namespace sinter::device {

// What the launch function and the kernel must agree on.

constexpr int kResidentThreads = 128;
constexpr int kResidentKeys = 80;  ///< whose scores are in registers at a time; a prompt has 77, or a multiple

// From one row to the next in shared memory, in elements of 16 bits: such that lanes that read at once read different banks. Two
// rows of keys at 4 places 16 bytes apart, eight rows of values at one place.
constexpr int resident_key_pitch(int d) { return (d + 31) / 64 * 64 + 32; }
constexpr int resident_value_pitch(int d) { return d + 8; }

}  // namespace sinter::device
