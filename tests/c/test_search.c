/* test_search.c: the search alone, on made-up logits: every mode, broken numbers. */
#include <float.h>
#include <math.h>

#include "harness.h"
#include "search/internal.h"
#include "search_request.h"

enum { MAX_VOCAB = 1200, N_WORKERS = 3 };

static const s2s_kernels *kernels;
static s2s_search *start(const s2s_request *r, int32_t vocab)
{
    s2s_error error = {0};
    CHECK(s2s_search_validate(r, vocab, &error) == S2S_OK, "%s", error.message);
    const size_t n = s2s_search_bytes(r, vocab, N_WORKERS);
    void *block = n > 0 ? aligned_alloc(64, n) : NULL;
    CHECK(block != NULL, "%zu bytes", n);
    if (block == NULL) exit(1);
    memset(block, 0, n);
    return s2s_search_init(block, r, vocab, N_WORKERS, kernels);
}

typedef void (*fill_fn)(float *x, int32_t n);

static void fill_random(float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) x[i] = 3.0f * random_float();
}
static void fill_nan(float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) x[i] = NAN;
}
static void fill_minus_infinity(float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) x[i] = -INFINITY;
}
static void fill_equal(float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) x[i] = 1.0f;
}
static void fill_broken(float *x, int32_t n)
{
    static const float odd[] = {NAN, -NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 1e-40f, 0.0f};
    for (int32_t i = 0; i < n; i++) x[i] = random_below(3) ? random_float() : odd[random_below(8)];
}
static void fill_ties(float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) x[i] = (float)random_below(4);
}
static void fill_infinite(float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) x[i] = random_below(300) ? random_float() : INFINITY;
}
static void fill_only_eos(float *x, int32_t n)
{
    fill_minus_infinity(x, n);
    x[0] = 0.0f;
}

static const fill_fn FILLS[] = {fill_random, fill_nan,      fill_minus_infinity, fill_equal,
                                fill_broken, fill_only_eos, fill_ties,           fill_infinite};
enum { N_FILLS = sizeof FILLS / sizeof FILLS[0] };

/* One step; returns the number of live rows. */
static int32_t step(s2s_search *s, int32_t vocab, fill_fn fill)
{
    /* exactly what the contract promises, so that a sanitizer sees one float too many */
    float *x = aligned_alloc(64, ((size_t)vocab + 15) / 16 * 64);
    const int32_t n = s2s_search_n_live(s);
    for (int32_t row = 0; row < n; row++) {
        const int32_t token = s2s_search_tokens(s)[row];
        CHECK(token >= 0 && token < vocab, "token %d", token);
        float *weights = s2s_search_alignment(s, row);
        for (int32_t i = 0; weights != NULL && i < 4; i++) weights[i] = (float)row;
        fill(x, vocab);
        s2s_search_row(s, row, x);
    }
    s2s_search_step(s);
    for (int32_t row = 0; row < s2s_search_n_live(s); row++)
        CHECK(s2s_search_parents(s)[row] < n, "parent %d of %d", s2s_search_parents(s)[row], n);
    free(x);
    return s2s_search_n_live(s);
}

static void check_result(s2s_search *s, const s2s_request *r, int32_t vocab)
{
    s2s_result result;
    s2s_search_result(s, &result);
    CHECK(result.n_hypotheses >= 1 && result.n_hypotheses <= r->options.num_return_sequences,
          "%d hypotheses", result.n_hypotheses);
    for (int32_t i = 0; i < result.n_hypotheses; i++) {
        const s2s_hypothesis *h = &result.hypotheses[i];
        CHECK(h->n_logprobs == h->n_tokens + (h->end_token >= 0), "%d, %d", h->n_logprobs,
              h->n_tokens);
        CHECK(h->n_tokens >= 0 && h->n_tokens < s2s_search_max_positions(r), "%d", h->n_tokens);
        for (int32_t j = 0; j < h->n_tokens; j++) {
            CHECK(h->tokens[j] >= 0 && h->tokens[j] < vocab, "%d", h->tokens[j]);
            if (j + 1 < r->n_prefix) CHECK(h->tokens[j] == PREFIX[j + 1], "%d", h->tokens[j]);
        }
        CHECK(!isnan(h->score), "hypothesis %d", i);
        CHECK((h->logprobs != NULL) == r->options.return_scores, "%p", (const void *)h->logprobs);
        for (int32_t j = 0; h->logprobs != NULL && j < h->n_logprobs; j++)
            CHECK(!isnan(h->logprobs[j]), "token %d", j);
        if (i > 0) CHECK(h[-1].score >= h->score, "%g, %g", h[-1].score, h->score);
        const int32_t k = r->options.n_alternatives;
        for (int32_t j = 0; j < k * h->n_logprobs; j++) {
            CHECK(h->alternative_ids[j] >= -1 && h->alternative_ids[j] < vocab, "%d",
                  h->alternative_ids[j]);
            if (j % k > 0)
                CHECK(h->alternative_logprobs[j - 1] >= h->alternative_logprobs[j], "place %d", j);
        }
    }
}

