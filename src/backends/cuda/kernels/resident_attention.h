#pragma once
#include <string>

#include "backends/cuda/kernels/attention.h"

namespace sinter::cuda {

// Attention to few keys, such as a prompt's 77: all of them lie in a multiprocessor's shared memory while it walks over queries,
// and it begins before the kernel in front of it has ended. Competes with cuDNN's (../calls/attention.h).

/// Why it does not make this call; empty where it does. Addresses may be 0 so far.
std::string why_no_resident_attention(const AttentionCall& call, const DeviceInfo& device);

void resident_attention(KernelTarget& target, const AttentionCall& call);
/// The kernel that it launches, and its module.
std::string resident_kernel(const AttentionCall& call);
std::string resident_module(const AttentionCall& call);
/// How many blocks share the queries of a head.
int64_t resident_blocks(const AttentionCall& call, int multiprocessors);

}  // namespace sinter::cuda
