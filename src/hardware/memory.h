#pragma once
#include <cstdint>

namespace sinter {

/// Bytes that this process could still take without pushing others out: what the system calls available, within the limits of a
/// container.
int64_t available_memory_bytes();
/// The most memory that this process has held at once, pages of mapped files included.
int64_t peak_memory_bytes();
/// Gives back what the heap keeps without using.
void return_free_memory();
/// Bytes held now.
int64_t resident_memory_bytes();
/// The same after what the heap keeps without using is given back: before a run has loaded anything, the size of the program
/// itself.
int64_t program_memory_bytes();

}  // namespace sinter
