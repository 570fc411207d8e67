/* edits.c: the logits processors, with the order and the meaning that Hugging Face's generate()
 * gives them, as lists of edits.
 *
 * All but two of them rule tokens out (-inf), so only three places of the order matter: the
 * repetition penalty looks at untouched scores, the forced tokens replace everything before them,
 * and suppression comes last.  They act on freely chosen tokens only, never on a forced prefix.
 * What they do to a row depends on its tokens alone, not on the logits: so it is known before the
 * logits come, and is applied to whatever block of them is at hand. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "internal.h"

/* The tokens of a row, start token first, to history [position + 1]. */
static void read_history(const s2s_search *s, int32_t row, int32_t *history)
{
    for (int32_t p = s->position; p >= 0; p--) {
        const size_t node = s2s_search_node(s, p, row);
        history[p] = s->node_tokens[node];
        row = s->node_parents[node];
    }
}

/* ---- Which tokens are ruled out: each function appends to `out` and returns how many -------- */

/* Tokens that would complete an n-gram of text [n_text]: what follows, in text, each copy of the
 * last n - 1 tokens of history. */
static int32_t find_ngrams(const s2s_search *s, const int32_t *history, int32_t n_history,
                           const int32_t *text, int32_t n_text, int32_t n, int32_t *out)
{
    int32_t n_found = 0;
    if (n_history < n - 1) return 0;
    const int32_t *suffix = history + (n_history - (n - 1));
    const size_t n_bytes = (size_t)(n - 1) * sizeof *suffix;
    for (int32_t i = 0; i + n <= n_text; i++) {
        const int32_t token = text[i + n - 1];
        if (token >= 0 && token < s->vocab_size && memcmp(text + i, suffix, n_bytes) == 0)
            out[n_found++] = token;
    }
    return n_found;
}

static int32_t find_bad_words(const s2s_search *s, const int32_t *history, int32_t n_history,
                              int32_t *out)
{
    const s2s_options *o = &s->options;
    int32_t n_found = 0;
    for (int32_t w = 0; w < o->n_bad_words; w++) {
        const int32_t *word = o->bad_words + o->bad_words_offsets[w];
        const int32_t n = o->bad_words_offsets[w + 1] - o->bad_words_offsets[w];
        if (n == 1 && s2s_search_is_eos(s, word[0]))
            continue; /* an end token is never a bad word */
        if (n > 1 && (n - 1 > n_history || memcmp(word, history + (n_history - (n - 1)),
                                                  (size_t)(n - 1) * sizeof *word)))
            continue;
        out[n_found++] = word[n - 1];
    }
    return n_found;
}

static int32_t copy_ids(const int32_t *ids, int32_t n, int32_t *out)
{
    if (n > 0) memcpy(out, ids, (size_t)n * sizeof *ids);
    return n;
}

/* What is ruled out even where tokens are forced. */
static int32_t find_suppressed(const s2s_search *s, int32_t *out)
{
    const s2s_options *o = &s->options;
    int32_t n = copy_ids(o->suppress_tokens, o->n_suppress_tokens, out);
    /* the first token that is chosen freely: a forced first token is not */
    const int32_t begin = s->n_prefix + (s->n_prefix == 1 && o->forced_bos_token_id >= 0);
    if (s->position + 1 == begin)
        n += copy_ids(o->begin_suppress_tokens, o->n_begin_suppress_tokens, out + n);
    return n;
}

static int32_t find_ruled_out(const s2s_search *s, const int32_t *history, int32_t *out)
{
    const s2s_options *o = &s->options;
    const int32_t n_history = s->position + 1;
    int32_t n = find_suppressed(s, out);
    if (o->no_repeat_ngram_size > 0)
        n += find_ngrams(s, history, n_history, history, n_history, o->no_repeat_ngram_size,
                         out + n);
    if (o->encoder_no_repeat_ngram_size > 0)
        n += find_ngrams(s, history, n_history, s->source, s->n_source,
                         o->encoder_no_repeat_ngram_size, out + n);
    if (o->n_bad_words > 0) n += find_bad_words(s, history, n_history, out + n);
    if (n_history - s->n_prefix < o->min_new_tokens)
        n += copy_ids(o->eos_token_ids, o->n_eos_token_ids, out + n);
    return n;
}

/* ---- Lists ----------------------------------------------------------------------------------- */

