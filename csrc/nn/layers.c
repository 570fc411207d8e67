/* layers.c: see layers.h. */
#include "layers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/numbers.h"
#include "../base/profile.h"
#include "../model/coarse_i4.h"
#include "sparse.h"

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The widest row of queries, keys and values, or of the feed-forward block. */
static size_t widest(const s2s_stack *stack)
{
    const s2s_stack_config *c = &stack->config;
    const size_t heads = (size_t)c->n_heads;
    const size_t qkv = (size_t)stack->d_attention + 2 * (size_t)stack->cross_kv.d_k;
    const size_t ffn = (size_t)stack->d_ffn * (c->ffn_gated ? 2 : 1);
    if (c->kv_rank == 0) return max_size(qkv, ffn);
    const size_t d_rotary = (size_t)(stack->self_kv.d_key - stack->self_kv.d_value);
    const size_t query = heads * ((size_t)stack->d_head + d_rotary);
    const size_t values = heads * (size_t)stack->d_value;
    const size_t latent = max_size(max_size(query, values), (size_t)stack->self_kv.d_k);
    return max_size(max_size(qkv, ffn), latent);
}

/* What the heads of attention give, or the latents that queries are made of. */
static size_t widest_context(const s2s_stack *stack)
{
    const size_t heads = (size_t)stack->config.n_heads;
    const size_t latent = heads * (size_t)stack->self_kv.d_value;
    const size_t q_rank = (size_t)s2s_round_up(stack->config.q_rank, S2S_TILE);
    return max_size(max_size((size_t)stack->d_attention, latent), q_rank);
}

/* [max_positions, d_rotary] of a stack that has rotary positions */
static float *take_rotary(s2s_arena *arena, const s2s_stack *stack, int32_t max_positions)
{
    const int is_rotary = stack->config.n_layers > 0 && stack->inv_freq != NULL;
    const size_t width = is_rotary ? (size_t)stack->config.d_rotary : 0;
    return s2s_arena_take(arena, (size_t)max_positions, width * sizeof(float));
}

/* Rows that lie multiples of a KiB apart fall into the same few sets of a cache and evict each other. */
static size_t spread(size_t ld)
{
    return ld % 256 == 0 ? ld + S2S_TILE : ld;
}

/* Room for tiles of an int4 matrix as int8: some, in a fraction of the second-level cache. */
static void take_unpacked(s2s_workspace *ws, s2s_arena *arena, const s2s_model *model,
                          int32_t n_threads)
{
    const size_t widest_input = max_size(max_size(ws->ld_x, ws->ld_context), ws->ld_wide);
    const size_t n_bytes = max_size(1 << 17, 2 * s2s_i8_tile_bytes((int32_t)widest_input));
    ws->n_unpacked = model->has_int4 ? n_bytes + 4 * S2S_TILE : 0;
    ws->unpacked = s2s_arena_take(arena, (size_t)n_threads, ws->n_unpacked);
}

static void take_bounds_i4(s2s_workspace *ws, s2s_arena *arena, const s2s_model *model,
                           int32_t max_rows)
{
    s2s_bounds *b = &ws->bounds_i4;
    const s2s_matrix *m = &model->output;
    *b = (s2s_bounds){.ld = (size_t)m->n_tiles * S2S_TILE};
    if (s2s_model_may_have_coarse_i4(model))
        b->n_rows = s2s_min(max_rows, model->kernels->bound_i4_rows);
    const size_t rows = (size_t)b->n_rows;
    const size_t n_blocks = (b->ld + S2S_LOGITS_BLOCK - 1) / S2S_LOGITS_BLOCK;
    b->upper = s2s_arena_take(arena, rows, b->ld * sizeof *b->upper);
    b->most = s2s_arena_take(arena, rows, n_blocks * sizeof *b->most);
    b->reached = s2s_arena_take(arena, rows, sizeof *b->reached);
    b->left = s2s_arena_take(arena, rows, n_blocks * sizeof *b->left);
    b->x = s2s_arena_take(arena, rows, ws->ld_quantized);
    b->x_sum = s2s_arena_take(arena, rows, sizeof *b->x_sum);
    b->x_norm = s2s_arena_take(arena, rows, sizeof *b->x_norm);
}

