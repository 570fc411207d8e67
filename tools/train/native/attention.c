/* Attention over packed sequences, forward and backward: row i of an [N, d] array is one token, and
 * offsets [n_seq + 1] say where each sequence begins, so there is no padding to compute. Loops are
 * plain C written for the vectorizer; single-threaded; no state.
 *
 * q [Nq, n_heads*dh], k, v [Nk, n_heads*dh] with row strides ld*; ctx [Nq, n_heads*dh].
 * probs: before dropout, flat, per sequence [n_heads, Lq, Lk]; dropout index = flat index in it. */
#include "common.h"

typedef struct {
    const float *q, *k, *v;
    const int32_t *q_offsets, *k_offsets;
    long ldq, ldk, ldv, n_seq, n_heads, dh;
    int causal;
    double p;
    uint64_t seed;
} attention_args;

#define PAD 16 /* rows of scores are padded to whole vectors */
ALWAYS_INLINE long padded(long n)
{
    return (n + PAD - 1) / PAD * PAD;
}

static long longest(const int32_t *offsets, long n_seq)
{
    long longest = 0;
    for (long s = 0; s < n_seq; s++)
        if (offsets[s + 1] - offsets[s] > longest) longest = offsets[s + 1] - offsets[s];
    return longest;
}

/* t [dh, stride] = rows [n, dh]^T, columns n..stride zero. */
ALWAYS_INLINE void transpose_head(const float *rows, long ld, long n, long dh, float *t,
                                  long stride)
{
    for (long c = 0; c < dh; c++) {
        for (long j = 0; j < n; j++) t[c * stride + j] = rows[j * ld + c];
        for (long j = n; j < stride; j++) t[c * stride + j] = 0;
    }
}

/* One vector of PAD floats at any address. */
typedef float lanes __attribute__((vector_size(PAD * sizeof(float))));

ALWAYS_INLINE lanes load(const float *p)
{
    lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}

ALWAYS_INLINE void store(float *p, lanes v)
{
    memcpy(p, &v, sizeof v);
}

/* out[0..stride) = scale * row[dh] . t[dh, stride]; four sums hide the latency of the adds. */
ALWAYS_INLINE void row_times_matrix(const float *restrict row, const float *restrict t, long dh,
                                    long stride, float scale, float *restrict out)
{
    for (long j = 0; j < stride; j += PAD) {
        lanes a = {0}, b = {0}, c = {0}, d = {0};
        long i = 0;
        for (; i + 4 <= dh; i += 4) {
            a += row[i] * load(t + i * stride + j);
            b += row[i + 1] * load(t + (i + 1) * stride + j);
            c += row[i + 2] * load(t + (i + 2) * stride + j);
            d += row[i + 3] * load(t + (i + 3) * stride + j);
        }
        for (; i < dh; i++) a += row[i] * load(t + i * stride + j);
        store(out + j, (a + b + (c + d)) * scale);
    }
}

ALWAYS_INLINE void add_scaled(float *restrict y, float a, const float *restrict x, long n)
{
    long i = 0;
    for (; i + PAD <= n; i += PAD) store(y + i, load(y + i) + a * load(x + i));
    for (; i < n; i++) y[i] += a * x[i];
}

/* out[dh] = sum over j < n of weights[j] * rows[j, dh]; sums stay in registers. */
ALWAYS_INLINE void weighted_sum(const float *weights, const float *rows, long ld, long n, long dh,
                                float *restrict out)
{
    long c = 0;
    for (; c + 2 * PAD <= dh; c += 2 * PAD) {
        lanes a = {0}, b = {0};
        for (long j = 0; j < n; j++) {
            a += weights[j] * load(rows + j * ld + c);
            b += weights[j] * load(rows + j * ld + c + PAD);
        }
        store(out + c, a);
        store(out + c + PAD, b);
    }
    for (; c < dh; c++) {
        float acc = 0;
        for (long j = 0; j < n; j++) acc += weights[j] * rows[j * ld + c];
        out[c] = acc;
    }
}

/* Blocks of PAD scores: constant trip counts, so that each becomes one vector. */

