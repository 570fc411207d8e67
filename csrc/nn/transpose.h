/* transpose.h: a block of 4 x 4 floats, transposed in registers of any machine. */
#ifndef S2S_TRANSPOSE_H
#define S2S_TRANSPOSE_H

#include <stddef.h>
#include <string.h>

typedef float s2s_v4 __attribute__((vector_size(16)));

#if defined(__clang__)
#define S2S_SHUFFLE_V4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int s2s_v4i __attribute__((vector_size(16)));
#define S2S_SHUFFLE_V4(a, b, i, j, k, l) __builtin_shuffle(a, b, (s2s_v4i){i, j, k, l})
#endif

/* to[j][i] = scale * from[i][j]; row strides in floats. */
static inline void s2s_transpose_4x4(const float *from, size_t ld_from, float scale, float *to,
                                     size_t ld_to)
{
    s2s_v4 a, b, c, d;
    memcpy(&a, from, sizeof a);
    memcpy(&b, from + ld_from, sizeof b);
    memcpy(&c, from + 2 * ld_from, sizeof c);
    memcpy(&d, from + 3 * ld_from, sizeof d);
    a *= scale, b *= scale, c *= scale, d *= scale;
    const s2s_v4 ab_low = S2S_SHUFFLE_V4(a, b, 0, 4, 1, 5),
                 ab_high = S2S_SHUFFLE_V4(a, b, 2, 6, 3, 7);
    const s2s_v4 cd_low = S2S_SHUFFLE_V4(c, d, 0, 4, 1, 5),
                 cd_high = S2S_SHUFFLE_V4(c, d, 2, 6, 3, 7);
    a = S2S_SHUFFLE_V4(ab_low, cd_low, 0, 1, 4, 5);
    b = S2S_SHUFFLE_V4(ab_low, cd_low, 2, 3, 6, 7);
    c = S2S_SHUFFLE_V4(ab_high, cd_high, 0, 1, 4, 5);
    d = S2S_SHUFFLE_V4(ab_high, cd_high, 2, 3, 6, 7);
    memcpy(to, &a, sizeof a);
    memcpy(to + ld_to, &b, sizeof b);
    memcpy(to + 2 * ld_to, &c, sizeof c);
    memcpy(to + 3 * ld_to, &d, sizeof d);
}

#endif
