/* Fused row operations of training: layer norm, activation, dropout, embedding, loss, Adam. Forward
 * and backward of one layer stand together; row i of an [N, d] array is one token.
 * All loops are plain C written for the vectorizer (-fopenmp-simd); single-threaded; no state. */
#include "common.h"

#include <malloc.h>

/* Large arrays come from the heap instead of fresh mappings: a training step allocates the same
 * arrays again and again, and page faults would cost more than the arithmetic. */
void memory_keep(void)
{
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 2000000000);
    mallopt(M_TOP_PAD, 64 << 20);
}

/* ---- layer norm: x, y [n,d]; gamma, beta [d]; mean, rstd [n] ---- */

void layer_norm(const float *restrict x, const float *restrict gamma, const float *restrict beta,
                float eps, float *restrict y, float *restrict mean, float *restrict rstd, long n,
                long d)
{
    for (long i = 0; i < n; i++) {
        const float *row = x + i * d;
        float *out = y + i * d, sum = 0, squares = 0;
        SIMD_SUM(sum)
        for (long j = 0; j < d; j++) sum += row[j];
        float mu = sum / d;
        SIMD_SUM(squares)
        for (long j = 0; j < d; j++) squares += (row[j] - mu) * (row[j] - mu);
        float r = 1.0f / sqrtf(squares / d + eps);
        SIMD for (long j = 0; j < d; j++) out[j] = (row[j] - mu) * r * gamma[j] + beta[j];
        mean[i] = mu, rstd[i] = r;
    }
}

/* dgamma, dbeta [d] are overwritten. */
void layer_norm_backward(const float *restrict dy, const float *restrict x,
                         const float *restrict mean, const float *restrict rstd,
                         const float *restrict gamma, float *restrict dx, float *restrict dgamma,
                         float *restrict dbeta, long n, long d)
{
    memset(dgamma, 0, d * sizeof *dgamma);
    memset(dbeta, 0, d * sizeof *dbeta);
    for (long i = 0; i < n; i++) {
        const float *dyr = dy + i * d, *xr = x + i * d;
        float *out = dx + i * d, mu = mean[i], r = rstd[i], sum = 0, dot = 0;
        SIMD_SUM(sum, dot)
        for (long j = 0; j < d; j++) {
            float hat = (xr[j] - mu) * r, dhat = dyr[j] * gamma[j];
            dgamma[j] += dyr[j] * hat;
            dbeta[j] += dyr[j];
            sum += dhat;
            dot += dhat * hat;
        }
        sum /= d, dot /= d;
        SIMD for (long j = 0; j < d; j++)
        {
            float hat = (xr[j] - mu) * r;
            out[j] = (dyr[j] * gamma[j] - sum - hat * dot) * r;
        }
    }
}

/* ---- activation and dropout ---- */

/* Abramowitz and Stegun 7.1.26, absolute error below 2e-7. */
ALWAYS_INLINE float fast_erf(float x)
{
    float a = fabsf(x), t = 1.0f / (1.0f + 0.3275911f * a);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    return copysignf(1.0f - p * t * fast_exp(-a * a), x);
}

enum { RELU = 0, SILU = 1, GELU = 2 };

ALWAYS_INLINE float activate(float x, int kind)
{
    if (kind == RELU) return x > 0 ? x : 0;
    if (kind == SILU) return x / (1.0f + fast_exp(-x));
    return 0.5f * x * (1.0f + fast_erf(x * 0.70710678f));
}

ALWAYS_INLINE float activate_slope(float x, int kind)
{
    if (kind == RELU) return x > 0 ? 1.0f : 0.0f;
    if (kind == SILU) {
        float s = 1.0f / (1.0f + fast_exp(-x));
        return s * (1.0f + x * (1.0f - s));
    }
    return 0.5f * (1.0f + fast_erf(x * 0.70710678f)) + x * 0.39894228f * fast_exp(-0.5f * x * x);
}

/* One loop per (activation, with dropout or not), so that nothing is decided per element. */
#define PER_KIND(BODY)                                                                             \
    dropout mask = dropout_make(p, seed);                                                          \
    if (p > 0) {                                                                                   \
        if (kind == RELU)                                                                          \
            BODY(RELU, dropout_factor(mask, (uint32_t)i))                                          \
        else if (kind == SILU)                                                                     \
            BODY(SILU, dropout_factor(mask, (uint32_t)i))                                          \
        else                                                                                       \
            BODY(GELU, dropout_factor(mask, (uint32_t)i))                                          \
    } else {                                                                                       \
        if (kind == RELU)                                                                          \
            BODY(RELU, 1.0f)                                                                       \
        else if (kind == SILU)                                                                     \
            BODY(SILU, 1.0f)                                                                       \
        else                                                                                       \
            BODY(GELU, 1.0f)                                                                       \
    }

