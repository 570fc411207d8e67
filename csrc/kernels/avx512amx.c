/* Compiled with the flags of avx512vnni.c and -mamx-tile -mamx-int8; empty on other architectures. */
#if defined(__x86_64__)
#if !defined(__AVX512F__) || !defined(__AVX512VNNI__) || !defined(__AMX_INT8__)
#error "compile avx512amx.c with the flags of avx512vnni.c and -mamx-tile -mamx-int8"
#endif

#define S2S_KERNELS_NAME "avx512amx"
#define S2S_KERNELS_TABLE s2s_kernels_avx512amx
#define S2S_MATMUL_I8 matmul_i8_amx /* the only kernel that differs from avx512vnni */

#include "vec_avx512.h"

#include "kernels_impl.h"
#else
typedef int s2s_no_avx512amx; /* a translation unit must not be empty */
#endif
