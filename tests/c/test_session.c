/* test_session.c: the core loop over small random models. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/model/model.h"
#include "failing_alloc.h"
#include "harness.h"
#include "random_model.h"

enum { N_REQUESTS = 9, MAX_TOKENS = 64 };

typedef struct outcome {
    int32_t n_tokens, finish_reason;
    int32_t tokens[MAX_TOKENS];
    float score, logprobs[MAX_TOKENS];
    float alignment_sum;
} outcome;

static s2s_session_config session_config(int32_t max_rows)
{
    return (s2s_session_config){.max_rows = max_rows,
                                .max_source_positions = 32,
                                .max_target_positions = 48,
                                .max_encoder_tokens = 64,
                                .max_sources = max_rows % 2 ? 2 : 2 * max_rows};
}

/* Request number i: its own length, beams or sampling, penalties. */
static void make_request(int i, s2s_request *r, int32_t *source, const int32_t *prefix,
                         const int32_t *eos)
{
    memset(r, 0, sizeof *r);
    r->n_source = 1 + (i * 7) % 19;
    for (int32_t j = 0; j < r->n_source; j++) source[j] = 3 + (i * 31 + j * 17) % 50;
    r->source = source;
    r->prefix = prefix;
    r->n_prefix = 1 + (i % 3 == 2 ? 2 : 0);
    s2s_options_default(&r->options);
    r->options.max_new_tokens = 5 + (i * 5) % 30;
    r->options.num_beams = i % 3 == 1 ? 4 : 1;
    r->options.length_penalty = 0.6f;
    r->options.return_alignment = i % 2;
    if (i % 4 == 3) {
        r->options.do_sample = 1;
        r->options.num_beams = 1;
        r->options.num_return_sequences = 2;
        r->options.seed = 42;
    }
    r->options.eos_token_ids = eos;
    r->options.n_eos_token_ids = 1;
}

static const int32_t PREFIX[3] = {1, 7, 9};
static const int32_t EOS[1] = {0};

/* Runs requests order[0..n) in one session and stores request i's outcome in out[i]. */
static int run(const s2s_model *model, s2s_pool *pool, int32_t max_rows, const int *order, int n,
               outcome *out)
{
    s2s_session_config config = session_config(max_rows);
    s2s_session *session = NULL;
    s2s_error error;
    uint64_t id, first = 0;
    int32_t n_pending = 0, source[32];
    s2s_request r;
    int ok = 0;
    if (s2s_session_create(model, pool, &config, &session, &error) != S2S_OK) return 0;
    for (int i = 0; i < n; i++) {
        make_request(order[i], &r, source, PREFIX, EOS);
        if (s2s_session_submit(session, &r, &id, &error) != S2S_OK) goto end;
        if (i == 0) first = id;
    }
    do {
        if (s2s_session_step(session, &n_pending, &error) != S2S_OK) goto end;
        s2s_result *result;
        while ((result = s2s_session_next_result(session)) != NULL) {
            const s2s_hypothesis *h = &result->hypotheses[0];
            outcome *o = &out[order[result->id - first]];
            memset(o, 0, sizeof *o);
            o->n_tokens = h->n_tokens;
            o->finish_reason = h->finish_reason;
            o->score = h->score;
            memcpy(o->tokens, h->tokens, (size_t)h->n_tokens * sizeof(int32_t));
            memcpy(o->logprobs, h->logprobs, (size_t)h->n_logprobs * sizeof(float));
            for (int32_t j = 0; h->alignment && j < h->n_logprobs * result->n_source; j++) {
                o->alignment_sum += h->alignment[j];
            }
            s2s_result_free(result);
            n_pending--;
        }
    } while (n_pending > 0);
    ok = 1;
end:
    s2s_session_free(session);
    return ok;
}

/* What the next session finds in the block of the last one: nothing that would pass for zeros. */
static void spoil_spare_block(const s2s_model *model)
{
    s2s_arena arena;
    EXPECT(s2s_arena_init(&arena, 1, s2s_model_blocks(model)));
    memset(arena.base, 0xff, arena.size); /* NaN, -1 */
    s2s_arena_release(&arena, s2s_model_blocks(model));
}

