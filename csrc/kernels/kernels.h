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
 *    log_sum_exp does so for each block, and adds the blocks in double, in rising order;
 *  - exp, tanh, erf, log are ours: one polynomial, with explicit fused multiply-adds (exp of a sum_exp has a
 *    shorter one).
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

/* Four bits of each weight: an int8 weight of output o is about unit[o] * (n - 120), where n from 0 to 255 is
 * sixteen times the lower half of its byte, or the whole byte. */
typedef struct s2s_tile_i4 {
    uint8_t *
        w; /* [ceil(k / 8), 16, 4] inputs 0 to 3 in the lower halves of bytes, 4 to 7 in the upper ones */
    float *unit;    /* [16] */
    float *error;   /* [16] above the Euclidean norm of what is left of an output's weights */
    int32_t *w_sum; /* [16] sums of an output's int8 weights */
} s2s_tile_i4;

/* Upper bounds of y of s2s_matmul_i8, without activation and residual, from four bits of its weights: with
 * the quantized row q and an output w = w' + r the sum q.w is at most q.w' + |q| |r| (Cauchy-Schwarz). */
typedef struct s2s_bound_i4 {
    const int8_t *x; /* [n_rows, k] quantized values without the 128; 0 up to k rounded up to 8 */
    const float *x_scale; /* [n_rows] > 0 */
    const int32_t *x_sum; /* [n_rows] sums of the quantized values */
    const float *x_norm;  /* [n_rows] at least S2S_ABOVE times their Euclidean norms */
    const uint8_t *w; /* tiles [n_tiles, ceil(k / 8), 16, 4] as of s2s_tile_i4, like the next two */
    const float *unit;    /* [16 * n_tiles] */
    const float *error;   /* [16 * n_tiles] */
    const float *w_scale; /* [16 * n_tiles] > 0 */
    const float *bias;    /* [16 * n_tiles] or NULL */
    float *y;             /* [n_rows, 16 * n_tiles], row stride ldy */
    size_t ldx, ldy;
    int32_t n_rows, k; /* k at most S2S_INT4_MAX_K */
} s2s_bound_i4;

/* The inputs of rows that are not zero, in rising order. */
typedef struct s2s_nonzero {
    const uint16_t *at; /* [n_rows, ld] */
    const int32_t *n;   /* [n_rows] */
    size_t ld;
} s2s_nonzero;

/* Scaled dot-product attention of n_rows * n_heads queries over the same n positions.  Head h of a row reads
 * KV head h / heads_per_kv.  d_key and d_value are multiples of 16. */
typedef struct s2s_attention {
    const float *q;        /* [n_rows, n_heads, d_key], row stride ld_q */
    const void *keys;      /* cell c at c * ld_keys elements: [n_heads / heads_per_kv, d_key] */
    const void *values;    /* cell c at c * ld_values elements: [n_heads / heads_per_kv, d_value] */
    const uint32_t *cells; /* [n] in which cell position j lies; NULL: in cell j */
    float *scores; /* [n_rows, n_heads, ld_scores], ld_scores >= n rounded up to 16; then weights */
    float *out;    /* [n_rows, n_heads, d_value], row stride ld_out */
    size_t ld_q, ld_keys, ld_values, ld_scores, ld_out;
    int32_t n_rows, n_heads, heads_per_kv;
    int32_t n, d_key, d_value;
    float scale;
    /* What happens to scores before the softmax; not the kernels' business. */
    float softcap;     /* 0: none */
    const float *bias; /* [n_heads, 2 max_distance + 1] by distance from -max_distance, or NULL */
    int32_t max_distance;
    int32_t first_distance; /* position of the first key - that of row 0; rows are consecutive */
    int32_t window;         /* > 0: keys further than this from a row, on either side, are hidden */
} s2s_attention;

/* Outputs, a multiple of 16: 32 rows of a block stay in the second-level cache. */
#define S2S_LOGITS_BLOCK 512
#define S2S_MAXIMA 64
#define S2S_INT8_MAX_K 65536        /* 65536 * 255 * 128 < 2^31: no sum overflows */
#define S2S_INT4_MAX_K 4096         /* sums of squares of what is left fit in 31 bits */
#define S2S_ABOVE (1.0f + 0x1p-20f) /* makes up for a few roundings */

