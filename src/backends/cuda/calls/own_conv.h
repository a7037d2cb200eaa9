#pragma once
#include "backends/cuda/calls/conv.h"
#include "backends/cuda/kernels/tile_window.h"

/// Convolutions by kernels of ours: tile windows, tile taps and split products (../kernels), which there are for a shape, and
/// where they should be faster than the library's.
namespace sinter::cuda {

/// Part of what choices between the library and these are stored under: raise it when their kernels change.
constexpr std::string_view kOwnConvs = "6";

/// Why no kernel of ours makes this; empty where one does.
std::string why_no_own_conv(const ConvShape& shape, const DeviceInfo& device);
/// Those that may be worth their time, where there are some: forms of tiles as own_call.h counts them.
std::vector<int> own_conv_forms(const ConvShape& shape, const DeviceInfo& device);
/// What a form is called, without its type, and its kernel.
std::string own_conv_name(const ConvShape& shape, int form);
std::string own_conv_kernel(const ConvShape& shape, int form, const DeviceInfo& device);
/// `vendor`: must have kernels, and live as long as the call.
std::unique_ptr<BoundCall> bind_own_conv(const Vendor& vendor, const ConvShape& shape, int form, const ConvBuffers& buffers);

/// The modules of kernels that may be wanted for such convolutions, and those of tile taps, which only some sizes of pictures
/// want; empty where none is.
std::vector<std::string> tile_window_modules(DType type, int64_t out_c, WindowKind kind, const DeviceInfo& device);
std::vector<std::string> tile_taps_modules(DType type, int64_t out_c, const DeviceInfo& device);

/// Whether one of them should be faster than the library's convolution and what adds a residual or a shortcut; and whether one
/// should be about as fast or faster, so that the library need not be started where nothing is timed.
bool own_conv_should_win(const ConvShape& shape, const DeviceInfo& device);
bool own_conv_should_do(const ConvShape& shape, const DeviceInfo& device);
/// The form that should be fastest.
int expected_own_conv(const ConvShape& shape, const DeviceInfo& device);

}  // namespace sinter::cuda
