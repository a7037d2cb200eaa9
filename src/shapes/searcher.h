#pragma once
#include <cstdint>
#include <optional>

#include "shapes/shapes.h"

namespace sinter::shapes {

/// Finds one shape after the other and draws each. All searchers find the same.
class Searcher {
 public:
  virtual ~Searcher() = default;
  /// The next shape and the error after it; none where nothing was found that lowers it.
  virtual std::optional<Step> next() = 0;
  virtual int64_t scored() const = 0;  ///< candidates, until the last step that next() gave
};

}  // namespace sinter::shapes
