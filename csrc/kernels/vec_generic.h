/* vec_generic.h: the 16-lane float vector in plain C.  This file defines what every operation means;
 * vec_avx2.h, vec_avx512.h and vec_neon.h have the same names and give the same bits (a NaN is a NaN:
 * its payload is not part of the promise).
 *
 *   v16   16 floats              v16m  16 truth values              v16i  16 int32
 *   v16w  int8 weights of 16 outputs and 4 inputs                    v16x  4 quantized inputs
 *
 * Inlining is left to the compiler here: 16 lanes written out everywhere are slow to compile.
 *
 * A level also says how large a block of a product it keeps in registers: for r rows,
 * S2S_ROWS_MAX >= r, S2S_BLOCK_TILES(r) tiles (a power of 2); of int8 products, S2S_I8_ROWS_MAX.
 * S2S_I8_OFFSET is what v16x adds to the inputs: 128, or 0 where it takes it away.
 */
#ifndef S2S_VEC_H
#define S2S_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../base/compiler.h"
#include "kernels.h"

#define S2S_VEC_IS_GENERIC
#define S2S_ROWS_MAX 1
#define S2S_BLOCK_TILES(r) ((void)(r), 1)
#define S2S_I8_ROWS_MAX 1
#define S2S_I8_OFFSET 128

typedef struct v16 {
    float l[16];
} v16;
typedef struct v16m {
    uint16_t bits;
} v16m;
typedef struct v16i {
    int32_t l[16];
} v16i;

#define S2S_LANES for (int i = 0; i < 16; i++)

static inline v16 v16_set1(float x)
{
    v16 r;
    S2S_LANES r.l[i] = x;
    return r;
}
static inline v16 v16_load(const float *p)
{
    v16 r;
    memcpy(r.l, p, sizeof r.l);
    return r;
}
/* The first n < 16 elements, then `rest`.  Reads nothing beyond them. */
static inline v16 v16_load_n_or(const float *p, int n, float rest)
{
    v16 r;
    S2S_LANES r.l[i] = i < n ? p[i] : rest;
    return r;
}
static inline v16 v16_load_n(const float *p, int n)
{
    return v16_load_n_or(p, n, 0.0f);
}
static inline v16 v16_load_bf16(const uint16_t *p)
{
    v16 r;
    S2S_LANES
    {
        const uint32_t u = (uint32_t)p[i] << 16;
        memcpy(&r.l[i], &u, sizeof u);
    }
    return r;
}
/* 16 words of two elements: the lower halves and the upper ones.  Cheaper to widen than 32 in a row. */
static inline void v16_load_bf16_pair(const uint16_t *p, v16 *low, v16 *high)
{
    S2S_LANES
    {
        uint32_t both;
        memcpy(&both, p + 2 * i, sizeof both);
        const uint32_t l = both << 16, h = both & 0xffff0000u;
        memcpy(&low->l[i], &l, sizeof l);
        memcpy(&high->l[i], &h, sizeof h);
    }
}
/* Its inverse, rounded to nearest even as s2s_bf16_from_f32 does. */
static inline void v16_store_bf16_pair(uint16_t *p, v16 low, v16 high)
{
    S2S_LANES
    {
        const uint32_t l = s2s_bf16_from_f32(low.l[i]), h = s2s_bf16_from_f32(high.l[i]);
        const uint32_t both = l | h << 16;
        memcpy(p + 2 * i, &both, sizeof both);
    }
}
static inline void v16_store(float *p, v16 a)
{
    memcpy(p, a.l, sizeof a.l);
}
static inline void v16_store_n(float *p, v16 a, int n)
{
    for (int i = 0; i < n; i++) p[i] = a.l[i];
}
/* Lanes from n on become +0. */
static inline v16 v16_first_n(v16 a, int n)
{
    S2S_LANES a.l[i] = i < n ? a.l[i] : 0.0f;
    return a;
}