void s2s_workspace_init(s2s_workspace *ws, s2s_arena *arena, const s2s_model *model,
                        int32_t max_tokens, int32_t max_source, int32_t max_target,
                        int32_t n_threads)
{
    const size_t rows = (size_t)max_tokens;
    ws->max_tokens = max_tokens;
    ws->ld_x = (size_t)s2s_round_up(model->config.d_model, S2S_TILE);
    ws->ld_wide = max_size(widest(&model->encoder), widest(&model->decoder));
    ws->ld_wide = spread(ws->ld_wide);
    ws->ld_context = max_size(widest_context(&model->encoder), widest_context(&model->decoder));
    ws->ld_query = model->decoder.config.kv_rank > 0 ? (size_t)model->decoder.d_query : 0;
    ws->max_source = max_source;
    ws->max_target = max_target;
    ws->ld_scores = spread((size_t)s2s_round_up(s2s_max(max_source, max_target), S2S_TILE));
    const int32_t n_heads = s2s_max(model->encoder.config.n_heads, model->decoder.config.n_heads);
    ws->n_scores = (size_t)s2s_max(S2S_ATTENTION_ROWS_PER_SOURCE * n_heads, S2S_ATTENTION_ROWS);
    ws->n_packed = ws->ld_scores * (size_t)model->encoder.d_head;
    ws->x = s2s_arena_take(arena, rows, ws->ld_x * sizeof(float));
    ws->h = s2s_arena_take(arena, rows, ws->ld_x * sizeof(float));
    ws->wide = s2s_arena_take(arena, rows, ws->ld_wide * sizeof(float));
    ws->context = s2s_arena_take(arena, rows, ws->ld_context * sizeof(float));
    ws->query = s2s_arena_take(arena, rows, ws->ld_query * sizeof(float));
    ws->scores =
        s2s_arena_take(arena, (size_t)n_threads * ws->n_scores, ws->ld_scores * sizeof(float));
    ws->packed = s2s_arena_take(arena, (size_t)n_threads * 2, ws->n_packed * sizeof(float));
    ws->ld_quantized = 0;
    if (model->has_int8) {
        const size_t widest_input = max_size(max_size(ws->ld_x, ws->ld_context), ws->ld_wide);
        /* an odd number of lines: a column of 16 rows then spreads over the sets of the cache */
        ws->ld_quantized = (widest_input + 63) / 64 * 64 | 64;
    }
    ws->bounds = NULL;
    if (model->output.n_tiles > 0 && model->output.dtype != S2S_INT8) {
        ws->ld_quantized = max_size(ws->ld_quantized, (ws->ld_x + 63) / 64 * 64 | 64);
        const size_t n_blocks =
            ((size_t)model->output.n_out + S2S_LOGITS_BLOCK - 1) / S2S_LOGITS_BLOCK;
        ws->bounds = s2s_arena_take(arena, rows, (2 * n_blocks + S2S_ROW_BOUNDS) * sizeof(float));
    }
    s2s_sparse_init(ws, arena, model);
    take_bounds_i4(ws, arena, model, max_tokens);
    take_unpacked(ws, arena, model, n_threads);
    ws->quantized = s2s_arena_take(arena, rows, ws->ld_quantized);
    ws->row_scale = s2s_arena_take(arena, rows, sizeof(float));
    ws->encoder_rotary = take_rotary(arena, &model->encoder, max_source);
    ws->decoder_rotary = take_rotary(arena, &model->decoder, max_target);
    ws->logits = s2s_arena_take(arena, (size_t)n_threads, S2S_LOGITS_SCRATCH * sizeof(float));
}

/* ---- Norms and embeddings ----------------------------------------------------------------- */

typedef struct norm_task {
    const s2s_kernels *kernels;
    const s2s_norm *norm;
    const float *x;
    float *y;
    size_t ld;
    int32_t d;
    s2s_norm_kind kind;
    float eps;
} norm_task;

static void run_norm(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const norm_task *t = context;
    (void)worker;
    const float *x = t->x + (size_t)begin * t->ld, *weight = t->norm->weight;
    float *y = t->y + (size_t)begin * t->ld;
    if (t->kind == S2S_LAYER_NORM) {
        t->kernels->layer_norm(x, t->ld, end - begin, weight, t->norm->bias, t->d, t->eps, y);
        return;
    }
    for (int32_t i = begin; i < end; i++, x += t->ld, y += t->ld)
        t->kernels->rms_norm(x, weight, t->d, t->eps, y);
}

