/* Compiled with the flags of avx512.c and -mavx512vnni; empty on other architectures. */
#if defined(__x86_64__)
#if !defined(__AVX512F__) || !defined(__AVX512DQ__) || !defined(__AVX512VNNI__)
#error "compile avx512vnni.c with -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni"
#endif

#define S2S_KERNELS_NAME "avx512vnni"
#define S2S_KERNELS_TABLE s2s_kernels_avx512vnni

#include "vec_avx512.h"

#include "kernels_impl.h"
#else
typedef int s2s_no_avx512vnni; /* a translation unit must not be empty */
#endif
