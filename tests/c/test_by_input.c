/* When products may leave zeros out. */
#include <math.h>
#include <pthread.h>

#include "harness.h"
#include "model/by_input.h"
#include "random_model.h"
#include "search_request.h"

enum { N_IN = 6, N_TILES = 2, N_WEIGHTS = N_IN * N_TILES * S2S_TILE, MANY = 1000 };

/* Asks until there is an answer; whether the matrix became ready. */
static int becomes_ready(const s2s_matrix *m)
{
    CHECK(!s2s_by_input_ready(m), "at once");
    CHECK(!s2s_by_input_is_unfit(m), "at once");
    int is_ready = 0;
    for (int i = 0; i < MANY && !is_ready; i++) is_ready = s2s_by_input_ready(m);
    CHECK(s2s_by_input_is_unfit(m) == !is_ready, "in the end");
    return is_ready;
}

TEST(float_weights_must_be_plain)
{
    const struct {
        float value;
        int is_plain;
    } cases[] = {{0.5f, 1},      {0.0f, 1},     {-0.0f, 1},     {0x1p-63f, 1},
                 {-0x1p-63f, 1}, {0x1p-64f, 0}, {-0x1p-64f, 0}, {1e-45f, 0},
                 {3e38f, 1},     {INFINITY, 0}, {-INFINITY, 0}, {NAN, 0}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int is_bf16 = 0; is_bf16 < 2; is_bf16++) {
            float w[N_WEIGHTS];
            uint16_t half[N_WEIGHTS];
            for (int i = 0; i < N_WEIGHTS; i++) w[i] = random_float();
            w[random_below(N_WEIGHTS)] = cases[c].value;
            for (int i = 0; i < N_WEIGHTS; i++) half[i] = s2s_bf16_from_f32(w[i]);
            if (is_bf16 && fabsf(cases[c].value) < 1e-44f && cases[c].value != 0.0f) continue;
            s2s_by_input b = {0};
            const s2s_matrix m = {.w = is_bf16 ? (const void *)half : w,
                                  .n_in = N_IN,
                                  .n_out = N_TILES * S2S_TILE,
                                  .n_tiles = N_TILES,
                                  .dtype = is_bf16 ? S2S_BF16 : S2S_F32,
                                  .by_input = &b};
            CHECK(becomes_ready(&m) == cases[c].is_plain, "%a, %d", (double)cases[c].value,
                  is_bf16);
            s2s_by_input_free(&b);
        }
}

TEST(int8_sums_must_be_honest)
{
    for (int wrong = 0; wrong < 2; wrong++) {
        int8_t w[N_TILES * (N_IN + 3) / 4 * 4 * S2S_TILE + 64] = {0};
        int32_t sum[N_TILES * S2S_TILE] = {0};
        for (int tile = 0; tile < N_TILES; tile++)
            for (int input = 0; input < N_IN; input++)
                for (int c = 0; c < S2S_TILE; c++) {
                    const int8_t weight = (int8_t)(random_below(255) - 127);
                    w[tile * 128 + input / 4 * 64 + c * 4 + input % 4] = weight;
                    sum[tile * S2S_TILE + c] += weight;
                }
        sum[random_below(N_TILES * S2S_TILE)] += wrong;
        s2s_by_input b = {0};
        const s2s_matrix m = {.w = w,
                              .sum = sum,
                              .n_in = N_IN,
                              .n_out = N_TILES * S2S_TILE,
                              .n_tiles = N_TILES,
                              .dtype = S2S_INT8,
                              .by_input = &b};
        CHECK(becomes_ready(&m) == !wrong, "wrong %d", wrong);
        CHECK((b.rows != NULL) == !wrong, "wrong %d", wrong);
        s2s_by_input_free(&b);
    }
}

static void *ask(void *matrix)
{
    for (int i = 0; i < MANY; i++)
        if (s2s_by_input_ready(matrix))
            CHECK(((s2s_matrix *)matrix)->by_input->rows != NULL, "rows");
    return NULL;
}

TEST(threads_may_ask_at_once)
{
    int8_t w[2 * 4 * S2S_TILE] = {1};
    int32_t sum[S2S_TILE] = {1};
    s2s_by_input b = {0};
    s2s_matrix m = {.w = w,
                    .sum = sum,
                    .n_in = N_IN,
                    .n_out = S2S_TILE,
                    .n_tiles = 1,
                    .dtype = S2S_INT8,
                    .by_input = &b};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, ask, &m) == 0, "thread");
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    CHECK(s2s_by_input_ready(&m), "ready");
    s2s_by_input_free(&b);
}