static void check_same_bits(int variant)
{
    const s2s_model_config config = random_model_variant(variant);
    const int order[N_REQUESTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    const int shuffled[N_REQUESTS] = {5, 8, 0, 3, 7, 1, 6, 2, 4};
    const s2s_dtype dtypes[] = {S2S_F32, S2S_BF16, S2S_INT8};
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        outcome alone[N_REQUESTS], other[N_REQUESTS];
        for (s2s_isa isa = S2S_ISA_GENERIC; isa <= S2S_ISA_NEON; isa++) {
            if (!s2s_isa_supported(isa)) continue;
            random_model m;
            s2s_pool *pool = NULL;
            s2s_model *model = random_model_create(&m, &config, dtypes[d], isa, NULL);
            EXPECT(model != NULL);
            EXPECT(s2s_pool_create(2, &pool, NULL) == S2S_OK);
            if (isa == S2S_ISA_GENERIC) {
                for (int i = 0; i < N_REQUESTS; i++)
                    EXPECT(run(model, NULL, 4, &order[i], 1, alone));
                int32_t n_tokens = 0;
                for (int i = 0; i < N_REQUESTS; i++) n_tokens += alone[i].n_tokens;
                EXPECT(n_tokens > 3 * N_REQUESTS);
            }
            EXPECT(run(model, NULL, 40, order, N_REQUESTS, other));
            EXPECT(memcmp(alone, other, sizeof alone) == 0);
            spoil_spare_block(model);
            EXPECT(run(model, pool, 40, shuffled, N_REQUESTS, other));
            EXPECT(memcmp(alone, other, sizeof alone) == 0);
            EXPECT(run(model, pool, 5, shuffled, N_REQUESTS, other));
            EXPECT(memcmp(alone, other, sizeof alone) == 0);
            s2s_pool_free(pool);
            s2s_model_free(model);
            random_model_release(&m);
        }
    }
}

/* Alone, all together, in another order, on two threads, in few rows, at every level: the same bits. */
TEST(test_same_bits_whatever_the_batch)
{
    for (int variant = 0; variant < 3; variant++) check_same_bits(variant);
}

