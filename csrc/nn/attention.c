/* attention.c: see attention.h. */
#include "attention.h"

#include <stdlib.h>
#include <string.h>

#include "../base/numbers.h"

/* Keys too far away on either side count as at max_distance. */
static void add_bias(const s2s_attention *a)
{
    const int32_t most = a->max_distance, first = a->first_distance;
    const float *bias = a->bias + most;
    const int32_t begin = s2s_clamp(-most - first, 0, a->n);
    const int32_t end = s2s_clamp(most + 1 - first, begin, a->n);
    for (int32_t j = 0; j < begin; j++) a->scores[j] += bias[-most];
    for (int32_t j = begin; j < end; j++) a->scores[j] += bias[first + j];
    for (int32_t j = end; j < a->n; j++) a->scores[j] += bias[most];
}

/* What the description adds to the self-attention of one head. */
static void add_position(s2s_attention *a, const s2s_stack *stack, int32_t index, int32_t head)
{
    const float *bias = stack->layers[index].relative_bias;
    if (bias == NULL) return;
    a->max_distance = stack->config.max_distance;
    a->bias = bias + (size_t)head * (2 * (size_t)a->max_distance + 1);
}

void s2s_attend(const s2s_kernels *k, const s2s_attention *a)
{
    if (a->dtype == S2S_BF16)
        k->attention_scores_bf16(a->q, a->keys, a->cells, a->n, a->d_key, a->scale, a->scores);
    else
        k->attention_scores(a->q, a->keys, a->cells, a->n, a->d_key, a->scale, a->scores);

    if (a->softcap > 0) k->soft_cap(a->scores, a->n, a->softcap);
    if (a->bias != NULL) add_bias(a);
    k->softmax(a->scores, a->n);

    if (a->dtype == S2S_BF16)
        k->attention_context_bf16(a->scores, a->values, a->cells, a->n, a->d_value, a->out);
    else
        k->attention_context(a->scores, a->values, a->cells, a->n, a->d_value, a->out);
}

/* Room for the weights of a recorded attention; NULL when nothing is recorded. */
static float *take_weights(s2s_exec *exec, int32_t n_heads, int32_t n_queries, int32_t n_keys)
{
    if (exec->record == NULL) return NULL;
    float *weights =
        malloc((size_t)n_heads * (size_t)n_queries * (size_t)n_keys * sizeof *weights + 1);
    if (weights == NULL) exec->record_failed = 1;
    return weights;
}

/* ---- Encoder ------------------------------------------------------------------------------ */

typedef struct sources_task {
    const s2s_exec *exec;
    const s2s_stack *stack;
    const s2s_sources *sources;
    s2s_workspace *ws;
    int32_t layer;
    float *weights; /* [n_heads, n, n] to record, or NULL */
} sources_task;

/* One item is one head of one sequence. */
static void run_sources(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const sources_task *t = context;
    const s2s_stack *stack = t->stack;
    const s2s_workspace *ws = t->ws;
    const int32_t n_heads = stack->config.n_heads, d = stack->d_head;
    const int32_t heads_per_kv = n_heads / stack->config.n_kv_heads;
    const size_t ld = ws->ld_wide;

    for (int32_t item = begin; item < end; item++) {
        const int32_t s = item / n_heads, head = item % n_heads;
        const int32_t first = t->sources->offsets[s], n = t->sources->offsets[s + 1] - first;
        const float *rows = ws->wide + (size_t)first * ld;
        const float *keys = rows + (size_t)(n_heads + head / heads_per_kv) * (size_t)d;
        s2s_attention a = {
            .q = rows + (size_t)head * (size_t)d,
            .keys = keys,
            .values = keys + (size_t)stack->d_kv,
            .cells = ws->cells,
            .n = n,
            .d_key = d,
            .d_value = d,
            .dtype = S2S_F32,
            .scale = stack->config.attention_scale,
            .softcap = stack->config.attention_softcap,
            .scores = ws->scores + (size_t)worker * ws->ld_scores,
            .out = ws->context + (size_t)first * ws->ld_context + (size_t)head * (size_t)d,
        };
        add_position(&a, stack, t->layer, head);
        for (int32_t i = 0; i < n; i++, a.q += ld, a.out += ws->ld_context) {
            a.first_distance = -i;
            s2s_attend(t->exec->model->kernels, &a);
            if (t->weights) {
                memcpy(t->weights + ((size_t)head * (size_t)n + (size_t)i) * (size_t)n, a.scores,
                       (size_t)n * sizeof(float));
            }
        }
    }
}

void s2s_attention_sources(s2s_exec *exec, const s2s_stack *stack, int32_t index,
                           const s2s_sources *sources, s2s_workspace *ws)
{
    const int32_t n_heads = stack->config.n_heads;
    const int32_t n_tokens = sources->offsets[sources->n_sources];
    sources_task task = {exec, stack, sources,
                         ws,   index, take_weights(exec, n_heads, n_tokens, n_tokens)};
    s2s_pool_run(exec->pool, run_sources, &task, sources->n_sources * n_heads, 1);
    if (task.weights) {
        s2s_record_cube(exec, stack, index, "self_attn.weights", task.weights, n_heads, n_tokens,
                        n_tokens);
        free(task.weights);
    }
}

