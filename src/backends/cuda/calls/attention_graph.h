#pragma once
#include <utility>
#include <vector>

#include "backends/cuda/calls/attention.h"

/// Attention as cuDNN's graphs; attention.cpp alone includes this.
namespace sinter::cuda {

/// The shape without the sizes that change with the picture's.
std::string attention_family(const AttentionShape& shape);
CudnnRequest attention_request(const AttentionShape& shape);
CudnnRequest fp8_attention_request(const AttentionShape& shape);

/// Tensors, and the numbers that are no tensors.
using AttentionArguments = std::pair<std::vector<CudnnArgument>, std::vector<float>>;
/// Code::InvalidArgument for a missing or misaligned address.
AttentionArguments attention_arguments(const AttentionShape& shape, const AttentionBuffers& buffers);
AttentionArguments attention_arguments(const Fp8AttentionBuffers& buffers);

}  // namespace sinter::cuda
