/* Compiled with -mavx2 -mfma -mf16c; empty on other architectures. */
#if defined(__x86_64__)
#if !defined(__AVX2__) || !defined(__FMA__)
#error "compile avx2.c with -mavx2 -mfma -mf16c"
#endif

#define S2S_KERNELS_NAME "avx2"
#define S2S_KERNELS_TABLE s2s_kernels_avx2

#include "vec_avx2.h"

#include "kernels_impl.h"
#else
typedef int s2s_no_avx2; /* a translation unit must not be empty */
#endif