static inline v16 v16_add(v16 a, v16 b)
{
    S2S_LANES a.l[i] = a.l[i] + b.l[i];
    return a;
}
static inline v16 v16_sub(v16 a, v16 b)
{
    S2S_LANES a.l[i] = a.l[i] - b.l[i];
    return a;
}
static inline v16 v16_mul(v16 a, v16 b)
{
    S2S_LANES a.l[i] = a.l[i] * b.l[i];
    return a;
}
static inline v16 v16_div(v16 a, v16 b)
{
    S2S_LANES a.l[i] = a.l[i] / b.l[i];
    return a;
}
/* a * b + c, rounded once. */
static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    S2S_LANES c.l[i] = __builtin_fmaf(a.l[i], b.l[i], c.l[i]);
    return c;
}
/* a > b ? a : b, so b when either is NaN. */
static inline v16 v16_max(v16 a, v16 b)
{
    S2S_LANES a.l[i] = a.l[i] > b.l[i] ? a.l[i] : b.l[i];
    return a;
}
/* a < b ? a : b, so b when either is NaN. */
static inline v16 v16_min(v16 a, v16 b)
{
    S2S_LANES a.l[i] = a.l[i] < b.l[i] ? a.l[i] : b.l[i];
    return a;
}
static inline v16 v16_abs(v16 a)
{
    S2S_LANES a.l[i] = __builtin_fabsf(a.l[i]);
    return a;
}
/* |a| with the sign of b. */
static inline v16 v16_copysign(v16 a, v16 b)
{
    S2S_LANES a.l[i] = __builtin_copysignf(a.l[i], b.l[i]);
    return a;
}
/* Sign flipped, of zero and NaN too. */
static inline v16 v16_neg(v16 a)
{
    S2S_LANES a.l[i] = -a.l[i];
    return a;
}

/* a > b; false with NaN. */
static inline v16m v16_gt(v16 a, v16 b)
{
    v16m m = {0};
    S2S_LANES m.bits = (uint16_t)(m.bits | ((a.l[i] > b.l[i]) << i));
    return m;
}
/* a == b; false with NaN. */
static inline v16m v16_eq(v16 a, v16 b)
{
    v16m m = {0};
    S2S_LANES m.bits = (uint16_t)(m.bits | ((a.l[i] == b.l[i]) << i));
    return m;
}
/* Bit i: lane i. */
static inline unsigned v16_mask_bits(v16m m)
{
    return m.bits;
}
/* m ? a : b */
static inline v16 v16_select(v16m m, v16 a, v16 b)
{
    S2S_LANES a.l[i] = (m.bits >> i & 1) != 0 ? a.l[i] : b.l[i];
    return a;
}

/* The fixed tree: l + (l + 8), then + 4, + 2, + 1. */
static inline float v16_fold_sum(v16 a)
{
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a.l[i] = a.l[i] + a.l[i + half];
    return a.l[0];
}
/* p[0 ... 3] = scale * the sums of a, b, c, d by that tree: for less than four of them apart. */
static inline void v16_store_sums(float *p, v16 a, v16 b, v16 c, v16 d, float scale)
{
    const float sums[4] = {v16_fold_sum(a), v16_fold_sum(b), v16_fold_sum(c), v16_fold_sum(d)};
    for (int i = 0; i < 4; i++) p[i] = sums[i] * scale;
}
/* The same tree with l > (l + 8) ? l : (l + 8). */
static inline float v16_fold_max(v16 a)
{
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a.l[i] = a.l[i] > a.l[i + half] ? a.l[i] : a.l[i + half];
    return a.l[0];
}

static inline v16i v16_bits(v16 a)
{
    v16i r;
    memcpy(r.l, a.l, sizeof r.l);
    return r;
}
/* Wraps around. */
static inline v16i v16i_set1(int32_t a)
{
    v16i r;
    S2S_LANES r.l[i] = a;
    return r;
}
static inline v16i v16i_shift_left_4(v16i a)
{
    v16i r;
    S2S_LANES r.l[i] = a.l[i] * 16;
    return r;
}
static inline v16i v16i_sub(v16i a, v16i b)
{
    S2S_LANES a.l[i] = (int32_t)((uint32_t)a.l[i] - (uint32_t)b.l[i]);
    return a;
}
static inline v16i v16i_max(v16i a, v16i b)
{
    S2S_LANES a.l[i] = a.l[i] > b.l[i] ? a.l[i] : b.l[i];
    return a;
}
static inline int32_t v16i_fold_max(v16i a)
{
    int32_t most = a.l[0];
    S2S_LANES most = a.l[i] > most ? a.l[i] : most;
    return most;
}
/* Halved, rounded down. */
static inline v16i v16i_half(v16i a)
{
    S2S_LANES a.l[i] >>= 1;
    return a;
}
/* 2^a for -126 <= a <= 127: a + 127 in the exponent's place. */
static inline v16 v16i_pow2(v16i a)
{
    v16 r;
    S2S_LANES
    {
        const uint32_t u = ((uint32_t)a.l[i] + 127u) << 23;
        memcpy(&r.l[i], &u, sizeof u);
    }
    return r;
}

/* Of each lane the low 9 bits in the places of sign and exponent, then zeros. */
static inline v16 v16_exponent(v16 a)
{
    S2S_LANES
    {
        uint32_t u;
        memcpy(&u, &a.l[i], sizeof u);
        u <<= 23;
        memcpy(&a.l[i], &u, sizeof u);
    }
    return a;
}