void activation_dropout(const float *restrict x, int kind, double p, uint64_t seed,
                        float *restrict y, long size)
{
#define BODY(K, F) SIMD for (long i = 0; i < size; i++) y[i] = activate(x[i], K) * F;
    PER_KIND(BODY)
#undef BODY
}

void activation_dropout_backward(const float *restrict dy, const float *restrict x, int kind,
                                 double p, uint64_t seed, float *restrict dx, long size)
{
#define BODY(K, F) SIMD for (long i = 0; i < size; i++) dx[i] = dy[i] * activate_slope(x[i], K) * F;
    PER_KIND(BODY)
#undef BODY
}

/* y = dropout(x) + residual; residual may be NULL, then y = dropout(x) (its own backward too). */
void dropout_add(const float *restrict x, const float *restrict residual, double p, uint64_t seed,
                 float *restrict y, long size)
{
    dropout mask = dropout_make(p, seed);
    if (residual && p > 0) {
        SIMD for (long i = 0; i < size; i++) y[i] =
            x[i] * dropout_factor(mask, (uint32_t)i) + residual[i];
    } else if (residual) {
        SIMD for (long i = 0; i < size; i++) y[i] = x[i] + residual[i];
    } else if (p > 0) {
        SIMD for (long i = 0; i < size; i++) y[i] = x[i] * dropout_factor(mask, (uint32_t)i);
    } else {
        memcpy(y, x, size * sizeof *y);
    }
}

/* sum[m] += column sums of x [n,m] with row stride ld. */
void column_sum(const float *restrict x, long ld, float *restrict sum, long n, long m)
{
    for (long i = 0; i < n; i++) SIMD for (long j = 0; j < m; j++) sum[j] += x[i * ld + j];
}

/* ---- embedding: y[i] = dropout(table[ids[i]] * scale + positions[pos[i]]) ---- */

void embedding(const float *restrict table, const int32_t *ids, const float *restrict positions,
               const int32_t *pos, float scale, double p, uint64_t seed, float *restrict y, long n,
               long d)
{
    dropout mask = dropout_make(p, seed);
    for (long i = 0; i < n; i++) {
        const float *row = table + (long)ids[i] * d, *place = positions + (long)pos[i] * d;
        float *out = y + i * d;
        uint32_t index = (uint32_t)(i * d);
        if (p > 0) {
            SIMD for (long j = 0; j < d; j++) out[j] =
                (row[j] * scale + place[j]) * dropout_factor(mask, index + (uint32_t)j);
        } else {
            SIMD for (long j = 0; j < d; j++) out[j] = row[j] * scale + place[j];
        }
    }
}

/* dtable [V,d] accumulates. */
void embedding_backward(const float *restrict dy, const int32_t *ids, float scale, double p,
                        uint64_t seed, float *restrict dtable, long n, long d)
{
    dropout mask = dropout_make(p, seed);
    for (long i = 0; i < n; i++) {
        const float *row = dy + i * d;
        float *out = dtable + (long)ids[i] * d;
        uint32_t index = (uint32_t)(i * d);
        if (p > 0) {
            SIMD for (long j = 0; j < d; j++) out[j] +=
                row[j] * scale * dropout_factor(mask, index + (uint32_t)j);
        } else {
            SIMD for (long j = 0; j < d; j++) out[j] += row[j] * scale;
        }
    }
}

/* ---- loss: (1-eps) * nll + eps * mean over the vocabulary of -log p ----
 * logits [n,v] are overwritten by grad_scale * d loss / d logits. */
void softmax_xent(float *restrict logits, const int32_t *targets, float smoothing, float grad_scale,
                  double *loss_sum, double *nll_sum, long n, long v)
{
    double loss = 0, nll_total = 0;
    float uniform = smoothing / v;
    for (long i = 0; i < n; i++) {
        float *row = logits + i * v, top = -INFINITY, total = 0, sum = 0;
        float at_target = row[targets[i]];
#pragma omp simd reduction(max : top) reduction(+ : total)
        for (long j = 0; j < v; j++) {
            top = row[j] > top ? row[j] : top;
            total += row[j];
        }
        SIMD_SUM(sum)
        for (long j = 0; j < v; j++) {
            row[j] = fast_exp(row[j] - top);
            sum += row[j];
        }
        float inverse = grad_scale / sum, shift = uniform * grad_scale;
        SIMD for (long j = 0; j < v; j++) row[j] = row[j] * inverse - shift;
        row[targets[i]] -= (1.0f - smoothing) * grad_scale;
        double log_sum = (double)top + log((double)sum), nll = log_sum - at_target;
        nll_total += nll;
        loss += (1.0 - smoothing) * nll + smoothing * (log_sum - (double)total / v);
    }
    *loss_sum = loss, *nll_sum = nll_total;
}

