/* sample.c: the warpers of sampling and a random generator without state.
 *
 * Random numbers: Philox4x32-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".  A number
 * is a function of (seed; position, stream, token), so neither the batch, nor the threads, nor the
 * neighbours can change what is drawn. */
#include <math.h>
#include <string.h>

#include "internal.h"

/* 53 random bits of block `counter` under `key`. */
static uint64_t philox(uint64_t key, const uint32_t counter[4])
{
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
    uint32_t k[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * c[0];
        const uint64_t b = (uint64_t)0xCD9E8D57u * c[2];
        const uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k[0], (uint32_t)b,
                                  (uint32_t)(a >> 32) ^ c[3] ^ k[1], (uint32_t)a};
        memcpy(c, next, sizeof c);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    return ((uint64_t)c[1] << 32 | c[0]) >> 11;
}

double s2s_sample_uniform(uint64_t seed, int32_t position, int32_t stream, int32_t token)
{
    const uint32_t counter[4] = {(uint32_t)position, (uint32_t)stream, (uint32_t)token, 0};
    return (double)philox(seed, counter) * 0x1p-53;
}

int32_t s2s_sample_draw(const float *p, int32_t n, double uniform)
{
    double total = 0.0, sum = 0.0;
    for (int32_t i = 0; i < n; i++) total += (double)p[i];
    const double target = uniform * total;
    int32_t last =
        0; /* what rounding leaves over falls to the last token that can be drawn at all */
    for (int32_t i = 0; i < n; i++) {
        if (p[i] > 0.0f) last = i;
        sum += (double)p[i];
        if (sum > target) return i;
    }
    return last;
}

float s2s_sample_gumbel(uint64_t seed, int32_t position, int32_t row, int32_t token)
{
    /* half a unit away from 0, so that both logarithms are finite */
    const double u = s2s_sample_uniform(seed, position, row, token) + 0x1p-54;
    return (float)-log(-log(u));
}

/* Moves the tokens with x >= threshold to the front, in rising order of index; ids[i] is the index. */
static int32_t keep_from(const s2s_search *s, float *x, float threshold, int32_t *ids)
{
    const float below = threshold == -INFINITY ? threshold : nextafterf(threshold, -INFINITY);
    const int32_t n = s->kernels->find_above(x, s->vocab_size, below, ids, s->vocab_size);
    for (int32_t i = 0; i < n; i++) x[i] = x[ids[i]]; /* i <= ids[i] */
    return n;
}

/* Keeps the best tokens, best first, while the probability before them is below top_p, at least n_min. */
static int32_t keep_nucleus(const s2s_search *s, float *x, int32_t *ids, int32_t n, float top_p,
                            int32_t n_min)
{
    const float normalizer = s->kernels->log_sum_exp(x, n);
    for (int32_t i = 0; i < n; i++) { /* the heap's root is then the largest, smallest id first */
        x[i] = -x[i];
        ids[i] = ~ids[i];
    }
    s2s_heap_build(x, ids, n);
    double before = 0.0;
    int32_t n_kept = 0;
    while (n_kept < n && (n_kept < n_min || before < (double)top_p)) {
        const float best = x[0];
        const int32_t id = ids[0];
        const int32_t end = n - 1 - n_kept;
        before += exp((double)-best - (double)normalizer);
        x[0] = x[end];
        ids[0] = ids[end];
        s2s_heap_sift(x, ids, end, 0);
        x[end] = best;
        ids[end] = id;
        n_kept++;
    }
    for (int32_t i = 0, j = n - 1; i < j; i++, j--) { /* the kept ones are at the end, worst first */
        const float value = x[i];
        const int32_t id = ids[i];
        x[i] = x[j];
        ids[i] = ids[j];
        x[j] = value;
        ids[j] = id;
    }
    for (int32_t i = 0; i < n_kept; i++) {
        x[i] = -x[i];
        ids[i] = ~ids[i];
    }
    return n_kept;
}

/* Keeps the tokens whose probability is at least min_p times the largest; the n_min best in any case. */
static int32_t keep_likely(const s2s_search *s, float *x, int32_t *ids, int32_t n, float min_p,
                           int32_t n_min)
{
    const float threshold = s->kernels->max(x, n) + logf(min_p);
    int32_t n_kept = 0;
    for (int32_t i = 0; i < n; i++) n_kept += x[i] >= threshold;
    if (n_kept < n_min) return keep_nucleus(s, x, ids, n, 0.0f, n_min);
    n_kept = 0;
    for (int32_t i = 0; i < n; i++) {
        if (x[i] < threshold) continue;
        x[n_kept] = x[i];
        ids[n_kept++] = ids[i];
    }
    return n_kept;
}

int32_t s2s_sample_warp(const s2s_search *s, int32_t row, float *x, int32_t *ids)
{
    const s2s_options *o = &s->options;
    /* beams need one continuation beside every end token */
    const int32_t n_eos = o->n_eos_token_ids;
    const int32_t n_min = o->num_beams == 1 ? 1 : n_eos > 0 ? n_eos + 1 : 2;

    if (o->temperature != 1.0f) s->kernels->divide(x, s->vocab_size, o->temperature);
    float threshold = -INFINITY;
    if (s->n_top > 0) {
        float *values = s->top_logits + (size_t)row * (size_t)s->n_top;
        const int32_t n = s2s_top_k(s->kernels, x, s->vocab_size, s->n_top, values,
                                    s->top_tokens + (size_t)row * (size_t)s->n_top);
        if (n == s->n_top) threshold = values[n - 1];
    }
    int32_t n = keep_from(s, x, threshold, ids);
    if (n > 0 && o->top_p < 1.0f) n = keep_nucleus(s, x, ids, n, o->top_p, n_min);
    if (n > 0 && o->min_p > 0.0f) n = keep_likely(s, x, ids, n, o->min_p, n_min);
    return n;
}
