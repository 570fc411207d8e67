/* kernels.h: the table of kernels, one per SIMD level, all giving the same bits.
 *
 * Concept.  A kernel is a loop over floats with no memory of its own, that cannot fail.  generic.c is
 * complete and is the oracle: every other level must equal it bit for bit.  What fixes the bits:
 *  - a product element is ONE accumulator, started at 0, one fused multiply-add per k in rising k;
 *    then + bias, then the activation, then + residual, each rounded once;
 *  - an element of an int8 product is an exact int32 sum acc; then fma(acc, scale of x * scale of w, bias),
 *    (without bias: the product alone), the activation, + residual, each rounded once;
 *  - every reduction over n elements (sum, dot) runs over 16 virtual lanes, element i in lane i mod 16,
 *    in rising i, absent elements counting as +0; the lanes are folded as l + (l+8), then 4, 2, 1;
 *  - exp, tanh, erf, log are ours: one polynomial, with explicit fused multiply-adds.
 * Shapes.  Row-major; `ld*` are row strides in elements.  Weight tiles are as in s2s.h: [n_tiles, k, 16].
 * Buffers written by kernels that round n up to 16 have room for it.
 * Thread-safety.  Pure functions of their arguments.
 */
#ifndef S2S_KERNELS_H
#define S2S_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "../s2s.h"

/* y = activation(x W + bias) + residual, for all rows and output tiles [tile_begin, tile_end). */
typedef struct s2s_matmul {
    const float *x; /* [n_rows, k], row stride ldx */
    const void *w;  /* tiles [n_tiles, k, 16], f32 or bf16 by the kernel's name, 64-byte aligned */
    const float *bias;     /* [16 * n_tiles] or NULL */
    const float *residual; /* [n_rows, 16 * n_tiles], row stride ldr, or NULL; may alias y */
    float *y; /* [n_rows, 16 * n_tiles], row stride ldy >= 16 * n_tiles; must not alias x */
    size_t ldx, ldy, ldr;
    int32_t n_rows, k;
    int32_t activation; /* s2s_activation; S2S_IDENTITY for none */
} s2s_matmul;

/* The same of quantized rows and weights. */
typedef struct s2s_matmul_i8 {
    const uint8_t *x; /* [n_rows, k] quantized values + 128, rows readable up to their next 64 */
    const float *x_scale;  /* [n_rows] */
    const int8_t *w;       /* tiles [n_tiles, ceil(k / 4), 16, 4], 64-byte aligned */
    const float *w_scale;  /* [16 * n_tiles] */
    const int32_t *w_sum;  /* [16 * n_tiles] sums of an output's weights, which undo the + 128 */
    const float *bias;     /* as above */
    const float *residual; /* as above */
    float *y;              /* as above */
    size_t ldx, ldy, ldr;  /* ldx >= k rounded up to 64 */
    int32_t n_rows, k;
    int32_t activation;
} s2s_matmul_i8;

#define S2S_INT8_MAX_K 65536 /* 65536 * 255 * 128 < 2^31: no sum overflows */

typedef struct s2s_kernels {
    const char *name;

    void (*matmul_f32)(const s2s_matmul *a, int32_t tile_begin, int32_t tile_end);
    void (*matmul_bf16)(const s2s_matmul *a, int32_t tile_begin, int32_t tile_end);

    void (*matmul_i8)(const s2s_matmul_i8 *a, int32_t tile_begin, int32_t tile_end);
    /* q[n rounded up to 16] = 128 + x / scale, rounded to nearest even, 128 beyond n; *scale = max |x| / 127,
     * or 1 and all q 128 where max |x| < 2^-100, or NaN and all q 128 where an element is not finite. */
    void (*quantize)(const float *x, int32_t n, uint8_t *q, float *scale);

    /* y[d] = scale * column `id` of tiles [*, d, 16] (+ position[d] unless NULL): product rounded, then sum. */
    void (*embed_f32)(const void *tiles, int32_t d, int32_t id, float scale, const float *position,
                      float *y);
    void (*embed_bf16)(const void *tiles, int32_t d, int32_t id, float scale, const float *position,
                       float *y);

    /* The element is weight * w_scale[id], rounded, before it is multiplied by scale. */
    void (*embed_i8)(const void *tiles, const float *w_scale, int32_t d, int32_t id, float scale,
                     const float *position, float *y);

    /* y[d] = (x - mean) / sqrt(var + eps) * weight + bias; y may alias x. */
    void (*layer_norm)(const float *x, const float *weight, const float *bias, int32_t d, float eps,
                       float *y);
    /* y[d] = x / sqrt(mean of squares + eps) * weight; y may alias x. */
    void (*rms_norm)(const float *x, const float *weight, int32_t d, float eps, float *y);
    /* x[n] = activation(x) * up */
    void (*gate)(float *x, const float *up, int32_t n, int32_t activation);
    /* x[n] = cap tanh(x / cap) */
    void (*soft_cap)(float *x, int32_t n, float cap);
    /* Attention of one query over n cached positions.  Position j lies at k + cells[j] * d, or at
     * k + j * d when cells is NULL.  d is a multiple of 16.  scores has room for n rounded up to 16. */
    void (*attention_scores)(const float *q, const float *k, const uint32_t *cells, int32_t n,
                             int32_t d, float scale, float *scores);
    void (*attention_scores_bf16)(const float *q, const uint16_t *k, const uint32_t *cells,
                                  int32_t n, int32_t d, float scale, float *scores);
    /* out[d] = sum over j, in rising j, of p[j] * v_j: one fused accumulator per element. */
    void (*attention_context)(const float *p, const float *v, const uint32_t *cells, int32_t n,
                              int32_t d, float *out);
    void (*attention_context_bf16)(const float *p, const uint16_t *v, const uint32_t *cells,
                                   int32_t n, int32_t d, float *out);
    /* y[n] = x[n] rounded to nearest even */
    void (*round_to_bf16)(const float *x, int32_t n, uint16_t *y);

    /* In place; x has room for n rounded up to 16; the elements beyond n become 0. */
    void (*softmax)(float *x, int32_t n);
    /* log(sum exp(x)), any n >= 1; -inf elements count as nothing; -inf if all are. */
    float (*log_sum_exp)(const float *x, int32_t n);
    float (*max)(const float *x, int32_t n);
    /* Smallest index of the largest element; NaN never wins; n >= 1. */
    int32_t (*argmax)(const float *x, int32_t n);
    /* Indices of elements > threshold in rising order, at most capacity; returns how many there are in all. */
    int32_t (*find_above)(const float *x, int32_t n, float threshold, int32_t *indices,
                          int32_t capacity);
    /* x[n] /= divisor (temperature) and x[n] += shift (log-softmax), each rounded once. */
    void (*divide)(float *x, int32_t n, float divisor);
    void (*shift)(float *x, int32_t n, float shift);
} s2s_kernels;

/* The table of a supported level (AUTO: the best); NULL when the CPU lacks it. */
const s2s_kernels *s2s_kernels_get(s2s_isa isa);

/* One round-to-nearest-even bfloat16 conversion, shared by packing and tests. */
static inline uint16_t s2s_bf16_from_f32(float f)
{
    union {
        float f;
        uint32_t u;
    } v = {f};
    if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((v.u >> 16) | 0x40); /* quiet NaN */
    return (uint16_t)((v.u + 0x7fffu + ((v.u >> 16) & 1u)) >> 16);
}

#endif
