/* test_prompt.c: prompts that are read once, over small random models without encoder. */
#include <pthread.h>

#include "failing_alloc.h"
#include "harness.h"
#include "random_model.h"

enum { N_PROMPT = 300, N_TAIL = 9, N_NEW = 6, N_REQUESTS = 4, N_THREADS = 4 };

typedef struct outcome {
    int32_t n_reused, tokens[N_NEW];
    float logprobs[N_NEW];
} outcome;

static s2s_model *create_model(random_model *m, int variant, s2s_dtype dtype, s2s_error *error)
{
    s2s_model_config config = random_model_variant(variant);
    config.encoder.n_layers = 0;
    config.decoder.max_positions = 400;
    return random_model_create(m, &config, dtype, S2S_ISA_AUTO, error);
}

/* Whole inputs: the prompt, then tokens of request i's own, of which request 3 leaves the prompt early. */
static void fill_input(int i, int32_t *ids)
{
    for (int32_t j = 0; j < N_PROMPT + N_TAIL; j++)
        ids[j] = 3 + (j < N_PROMPT ? j * 29 : i * 31 + j * 17) % 50;
    if (i == 3) ids[140] = 2;
}

static s2s_session_config session_config(s2s_dtype kv_dtype, const s2s_prompt *prompt)
{
    return (s2s_session_config){.max_rows = 6,
                                .max_target_positions = 400,
                                .max_encoder_tokens = 64,
                                .kv_dtype = kv_dtype,
                                .prompt = prompt};
}

/* Runs all requests in one session; 0 where something failed. */
static int run(const s2s_model *model, s2s_pool *pool, s2s_dtype kv_dtype, const s2s_prompt *prompt,
               outcome *out, s2s_error *error)
{
    const s2s_session_config config = session_config(kv_dtype, prompt);
    s2s_session *session = NULL;
    int32_t n_pending = 0, ids[N_PROMPT + N_TAIL];
    uint64_t id;
    if (s2s_session_create(model, pool, &config, &session, error) != S2S_OK) return 0;
    int ok = 1;
    for (int i = 0; ok && i < N_REQUESTS; i++) {
        fill_input(i, ids);
        s2s_request r = {.prefix = ids, .n_prefix = N_PROMPT + (i == 2 ? 0 : N_TAIL)};
        s2s_options_default(&r.options);
        r.options.max_new_tokens = N_NEW;
        r.options.num_beams = i % 2 ? 3 : 1;
        r.options.n_prompt = r.n_prefix;
        ok = s2s_session_submit(session, &r, &id, error) == S2S_OK;
    }
    do {
        s2s_result *result;
        ok = ok && s2s_session_step(session, &n_pending, error) == S2S_OK;
        while (ok && (result = s2s_session_next_result(session)) != NULL) {
            const s2s_hypothesis *h = &result->hypotheses[0];
            const int32_t n = h->n_tokens - N_NEW;
            outcome *o = &out[result->id - 1];
            o->n_reused = result->n_reused;
            memcpy(o->tokens, h->tokens + n, sizeof o->tokens);
            memcpy(o->logprobs, h->logprobs + n, sizeof o->logprobs);
            s2s_result_free(result);
            n_pending--;
        }
    } while (ok && n_pending > 0);
    s2s_session_free(session);
    return ok;
}

static s2s_prompt *read_prompt(const s2s_model *model, s2s_pool *pool, s2s_dtype kv_dtype,
                               s2s_error *error)
{
    int32_t ids[N_PROMPT + N_TAIL], n_left = 1;
    s2s_prompt *prompt = NULL;
    fill_input(0, ids);
    if (s2s_prompt_create(model, pool, kv_dtype, ids, N_PROMPT, &prompt, error) != S2S_OK)
        return NULL;
    while (n_left > 0) {
        if (s2s_prompt_read(prompt, &n_left, error) != S2S_OK) {
            s2s_prompt_free(prompt);
            return NULL;
        }
    }
    return prompt;
}

static const int32_t REUSED[N_REQUESTS] = {N_PROMPT, N_PROMPT, N_PROMPT - 1, 140};

static void check_same(const outcome *found, const outcome *expected)
{
    for (int i = 0; i < N_REQUESTS; i++) {
        CHECK(found[i].n_reused == REUSED[i], "%d of request %d", found[i].n_reused, i);
        CHECK(expected[i].n_reused == 0, "%d", expected[i].n_reused);
        CHECK(memcmp(found[i].tokens, expected[i].tokens, sizeof found[i].tokens) == 0 &&
                  memcmp(found[i].logprobs, expected[i].logprobs, sizeof found[i].logprobs) == 0,
              "request %d", i);
    }
}

typedef struct thread_task {
    const s2s_model *model;
    s2s_pool *pool;
    s2s_dtype kv_dtype;
    const s2s_prompt *prompt;
    outcome out[N_REQUESTS];
    int ok;
} thread_task;

static void *run_thread(void *context)
{
    thread_task *t = context;
    t->ok = run(t->model, t->pool, t->kv_dtype, t->prompt, t->out, NULL);
    return NULL;
}

