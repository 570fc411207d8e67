/* attention.c: see attention.h. */
#include "attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/numbers.h"
#include "transpose.h"

/* Keys too far away on either side count as at max_distance. */
static void add_bias(const float *bias, int32_t most, int32_t first, int32_t n, float *scores)
{
    const int32_t begin = s2s_clamp(-most - first, 0, n);
    const int32_t end = s2s_clamp(most + 1 - first, begin, n);
    bias += most;
    for (int32_t j = 0; j < begin; j++) scores[j] += bias[-most];
    for (int32_t j = begin; j < end; j++) scores[j] += bias[first + j];
    for (int32_t j = end; j < n; j++) scores[j] += bias[most];
}

/* What the description adds to the self-attention of heads `head` and on. */
static void add_position(s2s_attention *a, const s2s_stack *stack, int32_t index, int32_t head)
{
    const float *bias = stack->layers[index].relative_bias;
    if (bias == NULL) return;
    a->max_distance = stack->config.max_distance;
    a->bias = bias + (size_t)head * (2 * (size_t)a->max_distance + 1);
}

/* Rules out keys that are further from a row than the window. */
static void hide_outside(const s2s_attention *a, int32_t row, float *scores)
{
    const int32_t own =
        row - a->first_distance; /* the row's position, counted from the first key */
    for (int32_t j = 0; j < a->n; j++) {
        if (j < own - a->window || j > own + a->window) scores[j] = -INFINITY;
    }
}

/* Scores to weights: what a description does to scores is done here. */
static void weigh(const s2s_kernels *k, const s2s_attention *a)
{
    for (int32_t i = 0; i < a->n_rows * a->n_heads; i++) {
        const int32_t row = i / a->n_heads, head = i % a->n_heads;
        float *scores = a->scores + (size_t)i * a->ld_scores;
        if (a->softcap > 0) k->soft_cap(scores, a->n, a->softcap);
        if (a->bias != NULL) {
            add_bias(a->bias + (size_t)head * (2 * (size_t)a->max_distance + 1), a->max_distance,
                     a->first_distance - row, a->n, scores);
        }
        if (a->window > 0) hide_outside(a, row, scores);
        k->softmax(scores, a->n);
    }
}

void s2s_attend(const s2s_kernels *k, const s2s_attention *a, s2s_dtype dtype)
{
    (dtype == S2S_BF16 ? k->attention_scores_bf16 : k->attention_scores)(a);
    weigh(k, a);
    (dtype == S2S_BF16 ? k->attention_context_bf16 : k->attention_context)(a);
}

/* Weights to record, [n_heads, n_queries, n_keys] of zeros; NULL when nothing is recorded. */
static float *take_weights(s2s_exec *exec, int32_t n_heads, int32_t n_queries, int32_t n_keys)
{
    if (exec->record == NULL) return NULL;
    float *weights =
        calloc((size_t)n_heads * (size_t)n_queries * (size_t)n_keys + 1, sizeof *weights);
    if (weights == NULL) exec->record_failed = 1;
    return weights;
}

