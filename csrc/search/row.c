/* row.c: from a whole row of logits to its candidates, where blocks are not enough: sampling, which
 * draws from all that the warpers leave, and beam search with renormalize_logits.  As in scan.c, greedy
 * search and sampling process logits and then normalise; beam search normalises and processes
 * log-probabilities. */
#include <float.h>
#include <math.h>

#include "../base/numbers.h"
#include "internal.h"

s2s_candidates s2s_search_candidates(s2s_search *s, int32_t row)
{
    const size_t slice = (size_t)row * (size_t)s->n_candidates;
    return (s2s_candidates){s->candidate_tokens + slice, s->candidate_logprobs + slice,
                            s->candidate_keys + slice};
}

int32_t s2s_search_n_candidates(const s2s_search *s, int32_t row)
{
    const s2s_options *o = &s->options;
    if (o->num_beams == 1 || o->do_sample) return s->n_candidates;
    /* Of one row at most num_beams candidates go on and at most num_beams end.  Before those that go on
     * come at most as many that end as there are tokens that can end it. */
    const int32_t n = o->num_beams + o->n_eos_token_ids + s->rows[row].n_loops;
    return s2s_min(n, s->n_candidates);
}

/* log sum exp of x [vocab_size], after replacing any NaN by -inf (which breaks the search) and any
 * +inf by FLT_MAX. */
static float normalizer_of(s2s_search *s, float *x)
{
    const float sum = s->kernels->log_sum_exp(x, s->vocab_size);
    if (isfinite(sum) || sum == -INFINITY) return sum;
    s2s_logits_clean(s, x, s->vocab_size);
    return s->kernels->log_sum_exp(x, s->vocab_size);
}

/* Records the best of x [n], with log-probabilities x + shift; ids names them unless it is NULL. */
static void record_alternatives(s2s_search *s, int32_t row, const float *x, int32_t n, float shift,
                                const int32_t *ids)
{
    const int32_t k = s->options.n_alternatives;
    if (k == 0) return;
    const size_t slice = s2s_search_record(s, row) * (size_t)k;
    int32_t *found = s->alternative_ids + slice;
    float *logprobs = s->alternative_logprobs + slice;
    const int32_t n_found = s2s_top_k(s->kernels, x, n, k, logprobs, found);
    for (int32_t i = 0; i < k; i++) {
        logprobs[i] = i < n_found ? logprobs[i] + shift : -INFINITY;
        found[i] = i >= n_found ? -1 : ids != NULL ? ids[found[i]] : found[i];
    }
}

/* Makes log-probabilities of logits; all -inf remain so. */
static void normalize(s2s_search *s, float *x)
{
    const float normalizer = normalizer_of(s, x);
    if (normalizer > -INFINITY) s->kernels->shift(x, s->vocab_size, -normalizer);
}

/* Several tokens are forced. */
static int32_t find_greedy(s2s_search *s, int32_t row, float *x, s2s_candidates to)
{
    s2s_edits_apply(s, row, x);
    const float normalizer = normalizer_of(s, x);
    record_alternatives(s, row, x, s->vocab_size, -normalizer, NULL);
    if (normalizer == -INFINITY) return 0;
    to.tokens[0] = s->kernels->argmax(x, s->vocab_size);
    to.logprobs[0] = x[to.tokens[0]] - normalizer;
    return 1;
}

static int32_t find_sampled(s2s_search *s, int32_t row, float *x, s2s_candidates to)
{
    int32_t *ids = s->survivors + (size_t)row * (size_t)s->vocab_size;
    s2s_edits_apply(s, row, x);
    int32_t n = 0;
    if (normalizer_of(s, x) > -INFINITY) {
        /* with the best at 0 no temperature can overflow or lose it */
        s->kernels->shift(x, s->vocab_size, -s->kernels->max(x, s->vocab_size));
        n = s2s_sample_warp(s, row, x, ids);
        s->kernels->shift(x, n, -s->kernels->log_sum_exp(x, n));
    }
    record_alternatives(s, row, x, n, 0.0f, ids);
    if (n == 0) return 0;
    s->kernels->softmax(x, n);
    const int first = s->position + 1 == s->n_prefix; /* draws for all rows to come */
    for (int32_t i = 0; i < (first ? s->n_rows : 1); i++) {
        const int32_t stream = first ? i : s->rows[row].stream;
        const double uniform = s2s_sample_uniform(s->options.seed, s->position, stream, 0);
        const int32_t drawn = s2s_sample_draw(x, n, uniform);
        to.tokens[i] = ids[drawn];
        to.logprobs[i] = (float)log(x[drawn]);
    }
    return first ? s->n_rows : 1;
}

static int32_t find_for_beams(s2s_search *s, int32_t row, float *x, s2s_candidates to)
{
    normalize(s, x);
    s2s_edits_apply(s, row, x);
    if (s->options.renormalize_logits) normalize(s, x);
    record_alternatives(s, row, x, s->vocab_size, 0.0f, NULL);
    return s2s_top_k(s->kernels, x, s->vocab_size, s2s_search_n_candidates(s, row), to.logprobs,
                     to.tokens);
}

/* Gumbel noise turns the best candidates into candidates drawn without replacement: Kool, van Hoof,
 * Welling 2019, "Stochastic beams and where to find them". */
static int32_t find_sampled_for_beams(s2s_search *s, int32_t row, float *x, s2s_candidates to)
{
    const s2s_options *o = &s->options;
    int32_t *ids = s->survivors + (size_t)row * (size_t)s->vocab_size;
    normalize(s, x);
    s2s_edits_apply(s, row, x);
    const int32_t n = s2s_sample_warp(s, row, x, ids);
    if (o->renormalize_logits && n > 0) s->kernels->shift(x, n, -s->kernels->log_sum_exp(x, n));
    record_alternatives(s, row, x, n, 0.0f, ids);
    int32_t n_kept = 0;
    for (int32_t i = 0; i < n; i++)
        s2s_heap_offer(to.keys, to.tokens, &n_kept, s->n_candidates,
                       x[i] + s2s_sample_gumbel(o->seed, s->position, row, ids[i]), i);
    s2s_heap_sort(to.keys, to.tokens, n_kept);
    for (int32_t i = 0; i < n_kept; i++) {
        to.logprobs[i] = x[to.tokens[i]];
        to.tokens[i] = ids[to.tokens[i]];
    }
    return n_kept;
}

void s2s_search_whole_row(s2s_search *s, int32_t row, float *logits)
{
    const s2s_candidates to = s2s_search_candidates(s, row);
    const int is_beam = s->options.num_beams > 1, is_sampled = s->options.do_sample;
    s->n_found[row] = is_beam && !is_sampled ? find_for_beams(s, row, logits, to)
                      : is_beam              ? find_sampled_for_beams(s, row, logits, to)
                      : is_sampled           ? find_sampled(s, row, logits, to)
                                             : find_greedy(s, row, logits, to);
}