void s2s_norm_rows(s2s_exec *exec, const s2s_stack *stack, const s2s_norm *norm, const float *x,
                   int32_t n_rows, size_t ld, float *y)
{
    S2S_OPERATION(NORM);
    const int32_t d = norm->d;
    const s2s_stack_config *c = &stack->config;
    norm_task task = {exec->model->kernels,        norm,       x, y, ld, d,
                      (s2s_norm_kind)c->norm_kind, c->norm_eps};
    s2s_pool_run(exec->pool, run_norm, &task, n_rows, 1 + S2S_MIN_FLOATS_PER_THREAD / d);
}

static void embed(const s2s_exec *exec, const s2s_matrix *table, int32_t id, float scale,
                  const float *position, float *y)
{
    const s2s_kernels *k = exec->model->kernels;
    if (table->dtype == S2S_INT8)
        k->embed_i8(table->w, table->scale, table->n_in, id, scale, position, y);
    else
        (table->dtype == S2S_BF16 ? k->embed_bf16 : k->embed_f32)(table->w, table->n_in, id, scale,
                                                                  position, y);
}

void s2s_embed_rows(s2s_exec *exec, const s2s_stack *stack, const int32_t *ids,
                    const int32_t *positions, const int32_t *token_types, int32_t n_rows,
                    s2s_workspace *ws)
{
    const s2s_matrix *table = &stack->embed;
    const size_t d = (size_t)table->n_in;
    const float scale = stack->config.embed_scale;

    S2S_OPERATION(EMBED);
    if (exec->record) {
        for (int32_t i = 0; i < n_rows; i++) {
            embed(exec, table, ids[i], scale, NULL, ws->x + (size_t)i * ws->ld_x);
        }
        s2s_record_rows(exec, stack, -1, "embed", ws->x, n_rows, table->n_in, ws->ld_x);
        for (int32_t i = 0; stack->positions && i < n_rows; i++) {
            memcpy(ws->h + (size_t)i * ws->ld_x, stack->positions + (size_t)positions[i] * d,
                   d * sizeof(float));
        }
        if (stack->positions) {
            s2s_record_rows(exec, stack, -1, "positions", ws->h, n_rows, table->n_in, ws->ld_x);
        }
    }
    for (int32_t i = 0; i < n_rows; i++) {
        const float *position =
            stack->positions ? stack->positions + (size_t)positions[i] * d : NULL;
        float *x = ws->x + (size_t)i * ws->ld_x;
        embed(exec, table, ids[i], scale, position, x);
        if (stack->token_types) {
            const float *type = stack->token_types + (token_types ? (size_t)token_types[i] * d : 0);
            for (size_t j = 0; j < d; j++) x[j] += type[j];
        }
    }
    if (stack->config.embed_norm) {
        s2s_norm_rows(exec, stack, &stack->embed_norm, ws->x, n_rows, ws->ld_x, ws->x);
    }
    s2s_record_rows(exec, stack, -1, "input", ws->x, n_rows, table->n_in, ws->ld_x);
}

/* ---- Blocks ------------------------------------------------------------------------------- */

const float *s2s_block_enter(s2s_exec *exec, const s2s_stack *stack, const s2s_block_norms *norms,
                             int32_t n_rows, s2s_workspace *ws)
{
    if (stack->config.norm_place == S2S_POST_NORM) return ws->x;
    s2s_norm_rows(exec, stack, &norms->norm, ws->x, n_rows, ws->ld_x, ws->h);
    return ws->h;
}

/* x += h, both [n_rows, d_model] */
static void add_rows(s2s_exec *exec, int32_t n_rows, s2s_workspace *ws)
{
    const size_t d = (size_t)exec->model->config.d_model;
    for (int32_t i = 0; i < n_rows; i++) {
        float *x = ws->x + (size_t)i * ws->ld_x;
        const float *h = ws->h + (size_t)i * ws->ld_x;
        for (size_t j = 0; j < d; j++) x[j] += h[j];
    }
}

