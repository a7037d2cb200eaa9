#pragma once

namespace sinter {

/// How many times longer than promised something may take. Promises of time are for optimised programs: checked by a sanitizer at
/// every step, only what does not end is a finding.
#ifdef __SANITIZE_ADDRESS__
inline constexpr int kPatience = 50;
#else
inline constexpr int kPatience = 1;
#endif

}  // namespace sinter
