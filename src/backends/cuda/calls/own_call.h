#pragma once
#include "backends/cuda/calls/vendor.h"
#include "backends/cuda/kernels/kernels.h"

namespace sinter::cuda {

/// Forms of our kernels are kept by number: those of tile products and windows, then from here on those of tile taps, and of
/// split products.
constexpr int kFirstTapsForm = 32, kFirstSplitForm = 64;
inline bool is_split(int form) { return form >= kFirstSplitForm; }
inline bool is_taps(int form) { return form >= kFirstTapsForm && !is_split(form); }

/// A kernel of ours with its addresses, as kernels/*.h make one that launches itself.
template <class Made>
class OwnCall : public BoundCall {
 public:
  OwnCall(Kernels& kernels, Made made) : kernels_(kernels), made_(std::move(made)) {}
  void launch(const Stream& stream) const override {
    KernelStream target(kernels_, stream);
    made_.launch(target);
  }

 private:
  Kernels& kernels_;
  Made made_;
};

}  // namespace sinter::cuda
