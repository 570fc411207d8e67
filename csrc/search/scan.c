/* scan.c: from the logits of one row to its candidates, while the logits come block by block and are
 * never all there.  Greedy search processes logits and then normalises.  Beam search normalises and
 * processes log-probabilities; these are in the order of the logits, but for the tokens of the
 * repetition penalty, which needs the log-probability: such logits are set aside until the normalizer
 * is known, and compete then.
 *
 * Each block leaves its largest logit and its sum of exponentials; each worker keeps the n_best best
 * logits that it has seen of a row.  Which worker sees which block changes nothing: the best of all are
 * among the best of each, in one order, larger logit first and of equals the smaller id. */
#include <float.h>
#include <math.h>

#include "../base/numbers.h"
#include "internal.h"

/* The heap of a worker, or (worker n_workers) what was penalized. */
typedef struct s2s_best {
    float *values;
    int32_t *ids;
    int32_t *n;
} s2s_best;

static s2s_best best_of(const s2s_search *s, int32_t row, int32_t worker)
{
    const size_t at = (size_t)worker * (size_t)s->n_scans + (size_t)row;
    return (s2s_best){s->best_values + at * (size_t)s->n_best, s->best_ids + at * (size_t)s->n_best,
                      s->n_best_found + at};
}

/* Log-probabilities are wanted, or needed to choose. */
static int is_scored(const s2s_search *s, int32_t row)
{
    const s2s_options *o = &s->options;
    return o->return_scores || o->n_alternatives > 0 ||
           (o->num_beams > 1 && !s2s_search_is_forced(s, row));
}

/* How many of a row's best are kept at this step. */
static int32_t n_best_now(const s2s_search *s, int32_t row)
{
    const int32_t n_alternatives = s->options.n_alternatives;
    if (s2s_search_is_forced(s, row)) return n_alternatives;
    return s2s_min(s2s_max(s2s_search_n_candidates(s, row), n_alternatives), s->n_best);
}

static int chooses_beams(const s2s_search *s, int32_t row)
{
    return s->options.num_beams > 1 && !s2s_search_is_forced(s, row);
}

/* Only the arg-max is looked at, and no logit is changed before but to -inf. */
static int needs_best(const s2s_options *o)
{
    return o->num_beams == 1 && !o->do_sample && !o->return_scores && o->n_alternatives == 0 &&
           o->repetition_penalty == 1.0f;
}

int s2s_search_needs_best(const s2s_request *request)
{
    return request->options.max_new_tokens > 0 && needs_best(&request->options);
}

s2s_logits_need s2s_search_scan_begin(s2s_search *s, int32_t row)
{
    const s2s_options *o = &s->options;
    const int is_forced = s2s_search_is_forced(s, row);
    if (is_forced && !s2s_search_is_scored(s, s2s_search_position(s, row) + 1))
        return S2S_LOGITS_NONE;
    for (int32_t w = 0; w <= s->n_workers; w++) *best_of(s, row, w).n = 0;
    if (is_forced) return S2S_LOGITS_BLOCKS;
    s2s_edits_find(s, row);
    int32_t n_forced;
    s2s_edits_forced(s, &n_forced);
    if (o->do_sample || n_forced > 1 || (o->num_beams > 1 && o->renormalize_logits))
        return S2S_LOGITS_ROW;
    if (n_forced == 1) return S2S_LOGITS_NONE;
    return needs_best(o) ? S2S_LOGITS_BEST : S2S_LOGITS_BLOCKS;
}

void s2s_search_rule_out(const s2s_search *s, int32_t row, int32_t block, float *x)
{
    if (s2s_edits_touch(&s->edits[row], block)) s2s_edits_take(&s->edits[row], block, x);
}

void s2s_logits_clean(s2s_search *s, float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        if (isnan(x[i])) {
            atomic_store_explicit(&s->is_broken, 1, memory_order_relaxed);
            x[i] = -INFINITY;
        }
        if (x[i] > FLT_MAX) x[i] = FLT_MAX;
    }
}

/* Cleans x [n] unless `sign`, which is made of all of it, is finite; returns whether it had to. */
static int clean_block(s2s_search *s, float *x, int32_t n, float sign)
{
    if (sign < INFINITY) return 0;
    s2s_logits_clean(s, x, n);
    return 1;
}

enum { SCAN = S2S_LOGITS_BLOCK };

/* The k-th largest of a block's maxima, or -inf where there are not as many: k of its logits reach it. */
static float reached_by(const float *maxima, int32_t k)
{
    float best[S2S_MAXIMA]; /* falling */
    if (k > S2S_MAXIMA) return -INFINITY;
    for (int32_t i = 0; i < k; i++) best[i] = -INFINITY;
    for (int32_t j = 0; j < S2S_MAXIMA; j++) {
        if (!(maxima[j] > best[k - 1])) continue;
        int32_t i = k - 1;
        for (; i > 0 && best[i - 1] < maxima[j]; i--) best[i] = best[i - 1];
        best[i] = maxima[j];
    }
    return best[k - 1];
}