void s2s_block_leave(s2s_exec *exec, const s2s_stack *stack, const s2s_block_norms *norms,
                     const s2s_matrix *m, const float *block, size_t ld_block, int32_t n_rows,
                     s2s_workspace *ws)
{
    const s2s_rows rows = {block, ld_block, n_rows};
    if (stack->config.norm_place == S2S_SANDWICH_NORM) {
        s2s_linear(exec, m, rows, ws, S2S_IDENTITY, NULL, 0, ws->h, ws->ld_x);
        s2s_norm_rows(exec, stack, &norms->post_norm, ws->h, n_rows, ws->ld_x, ws->h);
        add_rows(exec, n_rows, ws);
        return;
    }
    s2s_linear(exec, m, rows, ws, S2S_IDENTITY, ws->x, ws->ld_x, ws->x, ws->ld_x);
    if (stack->config.norm_place == S2S_POST_NORM)
        s2s_norm_rows(exec, stack, &norms->norm, ws->x, n_rows, ws->ld_x, ws->x);
}

typedef struct gate_task {
    const s2s_kernels *kernels;
    const s2s_stack *stack;
    s2s_workspace *ws;
} gate_task;

static void run_gate(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const gate_task *t = context;
    const s2s_stack *stack = t->stack;
    (void)worker;
    for (int32_t i = begin; i < end; i++) {
        float *row = t->ws->wide + (size_t)i * t->ws->ld_wide;
        t->kernels->gate(row, row + stack->d_ffn, stack->config.d_ffn, stack->config.activation);
    }
}

void s2s_ffn_block(s2s_exec *exec, const s2s_stack *stack, int32_t index, int32_t n_rows,
                   s2s_workspace *ws)
{
    const s2s_layer *layer = &stack->layers[index];
    const int gated = stack->config.ffn_gated;
    const float *input = s2s_block_enter(exec, stack, &layer->ffn_norms, n_rows, ws);
    S2S_OPERATION(FFN_UP);
    s2s_linear(exec, &layer->ffn_up, (s2s_rows){input, ws->ld_x, n_rows}, ws,
               gated ? S2S_IDENTITY : (s2s_activation)stack->config.activation, NULL, 0, ws->wide,
               ws->ld_wide);
    if (gated) {
        gate_task task = {exec->model->kernels, stack, ws};
        s2s_pool_run(exec->pool, run_gate, &task, n_rows,
                     1 + S2S_MIN_FLOATS_PER_THREAD / stack->config.d_ffn);
    }
    S2S_OPERATION(FFN_DOWN);
    s2s_block_leave(exec, stack, &layer->ffn_norms, &layer->ffn_down, ws->wide, ws->ld_wide, n_rows,
                    ws);
    s2s_record_rows(exec, stack, index, "output", ws->x, n_rows, layer->ffn_down.n_out, ws->ld_x);
}

/* ---- Recording ---------------------------------------------------------------------------- */

void s2s_record_named(s2s_exec *exec, const char *name, const float *data, int32_t n_rows,
                      int32_t d, size_t ld)
{
    if (exec->record == NULL || exec->record_failed) return;
    int64_t shape[2] = {n_rows, d};
    float *copy = malloc((size_t)n_rows * (size_t)d * sizeof(float) + 1);
    if (copy == NULL) {
        exec->record_failed = 1;
        return;
    }
    for (int32_t i = 0; i < n_rows; i++) {
        memcpy(copy + (size_t)i * (size_t)d, data + (size_t)i * ld, (size_t)d * sizeof(float));
    }
    exec->record(exec->record_user, name, 2, shape, copy);
    free(copy);
}

static void record_name(char *name, const s2s_stack *stack, int32_t index, const char *what)
{
    if (index < 0) {
        snprintf(name, S2S_NAME_MAX, "%s.%s", stack->name, what);
    } else {
        snprintf(name, S2S_NAME_MAX, "%s.%d.%s", stack->name, index, what);
    }
}

void s2s_record_rows(s2s_exec *exec, const s2s_stack *stack, int32_t index, const char *what,
                     const float *data, int32_t n_rows, int32_t d, size_t ld)
{
    char name[S2S_NAME_MAX];
    if (exec->record == NULL) return;
    record_name(name, stack, index, what);
    s2s_record_named(exec, name, data, n_rows, d, ld);
}

void s2s_record_cube(s2s_exec *exec, const s2s_stack *stack, int32_t index, const char *what,
                     const float *data, int64_t n0, int64_t n1, int64_t n2)
{
    if (exec->record == NULL || exec->record_failed) return;
    char name[S2S_NAME_MAX];
    int64_t shape[3] = {n0, n1, n2};
    record_name(name, stack, index, what);
    exec->record(exec->record_user, name, 3, shape, data);
}
