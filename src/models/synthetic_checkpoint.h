#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "io/safetensors.h"

namespace sinter {

/// A checkpoint with random weights, for tests and measurements: names, shapes and layout are those of released single files (or
/// of the same networks at the tiny sizes of the golden data), the values are such that nothing overflows, nothing is constant,
/// and pictures are noise.
struct SyntheticOptions {
  std::string family = "sd15";  ///< by the names of families(): "sd15", "sdxl", "flux1-dev", "flux1-schnell"
  bool tiny = false;
  DType dtype = DType::f16;  ///< f32, f16 or bf16
  uint64_t seed = 0;
};

struct SyntheticCheckpoint {
  std::vector<TensorDeclaration> tensors;
  Metadata metadata;
  int64_t clip_vocabulary = 0, t5_vocabulary = 0;  ///< rows of the token tables; 0: no such encoder

  int64_t parameters() const;
  uint64_t bytes() const;  ///< of all tensors
};

/// What such a file holds, without making the values. Code::InvalidArgument for another family or dtype.
SyntheticCheckpoint synthetic_checkpoint(const SyntheticOptions& options);

/// Writes it, and the vocabularies of our own that its prompts need into `x.vocab/` beside `x.safetensors`. Equal options give
/// equal bytes, on every machine and with any number of threads. `progress` hears the bytes written so far, and may throw.
void write_synthetic_checkpoint(const std::filesystem::path& path, const SyntheticOptions& options, ThreadPool& pool,
                                const std::function<void(uint64_t bytes)>& progress = {});

/// The folder beside a checkpoint that holds its vocabularies; where find_vocabulary() looks.
std::filesystem::path vocabulary_folder(const std::filesystem::path& checkpoint);

}  // namespace sinter