static const int32_t VOCABS[] = {1, 2, 3, 5, 16, 17, 512, 513, 600, 1024, MAX_VOCAB};
enum { N_VOCABS = sizeof VOCABS / sizeof VOCABS[0] };

/* Any options that are allowed. */
static s2s_request random_request(int32_t vocab)
{
    static const int32_t bad_words[] = {0, 0, 0, 0, 0, 0}, offsets[] = {0, 1, 3, 6};
    static const int32_t last[] = {0, 0}, zeros[] = {0}, tiny_prefix[] = {0};
    static int32_t suppressed[1];
    s2s_request r = make_request(vocab >= 5 ? 1 + random_below(4) : 1);
    if (vocab < 5) r.prefix = tiny_prefix;
    s2s_options *o = &r.options;
    o->max_new_tokens = random_below(12);
    o->score_only = o->max_new_tokens == 0 && random_below(2);
    o->num_beams = random_below(2) ? 1 : 1 + random_below(9);
    o->do_sample = random_below(2);
    o->renormalize_logits = random_below(4) == 0;
    o->num_return_sequences = o->num_beams > 1   ? 1 + random_below(o->num_beams)
                              : o->do_sample > 0 ? 1 + random_below(5)
                                                 : 1;
    o->early_stopping = random_below(3);
    o->min_new_tokens = random_below(4);
    o->length_penalty = 4.0f * random_float();
    if (random_below(2)) o->repetition_penalty = random_below(2) ? 1.5f : 1e-30f;
    if (random_below(3) == 0) o->no_repeat_ngram_size = random_below(5);
    if (random_below(3) == 0) o->encoder_no_repeat_ngram_size = random_below(5);
    if (random_below(3) == 0) o->repetition_stop = 2 + random_below(3);
    if (random_below(3) == 0) o->forced_bos_token_id = random_below(vocab);
    o->temperature = random_below(3) ? 1.0f : random_below(2) ? 1e-30f : 5.0f;
    o->top_k = random_below(2) ? 0 : random_below(2 * vocab);
    if (random_below(2)) o->top_p = 0.5f + 0.5f * random_float();
    if (random_below(2)) o->min_p = 0.5f + 0.5f * random_float();
    o->return_scores = o->score_only || random_below(3) > 0;
    o->n_alternatives = random_below(2) ? 0 : random_below(40);
    o->return_alignment = random_below(2);
    o->seed = random_bits();
    if (random_below(4) == 0) o->n_eos_token_ids = 0;
    if (random_below(4) == 0) {
        o->forced_eos_token_ids = last;
        o->n_forced_eos_token_ids = 1 + (vocab > 1 && random_below(2));
    }
    if (random_below(4) == 0) {
        o->begin_suppress_tokens = zeros;
        o->n_begin_suppress_tokens = 1;
    }
    suppressed[0] = vocab - 1;
    if (vocab > 1 && o->forced_bos_token_id != vocab - 1 && random_below(4) == 0) {
        o->suppress_tokens = suppressed;
        o->n_suppress_tokens = 1;
    }
    if (random_below(4) == 0) {
        o->bad_words = bad_words;
        o->bad_words_offsets = offsets;
        o->n_bad_words = 3;
    }
    return r;
}

