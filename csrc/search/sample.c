/* sample.c: the warpers of sampling and a random generator without state.
 *
 * Random numbers: Philox4x32-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
 * A number is a function of (seed; position, stream, token), so neither the batch, nor the threads,
 * nor the neighbours can change what is drawn. */
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

/* Logits in steps of 1/8 below the best; the last bucket, 32 below, holds all that are lower. */
enum { N_BUCKETS = 256 };

static int bucket_of(float x, float best)
{
    const float distance = (best - x) * 8.0f;
    return distance < (float)(N_BUCKETS - 1) ? (int)distance : N_BUCKETS - 1;
}

/* Moves the tokens with x >= threshold to the front, in rising order of their ids. */
static int32_t keep_from(const s2s_search *s, float *x, float threshold, int32_t *ids)
{
    const float below = threshold == -INFINITY ? threshold : nextafterf(threshold, -INFINITY);
    const int32_t n = s->kernels->find_above(x, s->vocab_size, below, ids, s->vocab_size);
    for (int32_t i = 0; i < n; i++) x[i] = x[ids[i]]; /* i <= ids[i] */
    return n;
}

static void swap(float *x, int32_t *ids, int32_t i, int32_t j)
{
    const float value = x[i];
    const int32_t id = ids[i];
    x[i] = x[j];
    ids[i] = ids[j];
    x[j] = value;
    ids[j] = id;
}

/* Moves the tokens of [begin, n) in buckets [low, high] to its front; returns where they end. */
static int32_t gather_buckets(float *x, int32_t *ids, int32_t begin, int32_t n, float best, int low,
                              int high)
{
    for (int32_t i = begin; i < n; i++) {
        const int b = bucket_of(x[i], best);
        if (b >= low && b <= high) swap(x, ids, i, begin++);
    }
    return begin;
}

/* Keeps the best tokens while the probability before them is below top_p, and n_min of them at
 * least. A flat distribution keeps thousands, so they are not sorted: one pass adds the
 * probabilities up by buckets of logits, and only the bucket where the sum is reached is taken in
 * order. */
static int32_t keep_nucleus(const s2s_search *s, float *x, int32_t *ids, int32_t n, float top_p,
                            int32_t n_min)
{
    const double normalizer = (double)s->kernels->log_sum_exp(x, n);
    const float best = s->kernels->max(x, n);
    double mass[N_BUCKETS] = {0};
    int32_t count[N_BUCKETS] = {0};
    for (int32_t i = 0; i < n; i++) {
        const int b = bucket_of(x[i], best);
        mass[b] += exp((double)x[i] - normalizer);
        count[b]++;
    }
    int last = 0;
    double before = 0.0;  /* probability in better buckets than `last`, */
    int32_t n_before = 0; /* and how many tokens */
    while (last + 1 < N_BUCKETS &&
           (before + mass[last] < (double)top_p || n_before + count[last] < n_min)) {
        before += mass[last];
        n_before += count[last++];
    }
    gather_buckets(x, ids, 0, n, best, 0, last - 1);
    n = gather_buckets(x, ids, n_before, n, best, last, last) - n_before;
    x += n_before;
    ids += n_before;

    for (int32_t i = 0; i < n; i++) { /* the heap's root is then the largest, smallest id first */
        x[i] = -x[i];
        ids[i] = ~ids[i];
    }
    s2s_heap_build(x, ids, n);
    int32_t n_kept = 0;
    while (n_kept < n && (n_before + n_kept < n_min || before < (double)top_p)) {
        before += exp((double)-x[0] - normalizer);
        const int32_t end = n - ++n_kept;
        swap(x, ids, 0, end);
        s2s_heap_sift(x, ids, end, 0);
    }
    for (int32_t i = 0; i < n_kept; i++) { /* they are at the end, worst first */
        if (i < n - 1 - i) swap(x, ids, i, n - 1 - i);
        x[i] = -x[i];
        ids[i] = ~ids[i];
    }
    return n_before + n_kept;
}

/* Keeps the tokens at least min_p times as likely as the best; the n_min best in any case. */
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
    if (o->temperature != 1.0f) s->kernels->divide(x, s->vocab_size, o->temperature);
    float threshold = -INFINITY;
    if (s->n_top > 0) {
        float *values = s->top_logits + (size_t)row * (size_t)s->n_top;
        const int32_t n = s2s_top_k(s->kernels, x, s->vocab_size, s->n_top, values,
                                    s->top_tokens + (size_t)row * (size_t)s->n_top);
        if (n == s->n_top) threshold = values[n - 1];
    }
    int32_t n = keep_from(s, x, threshold, ids);
    if (n > 0 && o->top_p < 1.0f) n = keep_nucleus(s, x, ids, n, o->top_p, s->n_min);
    if (n > 0 && o->min_p > 0.0f) n = keep_likely(s, x, ids, n, o->min_p, s->n_min);
    return n;
}