static inline v16i v16i_load(const int32_t *p)
{
    v16i r;
    memcpy(r.l, p, sizeof r.l);
    return r;
}
static inline void v16i_store(int32_t *p, v16i a)
{
    memcpy(p, a.l, sizeof a.l);
}
static inline v16i v16i_add(v16i a, v16i b)
{
    S2S_LANES a.l[i] = (int32_t)((uint32_t)a.l[i] + (uint32_t)b.l[i]);
    return a;
}
static inline v16i v16i_mul(v16i a, v16i b)
{
    S2S_LANES a.l[i] = (int32_t)((uint32_t)a.l[i] * (uint32_t)b.l[i]);
    return a;
}
/* The lower halves of 16 bytes. */
static inline v16i v16i_load_u4(const uint8_t *p)
{
    v16i r;
    S2S_LANES r.l[i] = p[i] & 15;
    return r;
}
static inline v16 v16_from_i32(v16i a)
{
    v16 r;
    S2S_LANES r.l[i] = (float)a.l[i];
    return r;
}
/* Rounded to nearest even, + 128, as 16 bytes; |a| <= 127. */
/* Four int8 at p, at p + stride, p + 2 stride and p + 3 stride. */
static inline v16 v16_load_quads(const int8_t *p, size_t stride)
{
    v16 r;
    S2S_LANES r.l[i] = (float)p[(size_t)(i / 4) * stride + (size_t)(i % 4)];
    return r;
}
static inline void v16_store_u8(uint8_t *p, v16 a)
{
    S2S_LANES p[i] = (uint8_t)((int)__builtin_rintf(a.l[i]) + 128);
}

typedef struct v16w {
    int8_t l[16][4];
} v16w;
typedef struct v16x {
    uint8_t l[4];
} v16x;

static inline v16w v16w_load(const int8_t *p)
{
    v16w r;
    memcpy(r.l, p, sizeof r.l);
    return r;
}
/* Weights without sign, and inputs with one. */
typedef struct v16u {
    uint8_t l[16][4];
} v16u;
typedef struct v16s {
    int8_t l[4];
} v16s;
/* 64 bytes: their lower halves, and as they are. */
static inline void v16u_load_i4(const uint8_t *p, v16u *low, v16u *whole)
{
    memcpy(whole->l, p, sizeof whole->l);
    S2S_LANES
    {
        for (int j = 0; j < 4; j++) low->l[i][j] = p[4 * i + j] & 15;
    }
}
static inline v16s v16s_load(const int8_t *p)
{
    v16s r;
    memcpy(r.l, p, sizeof r.l);
    return r;
}
static inline v16i v16i_dot_u(v16i sum, v16u w, v16s x)
{
    S2S_LANES
    {
        for (int j = 0; j < 4; j++) sum.l[i] += x.l[j] * w.l[i][j];
    }
    return sum;
}
/* 64 bytes of two signed weights each; a sum of products of them goes through v16i_i4_sum: a level may have them 16 times. */
static inline void v16w_load_i4s(const uint8_t *p, v16w *low, v16w *high)
{
    S2S_LANES
    {
        for (int j = 0; j < 4; j++) {
            low->l[i][j] = (int8_t)((p[4 * i + j] & 15) - (p[4 * i + j] & 8) * 2);
            high->l[i][j] = (int8_t)((p[4 * i + j] >> 4) - (p[4 * i + j] >> 7) * 16);
        }
    }
}
/* The same as int8, each times the lower half of the byte of its output among 16 `steps`. */
static inline void v16w_unpack_i4(const uint8_t *p, const uint8_t *steps, int8_t *low, int8_t *high)
{
    v16w a, b;
    v16w_load_i4s(p, &a, &b);
    S2S_LANES
    {
        for (int j = 0; j < 4; j++) {
            low[4 * i + j] = (int8_t)(a.l[i][j] * (steps[i] & 15));
            high[4 * i + j] = (int8_t)(b.l[i][j] * (steps[i] & 15));
        }
    }
}
static inline v16i v16i_i4_sum(v16i a)
{
    return a;
}
static inline v16x v16x_load(const uint8_t *p)
{
    v16x r;
    memcpy(r.l, p, sizeof r.l);
    return r;
}
/* sum + x w, exact but for wrapping around. */
static inline v16i v16i_dot(v16i sum, v16x x, v16w w)
{
    S2S_LANES
    {
        int32_t dot = 0;
        for (int j = 0; j < 4; j++) dot += x.l[j] * w.l[i][j];
        sum.l[i] = (int32_t)((uint32_t)sum.l[i] + (uint32_t)dot);
    }
    return sum;
}

#undef S2S_LANES
#endif
