#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "backends/cuda/engine.h"
#include "backends/cuda/kernels/attention.h"

namespace sinter::cuda {

class LinearPlan;

/// Attention as two products of cuBLASLt with a softmax between them, some queries at a time: for what cuDNN has no fast kernel
/// for, such as the one wide head of an autoencoder, and f32.
class AttentionByProducts {
 public:
  /// Plans the products of `call`; false where cuBLASLt has none.
  AttentionByProducts(Engine& engine, const AttentionCall& call);
  explicit operator bool() const { return possible_; }
  /// Of the products; the scores lie in attention_workspace_bytes() elsewhere.
  int64_t workspace_bytes() const { return product_bytes_; }
  std::function<void()> bind(DevicePtr scores, const Workspace& workspace) const;

 private:
  void each_product(const AttentionCall& call, const std::function<void(const MatmulCall&)>& visit) const;

  Engine& engine_;
  AttentionCall call_;
  std::map<std::string, std::shared_ptr<const LinearPlan>> plans_;  // by the shape's text
  int64_t product_bytes_ = 0;
  bool possible_ = true;
};

}  // namespace sinter::cuda
