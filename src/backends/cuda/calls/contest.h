#pragma once
#include <array>
#include <chrono>
#include <optional>
#include <set>
#include <string>

#include "backends/cuda/calls/vendor.h"

namespace sinter::cuda {

/// What was fastest for a call that a library's kernels and ours compete for.
struct Winner {
  static constexpr int kLibrary = -1;
  int form = kLibrary;  ///< of our kernels
  Choice choice;
  std::array<uint64_t, 8> algorithm{};  ///< the library's, where it is known by that
  bool is_own() const { return form >= 0; }
};

/// What contests with cuDNN depend on beside the shape; `ours` and `version` name the kernels of ours.
Facts cudnn_contest_facts(const Vendor& vendor, std::string ours, std::string_view version);

/// Keeps winners in the cache, and in this process what was good for other calls of a family, such as those of other sizes.
class Contest {
 public:
  /// `facts`: what the outcome depends on beside the shape: device, versions of the library and of our kernels. `family`: only
  /// for note_good() and good().
  Contest(Vendor& vendor, std::string kind, std::string shape, Facts facts, std::string family = {})
      : vendor_(vendor), kind_(std::move(kind)), shape_(std::move(shape)), facts_(std::move(facts)), family_(std::move(family)) {}

  /// The winner that is kept; nothing where there is none, or a damaged one. Its form may be one that there is not.
  std::optional<Winner> find() const;
  /// `start`: when timing began.
  void keep(const Winner& winner, std::chrono::steady_clock::time_point start) const;

  void note_good(int form) const;
  /// The forms that were good for the family; empty: nothing is known.
  std::set<int> good(Known known = Known::Now) const;

 private:
  Digest key() const { return choice_key(kind_, shape_, facts_, true); }

  Vendor& vendor_;
  std::string kind_, shape_;
  Facts facts_;
  std::string family_;
};

}  // namespace sinter::cuda
