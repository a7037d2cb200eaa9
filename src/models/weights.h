#pragma once
#include <initializer_list>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "io/checkpoint.h"

namespace sinter {

/// Where rows of a weight come from: rows [begin, begin + rows) of one tensor of a checkpoint, transposed before that if it says
/// so.
struct WeightPart {
  std::string tensor;
  int64_t begin = 0;
  int64_t rows = -1;  ///< -1: all
  bool transpose = false;
};

/// The weights of one network under the names that its builder uses, whatever the layout of the file: canonical name -> parts of
/// tensors that follow one another along the first axis. Nothing is read before it is asked for. Cheap enough to copy.
class Weights {
 public:
  /// No weights.
  Weights() = default;
  explicit Weights(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}
  /// Every tensor under its own name.
  static Weights plain(Checkpoint checkpoint);

  /// A later one of the same name is ignored: the first spelling found wins.
  void add(const std::string& name, std::vector<WeightPart> parts) { weights_.try_emplace(name, std::move(parts)); }

  bool empty() const { return weights_.empty(); }
  bool has(const std::string& name) const { return weights_.contains(name); }
  std::vector<std::string> names() const;  ///< sorted
  /// Code::NotFound, naming the file, for a weight that is not there; Code::Corrupt where its parts do not fit one another.
  std::vector<int64_t> shape(const std::string& name) const;
  /// One size of a shape; Code::Corrupt where the tensor has fewer axes.
  int64_t size(const std::string& name, int axis) const;
  /// The type of the first part; load() converts the others to it. 8-bit numbers with a scale beside them count as bf16, which
  /// is what load() makes of them. Code::Unsupported for a type that we lack.
  DType dtype(const std::string& name) const;
  /// The file of the first part.
  std::string file(const std::string& name) const;

  /// Rows [begin, end) of a weight.
  struct Piece {
    Tensor rows;
    int64_t begin = 0, end = 0;
  };
  /// What the weight consists of, in order: views of the mapped file, except where it must be transposed or converted.
  std::vector<Piece> pieces(const std::string& name) const;
  /// The whole weight; a view of the file if it lies there in one piece.
  Tensor load(const std::string& name) const;
  /// The same under the shape that a graph declares, which may have other trailing axes of size 1.
  Tensor load(const std::string& name, const std::vector<int64_t>& shape) const;
  /// A weight of 8-bit rows that all have a scale in the file, as it is kept; nothing for any other weight.
  struct Scaled {
    Tensor rows;  ///< a view of the file if it lies there in one piece
    std::vector<float> scales;
  };
  std::optional<Scaled> scaled(const std::string& name) const;
  /// Bytes that load() takes at most: what it reads of the file, and a copy where the weight does not lie there as it is.
  int64_t reading_bytes(const std::string& name) const;
  void will_need(const std::string& name) const;  ///< starts reading in the background
  void drop(const std::string& name) const;       ///< gives back what reading took

  const Checkpoint& checkpoint() const { return checkpoint_; }
  std::string path() const;  ///< of the checkpoint, for messages
  /// A number that the metadata entry `tiny_config` gives under these keys: hyper-parameters of reduced models that no shape
  /// tells. `fallback` where there is none.
  int64_t tiny_config(const char* part, const char* key, int64_t fallback) const;

 private:
  const std::vector<WeightPart>& parts(const std::string& name) const;
  TensorInfo info(const WeightPart& part) const;
  std::optional<Tensor> scale_of(const WeightPart& part) const;
  Tensor scaled_part(const WeightPart& part, const Tensor& scale) const;
  std::vector<int64_t> part_shape(const WeightPart& part) const;

  Checkpoint checkpoint_;
  std::map<std::string, std::vector<WeightPart>> weights_;
};

/// Fails, naming the file and up to 10 weights with the shapes expected and found, unless the source has every weight with the
/// declared shape (trailing axes of size 1 aside: linear layers and 1x1 convolutions take each other's weights).
void check_weights(std::span<const WeightUse> uses, const Weights& source);

}  // namespace sinter