/* Whatever the options and the logits, a search ends, and what it returns is well formed. */
TEST(any_options_and_any_logits_end)
{
    for (int trial = 0; trial < 1500; trial++) {
        const int32_t vocab = VOCABS[random_below(N_VOCABS)];
        const s2s_request r = random_request(vocab);
        s2s_search *s = start(&r, vocab);
        const fill_fn fill = FILLS[random_below(3) ? 0 : random_below(N_FILLS)];
        int n_steps = 0, ids[64];
        int32_t n_agreed = 0;
        for (int32_t live = s2s_search_n_live(s); live > 0; n_steps++) {
            CHECK(live <= s2s_search_n_rows(&r), "%d rows", live);
            CHECK(n_steps < s2s_search_max_positions(&r), "%d steps", n_steps);
            live = step(s, vocab, fill);
            const int32_t n = s2s_search_progress(s, ids, 64);
            CHECK(live == 0 || n >= n_agreed, "%d after %d", n, n_agreed);
            n_agreed = n;
            if (random_below(50) == 0) {
                s2s_search_cancel(s);
                live = s2s_search_n_live(s);
            }
        }
        check_result(s, &r, vocab);
        free(s);
    }
}

/* The order of a stable sort, by insertion. */
static int32_t slow_top_k(const float *x, int32_t n, int32_t k, int32_t *ids)
{
    int32_t n_kept = 0;
    for (int32_t i = 0; i < n; i++) {
        if (!(x[i] > -INFINITY)) continue;
        int32_t j = n_kept < k ? n_kept++ : k;
        if (j == k && !(x[i] > x[ids[--j]])) continue;
        for (; j > 0 && x[i] > x[ids[j - 1]]; j--) ids[j] = ids[j - 1];
        ids[j] = i;
    }
    return n_kept;
}

TEST(top_k_equals_a_sort)
{
    static float x[MAX_VOCAB + 16] __attribute__((aligned(64)));
    static float values[MAX_VOCAB];
    static int32_t ids[MAX_VOCAB], expected[MAX_VOCAB];
    for (int trial = 0; trial < 600; trial++) {
        const int32_t n = 1 + random_below(MAX_VOCAB), k = 1 + random_below(trial % 2 ? 9 : n);
        const int kind = trial % 5;
        for (int32_t i = 0; i < n; i++)
            x[i] = kind == 0         ? random_float()
                   : kind == 1       ? (float)random_below(7) /* ties */
                   : kind == 2       ? (float)i               /* the worst order */
                   : kind == 3       ? (float)-i
                   : random_below(2) ? (random_below(2) ? NAN : -INFINITY)
                                     : random_float();
        const int32_t n_expected = slow_top_k(x, n, k, expected);
        const int32_t n_found = s2s_top_k(kernels, x, n, k, values, ids);
        CHECK(n_found == n_expected, "%d, expected %d", n_found, n_expected);
        for (int32_t i = 0; i < n_found; i++)
            CHECK(ids[i] == expected[i] && same_float(values[i], x[ids[i]]),
                  "n %d, k %d, place %d: %d, expected %d", n, k, i, ids[i], expected[i]);
    }
}

/* The row in blocks, each in memory of its own, on workers that take them as it comes. */
static void scan_in_blocks(s2s_search *s, int32_t row, const float *x, int32_t vocab)
{
    const s2s_logits_need need = s2s_search_scan_begin(s, row);
    if (need == S2S_LOGITS_ROW) {
        float *copy = aligned_alloc(64, ((size_t)vocab + 15) / 16 * 64);
        memcpy(copy, x, (size_t)vocab * sizeof *x);
        s2s_search_whole_row(s, row, copy);
        free(copy);
        return;
    }
    int32_t owners[MAX_VOCAB / S2S_LOGITS_BLOCK + 1];
    const int32_t n_blocks = (vocab + S2S_LOGITS_BLOCK - 1) / S2S_LOGITS_BLOCK;
    for (int32_t b = 0; b < n_blocks; b++) owners[b] = random_below(N_WORKERS);
    const int32_t first = random_below(N_WORKERS);
    for (int32_t i = 0; need != S2S_LOGITS_NONE && i < N_WORKERS; i++)
        for (int32_t j = 0; j < n_blocks; j++) {
            const int32_t b = first == 0 ? j : n_blocks - 1 - j; /* rising or falling */
            const int32_t worker = (first + i) % N_WORKERS, left = vocab - b * S2S_LOGITS_BLOCK;
            if (owners[b] != worker) continue;
            const int32_t n = left < S2S_LOGITS_BLOCK ? left : S2S_LOGITS_BLOCK;
            float *copy = aligned_alloc(64, ((size_t)n + 15) / 16 * 64);
            memcpy(copy, x + b * S2S_LOGITS_BLOCK, (size_t)n * sizeof *x);
            s2s_search_scan(s, row, worker, b, copy);
            free(copy);
        }
    s2s_search_scan_end(s, row);
}