/* The weights of queries `query`, query + 1, ... of keys first_key, first_key + 1, ... */
static void record_weights(const s2s_attention *a, int32_t query, int32_t n_queries,
                           int32_t first_key, int32_t n_keys, float *weights)
{
    for (int32_t i = 0; i < a->n_rows * a->n_heads; i++) {
        const int32_t row = query + i / a->n_heads, head = i % a->n_heads;
        memcpy(weights + (size_t)(head * n_queries + row) * (size_t)n_keys + first_key,
               a->scores + (size_t)i * a->ld_scores, (size_t)a->n * sizeof(float));
    }
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

/* scale * keys [n, d] transposed to the tiles of a product, [n rounded up to 16 / 16, d, 16]; zeros where
 * there is no key. */
static void pack_keys(const float *keys, size_t ld, int32_t n, int32_t d, float scale, float *tiles)
{
    for (int32_t first = 0; first < n; first += S2S_TILE, tiles += (size_t)d * S2S_TILE) {
        const int32_t here = s2s_min(n - first, S2S_TILE);
        const float *rows = keys + (size_t)first * ld;
        for (int32_t c = 0; c < S2S_TILE; c += 4) {
            const int32_t n_rows = s2s_clamp(here - c, 0, 4);
            for (int32_t i = 0; i < d; i += 4) { /* d is a multiple of 16 */
                const float *four = rows + (size_t)c * ld + (size_t)i;
                float *to = tiles + (size_t)i * S2S_TILE + c;
                if (n_rows == 4) {
                    s2s_transpose_4x4(four, ld, scale, to, S2S_TILE);
                } else {
                    float padded[16] = {0};
                    for (int32_t r = 0; r < n_rows; r++)
                        memcpy(padded + 4 * r, four + (size_t)r * ld, 4 * sizeof(float));
                    s2s_transpose_4x4(padded, 4, scale, to, S2S_TILE);
                }
            }
        }
    }
}

/* values [n, d] as the tiles of a product over n: [d / 16, n, 16]. */
static void pack_values(const float *values, size_t ld, int32_t n, int32_t d, float *tiles)
{
    for (int32_t i = 0; i < d; i += S2S_TILE) {
        for (int32_t j = 0; j < n; j++, tiles += S2S_TILE)
            memcpy(tiles, values + (size_t)j * ld + i, S2S_TILE * sizeof(float));
    }
}

/* Context of the rows, [n_rows, d], from weights of some of the n values that the tiles hold. */
static void sum_values(const s2s_kernels *k, const s2s_attention *a, const float *tiles, int32_t n,
                       int32_t d, float *context, size_t ld)
{
    const s2s_matmul product = {.x = a->scores,
                                .w = tiles,
                                .y = context,
                                .ldx = a->ld_scores,
                                .ldy = ld,
                                .n_rows = a->n_rows,
                                .k = a->n,
                                .activation = S2S_IDENTITY};
    if (a->n == n) {
        k->matmul_f32(&product, 0, d / S2S_TILE);
        return;
    }
    for (int32_t i = 0; i < d; i += S2S_TILE) { /* these rows of a tile lie apart from the next's */
        s2s_matmul one = product;
        one.w = tiles + (size_t)i * (size_t)n;
        one.y = context + i;
        k->matmul_f32(&one, 0, 1);
    }
}

/* One item is one KV head of one sequence.  Both halves of attention are products here, as of packed
 * weights: scores q (scale K)^T and context (weights V). */
static void run_sources(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const sources_task *t = context;
    const s2s_stack *stack = t->stack;
    const s2s_workspace *ws = t->ws;
    const s2s_kernels *k = t->exec->model->kernels;
    const int32_t n_kv_heads = stack->config.n_kv_heads, d = stack->d_head;
    const int32_t heads_per_kv = stack->config.n_heads / n_kv_heads;
    const int32_t window = stack->config.full_layers[t->layer] ? 0 : stack->config.window;
    float *key_tiles = ws->packed + (size_t)worker * 2 * ws->n_packed;
    float *value_tiles = key_tiles + ws->n_packed;
    float *scores = ws->scores + (size_t)worker * ws->n_scores * ws->ld_scores;

    for (int32_t item = begin; item < end; item++) {
        const int32_t s = item / n_kv_heads, kv_head = item % n_kv_heads;
        const int32_t first = t->sources->offsets[s], n = t->sources->offsets[s + 1] - first;
        const float *keys = ws->wide + (size_t)first * ws->ld_wide + stack->d_attention +
                            (size_t)kv_head * (size_t)d;
        pack_keys(keys, ws->ld_wide, n, d, stack->config.attention_scale, key_tiles);
        pack_values(keys + stack->self_kv.d_k, ws->ld_wide, n, d, value_tiles);
        for (int32_t h = kv_head * heads_per_kv; h < (kv_head + 1) * heads_per_kv; h++) {
            for (int32_t row = 0; row < n; row += S2S_ATTENTION_ROWS) {
                const size_t token = (size_t)(first + row), at = (size_t)h * (size_t)d;
                const int32_t n_rows = s2s_min(S2S_ATTENTION_ROWS, n - row);
                /* Tiles of keys that some row sees: all of them but for a window. */
                const int32_t begin_tile = window ? s2s_max(row - window, 0) / S2S_TILE : 0;
                const int32_t last = window ? s2s_min(row + n_rows - 1 + window, n - 1) : n - 1;
                const int32_t first_key = begin_tile * S2S_TILE;
                s2s_attention a = {
                    .scores = scores + first_key,
                    .ld_scores = ws->ld_scores,
                    .n_rows = n_rows,
                    .n_heads = 1,
                    .n = last + 1 - first_key,
                    .softcap = stack->config.attention_softcap,
                    .first_distance = first_key - row,
                    .window = window,
                };
                add_position(&a, stack, t->layer, h);
                k->matmul_f32(&(s2s_matmul){.x = ws->wide + token * ws->ld_wide + at,
                                            .w = key_tiles,
                                            .y = scores,
                                            .ldx = ws->ld_wide,
                                            .ldy = ws->ld_scores,
                                            .n_rows = n_rows,
                                            .k = d,
                                            .activation = S2S_IDENTITY},
                              begin_tile, last / S2S_TILE + 1);
                weigh(k, &a);
                if (t->weights)
                    record_weights(&a, row, n, first_key, n,
                                   t->weights + (size_t)h * (size_t)n * (size_t)n);
                sum_values(k, &a, value_tiles + (size_t)first_key * S2S_TILE, n, d,
                           ws->context + token * ws->ld_context + at, ws->ld_context);
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
    const int32_t n_items = sources->n_sources * stack->config.n_kv_heads;
    s2s_pool_run(exec->pool, run_sources, &task, n_items, 1);
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

static const s2s_kv_shape *shape_of(const rows_task *t)
{
    return t->kind == S2S_CROSS_ATTENTION ? &t->stack->cross_kv : &t->stack->self_kv;
}

/* Heads first_head ... of n_rows rows from batch row `row`; cross-attention: all of one source. */
static s2s_attention describe(const rows_task *t, int32_t row, int32_t n_rows, int32_t first_head,
                              int32_t n_heads, int32_t worker)
{
    const s2s_stack *stack = t->stack;
    const s2s_batch *b = t->batch;
    const s2s_kv_cache *c = t->cache;
    const s2s_workspace *ws = t->ws;
    const int32_t ring = c->layer_ring[t->layer];
    const int cross = t->kind == S2S_CROSS_ATTENTION;
    const s2s_kv_shape *kv = shape_of(t);
    const int32_t heads_per_kv = stack->config.n_heads / kv->n_heads;
    const int32_t kv_head = first_head / heads_per_kv;
    const int is_latent = kv->d_v == 0;
    const float *q = is_latent ? ws->query : ws->wide;
    const size_t ld_q = is_latent ? ws->ld_query : ws->ld_wide;
    const size_t first = cross ? s2s_kv_cache_cross_first(c, t->layer, b->sources[row])
                               : s2s_kv_cache_self_first(c, t->layer);
    const void *keys =
        s2s_kv_cache_at(c, cross ? c->cross_k : c->self_k,
                        first * (size_t)kv->d_k + (size_t)kv_head * (size_t)kv->d_key);
    s2s_attention a = {
        .q = q + (size_t)row * ld_q + (size_t)first_head * (size_t)kv->d_key,
        .keys = keys,
        .values = is_latent ? keys
                            : s2s_kv_cache_at(c, cross ? c->cross_v : c->self_v,
                                              first * (size_t)kv->d_v +
                                                  (size_t)kv_head * (size_t)kv->d_value),
        .cells = cross ? NULL : b->cells[ring][row],
        .scores = ws->scores + (size_t)worker * ws->n_scores * ws->ld_scores,
        .out =
            ws->context + (size_t)row * ws->ld_context + (size_t)first_head * (size_t)kv->d_value,
        .ld_q = ld_q,
        .ld_keys = (size_t)kv->d_k,
        .ld_values = (size_t)(is_latent ? kv->d_k : kv->d_v),
        .ld_scores = ws->ld_scores,
        .ld_out = ws->ld_context,
        .n_rows = n_rows,
        .n_heads = n_heads,
        .heads_per_kv = heads_per_kv,
        .n = cross ? b->n_source[row] : b->n_cells[ring][row],
        .d_key = kv->d_key,
        .d_value = kv->d_value,
        .scale = stack->config.attention_scale,
        .softcap = stack->config.attention_softcap,
    };
    a.first_distance = 1 - a.n;
    if (!cross) add_position(&a, stack, t->layer, first_head);
    return a;
}

/* Rows from `row` on, at most `limit`, that look at the same source. */
static int32_t same_source(const rows_task *t, int32_t row, int32_t limit)
{
    int32_t n = 1;
    if (t->kind == S2S_SELF_ATTENTION) return n;
    limit = s2s_min(limit, S2S_ATTENTION_ROWS_PER_SOURCE);
    while (n < limit && t->batch->sources[row + n] == t->batch->sources[row]) n++;
    return n;
}

/* Positions that a row could see were there no window. */
static int32_t keys_of(const rows_task *t, int32_t row)
{
    return t->kind == S2S_CROSS_ATTENTION ? t->batch->n_source[row] : t->batch->positions[row] + 1;
}

/* One item is one KV head of one row: few rows can be split between threads too. */
static void run_rows(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const rows_task *t = context;
    const int32_t n_kv_heads = shape_of(t)->n_heads;
    const int32_t heads_per_kv = t->stack->config.n_heads / n_kv_heads;
    while (begin < end) {
        const int32_t row = begin / n_kv_heads, head = begin % n_kv_heads;
        const int32_t n_heads = s2s_min(n_kv_heads - head, end - begin);
        const int32_t n_rows =
            n_heads == n_kv_heads ? same_source(t, row, (end - begin) / n_kv_heads) : 1;
        const s2s_attention a =
            describe(t, row, n_rows, head * heads_per_kv, n_heads * heads_per_kv, worker);
        s2s_attend(t->exec->model->kernels, &a, t->cache->dtype);
        if (t->weights) {
            const int32_t n_keys = keys_of(t, row);
            record_weights(&a, 0, 1, n_keys - a.n, n_keys,
                           t->weights + (size_t)(head * heads_per_kv) * (size_t)n_keys);
        }
        begin += n_rows * n_heads;
    }
}

/* Mean over the heads of the weights, for the rows that asked for their alignment: computed again, which
 * gives the same values. */
static void run_alignment(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const rows_task *t = context;
    const int32_t n_heads = t->stack->config.n_heads;
    for (int32_t row = begin; row < end; row++) {
        float *alignment = t->batch->alignment[row];
        if (alignment == NULL) continue;
        const s2s_attention a = describe(t, row, 1, 0, n_heads, worker);
        s2s_attend(t->exec->model->kernels, &a, t->cache->dtype);
        for (int32_t j = 0; j < a.n; j++) {
            float sum = 0.0f;
            for (int32_t head = 0; head < n_heads; head++)
                sum += a.scores[(size_t)head * a.ld_scores + (size_t)j];
            alignment[j] = sum / (float)n_heads;
        }
    }
}

void s2s_attention_rows(s2s_exec *exec, const s2s_stack *stack, int32_t index,
                        s2s_attention_kind kind, const s2s_kv_cache *cache, const s2s_batch *batch,
                        s2s_workspace *ws)
{
    const int cross = kind == S2S_CROSS_ATTENTION;
    const int32_t n_heads = stack->config.n_heads;
    rows_task task = {exec, stack, cache, batch, ws, index, kind, NULL};
    const int32_t n = keys_of(&task, 0); /* recording: one row */
    task.weights = take_weights(exec, n_heads, 1, n);

    s2s_pool_run(exec->pool, run_rows, &task, batch->n * shape_of(&task)->n_heads, 8);
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
