/* levels.h: the tables that a build can contain; only dispatch.c and the level files need it. */
#ifndef S2S_LEVELS_H
#define S2S_LEVELS_H

#include "kernels.h"

extern const s2s_kernels s2s_kernels_generic;
#if defined(__x86_64__)
extern const s2s_kernels s2s_kernels_avx2;
extern const s2s_kernels s2s_kernels_avx512;
extern const s2s_kernels s2s_kernels_avx512vnni;
extern const s2s_kernels s2s_kernels_avx512amx;
#elif defined(__aarch64__)
extern const s2s_kernels s2s_kernels_neon;
#endif

#endif