/* What scanning must find, from the whole row of logits x: processors, softmax, a sort. */
static void check_definition(s2s_search *s, int32_t row, float *x)
{
    const s2s_options *o = &s->options;
    const s2s_candidates found = s2s_search_candidates(s, row);
    const int is_beam = o->num_beams > 1, is_scored = is_beam || o->return_scores;
    static int32_t ids[MAX_VOCAB];
    const int32_t n = s->vocab_size;
    s2s_logits_clean(s, x, n);
    if (!is_beam) s2s_edits_apply(s, row, x);
    const float normalizer = kernels->log_sum_exp(x, n);
    if (is_scored && normalizer > -INFINITY) kernels->shift(x, n, -normalizer);
    if (is_beam) s2s_edits_apply(s, row, x);
    const int32_t n_expected = slow_top_k(x, n, s2s_search_n_candidates(s, row), ids);
    CHECK(s->n_found[row] == n_expected, "%d, expected %d", s->n_found[row], n_expected);
    for (int32_t i = 0; i < s->n_found[row] && i < n_expected; i++) {
        const int32_t token = found.tokens[i];
        /* logits that differ may have equal log-probabilities, and then an order of their own */
        CHECK(same_float(x[token], x[ids[i]]), "place %d: token %d, expected %d", i, token, ids[i]);
        if (is_scored || o->n_alternatives > 0)
            CHECK(same_float(found.logprobs[i], is_scored ? x[token] : x[token] - normalizer),
                  "place %d: %a, expected %a", i, (double)found.logprobs[i], (double)x[token]);
    }
}

/* Logits block by block on several threads give the bits of logits all at once, and those of the
 * definition; candidates, log-probabilities and alternatives. */
TEST(blocks_equal_the_whole_row)
{
    static float x[MAX_VOCAB + 16] __attribute__((aligned(64)));
    static float y[MAX_VOCAB + 16] __attribute__((aligned(64)));
    int n_scanned = 0;
    for (int trial = 0; trial < 2000; trial++) {
        const int32_t vocab = VOCABS[random_below(N_VOCABS)];
        s2s_request r = random_request(vocab);
        if (random_below(4)) r.options.do_sample = 0;
        r.options.num_return_sequences = 1;
        s2s_search *a = start(&r, vocab), *b = start(&r, vocab);
        const fill_fn fill = FILLS[random_below(3) ? 0 : random_below(N_FILLS)];
        while (s2s_search_n_live(a) > 0) {
            const int is_free = !s2s_search_is_forced(a, 0);
            for (int32_t row = 0; row < s2s_search_n_live(a); row++) {
                int32_t n_forced;
                fill(x, vocab);
                memcpy(y, x, sizeof x);
                scan_in_blocks(b, row, x, vocab);
                s2s_search_row(a, row, y);
                const s2s_candidates p = s2s_search_candidates(a, row);
                const s2s_candidates q = s2s_search_candidates(b, row);
                const int32_t n = a->n_found[row], k = r.options.n_alternatives;
                CHECK(b->n_found[row] == n, "%d, expected %d", b->n_found[row], n);
                for (int32_t i = 0; i < n; i++)
                    CHECK(p.tokens[i] == q.tokens[i] && same_float(p.logprobs[i], q.logprobs[i]),
                          "candidate %d: %d, expected %d", i, q.tokens[i], p.tokens[i]);
                const size_t at = s2s_search_node(a, a->position, row) * (size_t)k;
                for (size_t i = at; i < at + (size_t)k; i++)
                    CHECK(a->alternative_ids[i] == b->alternative_ids[i] &&
                              same_float(a->alternative_logprobs[i], b->alternative_logprobs[i]),
                          "alternative %d, expected %d", b->alternative_ids[i],
                          a->alternative_ids[i]);
                if (is_free && !a->options.do_sample && s2s_edits_forced(a, &n_forced) == NULL &&
                    !(a->options.renormalize_logits && a->options.num_beams > 1)) {
                    check_definition(a, row, x);
                    n_scanned++;
                }
            }
            CHECK(s2s_search_is_broken(a) == s2s_search_is_broken(b), "%d", fill == fill_nan);
            s2s_search_step(a);
            s2s_search_step(b);
            CHECK(s2s_search_n_live(a) == s2s_search_n_live(b), "%d", s2s_search_n_live(b));
        }
        check_result(b, &r, vocab);
        free(a);
        free(b);
    }
    CHECK(n_scanned > 5000, "%d rows", n_scanned);
}