/* ---- Decoder ------------------------------------------------------------------------------ */

typedef struct rows_task {
    const s2s_exec *exec;
    const s2s_stack *stack;
    const s2s_kv_cache *cache;
    const s2s_batch *batch;
    s2s_workspace *ws;
    int32_t layer;
    s2s_attention_kind kind;
    float *weights; /* [n_heads, 1, n] to record, or NULL */
} rows_task;

/* Describes one head of one row; what is left out is where the results go. */
static s2s_attention describe(const rows_task *t, int32_t row, int32_t head)
{
    const s2s_stack *stack = t->stack;
    const s2s_batch *b = t->batch;
    const s2s_kv_cache *c = t->cache;
    const int32_t kv_head = head / (stack->config.n_heads / stack->config.n_kv_heads);
    s2s_attention a = {
        .q = t->ws->wide + (size_t)row * t->ws->ld_wide + (size_t)head * (size_t)stack->d_head,
        .d_key = stack->d_head,
        .d_value = stack->d_head,
        .dtype = c->dtype,
        .scale = stack->config.attention_scale,
        .softcap = stack->config.attention_softcap,
    };
    if (t->kind == S2S_CROSS_ATTENTION) {
        a.n = b->n_source[row];
        const size_t base = s2s_kv_cache_cross_base(c, t->layer, b->sources[row], kv_head, a.n);
        a.keys = s2s_kv_cache_at(c, c->cross_k, base);
        a.values = s2s_kv_cache_at(c, c->cross_v, base);
    } else {
        a.n = b->n_cells[row];
        a.cells = b->cells[row];
        a.first_distance = 1 - a.n;
        add_position(&a, stack, t->layer, head);
        const size_t base = s2s_kv_cache_self_base(c, t->layer, kv_head);
        a.keys = s2s_kv_cache_at(c, c->self_k, base);
        a.values = s2s_kv_cache_at(c, c->self_v, base);
    }
    return a;
}

/* One item is one head of one row. */
static void run_rows(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const rows_task *t = context;
    const s2s_workspace *ws = t->ws;
    const int32_t n_heads = t->stack->config.n_heads;
    for (int32_t item = begin; item < end; item++) {
        const int32_t row = item / n_heads, head = item % n_heads;
        s2s_attention a = describe(t, row, head);
        a.scores = ws->scores + (size_t)worker * ws->ld_scores;
        a.out =
            ws->context + (size_t)row * ws->ld_context + (size_t)head * (size_t)t->stack->d_head;
        s2s_attend(t->exec->model->kernels, &a);
        if (t->weights) {
            memcpy(t->weights + (size_t)head * (size_t)a.n, a.scores, (size_t)a.n * sizeof(float));
        }
    }
}

/* Mean over the heads of the weights, for the rows that asked for their alignment. */
static void run_alignment(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const rows_task *t = context;
    const s2s_workspace *ws = t->ws;
    const int32_t n_heads = t->stack->config.n_heads;
    for (int32_t row = begin; row < end; row++) {
        float *alignment = t->batch->alignment[row];
        if (alignment == NULL) continue;
        const int32_t n = t->batch->n_source[row];
        memset(alignment, 0, (size_t)n * sizeof(float));
        for (int32_t head = 0; head < n_heads; head++) {
            s2s_attention a = describe(t, row, head);
            a.scores = ws->scores + (size_t)worker * ws->ld_scores;
            a.out = ws->context + (size_t)row * ws->ld_context + /* recomputed: same values */
                    (size_t)head * (size_t)t->stack->d_head;
            s2s_attend(t->exec->model->kernels, &a);
            for (int32_t j = 0; j < n; j++) alignment[j] += a.scores[j];
        }
        for (int32_t j = 0; j < n; j++) alignment[j] /= (float)n_heads;
    }
}

void s2s_attention_rows(s2s_exec *exec, const s2s_stack *stack, int32_t index,
                        s2s_attention_kind kind, const s2s_kv_cache *cache, const s2s_batch *batch,
                        s2s_workspace *ws)
{
    const int cross = kind == S2S_CROSS_ATTENTION;
    const int32_t n_heads = stack->config.n_heads;
    const int32_t n = cross ? batch->n_source[0] : batch->n_cells[0]; /* recording: one row */
    rows_task task = {exec, stack, cache, batch,
                      ws,   index, kind,  take_weights(exec, n_heads, 1, n)};

    s2s_pool_run(exec->pool, run_rows, &task, batch->n * n_heads, 8);
    if (task.weights) {
        s2s_record_cube(exec, stack, index, cross ? "cross_attn.weights" : "self_attn.weights",
                        task.weights, n_heads, 1, n);
        free(task.weights);
    }
    if (cross && index == stack->config.n_layers - 1) {
        int wanted = 0;
        for (int32_t i = 0; i < batch->n; i++) wanted |= batch->alignment[i] != NULL;
        if (wanted) s2s_pool_run(exec->pool, run_alignment, &task, batch->n, 1);
    }
}