/* Offers the block x [n], of ids from `first`, to the heap of the n_best best.  maxima: as the kernel of
 * that name gives them, not read where n_best is 1; most: the largest. */
static void keep_best(const s2s_search *s, s2s_best best, int32_t n_best, const float *x, int32_t n,
                      int32_t first, const float *maxima, float most)
{
    if (n_best == 0) return;
    /* what equals the worst that is kept may have a smaller id: blocks come in any order */
    const int is_full = *best.n == n_best;
    if (is_full ? most < best.values[0] : !(most > -INFINITY)) return;
    if (n_best == 1) {
        const int32_t id = first + s->kernels->argmax(x, n);
        const float value = x[id - first];
        if (is_full && value == best.values[0] && id > best.ids[0]) return;
        best.values[0] = value;
        best.ids[0] = id;
        *best.n = 1;
        return;
    }
    int32_t found[SCAN];
    const float least = is_full ? best.values[0] : reached_by(maxima, n_best);
    const int32_t n_found = s->kernels->find_above(x, n, nextafterf(least, -INFINITY), found, SCAN);
    for (int32_t i = 0; i < n_found; i++)
        s2s_heap_offer(best.values, best.ids, best.n, n_best, x[found[i]], first + found[i]);
}

void s2s_search_scan(s2s_search *s, int32_t row, int32_t worker, int32_t block, float *x)
{
    const s2s_kernels *k = s->kernels;
    const int32_t first = block * S2S_LOGITS_BLOCK;
    const int32_t n = s2s_min(s->vocab_size - first, S2S_LOGITS_BLOCK);
    const int is_forced = s2s_search_is_forced(s, row), is_beam = chooses_beams(s, row);
    const s2s_edits *edits = is_forced ? NULL : &s->edits[row];
    const int is_edited = !is_forced && s2s_edits_touch(edits, block);
    float maxima[S2S_MAXIMA], most;

    if (is_edited && !is_beam) {
        clean_block(s, x, n, k->max_or_nan(x, n));
        s2s_edits_take(edits, block, x);
        s2s_edits_put(s, edits, block, x);
    }
    if (is_scored(s, row)) {
        const size_t at = (size_t)row * (size_t)s->n_blocks + (size_t)block;
        most = k->maxima(x, n, maxima);
        float sum = k->sum_exp(x, n, most);
        if (clean_block(s, x, n, sum)) {
            most = k->maxima(x, n, maxima);
            sum = k->sum_exp(x, n, most);
        }
        s->block_max[at] = most;
        s->block_sum[at] = sum;
    } else {
        most = k->max_or_nan(x, n);
        if (clean_block(s, x, n, most)) most = k->max(x, n);
    }
    if (is_edited && is_beam) {
        s2s_edits_take(edits, block, x);
        most = k->maxima(x, n, maxima);
    }
    if (is_forced) {
        const int32_t token = s->prefix[s2s_search_position(s, row) + 1];
        if (token >= first && token < first + n) s->forced_logits[row] = x[token - first];
    }
    keep_best(s, best_of(s, row, worker), n_best_now(s, row), x, n, first, maxima, most);
}

/* The best of what all workers kept, best first. */
static s2s_best merge_workers(s2s_search *s, int32_t row)
{
    const s2s_best all = best_of(s, row, 0);
    const int32_t n_best = n_best_now(s, row);
    for (int32_t w = 1; w < s->n_workers; w++) {
        const s2s_best one = best_of(s, row, w);
        for (int32_t i = 0; i < *one.n; i++)
            s2s_heap_offer(all.values, all.ids, all.n, n_best, one.values[i], one.ids[i]);
    }
    s2s_heap_sort(all.values, all.ids, *all.n);
    return all;
}

/* The best of the log-probabilities that the repetition penalty changed, best first. */
static s2s_best penalize_best(s2s_search *s, int32_t row, float normalizer)
{
    const s2s_best best = best_of(s, row, s->n_workers);
    const s2s_edits *e = &s->edits[row];
    for (int32_t i = 0; i < e->penalized.n; i++) {
        if (e->penalized_scores[i] == -INFINITY) continue;
        const float logprob = s2s_edits_penalize(s, e->penalized_scores[i] - normalizer);
        if (logprob > -INFINITY)
            s2s_heap_offer(best.values, best.ids, best.n, s->n_best, logprob,
                           e->penalized.tokens[i]);
    }
    s2s_heap_sort(best.values, best.ids, *best.n);
    return best;
}

void s2s_search_no_alternatives(s2s_search *s, int32_t row, int32_t first)
{
    const int32_t n = s->options.n_alternatives;
    const size_t slice = s2s_search_record(s, row) * (size_t)n;
    for (int32_t i = first; i < n; i++) {
        s->alternative_ids[slice + (size_t)i] = -1;
        s->alternative_logprobs[slice + (size_t)i] = -INFINITY;
    }
}

