#pragma once
#include "backends/cuda/calls/conv.h"

/// Convolutions as cuDNN's graphs; conv.cpp alone includes this.
namespace sinter::cuda {

/// The shape without the sizes that change with the picture's.
std::string conv_family(ConvShape shape);
CudnnRequest conv_request(const ConvShape& shape);
/// Code::InvalidArgument for a missing or misaligned address.
std::vector<CudnnArgument> conv_arguments(const ConvShape& shape, const ConvBuffers& buffers);

}  // namespace sinter::cuda