/* One prompt, sessions on several threads, one pool: the bits of inputs that are read whole. */
TEST(shared_prompts_change_no_bit)
{
    for (int variant = 0; variant < 3; variant++) {
        const s2s_dtype dtype = variant == 1 ? S2S_INT8 : S2S_F32;
        random_model m;
        s2s_error error = {0};
        s2s_pool *pool = NULL;
        s2s_model *model = create_model(&m, variant, dtype, &error);
        CHECK(model != NULL, "%s", error.message);
        EXPECT(s2s_pool_create(2, &pool, NULL) == S2S_OK);
        const s2s_dtype kv_dtype = s2s_model_kv_dtype(model);
        s2s_prompt *prompt = read_prompt(model, pool, kv_dtype, &error);
        CHECK(prompt != NULL, "%s", error.message);
        outcome expected[N_REQUESTS];
        EXPECT(run(model, pool, kv_dtype, NULL, expected, &error));
        pthread_t threads[N_THREADS];
        thread_task tasks[N_THREADS];
        for (int i = 0; i < N_THREADS; i++) {
            tasks[i] = (thread_task){.model = model,
                                     .pool = i % 2 ? pool : NULL,
                                     .kv_dtype = kv_dtype,
                                     .prompt = prompt};
            EXPECT(pthread_create(&threads[i], NULL, run_thread, &tasks[i]) == 0);
        }
        for (int i = 0; i < N_THREADS; i++) {
            pthread_join(threads[i], NULL);
            EXPECT(tasks[i].ok);
            check_same(tasks[i].out, expected);
        }
        s2s_prompt_free(prompt);
        s2s_pool_free(pool);
        s2s_model_free(model);
        random_model_release(&m);
    }
}

/* Whichever allocation fails, there is a status and nothing leaks (ASan watches). */
TEST(every_failing_allocation_is_survived)
{
    random_model m;
    s2s_model *model = create_model(&m, 2, S2S_F32, NULL);
    EXPECT(model != NULL);
    int completed = 0;
    for (long n = 0; n < 100 && !completed; n++) {
        outcome out[N_REQUESTS];
        s2s_error error = {0};
        allocation_fail_at(n);
        s2s_prompt *prompt = read_prompt(model, NULL, S2S_BF16, &error);
        const int ran = prompt != NULL && run(model, NULL, S2S_BF16, prompt, out, &error);
        completed = allocation_count() <= n; /* the n-th was never reached */
        allocation_fail_at(-1);
        CHECK(ran == completed && (ran || error.status == S2S_OUT_OF_MEMORY), "%s", error.message);
        s2s_prompt_free(prompt);
    }
    EXPECT(completed);
    s2s_model_free(model);
    random_model_release(&m);
}

#define REFUSE(call, words)                                                                        \
    do {                                                                                           \
        error.message[0] = 0;                                                                      \
        EXPECT((call) != S2S_OK);                                                                  \
        CHECK(strstr(error.message, words) != NULL, "%s", error.message);                          \
    } while (0)

TEST(what_cannot_be_is_refused)
{
    random_model m, n;
    s2s_error error = {0};
    s2s_model *model = create_model(&m, 0, S2S_F32, &error), *other = NULL;
    const s2s_model_config config = random_model_config();
    s2s_prompt *prompt = NULL;
    s2s_session *session = NULL;
    int32_t ids[401] = {0};
    EXPECT(random_model_init(&n, &config, S2S_F32, 7));
    EXPECT(s2s_model_create(&config, n.tensors, n.n_tensors, S2S_ISA_AUTO, &other, NULL) == S2S_OK);

    REFUSE(s2s_prompt_create(other, NULL, S2S_F32, ids, 3, &prompt, &error), "a decoder alone");
    REFUSE(s2s_prompt_create(model, NULL, S2S_F32, ids, 0, &prompt, &error), "from 1 to 400");
    REFUSE(s2s_prompt_create(model, NULL, S2S_F32, ids, 401, &prompt, &error), "but has 401");
    REFUSE(s2s_prompt_create(model, NULL, S2S_INT8, ids, 3, &prompt, &error), "kv_dtype must be");
    REFUSE(s2s_prompt_create(NULL, NULL, S2S_F32, ids, 3, &prompt, &error), "NULL");
    ids[2] = 53;
    REFUSE(s2s_prompt_create(model, NULL, S2S_F32, ids, 3, &prompt, &error), "number 2 is 53");
    ids[2] = -1;
    REFUSE(s2s_prompt_create(model, NULL, S2S_F32, ids, 3, &prompt, &error), "number 2 is -1");
    EXPECT(prompt == NULL);

    ids[2] = 4;
    EXPECT(s2s_prompt_create(model, NULL, S2S_F32, ids, 200, &prompt, &error) == S2S_OK);
    s2s_session_config sizes = session_config(S2S_F32, prompt);
    int32_t n_left;
    EXPECT(s2s_prompt_read(prompt, &n_left, &error) == S2S_OK && n_left == 72);
    REFUSE(s2s_session_create(model, NULL, &sizes, &session, &error), "72 of its 200 tokens");
    EXPECT(s2s_prompt_read(prompt, &n_left, &error) == S2S_OK && n_left == 0);
    EXPECT(s2s_prompt_read(prompt, &n_left, &error) == S2S_OK && n_left == 0);
    sizes.kv_dtype = S2S_BF16;
    REFUSE(s2s_session_create(model, NULL, &sizes, &session, &error), "of the same type");
    sizes.kv_dtype = S2S_F32;
    sizes.max_source_positions = 8;
    REFUSE(s2s_session_create(other, NULL, &sizes, &session, &error), "max_target_positions");
    sizes.max_target_positions = 60;
    REFUSE(s2s_session_create(other, NULL, &sizes, &session, &error), "of the same model");
    EXPECT(session == NULL);
    s2s_prompt_free(prompt);
    s2s_prompt_free(NULL);
    s2s_model_free(model);
    s2s_model_free(other);
    random_model_release(&m);
    random_model_release(&n);
}

int main(void)
{
    RUN(shared_prompts_change_no_bit);
    RUN(every_failing_allocation_is_survived);
    RUN(what_cannot_be_is_refused);
    return harness_end();
}
