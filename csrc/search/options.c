/* options.c: the defaults of the options, and every check: the rest of the search trusts them. */
#include <math.h>

#include "../base/status.h"
#include "internal.h"

/* Caps far above any use, so that products of two of them, and positions, stay within int32_t. */
#define MAX_ROWS 1024
#define MAX_TOKENS (1 << 20)
#define MAX_EOS 1024
#define MAX_VOCAB (1 << 26)
#define MAX_LENGTH_PENALTY 16.0f /* MAX_TOKENS ** 16 is 2 ** 320: still a double */

void s2s_options_default(s2s_options *options)
{
    *options = (s2s_options){
        .max_new_tokens = 20,
        .num_beams = 1,
        .num_return_sequences = 1,
        .return_scores = 1,
        .top_k = 50,
        .forced_bos_token_id = -1,
        .length_penalty = 1.0f,
        .temperature = 1.0f,
        .top_p = 1.0f,
        .repetition_penalty = 1.0f,
    };
}

static s2s_status check_int(const char *name, int32_t value, int32_t min, int32_t max,
                            s2s_error *error)
{
    if (value >= min && value <= max) return S2S_OK;
    return s2s_fail(error, S2S_INVALID_ARGUMENT, "%s must be between %d and %d, found %d", name,
                    min, max, value);
}

/* range: the expectation in words; ok: whether value meets it. */
static s2s_status check_float(const char *name, float value, const char *range, int ok,
                              s2s_error *error)
{
    if (ok) return S2S_OK;
    return s2s_fail(error, S2S_INVALID_ARGUMENT, "%s must be %s, found %g", name, range,
                    (double)value);
}

static s2s_status check_ids(const char *name, const int32_t *ids, int32_t n, int32_t max_n,
                            int32_t vocab_size, s2s_error *error)
{
    if (n < 0 || n > max_n)
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "%s must hold between 0 and %d ids, found %d",
                        name, max_n, n);
    if (n > 0 && ids == NULL)
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "%s must hold %d ids, found none", name, n);
    for (int32_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab_size)
            return s2s_fail(error, S2S_INVALID_ARGUMENT,
                            "%s must hold ids from 0 to %d, found %d at index %d", name,
                            vocab_size - 1, ids[i], i);
    return S2S_OK;
}

static s2s_status check_bad_words(const s2s_options *o, int32_t vocab_size, s2s_error *error)
{
    S2S_TRY(check_int("the number of bad_words_ids", o->n_bad_words, 0, MAX_TOKENS, error));
    if (o->n_bad_words == 0) return S2S_OK;
    if (o->bad_words_offsets == NULL || o->bad_words_offsets[0] != 0)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "bad_words_ids must come with offsets that begin at 0");
    for (int32_t w = 0; w < o->n_bad_words; w++)
        if (o->bad_words_offsets[w + 1] <= o->bad_words_offsets[w])
            return s2s_fail(
                error, S2S_INVALID_ARGUMENT,
                "bad_words_ids must hold sequences of at least 1 id, found an empty one at "
                "index %d",
                w);
    return check_ids("bad_words_ids", o->bad_words, o->bad_words_offsets[o->n_bad_words],
                     MAX_TOKENS, vocab_size, error);
}

static int contains(const int32_t *ids, int32_t n, int32_t id)
{
    for (int32_t i = 0; i < n; i++)
        if (ids[i] == id) return 1;
    return 0;
}

/* A forced token that is always suppressed would leave nothing to choose. */
static s2s_status check_forced(const s2s_options *o, const char *name, const int32_t *forced,
                               int32_t n_forced, s2s_error *error)
{
    int32_t n_left = 0;
    for (int32_t i = 0; i < n_forced; i++)
        n_left += !contains(o->suppress_tokens, o->n_suppress_tokens, forced[i]);
    if (n_forced == 0 || n_left > 0) return S2S_OK;
    return s2s_fail(error, S2S_INVALID_ARGUMENT,
                    "%s must not be among suppress_tokens, found %d in both", name, forced[0]);
}

static s2s_status check_rows(const s2s_options *o, s2s_error *error)
{
    S2S_TRY(check_int("num_beams", o->num_beams, 1, MAX_ROWS, error));
    S2S_TRY(check_int("num_return_sequences", o->num_return_sequences, 1, MAX_ROWS, error));
    S2S_TRY(
        check_int("early_stopping", o->early_stopping, S2S_STOP_HEURISTIC, S2S_STOP_NEVER, error));
    if (o->num_beams > 1 && o->num_return_sequences > o->num_beams)
        return s2s_fail(
            error, S2S_INVALID_ARGUMENT,
            "num_return_sequences must be at most num_beams (%d) in beam search, found %d",
            o->num_beams, o->num_return_sequences);
    if (o->num_beams == 1 && !o->do_sample && o->num_return_sequences > 1)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "num_return_sequences must be 1 in greedy search (num_beams 1, do_sample "
                        "False), found %d",
                        o->num_return_sequences);
    return S2S_OK;
}