static s2s_tensor *find(random_model *m, const char *name)
{
    size_t i = 0;
    while (i < m->n_tensors && strcmp(m->tensors[i].name, name) != 0) i++;
    CHECK(i < m->n_tensors, "no tensor %s", name);
    return &m->tensors[i];
}

static void add_zeros(random_model *m, const char *name, const s2s_tensor *like)
{
    s2s_tensor *t = &m->tensors[m->n_tensors];
    *t = *like;
    t->name = strcpy(m->names[m->n_tensors++], name);
    const size_t n_bytes = (t->n_bytes + 63) / 64 * 64;
    t->data = memset(aligned_alloc(64, n_bytes), 0, n_bytes);
}

/* Layer 0 projects down by four bits, in which no product leaves zeros out; layer 1 as before. */
static void make_first_layer_int4(random_model *m, const char *stack)
{
    char name[S2S_NAME_MAX];
    snprintf(name, sizeof name, "%s.0.ffn.down.weight", stack);
    s2s_tensor *t = find(m, name);
    const int32_t n = (int32_t)t->shape[0] * S2S_TILE;
    const int was_int8 = t->dtype == S2S_INT8;
    free((void *)t->data);
    *t = (s2s_tensor){.name = t->name, .dtype = S2S_INT4, .rank = 4};
    t->shape[0] = n / S2S_TILE, t->shape[1] = 1, t->shape[2] = 17, t->shape[3] = 64;
    t->n_bytes = (size_t)n / S2S_TILE * 17 * 64;
    t->data = memset(aligned_alloc(64, t->n_bytes), 0x11, t->n_bytes);
    if (was_int8) return; /* scales and sums are there */
    s2s_tensor vector = {.dtype = S2S_F32, .rank = 1, .shape = {n}, .n_bytes = (size_t)n * 4};
    snprintf(name, sizeof name, "%s.0.ffn.down.weight.scale", stack);
    add_zeros(m, name, &vector);
    vector.dtype = S2S_INT32;
    snprintf(name, sizeof name, "%s.0.ffn.down.weight.sum", stack);
    add_zeros(m, name, &vector);
}

/* The log-probabilities of one request; 0 where something fails. */
static int run_request(const s2s_model *model, float *logprobs, int32_t n)
{
    const s2s_session_config sizes = {.max_rows = 2,
                                      .max_source_positions = 32,
                                      .max_target_positions = 48,
                                      .max_encoder_tokens = 64,
                                      .max_sources = 2};
    s2s_session *session = NULL;
    s2s_request request = make_request(1);
    s2s_status status = s2s_session_create(model, NULL, &sizes, &session, NULL);
    int32_t n_pending;
    uint64_t id;
    request.options.min_new_tokens = request.options.max_new_tokens = n;
    if (status == S2S_OK) status = s2s_session_submit(session, &request, &id, NULL);
    while (status == S2S_OK && !s2s_session_is_idle(session))
        status = s2s_session_step(session, &n_pending, NULL);
    s2s_result *result = status == S2S_OK ? s2s_session_next_result(session) : NULL;
    const int is_whole = result != NULL && result->hypotheses[0].n_tokens == n;
    if (is_whole) memcpy(logprobs, result->hypotheses[0].logprobs, (size_t)n * sizeof *logprobs);
    s2s_result_free(result);
    s2s_session_free(session);
    return is_whole;
}

TEST(layers_may_differ_in_dtype)
{
    enum { N_TOKENS = 12, N_RUNS = 8 };
    const s2s_dtype dtypes[] = {S2S_F32, S2S_INT8};
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        s2s_model_config config = random_model_config();
        config.encoder.activation = config.decoder.activation = S2S_RELU;
        random_model m;
        s2s_model *model = NULL;
        s2s_error error = {0};
        CHECK(random_model_init(&m, &config, dtypes[d], 7), "memory");
        make_first_layer_int4(&m, "encoder");
        make_first_layer_int4(&m, "decoder");
        s2s_model_create(&config, m.tensors, m.n_tensors, S2S_ISA_AUTO, &model, &error);
        CHECK(model != NULL, "%s", error.message);
        float first[N_TOKENS], later[N_TOKENS];
        CHECK(model != NULL && run_request(model, first, N_TOKENS), "dtype %d", (int)dtypes[d]);
        for (int i = 0; model != NULL && i < N_RUNS; i++)
            CHECK(run_request(model, later, N_TOKENS) && !memcmp(first, later, sizeof first),
                  "run %d, dtype %d", i, (int)dtypes[d]);
        s2s_model_free(model);
        random_model_release(&m);
    }
}

int main(void)
{
    RUN(layers_may_differ_in_dtype);
    RUN(float_weights_must_be_plain);
    RUN(int8_sums_must_be_honest);
    RUN(threads_may_ask_at_once);
    return harness_end();
}
