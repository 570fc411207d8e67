/* kernels_impl.h: every kernel but the products, over whatever v16 the including file chose, and the
 * table.  A level's file includes its vec_*.h and then this one, after S2S_KERNELS_NAME and
 * S2S_KERNELS_TABLE: the code is written once, so the bits agree by construction. */
#ifndef S2S_KERNELS_IMPL_H
#define S2S_KERNELS_IMPL_H

#include <math.h>
#include <string.h>

#include "../base/compiler.h"
#include "../base/numbers.h"
#include "kernels.h"
#include "levels.h"

/* Loops over n elements below: whole vectors from 0 to `whole`, then `rest` < 16 elements. */
#define S2S_SPLIT(n)                                                                               \
    const int32_t whole = (n) & ~(S2S_TILE - 1);                                                   \
    const int rest = (n) - whole

#include "math_impl.h"
#include "matmul_impl.h"

#include "matmul_i8_impl.h"

#include "bound_i4_impl.h"

#if defined(S2S_MATMUL_I8)
#include "matmul_i8_amx_impl.h"
#else
#define S2S_MATMUL_I8 matmul_i8
#endif

#include "matmul_i4_impl.h"

#include "matmul_sparse_impl.h"

#include "attention_impl.h"

/* Element i of column id is at tiles[id / 16][i][id % 16]: a line of cache for each, whatever the width
 * of the vectors. */
static void embed_f32(const void *tiles, int32_t d, int32_t id, float scale, const float *position,
                      float *y)
{
    const float *w = (const float *)tiles + (size_t)(id / S2S_TILE) * (size_t)d * S2S_TILE;
    w += id % S2S_TILE;
    for (size_t i = 0; i < (size_t)d; i++) y[i] = scale * w[i * S2S_TILE];
    if (position != NULL)
        for (size_t i = 0; i < (size_t)d; i++) y[i] += position[i];
}

static void embed_bf16(const void *tiles, int32_t d, int32_t id, float scale, const float *position,
                       float *y)
{
    const uint16_t *w = (const uint16_t *)tiles + (size_t)(id / S2S_TILE) * (size_t)d * S2S_TILE;
    w += id % S2S_TILE;
    for (size_t i = 0; i < (size_t)d; i++) {
        const uint32_t bits = (uint32_t)w[i * S2S_TILE] << 16;
        float element;
        memcpy(&element, &bits, sizeof element);
        y[i] = scale * element;
    }
    if (position != NULL)
        for (size_t i = 0; i < (size_t)d; i++) y[i] += position[i];
}

/* Two passes: the mean first, so that the squares are of small numbers.  Sums in one fixed order are chains
 * of additions that wait for one another: those of n rows, 1 or 4, run side by side. */
S2S_INLINE void layer_norm_of(const float *x, size_t ld, int n, const float *weight,
                              const float *bias, int32_t d, float eps, float *y)
{
    enum { MOST = 4 };
    S2S_SPLIT(d);
    v16 sum[MOST], mean[MOST], inverse[MOST];
    for (int r = 0; r < n; r++) sum[r] = v16_set1(0.0f);
    for (int32_t i = 0; i < whole; i += S2S_TILE)
        for (int r = 0; r < n; r++) sum[r] = v16_add(sum[r], v16_load(x + (size_t)r * ld + i));
    for (int r = 0; r < n; r++) {
        if (rest) sum[r] = v16_add(sum[r], v16_load_n(x + (size_t)r * ld + whole, rest));
        mean[r] = v16_set1(v16_fold_sum(sum[r]) / (float)d);
        sum[r] = v16_set1(0.0f); /* of squares, now */
    }
    for (int32_t i = 0; i < whole; i += S2S_TILE)
        for (int r = 0; r < n; r++) {
            const v16 centred = v16_sub(v16_load(x + (size_t)r * ld + i), mean[r]);
            sum[r] = v16_fma(centred, centred, sum[r]);
        }
    for (int r = 0; r < n; r++) {
        if (rest) {
            const v16 all = v16_sub(v16_load_n(x + (size_t)r * ld + whole, rest), mean[r]);
            const v16 centred = v16_first_n(all, rest);
            sum[r] = v16_fma(centred, centred, sum[r]);
        }
        const float variance = v16_fold_sum(sum[r]) / (float)d;
        inverse[r] = v16_set1(1.0f / __builtin_sqrtf(variance + eps));
    }
    for (int32_t i = 0; i < whole; i += S2S_TILE) {
        const v16 w = v16_load(weight + i), b = v16_load(bias + i);
        for (int r = 0; r < n; r++) {
            const size_t at = (size_t)r * ld + (size_t)i;
            const v16 normal = v16_mul(v16_sub(v16_load(x + at), mean[r]), inverse[r]);
            v16_store(y + at, v16_fma(normal, w, b));
        }
    }
    if (rest) {
        const v16 w = v16_load_n(weight + whole, rest), b = v16_load_n(bias + whole, rest);
        for (int r = 0; r < n; r++) {
            const size_t at = (size_t)r * ld + (size_t)whole;
            const v16 centred = v16_sub(v16_load_n(x + at, rest), mean[r]);
            v16_store_n(y + at, v16_fma(v16_mul(centred, inverse[r]), w, b), rest);
        }
    }
}

