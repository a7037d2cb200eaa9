#pragma once
#include <string>
#include <vector>

#include "backends/cuda/kernels/attention.h"

namespace sinter::cuda {

/// Attention to few keys, such as a prompt's 77: all of them lie in a multiprocessor's shared memory while it walks over queries,
/// and it begins before the kernel in front of it has ended. Competes with cuDNN's (../calls/attention.h).

/// Why it does not make this call, of whose addresses it knows what they are multiples of; empty where it does.
std::string why_no_resident_attention(const AttentionCall& call, const DeviceInfo& device);

/// How the queries of a head are spread.
struct ResidentForm {
  int row_tiles = 1;                  ///< a warp takes 16 times so many queries at a time
  int blocks_per_multiprocessor = 1;  ///< as many as there should be at once
};
std::vector<ResidentForm> resident_forms(const AttentionCall& call);
ResidentForm resident_form(const AttentionCall& call);

void resident_attention(KernelTarget& target, const AttentionCall& call, const ResidentForm& form);
inline void resident_attention(KernelTarget& target, const AttentionCall& call) {
  resident_attention(target, call, resident_form(call));
}
/// The kernel that it launches.
std::string resident_kernel(const AttentionCall& call, const ResidentForm& form);

}  // namespace sinter::cuda