/* Scores from n_seen on become -infinity (probability 0); returns the maximum. */
ALWAYS_INLINE float block_hide_and_max(float *restrict row, int n_seen)
{
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int l = 0; l < PAD; l++) {
        row[l] = l < n_seen ? row[l] : -INFINITY;
        top = row[l] > top ? row[l] : top;
    }
    return top;
}

ALWAYS_INLINE float block_exp_and_sum(float *restrict row, float top)
{
    float sum = 0;
    SIMD_SUM(sum)
    for (int l = 0; l < PAD; l++) {
        row[l] = row[l] > -INFINITY ? fast_exp(row[l] - top) : 0;
        sum += row[l];
    }
    return sum;
}

/* row *= inverse, the first n_keys go to saved, then dropout on row. */
ALWAYS_INLINE void block_normalize(float *restrict row, float inverse, float *restrict saved,
                                   int n_keys, int dropping, dropout mask, uint32_t index)
{
    SIMD for (int l = 0; l < PAD; l++) row[l] *= inverse;
    if (n_keys >= PAD)
        memcpy(saved, row, PAD * sizeof *saved);
    else
        for (int l = 0; l < n_keys; l++) saved[l] = row[l];
    if (dropping)
        SIMD for (int l = 0; l < PAD; l++) row[l] *= dropout_factor(mask, index + (uint32_t)l);
}

/* row = prob, dropped = dropout(prob), dp = its gradient; returns dp . prob. */
ALWAYS_INLINE float block_dropout_backward(const float *restrict prob, int n_keys, int dropping,
                                           dropout mask, uint32_t index, float *restrict row,
                                           float *restrict dropped, float *restrict dp)
{
    float dot = 0;
    for (int l = 0; l < PAD; l++) row[l] = l < n_keys ? prob[l] : 0;
    SIMD for (int l = 0; l < PAD; l++)
    {
        float keep = dropping ? dropout_factor(mask, index + (uint32_t)l) : 1.0f;
        dropped[l] = row[l] * keep;
        dp[l] *= keep;
    }
    SIMD_SUM(dot)
    for (int l = 0; l < PAD; l++) dot += dp[l] * row[l];
    return dot;
}

ALWAYS_INLINE void block_softmax_backward(const float *restrict row, float dot, float scale,
                                          float *restrict dp)
{
    SIMD for (int l = 0; l < PAD; l++) dp[l] = row[l] * (dp[l] - dot) * scale;
}

ALWAYS_INLINE int attention_of(const attention_args *a, float *ctx, long ldc, float *probs, long dh)
{
    long widest = padded(longest(a->k_offsets, a->n_seq));
    float scale = 1.0f / sqrtf((float)dh);
    float *work = aligned_alloc(64, (dh + 1) * widest * sizeof *work + 64);
    if (!work) return -1;
    float *kt = work, *row = work + dh * widest;
    dropout mask = dropout_make(a->p, a->seed);
    int dropping = a->p > 0;
    uint32_t index = 0;
    for (long s = 0; s < a->n_seq; s++) {
        long q0 = a->q_offsets[s], lq = a->q_offsets[s + 1] - q0;
        long k0 = a->k_offsets[s], lk = a->k_offsets[s + 1] - k0, stride = padded(lk);
        for (long h = 0; h < a->n_heads; h++) {
            const float *v = a->v + k0 * a->ldv + h * dh;
            transpose_head(a->k + k0 * a->ldk + h * dh, a->ldk, lk, dh, kt, stride);
            for (long i = 0; i < lq; i++, index += lk) {
                long seen = a->causal && i + 1 < lk ? i + 1 : lk;
                float *out = ctx + (q0 + i) * ldc + h * dh, *saved = probs + index;
                row_times_matrix(a->q + (q0 + i) * a->ldq + h * dh, kt, dh, stride, scale, row);
                float top = -INFINITY, sum = 0;
                for (long j = 0; j < stride; j += PAD)
                    top = fmaxf(top, block_hide_and_max(row + j, (int)(seen - j)));
                for (long j = 0; j < stride; j += PAD) sum += block_exp_and_sum(row + j, top);
                float inverse = 1.0f / sum;
                for (long j = 0; j < stride; j += PAD)
                    block_normalize(row + j, inverse, saved + j, (int)(lk - j), dropping, mask,
                                    index + (uint32_t)j);
                weighted_sum(row, v, a->ldv, seen, dh, out);
            }
        }
    }
    free(work);
    return 0;
}

