#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/hash.h"
#include "base/thread_pool.h"
#include "graph/graph.h"
#include "io/checkpoint.h"
#include "models/family.h"
#include "tensor/row_product.h"

namespace sinter {

/// A network that LoRAs may change: what its graph declares (`weights_of`).
struct LoraNetwork {
  Component component;
  std::vector<WeightUse> weights;
};

/// What a module name of a LoRA file stands for: rows [begin, begin + rows) of a weight.
struct LoraPlace {
  Component component{};
  std::string weight;
  std::vector<int64_t> shape;  ///< of the whole weight
  int64_t begin = 0, rows = 0;
  bool halves_swapped = false;  ///< the file holds the lower half of the rows first
  int64_t columns() const;      ///< elements of one row
};

// Changes of a weight W seen as a matrix: [rows, all other axes].

/// up . down; with `mid` the convolution down, mid, up in one.
struct LowRankChange {
  Tensor up, down, mid;
};
/// (w1_a . w1_b) * (w2_a . w2_b) elementwise (LoHa); with t1 and t2 cores of Tucker form.
struct HadamardChange {
  Tensor w1_a, w1_b, w2_a, w2_b, t1, t2;
};
/// The Kronecker product of w1 and w2, each whole or as a product (LoKr).
struct KroneckerChange {
  Tensor w1, w1_a, w1_b, w2, w2_a, w2_b, t2;
};
struct Difference {
  Tensor value;
};
struct Replacement {
  Tensor value;
};

struct LoraPatch {
  LoraPlace place;
  std::variant<LowRankChange, HadamardChange, KroneckerChange, Difference, Replacement> change;
  double scale = 1;   ///< alpha / rank
  Tensor dora_scale;  ///< magnitudes of rows, or of columns (input channels); empty: not DoRA
};

/// One LoRA file, understood for one set of networks. Factors stay in the mapped file until they are used.
struct LoraFile {
  std::string path;
  Checkpoint source;  ///< that the factors are views of; none where they were given
  Digest identity;    ///< changes with the file
  std::vector<LoraPatch> patches;
  /// "lora key not loaded: <key> (<reason>)", sorted; never an error, as users mix files freely.
  std::vector<std::string> warnings;

  /// Reads kohya, diffusers, PEFT and LyCORIS files (LoRA, LoHa, LoKr, DoRA, full differences). Errors: those of
  /// Checkpoint::open.
  static LoraFile open(const std::filesystem::path& path, std::span<const LoraNetwork> networks);
  static LoraFile read(const std::map<std::string, Tensor>& tensors, std::span<const LoraNetwork> networks);
};

struct AppliedLora {
  std::shared_ptr<const LoraFile> file;
  double model_strength = 1;  ///< of the denoiser
  double text_strength = 1;   ///< of text encoders
};

/// LoRAs in the order in which they are applied.
class LoraStack {
 public:
  LoraStack() = default;
  explicit LoraStack(std::vector<AppliedLora> loras);

  bool empty() const { return patches_.empty(); }
  bool changes(Component component, const std::string& weight) const;
  /// The changed weight as `as`: merged in float as the reference does, and rounded once. Weights without patches come back as
  /// they are, converted. The memory that reading the factors took is given back.
  Tensor apply(Component component, const std::string& weight, const Tensor& original, ThreadPool& pool,
               DType as = DType::f32) const;
  /// The changes in order where all of them are products that are added to rows, which is what nearly every file holds: for a
  /// device that adds them itself. Nothing for any other weight.
  std::optional<std::vector<RowProduct>> products(Component component, const std::string& weight, const Tensor& original) const;
  /// Bytes that apply() takes at most beside the original, its result included, with so many threads; 0 where nothing is
  /// changed.
  int64_t working_bytes(Component component, const std::string& weight, DType as, int threads) const;
  /// Equal for stacks that change every weight equally.
  Digest identity() const;

 private:
  struct Applied {
    const LoraFile* file;
    const LoraPatch* patch;
    double strength;
  };
  const std::vector<Applied>* changes_of(Component component, const std::string& weight, const Tensor& original) const;
  static bool is_by_rows(const std::vector<Applied>& patches);
  static std::vector<RowProduct> products_of(const std::vector<Applied>& patches);
  std::vector<AppliedLora> loras_;
  std::map<std::pair<Component, std::string>, std::vector<Applied>> patches_;
};

}  // namespace sinter
