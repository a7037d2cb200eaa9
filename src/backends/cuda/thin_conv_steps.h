#pragma once
#include <optional>
#include <string>

#include "backends/cuda/kernels/gemm.h"
#include "compiler/lowering/program.h"

namespace sinter::cuda {

/// A step with a tail as kernels of ours make it, but for its sizes and addresses.
ConvCall conv_call(const ConvStep& step);
/// A convolution that the kernels for few channels may make, but for its sizes and addresses; nothing where they cannot.
std::optional<ConvCall> thin_conv_call(const ConvStep& step, const DeviceInfo& device);
/// Their module for it; empty where there is none.
std::string thin_conv_module(const ConvStep& step, const DeviceInfo& device);

}  // namespace sinter::cuda