/* Puts tokens [n] in the order of their blocks (a counting sort). */
static void list_fill(s2s_token_list *list, int32_t n_blocks, const int32_t *tokens, int32_t n)
{
    list->n = n;
    if (n == 0) return;
    int32_t *begin = list->begin;
    memset(begin, 0, (size_t)(n_blocks + 1) * sizeof *begin);
    for (int32_t i = 0; i < n; i++) begin[tokens[i] / S2S_LOGITS_BLOCK + 1]++;
    for (int32_t b = 0; b < n_blocks; b++) begin[b + 1] += begin[b];
    /* each entry moves its block's begin to the next block's; then they move back */
    for (int32_t i = 0; i < n; i++) list->tokens[begin[tokens[i] / S2S_LOGITS_BLOCK]++] = tokens[i];
    memmove(begin + 1, begin, (size_t)n_blocks * sizeof *begin);
    begin[0] = 0;
}

const int32_t *s2s_edits_forced(const s2s_search *s, int32_t *n)
{
    const s2s_options *o = &s->options;
    if (o->n_forced_eos_token_ids > 0 && s->position + 1 == s->max_positions - 1) {
        *n = o->n_forced_eos_token_ids;
        return o->forced_eos_token_ids;
    }
    *n = o->forced_bos_token_id >= 0 && s->position == 0;
    return *n > 0 ? &o->forced_bos_token_id : NULL;
}

int s2s_edits_suppressed(const s2s_search *s, int32_t row, int32_t token)
{
    int32_t *gathered = s->edits[row].gathered;
    const int32_t n = gathered != NULL ? find_suppressed(s, gathered) : 0;
    for (int32_t i = 0; i < n; i++)
        if (gathered[i] == token) return 1;
    return 0;
}

void s2s_edits_find(s2s_search *s, int32_t row)
{
    const s2s_options *o = &s->options;
    s2s_edits *e = &s->edits[row];
    int32_t n_forced;
    const int is_forced = s2s_edits_forced(s, &n_forced) != NULL;
    if (e->history != NULL) read_history(s, row, e->history);
    if (e->gathered != NULL)
        list_fill(&e->ruled_out, s->n_blocks, e->gathered,
                  is_forced ? find_suppressed(s, e->gathered)
                            : find_ruled_out(s, e->history, e->gathered));
    if (o->repetition_penalty != 1.0f)
        list_fill(&e->penalized, s->n_blocks, e->history, is_forced ? 0 : s->position + 1);
}

/* ---- Applying -------------------------------------------------------------------------------- */

static int touches(const s2s_token_list *list, int32_t block)
{
    return list->n > 0 && list->begin[block] < list->begin[block + 1];
}

int s2s_edits_touch(const s2s_edits *e, int32_t block)
{
    return touches(&e->ruled_out, block) || touches(&e->penalized, block);
}

void s2s_edits_take(const s2s_edits *e, int32_t block, float *x)
{
    const int32_t first = block * S2S_LOGITS_BLOCK;
    const s2s_token_list *out = &e->ruled_out, *penalized = &e->penalized;
    if (touches(out, block))
        for (int32_t i = out->begin[block]; i < out->begin[block + 1]; i++)
            x[out->tokens[i] - first] = -INFINITY;
    if (!touches(penalized, block)) return;
    for (int32_t i = penalized->begin[block]; i < penalized->begin[block + 1]; i++) {
        float *score = &x[penalized->tokens[i] - first];
        e->penalized_scores[i] = *score;
        *score = -INFINITY; /* which is what a token that comes again will find */
    }
}

/* Keskar et al. 2019, "CTRL", section 4.1, with the sign rule of Hugging Face. */
float s2s_edits_penalize(const s2s_search *s, float score)
{
    const float penalty = s->options.repetition_penalty;
    const float penalized = score < 0.0f ? score * penalty : score / penalty;
    return penalized > FLT_MAX ? FLT_MAX : penalized;
}

void s2s_edits_put(const s2s_search *s, const s2s_edits *e, int32_t block, float *x)
{
    const s2s_token_list *penalized = &e->penalized;
    if (!touches(penalized, block)) return;
    const int32_t first = block * S2S_LOGITS_BLOCK;
    for (int32_t i = penalized->begin[block]; i < penalized->begin[block + 1]; i++)
        if (e->penalized_scores[i] != -INFINITY)
            x[penalized->tokens[i] - first] = s2s_edits_penalize(s, e->penalized_scores[i]);
}

void s2s_edits_apply(s2s_search *s, int32_t row, float *x)
{
    int32_t n_forced;
    const int32_t *forced = s2s_edits_forced(s, &n_forced);
    if (forced != NULL) {
        for (int32_t i = 0; i < s->vocab_size; i++) x[i] = -INFINITY;
        for (int32_t i = 0; i < n_forced; i++) x[forced[i]] = 0.0f;
    }
    for (int32_t block = 0; block < s->n_blocks; block++) {
        s2s_edits_take(&s->edits[row], block, x + (size_t)block * S2S_LOGITS_BLOCK);
        s2s_edits_put(s, &s->edits[row], block, x + (size_t)block * S2S_LOGITS_BLOCK);
    }
}