/* R-Drop: rows i and n+i of logits [2n,v] are two dropout passes of token i. Per token the loss is
 * (xent_1 + xent_2 + alpha * kl) / 2, kl = (KL(p1||p2) + KL(p2||p1)) / 2. sums: loss, mean nll, kl. */
int softmax_xent_rdrop(float *restrict logits, const int32_t *targets, float smoothing, float alpha,
                       float grad_scale, double *sums, long n, long v)
{
    float *p1 = aligned_alloc(64, (2 * v * sizeof *p1 + 63) & ~(size_t)63), *p2 = p1 + v;
    if (!p1) return -1;
    sums[0] = sums[1] = sums[2] = 0;
    for (long i = 0; i < n; i++) {
        float *x1 = logits + i * v, *x2 = logits + (n + i) * v, total = 0;
        float top1 = -INFINITY, top2 = -INFINITY, sum1 = 0, sum2 = 0, kl12 = 0, kl21 = 0;
        float at1 = x1[targets[i]], at2 = x2[targets[i]];
#pragma omp simd reduction(max : top1, top2) reduction(+ : total)
        for (long j = 0; j < v; j++) {
            top1 = x1[j] > top1 ? x1[j] : top1;
            top2 = x2[j] > top2 ? x2[j] : top2;
            total += x1[j] + x2[j];
        }
        SIMD_SUM(sum1, sum2)
        for (long j = 0; j < v; j++) {
            p1[j] = fast_exp(x1[j] - top1);
            p2[j] = fast_exp(x2[j] - top2);
            sum1 += p1[j];
            sum2 += p2[j];
        }
        double log1 = (double)top1 + log((double)sum1), log2 = (double)top2 + log((double)sum2);
        float inverse1 = 1.0f / sum1, inverse2 = 1.0f / sum2;
        float shift = (float)(log2 - log1); /* log p1 - log p2 = x1 - x2 + shift */
        SIMD_SUM(kl12, kl21)
        for (long j = 0; j < v; j++) {
            float difference = x1[j] - x2[j] + shift;
            p1[j] *= inverse1;
            p2[j] *= inverse2;
            kl12 += p1[j] * difference;
            kl21 -= p2[j] * difference;
        }
        float half = 0.5f * grad_scale, pull = 0.5f * alpha, uniform = smoothing / v;
        SIMD for (long j = 0; j < v; j++)
        {
            float difference = x1[j] - x2[j] + shift, gap = p1[j] - p2[j];
            x1[j] = half * (pull * (p1[j] * (difference - kl12) + gap) + p1[j] - uniform);
            x2[j] = half * (pull * (p2[j] * (-difference - kl21) - gap) + p2[j] - uniform);
        }
        x1[targets[i]] -= half * (1.0f - smoothing);
        x2[targets[i]] -= half * (1.0f - smoothing);
        double nll = log1 - at1 + log2 - at2, kl = 0.5 * ((double)kl12 + kl21);
        double flat = log1 + log2 - (double)total / v;
        sums[0] += 0.5 * ((1.0 - smoothing) * nll + smoothing * flat + alpha * kl);
        sums[1] += 0.5 * nll;
        sums[2] += kl;
    }
    free(p1);
    return 0;
}

/* ---- optimizer ---- */

/* Adam (Kingma and Ba 2015) with decoupled weight decay; step counts from 1. */
void adam(float *restrict param, const float *restrict grad, float *restrict m, float *restrict v,
          double lr, double beta1, double beta2, double eps, double weight_decay, long step,
          double grad_scale, long size)
{
    float rate = (float)(lr / (1.0 - pow(beta1, step))), decay = (float)(lr * weight_decay);
    float correction2 = (float)(1.0 / (1.0 - pow(beta2, step)));
    float keep1 = (float)beta1, keep2 = (float)beta2, new1 = (float)(1 - beta1);
    float new2 = (float)(1 - beta2), scale = (float)grad_scale, tiny = (float)eps;
    SIMD for (long i = 0; i < size; i++)
    {
        float g = grad[i] * scale;
        m[i] = keep1 * m[i] + new1 * g;
        v[i] = keep2 * v[i] + new2 * g * g;
        param[i] -= rate * m[i] / (sqrtf(v[i] * correction2) + tiny) + decay * param[i];
    }
}

double sum_squares(const float *restrict x, long size)
{
    double total = 0;
    for (long i = 0; i < size; i += 1024) {
        long end = i + 1024 < size ? i + 1024 : size;
        float part = 0;
        SIMD_SUM(part)
        for (long j = i; j < end; j++) part += x[j] * x[j];
        total += part;
    }
    return total;
}
