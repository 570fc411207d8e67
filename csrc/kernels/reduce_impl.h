/* reduce_impl.h: from many elements to few, maxima, sums of exponentials, where what is looked for lies, over
 * whatever v16 the including file chose.
 */
#ifndef S2S_REDUCE_IMPL_H
#define S2S_REDUCE_IMPL_H

static float max(const float *x, int32_t n)
{
    S2S_SPLIT(n);
    const v16 least = v16_set1(-INFINITY);
    v16 most = least;
    for (int32_t i = 0; i < whole; i += S2S_TILE) most = v16_max(v16_load(x + i), most);
    if (rest) most = v16_max(v16_load_n_or(x + whole, rest, -INFINITY), most);
    return v16_fold_max(most);
}

static float maxima(const float *x, int32_t n, float *to)
{
    enum { CHAINS = S2S_MAXIMA / S2S_TILE };
    v16 most[CHAINS];
    for (int c = 0; c < CHAINS; c++) most[c] = v16_set1(-INFINITY);
    int32_t i = 0;
    for (; i + S2S_MAXIMA <= n; i += S2S_MAXIMA)
        for (int c = 0; c < CHAINS; c++) most[c] = v16_max(v16_load(x + i + c * S2S_TILE), most[c]);
    for (int c = 0; i < n; c++, i += S2S_TILE) {
        const int left = n - i;
        const v16 v = left < S2S_TILE ? v16_load_n_or(x + i, left, -INFINITY) : v16_load(x + i);
        most[c] = v16_max(v, most[c]);
    }
    for (int c = 0; c < CHAINS; c++) v16_store(to + c * S2S_TILE, most[c]);
    for (int c = 1; c < CHAINS; c++) most[0] = v16_max(most[c], most[0]);
    return v16_fold_max(most[0]);
}

static float max_or_nan(const float *x, int32_t n)
{
    S2S_SPLIT(n);
    const v16 zero = v16_set1(0.0f), one = v16_set1(1.0f), least = v16_set1(-INFINITY);
    v16 most = least, n_numbers = zero; /* counts in the lanes: exact up to 2^24 */
    for (int32_t i = 0; i < whole; i += S2S_TILE) {
        const v16 v = v16_load(x + i);
        most = v16_max(v, most);
        n_numbers = v16_add(n_numbers, v16_select(v16_eq(v, v), one, zero));
    }
    if (rest) {
        float tail[S2S_TILE];
        v16_store(tail, least);
        memcpy(tail, x + whole, (size_t)rest * sizeof *x);
        const v16 v = v16_load(tail);
        most = v16_max(v, most);
        n_numbers = v16_add(n_numbers, v16_select(v16_eq(v, v), one, zero));
    }
    const int32_t n_lanes = whole + (rest ? S2S_TILE : 0);
    return v16_fold_sum(n_numbers) == (float)n_lanes ? v16_fold_max(most) : NAN;
}

/* What exponentials are taken relative to: inf - inf would be a NaN. */
S2S_INLINE float finite_or_zero(float most)
{
    return most == INFINITY || most == -INFINITY ? 0.0f : most;
}

/* e^x of -86 <= x <= 0, below that e^-86; within 10^-7, and e^0 = 1.  For sums of many, cheaper than v16_exp:
 * of 2^n 2^r = 2^(x log2 e) neither factor needs care, as r's error is that of x log2 e, which weighs the
 * less the smaller e^x is.  Gives sum + e^x, rounded once. */
S2S_INLINE_EXP v16 v16_add_exp(v16 sum, v16 x)
{
    const v16 log2e = v16_set1(0x1.715476p+0f);
    const v16 round = v16_set1(0x1.8p23f + 127.0f); /* added, it leaves n + 127 in the low bits */
    x = v16_max(v16_set1(-86.0f), x);
    const v16 shifted = v16_fma(x, log2e, round);
    const v16 r = v16_fma(x, log2e, v16_sub(round, shifted));
    v16 p = v16_set1(0x1.5bb96cp-10f);
    p = v16_fma(p, r, v16_set1(0x1.3ceb9ap-7f));
    p = v16_fma(p, r, v16_set1(0x1.c6b7b8p-5f));
    p = v16_fma(p, r, v16_set1(0x1.ebf9bap-3f));
    p = v16_fma(p, r, v16_set1(0x1.62e428p-1f));
    p = v16_fma(p, r, v16_set1(1.0f));
    return v16_fma(p, v16_exponent(shifted), sum);
}

