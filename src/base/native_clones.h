#pragma once

/// For a function of loops that newer processors' instructions make faster: a version for these too, chosen when the library is
/// loaded. Sanitizers run before that is possible.
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SINTER_NATIVE_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define SINTER_NATIVE_CLONES
#endif
