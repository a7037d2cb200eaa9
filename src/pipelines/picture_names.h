#pragma once
#include <filesystem>
#include <string>

#include "tensor/tensor.h"

namespace sinter {

/// Throws unless pictures can be written under this pattern: a known ending, a name that is not too long and no folder's, in a
/// folder that exists (else Code::NotFound) and can be written (else Code::Io); a temporary file is made there to see that.
/// Removes what killed runs left in the folder.
void check_picture_name(const std::string& pattern);

/// The same for any file that `option` asks for, whatever its ending.
void check_can_write(const std::filesystem::path& path, const std::string& option);

/// The file for the picture number `made` (0-based) of a run. {seed} becomes the seed, {index} the first number from 1 on, in
/// five digits, under which there is no file yet. A pattern without {index} names one file, which is replaced; where a run makes
/// `several`, "_00001", "_00002", ... goes before the ending.
std::filesystem::path next_picture_name(const std::string& pattern, uint64_t seed, size_t made, bool several);

/// pixels f32[height, width, 3] at another size: each new pixel is the mean of what it covers, or between its neighbours.
Tensor resized(const Tensor& pixels, int64_t height, int64_t width);

}  // namespace sinter