/* A pre-norm, grouped-query model with embedding and final norms runs the same loop. */
TEST(test_other_layer_descriptions)
{
    s2s_model_config config = random_model_config();
    const int order[N_REQUESTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    config.encoder.norm_place = config.decoder.norm_place = S2S_PRE_NORM;
    config.encoder.final_norm = config.decoder.final_norm = 1;
    config.encoder.embed_norm = config.decoder.embed_norm = 1;
    config.encoder.n_kv_heads = config.decoder.n_kv_heads = 1;
    config.decoder.activation = S2S_GELU;
    config.decoder.n_layers = 1;
    random_model m;
    outcome a[N_REQUESTS], b[N_REQUESTS];
    s2s_model *model = random_model_create(&m, &config, S2S_F32, S2S_ISA_AUTO, NULL);
    EXPECT(model != NULL);
    EXPECT(run(model, NULL, 40, order, N_REQUESTS, a));
    for (int i = 0; i < N_REQUESTS; i++) EXPECT(run(model, NULL, 4, &order[i], 1, b));
    EXPECT(memcmp(a, b, sizeof a) == 0);
    s2s_model_free(model);
    random_model_release(&m);
}

/* Greedy search that returns no scores leaves blocks of the vocabulary out; its tokens are the same. */
TEST(test_without_scores_the_same_tokens)
{
    enum { N = 5 };
    s2s_model_config config = random_model_config();
    config.vocab_size = config.source_vocab_size = 3001;
    const s2s_dtype dtypes[] = {S2S_F32, S2S_BF16, S2S_INT8};
    for (int d = 0; d < 3; d++) {
        random_model m;
        s2s_pool *pool = NULL;
        s2s_model *model = random_model_create(&m, &config, dtypes[d], S2S_ISA_AUTO, NULL);
        EXPECT(model != NULL);
        EXPECT(s2s_pool_create(2, &pool, NULL) == S2S_OK);
        int32_t tokens[2][N][MAX_TOKENS];
        memset(tokens, 0, sizeof tokens);
        for (int with_scores = 0; with_scores < 2; with_scores++) {
            s2s_session_config sizes = session_config(3);
            s2s_session *session = NULL;
            s2s_error error;
            int32_t n_pending = 0, source[32];
            uint64_t id;
            s2s_request r;
            s2s_result *result;
            EXPECT(s2s_session_create(model, pool, &sizes, &session, &error) == S2S_OK);
            for (int i = 0; i < N; i++) {
                make_request(3 * i, &r, source, PREFIX, EOS); /* one beam */
                r.options.do_sample = 0;
                r.options.num_return_sequences = 1;
                r.options.return_scores = with_scores;
                r.options.no_repeat_ngram_size = i % 3;
                r.options.min_new_tokens = 4;
                r.options.forced_bos_token_id = i % 2 ? 2999 : -1;
                EXPECT(s2s_session_submit(session, &r, &id, &error) == S2S_OK);
            }
            do {
                EXPECT(s2s_session_step(session, &n_pending, &error) == S2S_OK);
                while ((result = s2s_session_next_result(session)) != NULL) {
                    const s2s_hypothesis *h = &result->hypotheses[0];
                    EXPECT((h->logprobs != NULL) == with_scores && h->n_tokens >= 4);
                    memcpy(tokens[with_scores][result->id - 1], h->tokens,
                           (size_t)h->n_tokens * sizeof(int32_t));
                    s2s_result_free(result);
                    n_pending--;
                }
            } while (n_pending > 0);
            s2s_session_free(session);
        }
        EXPECT(memcmp(tokens[0], tokens[1], sizeof tokens[0]) == 0);
        s2s_pool_free(pool);
        s2s_model_free(model);
        random_model_release(&m);
    }
}

/* A step allocates nothing. */
TEST(test_steps_do_not_allocate)
{
    const s2s_model_config config = random_model_config();
    random_model m;
    s2s_model *model = random_model_create(&m, &config, S2S_F32, S2S_ISA_AUTO, NULL);
    EXPECT(model != NULL);
    s2s_session_config sizes = session_config(8);
    s2s_session *session = NULL;
    s2s_error error;
    int32_t n_pending = 1, source[32];
    uint64_t id;
    s2s_request r;
    EXPECT(s2s_session_create(model, NULL, &sizes, &session, &error) == S2S_OK);
    for (int i = 0; i < N_REQUESTS; i++) {
        make_request(i, &r, source, PREFIX, EOS);
        EXPECT(s2s_session_submit(session, &r, &id, &error) == S2S_OK);
    }
    int n_results = 0;
    long n_allocations = allocation_count();
    while (n_results < N_REQUESTS) {
        EXPECT(s2s_session_step(session, &n_pending, &error) == S2S_OK);
        s2s_result *result;
        while ((result = s2s_session_next_result(session)) != NULL) {
            n_results++;
            s2s_result_free(result);
        }
    }
    EXPECT(allocation_count() == n_allocations);
    s2s_session_free(session);
    s2s_model_free(model);
    random_model_release(&m);
}

/* Whichever allocation fails, everything ends with a status and nothing leaks (ASan watches). */
TEST(test_every_failing_allocation_is_survived)
{
    const s2s_model_config config = random_model_config();
    random_model m;
    EXPECT(random_model_init(&m, &config, S2S_F32, 7));
    int completed = 0;
    for (long n = 0; n < 200 && !completed; n++) {
        s2s_model *model = NULL;
        s2s_pool *pool = NULL;
        outcome out[N_REQUESTS];
        const int order[3] = {0, 1, 3};
        allocation_fail_at(n);
        s2s_status status =
            s2s_model_create(&config, m.tensors, m.n_tensors, S2S_ISA_AUTO, &model, NULL);
        EXPECT(status == S2S_OK || status == S2S_OUT_OF_MEMORY);
        if (status == S2S_OK) status = s2s_pool_create(2, &pool, NULL);
        EXPECT(status == S2S_OK || status == S2S_OUT_OF_MEMORY);
        int ran = status == S2S_OK && run(model, pool, 8, order, 3, out);
        completed = allocation_count() <= n; /* the n-th was never reached */
        allocation_fail_at(-1);
        CHECK(ran || !completed, "fails without a failing allocation");
        s2s_pool_free(pool);
        s2s_model_free(model);
    }
    EXPECT(completed);
    random_model_release(&m);
}

TEST(test_cancel_and_progress)
{
    const s2s_model_config config = random_model_config();
    random_model m;
    s2s_model *model = random_model_create(&m, &config, S2S_F32, S2S_ISA_AUTO, NULL);
    EXPECT(model != NULL);
    s2s_session_config sizes = session_config(4);
    s2s_session *session = NULL;
    s2s_error error;
    int32_t n_pending, n, n_before, source[32], ids[64];
    uint64_t a, b, last;
    s2s_request r;
    EXPECT(s2s_session_create(model, NULL, &sizes, &session, &error) == S2S_OK);
    make_request(1, &r, source, PREFIX, EOS);
    r.options.min_new_tokens = r.options.max_new_tokens = 30;
    EXPECT(s2s_session_submit(session, &r, &a, &error) == S2S_OK);
    EXPECT(s2s_session_submit(session, &r, &b, &error) == S2S_OK);
    EXPECT(!s2s_session_is_idle(session));
    for (int i = 0; i < 12; i++) EXPECT(s2s_session_step(session, &n_pending, &error) == S2S_OK);
    EXPECT(n_pending == 2);
    EXPECT(s2s_session_submit(session, &r, &last, &error) == S2S_OK);
    EXPECT(s2s_session_progress(session, a, ids, 64, &n, &error) == S2S_OK);
    EXPECT(n >= 0 && n <= 12);
    EXPECT(s2s_session_cancel(session, a, &error) == S2S_OK);    /* running */
    EXPECT(s2s_session_cancel(session, b, &error) == S2S_OK);    /* encoded, waiting for rows */
    EXPECT(s2s_session_cancel(session, last, &error) == S2S_OK); /* waiting */
    EXPECT(s2s_session_cancel(session, 99, &error) == S2S_INVALID_ARGUMENT);
    for (uint64_t id = a; id <= last; id++) {
        s2s_result *result = s2s_session_next_result(session);
        EXPECT(result != NULL && result->id == id && result->n_hypotheses >= 1);
        EXPECT(result->hypotheses[0].finish_reason == S2S_FINISH_CANCELLED);
        n_before = result->hypotheses[0].n_tokens;
        EXPECT(id == a ? n_before == 12 : n_before == 0);
        s2s_result_free(result);
    }
    EXPECT(s2s_session_step(session, &n_pending, &error) == S2S_OK && n_pending == 0);
    EXPECT(s2s_session_is_idle(session));
    s2s_session_free(session);
    s2s_model_free(model);
    random_model_release(&m);
}

static void damage_every_tensor(const s2s_model_config *config, s2s_dtype dtype)
{
    random_model m;
    s2s_model *model = NULL;
    s2s_error error;
    EXPECT(random_model_init(&m, config, dtype, 7));
    for (size_t i = 0; i < m.n_tensors; i++) {
        const s2s_tensor good = m.tensors[i];
        for (int damage = 0; damage < 7; damage++) {
            s2s_tensor *t = &m.tensors[i];
            *t = good;
            if (damage == 0) t->shape[0]++;
            if (damage == 1) t->rank = 9;
            if (damage == 2) t->n_bytes -= 4;
            if (damage == 3) t->name = "decoder.0.self_attn.qkv.wight";
            if (damage == 4) t->dtype = t->dtype == S2S_INT32 ? S2S_F32 : S2S_INT32;
            if (damage == 5) t->data = (const char *)t->data + 2;
            if (damage == 6) t->dtype = t->dtype == S2S_INT8 ? S2S_F32 : S2S_INT8;
            error.message[0] = '\0';
            s2s_status status =
                s2s_model_create(config, m.tensors, m.n_tensors, S2S_ISA_AUTO, &model, &error);
            EXPECT(status == S2S_INVALID_MODEL && model == NULL && error.message[0] != '\0');
        }
        m.tensors[i] = good;
    }
    random_model_release(&m);
}

/* Wrong descriptions, tensors and requests: one sentence each. */
TEST(test_wrong_input_is_refused)
{
    s2s_model_config config = random_model_config();
    random_model m;
    s2s_model *model = NULL;
    s2s_error error;
    damage_every_tensor(&config, S2S_INT8);
    damage_every_tensor(&config, S2S_F32);
    EXPECT(random_model_init(&m, &config, S2S_F32, 7));
    int32_t *fields = (int32_t *)&config;
    for (size_t i = 0; i < sizeof config / sizeof *fields; i++) {
        const int32_t good = fields[i], bad[] = {-1, 0x7fc00000 /* NaN */, 1 << 30};
        for (int j = 0; j < 3; j++) {
            fields[i] = bad[j];
            s2s_status status =
                s2s_model_create(&config, m.tensors, m.n_tensors, S2S_ISA_AUTO, &model, &error);
            /* 2^30 read as a float is 2.0, a fair scale; the window may be large. */
            EXPECT(status != S2S_OK || (bad[j] == 1 << 30));
            s2s_model_free(model);
        }
        fields[i] = good;
    }
    EXPECT(s2s_model_create(&config, m.tensors, m.n_tensors, S2S_ISA_AUTO, &model, &error) ==
           S2S_OK);

    s2s_session *session = NULL;
    s2s_session_config sizes = session_config(4);
    for (int i = 0; i < 4; i++) {
        int32_t *size = (int32_t *)&sizes + i;
        const int32_t good = *size, bad[] = {0, -5, INT32_MAX};
        for (int j = 0; j < 3; j++) {
            *size = bad[j];
            EXPECT(s2s_session_create(model, NULL, &sizes, &session, &error) ==
                   S2S_INVALID_ARGUMENT);
        }
        *size = good;
    }
    sizes.kv_dtype = S2S_INT8;
    EXPECT(s2s_session_create(model, NULL, &sizes, &session, &error) == S2S_INVALID_ARGUMENT);
    sizes.kv_dtype = S2S_BF16;
    EXPECT(s2s_session_create(model, NULL, &sizes, &session, &error) == S2S_OK);
    int32_t source[40] = {0};
    uint64_t id;
    s2s_request r;
    for (int wrong = 0; wrong < 8; wrong++) {
        make_request(0, &r, source, PREFIX, EOS);
        if (wrong == 0) source[0] = 53;
        if (wrong == 1) source[0] = -1;
        if (wrong == 2) r.n_source = 0;
        if (wrong == 3) r.n_source = 33;
        if (wrong == 4) r.options.max_new_tokens = 49;
        if (wrong == 5) r.options.num_beams = 5;
        if (wrong == 6) r.n_prefix = 0;
        if (wrong == 7) r.options.temperature = NAN;
        EXPECT(s2s_session_submit(session, &r, &id, &error) == S2S_INVALID_ARGUMENT);
    }
    s2s_session_free(session);
    s2s_model_free(model);
    random_model_release(&m);
}

/* A weight that is not a number is an error that says so, not an empty output. */
TEST(test_logits_that_are_not_numbers_are_an_error)
{
    const s2s_model_config config = random_model_config();
    random_model m;
    s2s_model *model = random_model_create(&m, &config, S2S_F32, S2S_ISA_AUTO, NULL);
    EXPECT(model != NULL);
    for (size_t i = 0; i < m.n_tensors; i++) {
        if (strcmp(m.tensors[i].name, "decoder.1.ffn.norm.bias") == 0) {
            ((float *)m.tensors[i].data)[3] = NAN;
        }
    }
    s2s_session_config sizes = session_config(8);
    s2s_session *session = NULL;
    s2s_error error;
    int32_t n_pending, source[32];
    uint64_t id;
    s2s_request r;
    EXPECT(s2s_session_create(model, NULL, &sizes, &session, &error) == S2S_OK);
    for (int i = 0; i < 4; i++) { /* greedy, beams, a forced prefix, sampling */
        make_request(i, &r, source, PREFIX, EOS);
        EXPECT(s2s_session_submit(session, &r, &id, &error) == S2S_OK);
        EXPECT(s2s_session_step(session, &n_pending, &error) == S2S_INVALID_MODEL);
        CHECK(strstr(error.message, "NaN") != NULL, "%s", error.message);
        s2s_result *result = s2s_session_next_result(session);
        EXPECT(result != NULL && result->id == id);
        s2s_result_free(result);
    }
    EXPECT(s2s_session_step(session, &n_pending, &error) == S2S_OK && n_pending == 0);
    s2s_session_free(session);
    s2s_model_free(model);
    random_model_release(&m);
}

int main(void)
{
    RUN(test_same_bits_whatever_the_batch);
    RUN(test_other_layer_descriptions);
    RUN(test_without_scores_the_same_tokens);
    RUN(test_steps_do_not_allocate);
    RUN(test_every_failing_allocation_is_survived);
    RUN(test_cancel_and_progress);
    RUN(test_wrong_input_is_refused);
    RUN(test_logits_that_are_not_numbers_are_an_error);
    return harness_end();
}
