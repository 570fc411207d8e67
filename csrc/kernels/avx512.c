/* Compiled with -mavx512f -mavx512bw -mavx512dq -mavx512vl; empty on other architectures. */
#if defined(__x86_64__)
#if !defined(__AVX512F__) || !defined(__AVX512DQ__)
#error "compile avx512.c with -mavx512f -mavx512bw -mavx512dq -mavx512vl"
#endif

#define S2S_KERNELS_NAME "avx512"
#define S2S_KERNELS_TABLE s2s_kernels_avx512

#include "vec_avx512.h"

#include "kernels_impl.h"
#else
typedef int s2s_no_avx512; /* a translation unit must not be empty */
#endif
