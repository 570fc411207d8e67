/* test_search_options.c: wrong options are told by name, sizes of any others are sizes. */
#include <math.h>

#include "harness.h"
#include "search/internal.h"
#include "search_request.h"

enum { N_WORKERS = 3 };

static void refuse(const s2s_request *r, int32_t vocab, const char *expected)
{
    s2s_error error = {0};
    CHECK(s2s_search_validate(r, vocab, &error) == S2S_INVALID_ARGUMENT, "%s", expected);
    CHECK(strstr(error.message, expected) != NULL, "\"%s\" lacks \"%s\"", error.message, expected);
    CHECK(s2s_search_validate(r, vocab, NULL) == S2S_INVALID_ARGUMENT, "%s", expected);
}

#define REFUSE(change, expected)                                                                   \
    do {                                                                                           \
        s2s_request r = make_request(2);                                                           \
        s2s_options *o = &r.options;                                                               \
        (void)o;                                                                                   \
        change;                                                                                    \
        refuse(&r, 10, expected);                                                                  \
    } while (0)

TEST(wrong_options_are_named)
{
    const int32_t bad[] = {3, 10, -1}, offsets[] = {0, 1, 1}, late[] = {1, 2}, one[] = {0, 1, 2};
    const s2s_request good = make_request(2);
    CHECK(s2s_search_validate(&good, 10, NULL) == S2S_OK, "defaults");
    REFUSE(r.n_prefix = 0,
           "the length of the decoder prefix must be between 1 and 1048576, found 0");
    REFUSE(r.prefix = NULL, "the decoder prefix must hold 2 ids, found none");
    REFUSE(r.prefix = bad, "the decoder prefix must hold ids from 0 to 9, found 10 at index 1");
    REFUSE(r.source = NULL, "the source must hold 4 ids, found none");
    REFUSE(o->max_new_tokens = -1, "max_new_tokens must be between 0 and 1048576, found -1");
    REFUSE(o->max_new_tokens = INT32_MAX, "max_new_tokens must be");
    REFUSE(o->min_new_tokens = -1, "min_new_tokens must be");
    REFUSE(o->num_beams = 0, "num_beams must be between 1 and 1024, found 0");
    REFUSE(o->num_beams = 1025, "num_beams must be between 1 and 1024, found 1025");
    REFUSE(o->num_return_sequences = 0, "num_return_sequences must be");
    REFUSE(o->num_return_sequences = 2, "num_return_sequences must be 1 in greedy search");
    REFUSE((o->num_beams = 2, o->num_return_sequences = 3),
           "num_return_sequences must be at most num_beams (2) in beam search, found 3");
    REFUSE(o->early_stopping = 3, "early_stopping must be between 0 and 2, found 3");
    REFUSE(o->length_penalty = NAN, "length_penalty must be between -16 and 16, found nan");
    REFUSE(o->length_penalty = INFINITY, "length_penalty must be");
    REFUSE(o->repetition_penalty = 0.0f, "repetition_penalty must be above 0 and finite, found 0");
    REFUSE(o->no_repeat_ngram_size = -1, "no_repeat_ngram_size must be");
    REFUSE(o->encoder_no_repeat_ngram_size = -1, "encoder_no_repeat_ngram_size must be");
    REFUSE(o->repetition_stop = 1, "repetition_stop must be between 2 and 1048576, found 1");
    REFUSE(o->n_alternatives = -1, "n_alternatives must be");
    REFUSE(o->temperature = NAN, "temperature must be above 0 and finite, found nan");
    REFUSE((o->temperature = 0.0f, o->do_sample = 1), "temperature must be above 0");
    REFUSE(o->top_k = -1, "top_k must be");
    REFUSE(o->top_p = 1.5f, "top_p must be between 0 and 1, found 1.5");
    REFUSE(o->min_p = -0.5f, "min_p must be between 0 and 1, found -0.5");
    REFUSE(o->forced_bos_token_id = 10, "forced_bos_token_id must be between -1 and 9, found 10");
    REFUSE(o->n_eos_token_ids = -1, "eos_token_id must hold between 0 and 1024 ids, found -1");
    REFUSE(o->eos_token_ids = NULL, "eos_token_id must hold 1 ids, found none");
    REFUSE((o->eos_token_ids = bad, o->n_eos_token_ids = 2),
           "eos_token_id must hold ids from 0 to 9, found 10 at index 1");
    REFUSE((o->forced_eos_token_ids = bad, o->n_forced_eos_token_ids = 2), "forced_eos_token_id");
    REFUSE((o->suppress_tokens = bad + 2, o->n_suppress_tokens = 1),
           "suppress_tokens must hold ids from 0 to 9, found -1 at index 0");
    REFUSE((o->begin_suppress_tokens = bad, o->n_begin_suppress_tokens = 2),
           "begin_suppress_tokens");
    REFUSE((o->suppress_tokens = bad, o->n_suppress_tokens = 1, o->forced_bos_token_id = 3),
           "forced_bos_token_id must not be among suppress_tokens, found 3 in both");
    REFUSE((o->suppress_tokens = o->forced_eos_token_ids = one,
            o->n_suppress_tokens = o->n_forced_eos_token_ids = 2),
           "forced_eos_token_id must not be among suppress_tokens, found 0 in both");
    REFUSE(o->n_bad_words = -1, "the number of bad_words_ids must be");
    REFUSE(o->n_bad_words = 1, "bad_words_ids must come with offsets");
    REFUSE((o->n_bad_words = 1, o->bad_words = bad, o->bad_words_offsets = late),
           "bad_words_ids must come with offsets that begin at 0");
    REFUSE((o->n_bad_words = 2, o->bad_words = bad, o->bad_words_offsets = offsets),
           "found an empty one at index 1");
    REFUSE((o->n_bad_words = 2, o->bad_words = bad, o->bad_words_offsets = one),
           "bad_words_ids must hold ids from 0 to 9, found 10 at index 1");
    REFUSE((o->n_bad_words = 2, o->bad_words_offsets = one), "bad_words_ids must hold 2 ids");
    REFUSE(o->score_only = 1, "max_new_tokens must be 0 when only the prefix is scored, found 20");
    refuse(&good, 0, "vocab_size must be");
}

TEST(sizes_do_not_wrap_around)
{
    s2s_request r = make_request(1);
    s2s_options *o = &r.options;
    o->max_new_tokens = 1 << 20;
    o->num_beams = o->num_return_sequences = 1024;
    o->n_alternatives = 1024;
    o->return_alignment = 1;
    r.n_source = INT32_MAX;
    CHECK(s2s_search_validate(&r, 1 << 26, NULL) == S2S_OK, "huge, but valid");
    const size_t n = s2s_search_bytes(&r, 1 << 26, N_WORKERS);
    CHECK(n == 0 || n > (size_t)1 << 60, "%zu bytes", n);
    o->num_beams = 4;
    o->num_return_sequences = 1;
    o->n_alternatives = o->return_alignment = 0;
    o->max_new_tokens = 512;
    const size_t usual = s2s_search_bytes(&r, 65001, N_WORKERS);
    CHECK(usual > 0 && usual < 128 << 10, "%zu bytes for four beams", usual);
}

int main(void)
{
    RUN(wrong_options_are_named);
    RUN(sizes_do_not_wrap_around);
    return harness_end();
}