static void layer_norm(const float *x, size_t ld, int32_t n_rows, const float *weight,
                       const float *bias, int32_t d, float eps, float *y)
{
    if (d <= 0) return;
    for (; n_rows >= 4; n_rows -= 4, x += 4 * ld, y += 4 * ld)
        layer_norm_of(x, ld, 4, weight, bias, d, eps, y);
    for (; n_rows > 0; n_rows--, x += ld, y += ld) layer_norm_of(x, ld, 1, weight, bias, d, eps, y);
}

#include "blocks_impl.h"
#include "reduce_impl.h"

static void softmax(float *x, int32_t n)
{
    if (n <= 0) return;
    S2S_SPLIT(n);
    const v16 most = v16_set1(max(x, n));
    v16 sum = v16_set1(0.0f);
    for (int32_t i = 0; i < whole; i += S2S_TILE) {
        const v16 e = v16_exp(v16_sub(v16_load(x + i), most));
        sum = v16_add(sum, e);
        v16_store(x + i, e);
    }
    v16 last = sum; /* not used without a rest */
    if (rest) {
        const v16 e = v16_exp(v16_sub(v16_load_n(x + whole, rest), most));
        last = v16_first_n(e, rest);
        sum = v16_add(sum, last);
    }
    const v16 inverse = v16_set1(1.0f / v16_fold_sum(sum));
    for (int32_t i = 0; i < whole; i += S2S_TILE)
        v16_store(x + i, v16_mul(v16_load(x + i), inverse));
    if (rest) v16_store(x + whole, v16_first_n(v16_mul(last, inverse), rest));
}

static void divide(float *x, int32_t n, float divisor)
{
    if (n <= 0) return;
    S2S_SPLIT(n);
    const v16 by = v16_set1(divisor);
    for (int32_t i = 0; i < whole; i += S2S_TILE) v16_store(x + i, v16_div(v16_load(x + i), by));
    if (rest) v16_store_n(x + whole, v16_div(v16_load_n(x + whole, rest), by), rest);
}

static void shift(float *x, int32_t n, float amount)
{
    if (n <= 0) return;
    S2S_SPLIT(n);
    const v16 by = v16_set1(amount);
    for (int32_t i = 0; i < whole; i += S2S_TILE) v16_store(x + i, v16_add(v16_load(x + i), by));
    if (rest) v16_store_n(x + whole, v16_add(v16_load_n(x + whole, rest), by), rest);
}

const s2s_kernels S2S_KERNELS_TABLE = {
    .name = S2S_KERNELS_NAME,
    .matmul_f32 = matmul_f32,
    .matmul_bf16 = matmul_bf16,
    .matmul_i8 = S2S_MATMUL_I8,
    .matmul_i4 = matmul_i4,
    .find_nonzero = find_nonzero,
    .find_nonzero_i8 = find_nonzero_i8,
    .matmul_sparse_f32 = matmul_sparse_f32,
    .matmul_sparse_bf16 = matmul_sparse_bf16,
    .matmul_sparse_i8 = matmul_sparse_i8,
    .sparse_i8_rows = SPARSE_I8_ROWS,
    .sparse_i8_percent = SPARSE_I8_PERCENT,
    .halve_i8 = halve_i8,
    .bound_i4 = bound_i4,
    .bound_i4_rows = S2S_I4_ROWS,
    .quantize = quantize,
    .embed_f32 = embed_f32,
    .embed_bf16 = embed_bf16,
    .embed_i8 = embed_i8,
    .layer_norm = layer_norm,
    .rms_norm = rms_norm,
    .gate = gate,
    .soft_cap = soft_cap,
    .attention_scores = attention_scores,
    .attention_scores_bf16 = attention_scores_bf16,
    .attention_context = attention_context,
    .attention_context_bf16 = attention_context_bf16,
    .cache_bf16 = cache_bf16,
    .softmax = softmax,
    .log_sum_exp = log_sum_exp,
    .sum_exp = sum_exp,
    .log_sum_exp_blocks = log_sum_exp_blocks,
    .max = max,
    .maxima = maxima,
    .max_or_nan = max_or_nan,
    .argmax = argmax,
    .find_above = find_above,
    .divide = divide,
    .shift = shift,
};

#endif