/* Gives out the candidates and alternatives of a row: the best of two lists in falling order, logits
 * of which the normalizer is to be subtracted and log-probabilities.  Returns the number of candidates. */
static int32_t give_best(s2s_search *s, int32_t row, s2s_best logits, s2s_best logprobs,
                         float normalizer, int32_t n_wanted)
{
    const s2s_candidates to = s2s_search_candidates(s, n_wanted > 0 ? row : 0);
    const int32_t n_alternatives = s->options.n_alternatives;
    const size_t slice = s2s_search_record(s, row) * (size_t)n_alternatives;
    int32_t n = 0, i = 0, j = 0;
    for (; n < s2s_max(n_wanted, n_alternatives); n++) {
        const int has_logit = i < *logits.n, has_logprob = j < *logprobs.n;
        if (!has_logit && !has_logprob) break;
        float logprob = has_logit ? logits.values[i] - normalizer : -INFINITY;
        int32_t token = has_logit ? logits.ids[i] : -1;
        if (has_logprob && (!has_logit || logprobs.values[j] > logprob ||
                            (logprobs.values[j] == logprob && logprobs.ids[j] < token))) {
            logprob = logprobs.values[j];
            token = logprobs.ids[j++];
        } else {
            i++;
        }
        if (chooses_beams(s, row) && logprob == -INFINITY) break;
        if (n < n_wanted) {
            to.tokens[n] = token;
            to.logprobs[n] = is_scored(s, row) ? logprob : 0.0f;
        }
        if (n < n_alternatives) {
            s->alternative_ids[slice + (size_t)n] = token;
            s->alternative_logprobs[slice + (size_t)n] = logprob;
        }
    }
    s2s_search_no_alternatives(s, row, n);
    return s2s_min(n, n_wanted);
}

/* The one token that the processors leave, with probability 1, unless it is suppressed itself. */
static void end_forced(s2s_search *s, int32_t row, int32_t token)
{
    const s2s_best best = best_of(s, row, 0), none = best_of(s, row, s->n_workers);
    if (!s2s_edits_suppressed(s, row, token)) {
        best.values[0] = 0.0f;
        best.ids[0] = token;
        *best.n = 1;
    }
    s->n_found[row] = give_best(s, row, best, none, 0.0f, 1);
}

static float normalizer_of(const s2s_search *s, int32_t row)
{
    const size_t blocks = (size_t)row * (size_t)s->n_blocks;
    if (!is_scored(s, row)) return 0.0f;
    return s->kernels->log_sum_exp_blocks(s->block_max + blocks, s->block_sum + blocks,
                                          s->n_blocks);
}

/* The next token of the prefix, with the log-probability that the model alone gives it. */
static void end_prefix(s2s_search *s, int32_t row)
{
    const int32_t position = s2s_search_position(s, row) + 1;
    float logprob = NAN;
    if (s2s_search_is_scored(s, position)) {
        const float normalizer = normalizer_of(s, row), logit = s->forced_logits[row];
        give_best(s, row, merge_workers(s, row), best_of(s, row, s->n_workers), normalizer, 0);
        logprob = logit > -INFINITY ? logit - normalizer : -INFINITY;
    } else {
        s2s_search_no_alternatives(s, row, 0);
    }
    if (row >= s->n_rows) { /* read ahead: chosen already */
        s->node_logprobs[s2s_search_node(s, position, 0)] = logprob;
        return;
    }
    const s2s_candidates to = s2s_search_candidates(s, row);
    s->n_found[row] = 1;
    to.tokens[0] = s->prefix[position];
    to.logprobs[0] = logprob;
}

void s2s_search_scan_end(s2s_search *s, int32_t row)
{
    int32_t n_forced;
    if (s2s_search_is_forced(s, row)) {
        end_prefix(s, row);
        return;
    }
    const int32_t *forced = s2s_edits_forced(s, &n_forced);
    if (forced != NULL) {
        end_forced(s, row, forced[0]);
        return;
    }
    const float normalizer = normalizer_of(s, row);
    const s2s_best logprobs =
        chooses_beams(s, row) ? penalize_best(s, row, normalizer) : best_of(s, row, s->n_workers);
    s->n_found[row] = give_best(s, row, merge_workers(s, row), logprobs, normalizer,
                                s2s_search_n_candidates(s, row));
}

void s2s_search_row(s2s_search *s, int32_t row, float *logits)
{
    const s2s_logits_need need = s2s_search_scan_begin(s, row);
    if (need == S2S_LOGITS_ROW) {
        s2s_search_whole_row(s, row, logits);
        return;
    }
    for (int32_t block = 0; need != S2S_LOGITS_NONE && block < s->n_blocks; block++)
        s2s_search_scan(s, row, 0, block, logits + (size_t)block * S2S_LOGITS_BLOCK);
    s2s_search_scan_end(s, row);
}