/* dq, dk, dv have row strides lddq, lddk, lddv and are overwritten. */
ALWAYS_INLINE int attention_backward_of(const attention_args *a, const float *dctx, long lddc,
                                        const float *probs, float *dq, long lddq, float *dk,
                                        long lddk, float *dv, long lddv, long dh)
{
    long widest = padded(longest(a->k_offsets, a->n_seq));
    float scale = 1.0f / sqrtf((float)dh);
    float *work = aligned_alloc(64, (dh + 3) * widest * sizeof *work + 64);
    if (!work) return -1;
    float *vt = work, *dp = work + dh * widest, *row = dp + widest, *dropped = row + widest;
    dropout mask = dropout_make(a->p, a->seed);
    int dropping = a->p > 0;
    uint32_t index = 0;
    for (long s = 0; s < a->n_seq; s++) {
        long q0 = a->q_offsets[s], lq = a->q_offsets[s + 1] - q0;
        long k0 = a->k_offsets[s], lk = a->k_offsets[s + 1] - k0, stride = padded(lk);
        for (long h = 0; h < a->n_heads; h++) {
            const float *k = a->k + k0 * a->ldk + h * dh;
            float *dk_head = dk + k0 * lddk + h * dh, *dv_head = dv + k0 * lddv + h * dh;
            transpose_head(a->v + k0 * a->ldv + h * dh, a->ldv, lk, dh, vt, stride);
            for (long j = 0; j < lk; j++) {
                memset(dk_head + j * lddk, 0, dh * sizeof *dk);
                memset(dv_head + j * lddv, 0, dh * sizeof *dv);
            }
            for (long i = 0; i < lq; i++, index += lk) {
                long seen = a->causal && i + 1 < lk ? i + 1 : lk;
                const float *d_out = dctx + (q0 + i) * lddc + h * dh, *prob = probs + index;
                const float *query = a->q + (q0 + i) * a->ldq + h * dh;
                float *d_query = dq + (q0 + i) * lddq + h * dh, dot = 0;
                row_times_matrix(d_out, vt, dh, stride, 1.0f, dp);
                for (long j = 0; j < stride; j += PAD)
                    dot +=
                        block_dropout_backward(prob + j, (int)(lk - j), dropping, mask,
                                               index + (uint32_t)j, row + j, dropped + j, dp + j);
                for (long j = 0; j < stride; j += PAD)
                    block_softmax_backward(row + j, dot, scale, dp + j);
                weighted_sum(dp, k, a->ldk, seen, dh, d_query);
                for (long j = 0; j < seen; j++) {
                    add_scaled(dv_head + j * lddv, dropped[j], d_out, dh);
                    add_scaled(dk_head + j * lddk, dp[j], query, dh);
                }
            }
        }
    }
    free(work);
    return 0;
}

/* The usual head sizes are compiled with a constant, which unrolls the inner loops. */
int attention(const attention_args *a, float *ctx, long ldc, float *probs)
{
    return a->dh == 32   ? attention_of(a, ctx, ldc, probs, 32)
           : a->dh == 64 ? attention_of(a, ctx, ldc, probs, 64)
                         : attention_of(a, ctx, ldc, probs, a->dh);
}

int attention_backward(const attention_args *a, const float *dctx, long lddc, const float *probs,
                       float *dq, long lddq, float *dk, long lddk, float *dv, long lddv)
{
#define OF(DH) attention_backward_of(a, dctx, lddc, probs, dq, lddq, dk, lddk, dv, lddv, DH)
    return a->dh == 32 ? OF(32) : a->dh == 64 ? OF(64) : OF(a->dh);
#undef OF
}
