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

/* Two passes: the mean first, so that the squares are of small numbers. */
static void layer_norm(const float *x, const float *weight, const float *bias, int32_t d, float eps,
                       float *y)
{
    if (d <= 0) return;
    S2S_SPLIT(d);
    v16 sum = v16_set1(0.0f), squares = sum;
    for (int32_t i = 0; i < whole; i += S2S_TILE) sum = v16_add(sum, v16_load(x + i));
    if (rest) sum = v16_add(sum, v16_load_n(x + whole, rest));
    const v16 mean = v16_set1(v16_fold_sum(sum) / (float)d);

    for (int32_t i = 0; i < whole; i += S2S_TILE) {
        const v16 centred = v16_sub(v16_load(x + i), mean);
        squares = v16_fma(centred, centred, squares);
    }
    if (rest) {
        const v16 centred = v16_first_n(v16_sub(v16_load_n(x + whole, rest), mean), rest);
        squares = v16_fma(centred, centred, squares);
    }
    const float variance = v16_fold_sum(squares) / (float)d;
    const v16 inverse = v16_set1(1.0f / __builtin_sqrtf(variance + eps));

    for (int32_t i = 0; i < whole; i += S2S_TILE) {
        const v16 normal = v16_mul(v16_sub(v16_load(x + i), mean), inverse);
        v16_store(y + i, v16_fma(normal, v16_load(weight + i), v16_load(bias + i)));
    }
    if (rest) {
        const v16 normal = v16_mul(v16_sub(v16_load_n(x + whole, rest), mean), inverse);
        const v16 w = v16_load_n(weight + whole, rest), b = v16_load_n(bias + whole, rest);
        v16_store_n(y + whole, v16_fma(normal, w, b), rest);
    }
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
