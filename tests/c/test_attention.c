/* Attention over whole sequences against a double reference, and at every SIMD level to the same bits:
 * grouped heads, windows, biases and soft caps, sequences of several blocks packed together. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "nn/attention.h"

enum { N_HEADS = 4, D_HEAD = 32, N_SOURCES = 4, MAX_DISTANCE = 5 };

static const int32_t OFFSETS[N_SOURCES + 1] = {0, 1, 26, 96, 102};

typedef struct setup {
    s2s_model *model;
    s2s_exec exec;
    s2s_workspace ws;
    s2s_arena arena;
    s2s_layer layer;
    float bias[N_HEADS * (2 * MAX_DISTANCE + 1)];
} setup;

static void setup_make(setup *t, const s2s_kernels *kernels, int32_t n_kv_heads, int32_t window,
                       float softcap, int with_bias)
{
    memset(t, 0, sizeof *t);
    t->model = calloc(1, sizeof *t->model);
    t->model->kernels = kernels;
    t->model->config.d_model = 16;
    s2s_stack *stack = &t->model->encoder;
    stack->config.n_layers = 1;
    stack->config.n_heads = N_HEADS;
    stack->config.n_kv_heads = n_kv_heads;
    stack->config.d_ffn = 16;
    stack->config.attention_scale = 0.3f;
    stack->config.attention_softcap = softcap;
    stack->config.window = window;
    stack->config.max_distance = MAX_DISTANCE;
    stack->d_head = D_HEAD;
    stack->d_attention = N_HEADS * D_HEAD;
    stack->self_kv = (s2s_kv_shape){.n_heads = n_kv_heads,
                                    .d_key = D_HEAD,
                                    .d_value = D_HEAD,
                                    .d_k = n_kv_heads * D_HEAD,
                                    .d_v = n_kv_heads * D_HEAD};
    stack->cross_kv = stack->self_kv;
    stack->layers = &t->layer;
    for (size_t i = 0; i < sizeof t->bias / sizeof *t->bias; i++) t->bias[i] = random_float();
    if (with_bias) t->layer.relative_bias = t->bias;
    t->exec.model = t->model;
    for (int pass = 0; pass < 2; pass++) {
        s2s_workspace_init(&t->ws, &t->arena, t->model, OFFSETS[N_SOURCES], 70, 70, 1);
        if (pass == 0) CHECK(s2s_arena_init(&t->arena, t->arena.used, NULL), "no memory");
    }
}

static void setup_free(setup *t)
{
    s2s_arena_release(&t->arena, NULL);
    free(t->model);
}

/* One head of one query in double. */
static void check_query(const setup *t, int32_t first, int32_t n, int32_t query, int32_t head)
{
    const s2s_stack *stack = &t->model->encoder;
    const size_t kv = (size_t)(head / (N_HEADS / stack->config.n_kv_heads)) * D_HEAD;
    const float *rows = t->ws.wide + (size_t)first * t->ws.ld_wide;
    const float *q = rows + (size_t)query * t->ws.ld_wide + (size_t)(head * D_HEAD);
    const int32_t window = stack->config.window;
    double weights[70], sum = 0;
    for (int32_t j = 0; j < n; j++) {
        const float *key = rows + (size_t)j * t->ws.ld_wide + stack->d_attention + kv;
        double score = 0;
        for (int i = 0; i < D_HEAD; i++) score += (double)q[i] * (double)key[i];
        score *= (double)stack->config.attention_scale;
        const double cap = (double)stack->config.attention_softcap;
        if (cap > 0) score = cap * tanh(score / cap);
        int32_t distance = j - query;
        if (window > 0 && abs(distance) > window) score = -INFINITY;
        if (distance > MAX_DISTANCE) distance = MAX_DISTANCE;
        if (distance < -MAX_DISTANCE) distance = -MAX_DISTANCE;
        if (t->layer.relative_bias)
            score += (double)t->bias[head * (2 * MAX_DISTANCE + 1) + MAX_DISTANCE + distance];
        sum += weights[j] = exp(score);
    }
    const float *out =
        t->ws.context + (size_t)(first + query) * t->ws.ld_context + (size_t)(head * D_HEAD);
    for (int i = 0; i < D_HEAD; i++) {
        double want = 0;
        for (int32_t j = 0; j < n; j++) {
            const float *key = rows + (size_t)j * t->ws.ld_wide + stack->d_attention + kv;
            want += weights[j] / sum * (double)key[stack->self_kv.d_k + i];
        }
        CHECK(fabs((double)out[i] - want) <= 1e-4, "%s query %d of %d, head %d: %g, want %g",
              t->model->kernels->name, query, n, head, (double)out[i], want);
    }
}

static void check_case(int32_t n_kv_heads, int32_t window, float softcap, int with_bias)
{
    float *first_level = NULL;
    size_t n_out = 0;
    const uint64_t seed = harness_seed; /* the same numbers at every level */
    for (s2s_isa isa = S2S_ISA_GENERIC; isa <= S2S_ISA_NEON; isa++) {
        if (!s2s_isa_supported(isa)) continue;
        setup t;
        harness_seed = seed;
        setup_make(&t, s2s_kernels_get(isa), n_kv_heads, window, softcap, with_bias);
        for (size_t i = 0; i < (size_t)OFFSETS[N_SOURCES] * t.ws.ld_wide; i++)
            t.ws.wide[i] = 2 * random_float();
        const s2s_sources sources = {.offsets = OFFSETS, .n_sources = N_SOURCES};
        s2s_attention_sources(&t.exec, &t.model->encoder, 0, &sources, &t.ws);
        for (int32_t s = 0; s < N_SOURCES; s++) {
            const int32_t n = OFFSETS[s + 1] - OFFSETS[s];
            for (int32_t query = 0; query < n; query++)
                for (int32_t head = 0; head < N_HEADS; head++)
                    check_query(&t, OFFSETS[s], n, query, head);
        }
        n_out = (size_t)OFFSETS[N_SOURCES] * t.ws.ld_context;
        if (first_level == NULL) {
            first_level = malloc(n_out * sizeof *first_level);
            memcpy(first_level, t.ws.context, n_out * sizeof *first_level);
        } else {
            CHECK(memcmp(first_level, t.ws.context, n_out * sizeof *first_level) == 0,
                  "%s: bits differ", t.model->kernels->name);
        }
        setup_free(&t);
    }
    free(first_level);
}

TEST(whole_sequences)
{
    check_case(4, 0, 0.0f, 0);
    check_case(2, 0, 0.0f, 1);
    check_case(1, 0, 3.0f, 0);
}

TEST(windows)
{
    check_case(4, 1, 0.0f, 0);
    check_case(4, 3, 2.0f, 1);
    check_case(2, 20, 0.0f, 1);
    check_case(2, 69, 0.0f, 0);
    check_case(2, 1000, 5.0f, 1);
}

int main(void)
{
    RUN(whole_sequences);
    RUN(windows);
    return harness_end();
}
