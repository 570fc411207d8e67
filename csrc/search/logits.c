/* logits.c: the logits processors, with the order and the meaning that Hugging Face's generate()
 * gives them.
 *
 * All but two of them rule tokens out (-inf), so only three places of the order matter: the
 * repetition penalty looks at untouched scores, the forced tokens replace everything before them,
 * and suppression comes last.  They act on freely chosen tokens only, never on a forced prefix. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "internal.h"

float s2s_logits_normalizer(s2s_search *s, float *x)
{
    const float sum = s->kernels->log_sum_exp(x, s->vocab_size);
    if (isfinite(sum) || sum == -INFINITY) return sum;
    for (int32_t i = 0; i < s->vocab_size; i++) {
        if (isnan(x[i])) {
            atomic_store_explicit(&s->is_broken, 1, memory_order_relaxed);
            x[i] = -INFINITY;
        }
        if (x[i] > FLT_MAX) x[i] = FLT_MAX;
    }
    return s->kernels->log_sum_exp(x, s->vocab_size);
}

static void rule_out(float *x, const int32_t *tokens, int32_t n)
{
    for (int32_t i = 0; i < n; i++) x[tokens[i]] = -INFINITY;
}

static void force(float *x, int32_t vocab_size, const int32_t *tokens, int32_t n)
{
    for (int32_t i = 0; i < vocab_size; i++) x[i] = -INFINITY;
    for (int32_t i = 0; i < n; i++) x[tokens[i]] = 0.0f;
}

/* The tokens of a row, start token first, to history [position + 1]. */
static void read_history(const s2s_search *s, int32_t row, int32_t *history)
{
    for (int32_t p = s->position; p >= 0; p--) {
        const size_t node = s2s_search_node(s, p, row);
        history[p] = s->node_tokens[node];
        row = s->node_parents[node];
    }
}

/* Keskar et al. 2019, "CTRL", section 4.1, with the sign rule of Hugging Face.  Every distinct
 * token once: all penalties are computed before any is written. */
static void penalize_repetition(float *x, const int32_t *history, int32_t n, float penalty,
                                float *penalized)
{
    for (int32_t i = 0; i < n; i++) {
        const float score = x[history[i]];
        penalized[i] = score < 0.0f ? score * penalty : score / penalty;
    }
    for (int32_t i = 0; i < n; i++) x[history[i]] = penalized[i];
}

/* Rules out tokens that would complete an n-gram of text [n_text]: what follows, in text, each copy
 * of the last n - 1 tokens of history. */
static void rule_out_ngrams(float *x, int32_t vocab_size, const int32_t *history, int32_t n_history,
                            const int32_t *text, int32_t n_text, int32_t n)
{
    if (n_history < n - 1) return;
    const int32_t *suffix = history + (n_history - (n - 1));
    const size_t n_bytes = (size_t)(n - 1) * sizeof *suffix;
    for (int32_t i = 0; i + n <= n_text; i++) {
        const int32_t token = text[i + n - 1];
        if (token >= 0 && token < vocab_size && memcmp(text + i, suffix, n_bytes) == 0)
            x[token] = -INFINITY;
    }
}

static void rule_out_bad_words(const s2s_search *s, float *x, const int32_t *history,
                               int32_t n_history)
{
    const s2s_options *o = &s->options;
    for (int32_t w = 0; w < o->n_bad_words; w++) {
        const int32_t *word = o->bad_words + o->bad_words_offsets[w];
        const int32_t n = o->bad_words_offsets[w + 1] - o->bad_words_offsets[w];
        if (n == 1 && s2s_search_is_eos(s, word[0]))
            continue; /* an end token is never a bad word */
        if (n > 1 && (n - 1 > n_history || memcmp(word, history + (n_history - (n - 1)),
                                                  (size_t)(n - 1) * sizeof *word)))
            continue;
        x[word[n - 1]] = -INFINITY;
    }
}

void s2s_logits_process(const s2s_search *s, int32_t row, float *x)
{
    const s2s_options *o = &s->options;
    const int32_t n_history = s->position + 1;
    const size_t slice = (size_t)row * (size_t)s->max_positions;
    const int32_t *history = NULL;
    if (s->histories != NULL) {
        read_history(s, row, s->histories + slice);
        history = s->histories + slice;
    }

    if (o->repetition_penalty != 1.0f)
        penalize_repetition(x, history, n_history, o->repetition_penalty, s->penalized + slice);
    if (o->no_repeat_ngram_size > 0)
        rule_out_ngrams(x, s->vocab_size, history, n_history, history, n_history,
                        o->no_repeat_ngram_size);
    if (o->encoder_no_repeat_ngram_size > 0)
        rule_out_ngrams(x, s->vocab_size, history, n_history, s->source, s->n_source,
                        o->encoder_no_repeat_ngram_size);
    if (o->n_bad_words > 0) rule_out_bad_words(s, x, history, n_history);
    if (n_history - s->n_prefix < o->min_new_tokens)
        rule_out(x, o->eos_token_ids, o->n_eos_token_ids);

    if (o->forced_bos_token_id >= 0 && n_history == 1)
        force(x, s->vocab_size, &o->forced_bos_token_id, 1);
    if (o->n_forced_eos_token_ids > 0 && n_history == s->max_positions - 1)
        force(x, s->vocab_size, o->forced_eos_token_ids, o->n_forced_eos_token_ids);

    rule_out(x, o->suppress_tokens, o->n_suppress_tokens);
    /* the first token that is chosen freely: a forced first token is not */
    const int32_t begin = s->n_prefix + (s->n_prefix == 1 && o->forced_bos_token_id >= 0);
    if (n_history == begin) rule_out(x, o->begin_suppress_tokens, o->n_begin_suppress_tokens);
}