static s2s_status check_sampling(const s2s_options *o, s2s_error *error)
{
    const float t = o->temperature, p = o->top_p, m = o->min_p;
    /* checkpoints that never sample may say 0 */
    if (t != 0 || o->do_sample)
        S2S_TRY(check_float("temperature", t, "above 0 and finite", t > 0 && isfinite(t), error));
    S2S_TRY(check_int("top_k", o->top_k, 0, INT32_MAX, error));
    S2S_TRY(check_float("top_p", p, "between 0 and 1", p >= 0 && p <= 1, error));
    return check_float("min_p", m, "between 0 and 1", m >= 0 && m <= 1, error);
}

s2s_status s2s_search_validate(const s2s_request *request, int32_t vocab_size, s2s_error *error)
{
    const s2s_options *o = &request->options;
    const float lp = o->length_penalty, rp = o->repetition_penalty;
    S2S_TRY(check_int("vocab_size", vocab_size, 1, MAX_VOCAB, error));
    S2S_TRY(check_int("the length of the decoder prefix", request->n_prefix, 1, MAX_TOKENS, error));
    S2S_TRY(check_ids("the decoder prefix", request->prefix, request->n_prefix, MAX_TOKENS,
                      vocab_size, error));
    S2S_TRY(check_int("n_prompt", o->n_prompt, 0, request->n_prefix, error));
    S2S_TRY(check_int("max_new_tokens", o->max_new_tokens, 0, MAX_TOKENS, error));
    S2S_TRY(check_int("min_new_tokens", o->min_new_tokens, 0, INT32_MAX, error));
    if (o->score_only && o->max_new_tokens != 0)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "max_new_tokens must be 0 when only the prefix is scored, found %d",
                        o->max_new_tokens);
    if (o->score_only && !o->return_scores)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "return_scores must be 1 when the prefix is scored, found 0");
    S2S_TRY(check_rows(o, error));
    S2S_TRY(check_float("length_penalty", lp, "between -16 and 16", fabsf(lp) <= MAX_LENGTH_PENALTY,
                        error));
    S2S_TRY(
        check_float("repetition_penalty", rp, "above 0 and finite", rp > 0 && isfinite(rp), error));
    S2S_TRY(check_int("no_repeat_ngram_size", o->no_repeat_ngram_size, 0, INT32_MAX, error));
    S2S_TRY(check_int("encoder_no_repeat_ngram_size", o->encoder_no_repeat_ngram_size, 0, INT32_MAX,
                      error));
    if (o->repetition_stop != 0)
        S2S_TRY(check_int("repetition_stop", o->repetition_stop, 2, MAX_TOKENS, error));
    S2S_TRY(check_int("n_alternatives", o->n_alternatives, 0, MAX_ROWS, error));
    S2S_TRY(check_sampling(o, error));
    if (request->n_source < 0 || (request->n_source > 0 && request->source == NULL))
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "the source must hold %d ids, found none",
                        request->n_source);

    S2S_TRY(check_int("forced_bos_token_id", o->forced_bos_token_id, -1, vocab_size - 1, error));
    S2S_TRY(check_ids("eos_token_id", o->eos_token_ids, o->n_eos_token_ids, MAX_EOS, vocab_size,
                      error));
    S2S_TRY(check_ids("forced_eos_token_id", o->forced_eos_token_ids, o->n_forced_eos_token_ids,
                      vocab_size, vocab_size, error));
    S2S_TRY(check_ids("suppress_tokens", o->suppress_tokens, o->n_suppress_tokens, MAX_TOKENS,
                      vocab_size, error));
    S2S_TRY(check_ids("begin_suppress_tokens", o->begin_suppress_tokens, o->n_begin_suppress_tokens,
                      MAX_TOKENS, vocab_size, error));
    S2S_TRY(check_forced(o, "forced_bos_token_id", &o->forced_bos_token_id,
                         o->forced_bos_token_id >= 0, error));
    S2S_TRY(check_forced(o, "forced_eos_token_id", o->forced_eos_token_ids,
                         o->n_forced_eos_token_ids, error));
    return check_bad_words(o, vocab_size, error);
}

int32_t s2s_search_n_rows(const s2s_request *request)
{
    const s2s_options *o = &request->options;
    if (o->max_new_tokens == 0) return 1; /* the prefix alone */
    return o->num_beams > 1 || !o->do_sample ? o->num_beams : o->num_return_sequences;
}

int32_t s2s_search_max_positions(const s2s_request *request)
{
    return request->n_prefix + request->options.max_new_tokens;
}