static float sum_exp(const float *x, int32_t n, float most)
{
    if (!(most < INFINITY && most > -INFINITY)) { /* nothing to be relative to */
        const float extreme = max_or_nan(x, n);
        return extreme == -INFINITY ? 0.0f : extreme;
    }
    S2S_SPLIT(n);
    const v16 by = v16_set1(most);
    v16 sum = v16_set1(0.0f);
    for (int32_t i = 0; i < whole; i += S2S_TILE)
        sum = v16_add_exp(sum, v16_sub(v16_load(x + i), by));
    if (rest) {
        const v16 last = v16_add_exp(sum, v16_sub(v16_load_n(x + whole, rest), by));
        float lanes[S2S_TILE];
        v16_store(lanes, sum);
        v16_store_n(lanes, last, rest);
        sum = v16_load(lanes);
    }
    return v16_fold_sum(sum);
}

/* total + the sums of 16 blocks at most, made relative to `most`, in rising order. */
static double add_blocks(double total, const float *maxima, const float *sums, int32_t n,
                         float most)
{
    float factors[S2S_TILE];
    v16_store(factors, v16_exp(v16_sub(v16_load_n(maxima, n), v16_set1(most))));
    for (int32_t i = 0; i < n; i++) total += (double)sums[i] * (double)factors[i];
    return total;
}

static float log_sum_exp_blocks(const float *maxima, const float *sums, int32_t n_blocks)
{
    const float most = finite_or_zero(max(maxima, n_blocks));
    double total = 0.0;
    for (int32_t i = 0; i < n_blocks; i += S2S_TILE) {
        const int32_t n = n_blocks - i < S2S_TILE ? n_blocks - i : S2S_TILE;
        total = add_blocks(total, maxima + i, sums + i, n, most);
    }
    return (float)((double)most + s2s_log((float)total));
}

static float log_sum_exp(const float *x, int32_t n)
{
    const float most = finite_or_zero(max(x, n));
    double total = 0.0;
    while (n > 0) {
        float maxima[S2S_TILE], sums[S2S_TILE];
        int32_t n_blocks = 0;
        for (; n > 0 && n_blocks < S2S_TILE;
             n_blocks++, x += S2S_LOGITS_BLOCK, n -= S2S_LOGITS_BLOCK) {
            const int32_t n_here = n < S2S_LOGITS_BLOCK ? n : S2S_LOGITS_BLOCK;
            maxima[n_blocks] = max(x, n_here);
            sums[n_blocks] = sum_exp(x, n_here, maxima[n_blocks]);
        }
        total = add_blocks(total, maxima, sums, n_blocks, most);
    }
    return (float)((double)most + s2s_log((float)total));
}

/* The largest value first, then its first place. */
static int32_t argmax(const float *x, int32_t n)
{
    S2S_SPLIT(n);
    const v16 most = v16_set1(max(x, n));
    for (int32_t i = 0; i < whole; i += S2S_TILE) {
        const unsigned bits = v16_mask_bits(v16_eq(v16_load(x + i), most));
        if (bits != 0) return i + __builtin_ctz(bits);
    }
    if (rest) {
        unsigned bits = v16_mask_bits(v16_eq(v16_load_n(x + whole, rest), most));
        bits &= (1u << rest) - 1u;
        if (bits != 0) return whole + __builtin_ctz(bits);
    }
    return 0; /* nothing but NaN */
}

static int32_t find_above(const float *x, int32_t n, float threshold, int32_t *indices,
                          int32_t capacity)
{
    const v16 limit = v16_set1(threshold);
    int32_t n_found = 0;
    for (int32_t i = 0; i < n; i += S2S_TILE) {
        const int left = n - i;
        const v16 v = left >= S2S_TILE ? v16_load(x + i) : v16_load_n(x + i, left);
        unsigned bits = v16_mask_bits(v16_gt(v, limit));
        if (left < S2S_TILE) bits &= (1u << left) - 1u;
        for (; bits != 0; bits &= bits - 1, n_found++)
            if (n_found < capacity) indices[n_found] = i + __builtin_ctz(bits);
    }
    return n_found;
}

#endif