typedef struct s2s_kernels {
    const char *name;

    void (*matmul_f32)(const s2s_matmul *a, int32_t tile_begin, int32_t tile_end);
    void (*matmul_bf16)(const s2s_matmul *a, int32_t tile_begin, int32_t tile_end);

    void (*matmul_i8)(const s2s_matmul_i8 *a, int32_t tile_begin, int32_t tile_end);
    /* The same of int4 weights: w in tiles [n_tiles, ceil(k / 128), 17, 64] of s2s.h, w_sum of the weights
     * written out as int8.  scratch: room for n_scratch >= 1 int8 tiles, 64-byte aligned. */
    void (*matmul_i4)(const s2s_matmul_i8 *a, int32_t tile_begin, int32_t tile_end, int8_t *scratch,
                      int32_t n_scratch);
    /* Where x [n] is not 0, n <= 65535: to `at` [n + 16]; returns how many there are.  -1: more than `most`; or
     * one is not finite, or below 2^-40, and adding its products may be more than nothing. */
    int32_t (*find_nonzero)(const float *x, int32_t n, int32_t most, uint16_t *at);
    /* Likewise of a quantized row, readable up to its next 64. */
    int32_t (*find_nonzero_i8)(const uint8_t *q, int32_t n, int32_t most, uint16_t *at);
    /* The products without the inputs that are 0.  The same bits where weights are finite, and 0 or at least
     * 2^-63: such terms, with 24 bits each of input and weight, are multiples of 2^-149, the least float, so no
     * sum is rounded to -0, which adding 0 would change. */
    void (*matmul_sparse_f32)(const s2s_matmul *a, const s2s_nonzero *of, int32_t tile_begin,
                              int32_t tile_end);
    void (*matmul_sparse_bf16)(const s2s_matmul *a, const s2s_nonzero *of, int32_t tile_begin,
                               int32_t tile_end);
    /* Likewise of rows that are nowhere negative (no byte below 128), and of weights by_input
     * [k, n_groups, 4, 4, 4]: groups of four tiles, quarters of a tile, tiles, outputs.  For groups [group_begin, group_end) of n_tiles. */
    void (*matmul_sparse_i8)(const s2s_matmul_i8 *a, const s2s_nonzero *of, const int8_t *by_input,
                             int32_t n_tiles, int32_t group_begin, int32_t group_end);
    int32_t sparse_i8_rows;    /* most rows for which that is faster than matmul_i8, */
    int32_t sparse_i8_percent; /* and most of k that may be left, in lists of all rows together */
    /* Makes a copy of an int8 tile [ceil(k / 4), 16, 4] in four bits. */
    void (*halve_i8)(const int8_t *tile, int32_t k, const s2s_tile_i4 *to);
    void (*bound_i4)(const s2s_bound_i4 *a, int32_t tile_begin, int32_t tile_end);
    int32_t bound_i4_rows; /* most rows for which that is clearly faster than matmul_i8 */
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

    /* y = (x - mean) / sqrt(var + eps) * weight + bias of rows [n_rows, d], both with row stride ld; y may be x. */
    void (*layer_norm)(const float *x, size_t ld, int32_t n_rows, const float *weight,
                       const float *bias, int32_t d, float eps, float *y);
    /* y[d] = x / sqrt(mean of squares + eps) * weight; y may alias x. */
    void (*rms_norm)(const float *x, const float *weight, int32_t d, float eps, float *y);
    /* x[n] = activation(x) * up */
    void (*gate)(float *x, const float *up, int32_t n, int32_t activation);
    /* x[n] = cap tanh(x / cap) */
    void (*soft_cap)(float *x, int32_t n, float cap);
    /* The two halves of attention, with the softmax between them. */
    void (*attention_scores)(const s2s_attention *a);
    void (*attention_scores_bf16)(const s2s_attention *a);
    void (*attention_context)(const s2s_attention *a);
    void (*attention_context_bf16)(const s2s_attention *a);
    /* y[n_heads, d] = x[n_heads, d] rounded to nearest even, in the order in which attention reads
     * bfloat16: of every 32 elements of a head number 0 and 16, 1 and 17, ... side by side; if 16 are
     * left, these in order. */
    void (*cache_bf16)(const float *x, int32_t n_heads, int32_t d, uint16_t *y);

    /* In place: exp(x - max) * (1 / sum), each operation rounded once; x has room for n rounded up to
     * 16; the elements beyond n become 0. */
    void (*softmax)(float *x, int32_t n);
    /* log(sum exp(x)), any n >= 1; -inf elements count as nothing; -inf if all are.  By definition it is
     * computed by blocks of S2S_LOGITS_BLOCK elements, so that logits may come block by block: from the
     * max of each and sum_exp relative to that, log_sum_exp_blocks gives the same bits. */
    float (*log_sum_exp)(const float *x, int32_t n);
    /* sum exp(x - max), each within 10^-7 */
    float (*sum_exp)(const float *x, int32_t n, float max);
    float (*log_sum_exp_blocks)(const float *maxima, const float *sums, int32_t n_blocks);
    float (*max)(const float *x, int32_t n);        /* a NaN never wins */
    float (*max_or_nan)(const float *x, int32_t n); /* NaN if an element is */
    /* max, and to maxima [S2S_MAXIMA] the largest x[i] of each i mod S2S_MAXIMA, -inf if there is none. */
    float (*maxima)(const float *x, int32_t n, float *maxima);
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

/* Writes int8 tiles [n_tiles, ceil(k / 4), 16, 4] as matmul_sparse_i8 reads them; bytes of that. */
void s2s_pack_by_input(const int8_t *tiles, int32_t k, int32_t n_tiles, int8_t *by_input);
size_t s2s_by_input_bytes(int32_t k, int32_t n_tiles);

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