/* A NaN is seen by every search that looks at logits, softmax or not. */
TEST(a_nan_breaks_the_search)
{
    static float x[MAX_VOCAB + 16] __attribute__((aligned(64)));
    for (int trial = 0; trial < 100; trial++) {
        s2s_request r = make_request(1);
        r.options.num_beams = 1 + random_below(3);
        r.options.return_scores = random_below(2);
        r.options.do_sample = trial % 10 == 9;
        s2s_search *s = start(&r, MAX_VOCAB);
        fill_random(x, MAX_VOCAB);
        x[random_below(MAX_VOCAB)] = INFINITY;
        x[random_below(MAX_VOCAB)] = -INFINITY;
        scan_in_blocks(s, 0, x, MAX_VOCAB);
        s2s_search_step(s);
        CHECK(!s2s_search_is_broken(s), "infinity is a number");
        x[random_below(MAX_VOCAB)] = NAN;
        scan_in_blocks(s, 0, x, MAX_VOCAB);
        CHECK(s2s_search_is_broken(s), "beams %d, scores %d", r.options.num_beams,
              r.options.return_scores);
        free(s);
    }
}

/* Rows do not see each other: any order gives the same result. */
TEST(order_of_rows_does_not_matter)
{
    for (int sample = 0; sample < 2; sample++) {
        s2s_request r = make_request(2);
        r.options.num_beams = r.options.num_return_sequences = 5;
        r.options.do_sample = sample;
        r.options.repetition_penalty = 1.3f;
        r.options.n_alternatives = 3;
        s2s_search *a = start(&r, 100), *b = start(&r, 100);
        float *x = aligned_alloc(64, 5 * 448);
        while (s2s_search_n_live(a) > 0) {
            const int32_t n = s2s_search_n_live(a);
            const uint64_t seed = harness_seed;
            CHECK(s2s_search_n_live(b) == n, "%d", n);
            for (int backwards = 0; backwards < 2; backwards++) {
                harness_seed = seed;
                for (int32_t row = 0; row < n; row++) fill_random(x + 112 * row, 100);
                for (int32_t i = 0; i < n; i++) {
                    const int32_t row = backwards ? n - 1 - i : i;
                    s2s_search_row(backwards ? b : a, row, x + 112 * row);
                }
                s2s_search_step(backwards ? b : a);
            }
        }
        s2s_result left, right;
        s2s_search_result(a, &left);
        s2s_search_result(b, &right);
        CHECK(left.n_hypotheses == right.n_hypotheses, "%d", left.n_hypotheses);
        for (int32_t i = 0; i < left.n_hypotheses; i++) {
            const s2s_hypothesis *p = &left.hypotheses[i], *q = &right.hypotheses[i];
            CHECK(p->n_tokens == q->n_tokens && same_float(p->score, q->score) &&
                      memcmp(p->tokens, q->tokens, (size_t)p->n_tokens * 4) == 0,
                  "hypothesis %d", i);
        }
        free(x);
        free(a);
        free(b);
    }
}

int main(void)
{
    kernels = s2s_kernels_get(S2S_ISA_AUTO);
    RUN(any_options_and_any_logits_end);
    RUN(top_k_equals_a_sort);
    RUN(blocks_equal_the_whole_row);
    RUN(a_nan_breaks_the_search);
    RUN(order_of_rows_does_not_matter);
    return harness_end();
}
