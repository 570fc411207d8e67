/* NEON is part of every aarch64; empty on other architectures. */
#if defined(__aarch64__)
#define S2S_KERNELS_NAME "neon"
#define S2S_KERNELS_TABLE s2s_kernels_neon

#include "vec_neon.h"

#include "kernels_impl.h"
#else
typedef int s2s_no_neon; /* a translation unit must not be empty */
#endif
