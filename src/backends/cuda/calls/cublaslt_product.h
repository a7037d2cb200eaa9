#pragma once
#include <array>
#include <optional>
#include <vector>

#include "backends/cuda/calls/linear.h"

namespace sinter::cuda {

/// Why cuBLASLt cannot make it, where we know without asking; empty where it may.
std::string why_no_cublaslt_product(const LinearShape& shape, const DeviceInfo& device);

/// How the library makes a product, in words of its own, which may be kept.
struct CublasLtAlgorithm {
  std::array<uint64_t, 8> words{};
  int64_t workspace_bytes = 0;
};

/// A product as it is described to the library; the shape must be normalised() and the library there. Valid as long as its
/// Vendor.
class CublasLtProduct : public std::enable_shared_from_this<CublasLtProduct> {
 public:
  CublasLtProduct(Vendor& vendor, const LinearShape& shape);
  ~CublasLtProduct();
  CublasLtProduct(const CublasLtProduct&) = delete;
  CublasLtProduct& operator=(const CublasLtProduct&) = delete;

  /// The library's first choices, the best first; none where it does not make such products.
  std::vector<CublasLtAlgorithm> algorithms(int count, int64_t most_workspace) const;
  /// The algorithm of these words, if the library knows it still.
  std::optional<CublasLtAlgorithm> accepted(const std::array<uint64_t, 8>& words) const;
  /// Code::InvalidArgument for too little workspace.
  std::unique_ptr<BoundCall> bind(const CublasLtAlgorithm& algorithm, const LinearBuffers& buffers,
                                  const Workspace& workspace) const;

 private:
  struct Descriptors;
  class Bound;
  const CublasLtCalls& calls() const;

  Vendor& vendor_;
  LinearShape shape_;
  std::unique_ptr<Descriptors> descriptors_;
};

}  // namespace sinter::cuda
