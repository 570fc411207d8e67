/* decoder.c: self-attention over the cache, cross-attention over the source, feed-forward.
 *
 * The causal mask is not a matrix here: a row's cache simply holds no later position.
 */
#include "decoder.h"

#include <stdlib.h>
#include <string.h>

void s2s_decoder_prepare(s2s_exec *exec, s2s_kv_cache *cache, const int32_t *slots,
                         const int32_t *offsets, int32_t n_sources, s2s_workspace *ws)
{
    const s2s_stack *stack = &exec->model->decoder;
    const s2s_rows rows = {ws->x, ws->ld_x, offsets[n_sources]};
    for (int32_t l = 0; l < stack->config.n_layers; l++) {
        const s2s_matrix *m = &stack->layers[l].cross_kv;
        /* All layers read the same rows: those of one dtype are prepared once. */
        if (l == 0 || m->dtype != stack->layers[l - 1].cross_kv.dtype)
            s2s_linear_prepare(exec, m, rows, ws);
        s2s_linear_run(exec, m, rows, ws, S2S_IDENTITY, NULL, 0, ws->wide, ws->ld_wide);
        for (int32_t s = 0; s < n_sources; s++) {
            const int32_t first = offsets[s], n = offsets[s + 1] - first;
            for (int32_t i = 0; i < n; i++) {
                const float *k = ws->wide + (size_t)(first + i) * ws->ld_wide;
                s2s_kv_cache_write_cross(cache, l, slots[s], n, i, k, k + stack->d_kv);
            }
        }
    }
}

typedef struct attention_task {
    s2s_exec *exec;
    const s2s_stack *stack;
    s2s_kv_cache *cache;
    const s2s_batch *batch;
    s2s_workspace *ws;
    int32_t layer;
    int cross;
    float *weights; /* [n_heads, 1, n] to record, or NULL */
} attention_task;

/* softmax(scale q K^T) V of one head of one row; the weights are left in `scores`. */
static int32_t attend(const attention_task *t, int32_t row, int32_t head, float *scores, float *out)
{
    const s2s_stack *stack = t->stack;
    const s2s_kernels *k = t->exec->model->kernels;
    const s2s_batch *b = t->batch;
    const int32_t d = stack->d_head;
    const int32_t kv_head = head / (stack->config.n_heads / stack->config.n_kv_heads);
    const float *q = t->ws->wide + (size_t)row * t->ws->ld_wide + (size_t)head * (size_t)d;
    const uint32_t *cells = t->cross ? NULL : b->cells[row];
    const int32_t n = t->cross ? b->n_source[row] : b->n_cells[row];
    const size_t base =
        t->cross ? s2s_kv_cache_cross_base(t->cache, t->layer, b->sources[row], kv_head, n)
                 : s2s_kv_cache_self_base(t->cache, t->layer, kv_head);
    const s2s_kv_cache *c = t->cache;
    const void *keys = s2s_kv_cache_at(c, t->cross ? c->cross_k : c->self_k, base);
    const void *values = s2s_kv_cache_at(c, t->cross ? c->cross_v : c->self_v, base);
    const float scale = stack->config.attention_scale;

    if (c->dtype == S2S_BF16) {
        k->attention_scores_bf16(q, keys, cells, n, d, scale, scores);
        k->softmax(scores, n);
        k->attention_context_bf16(scores, values, cells, n, d, out);
    } else {
        k->attention_scores(q, keys, cells, n, d, scale, scores);
        k->softmax(scores, n);
        k->attention_context(scores, values, cells, n, d, out);
    }
    return n;
}

/* One item is one head of one row. */
static void run_attention(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const attention_task *t = context;
    const int32_t n_heads = t->stack->config.n_heads;
    float *scores = t->ws->scores + (size_t)worker * t->ws->ld_scores;
    for (int32_t item = begin; item < end; item++) {
        const int32_t row = item / n_heads, head = item % n_heads;
        float *out = t->ws->context + (size_t)row * t->ws->ld_context +
                     (size_t)head * (size_t)t->stack->d_head;
        int32_t n = attend(t, row, head, scores, out);
        if (t->weights) {
            memcpy(t->weights + (size_t)head * (size_t)n, scores, (size_t)n * sizeof(float));
        }
    }
}

/* Mean over the heads of the weights, for the rows that asked for their alignment. */
static void run_alignment(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const attention_task *t = context;
    const int32_t n_heads = t->stack->config.n_heads;
    float *scores = t->ws->scores + (size_t)worker * t->ws->ld_scores;
    for (int32_t row = begin; row < end; row++) {
        float *alignment = t->batch->alignment[row];
        if (alignment == NULL) continue;
        const int32_t n = t->batch->n_source[row];
        float *out = t->ws->context + (size_t)row * t->ws->ld_context; /* recomputed: same values */
        memset(alignment, 0, (size_t)n * sizeof(float));
        for (int32_t head = 0; head < n_heads; head++) {
            attend(t, row, head, scores, out + (size_t)head * (size_t)t->stack->d_head);
            for (int32_t j = 0; j < n; j++) alignment[j] += scores[j];
        }
        for (int32_t j = 0; j < n; j++) alignment[j] /= (float)n_heads;
    }
}

static void attention(attention_task *t)
{
    s2s_exec *exec = t->exec;
    const int32_t n_heads = t->stack->config.n_heads;
    const int32_t n = t->cross ? t->batch->n_source[0] : t->batch->n_cells[0];
    const int last = t->layer == t->stack->config.n_layers - 1;

    if (exec->record) {
        t->weights = malloc((size_t)n_heads * (size_t)n * sizeof(float) + 1);
        if (t->weights == NULL) exec->record_failed = 1;
    }
    s2s_pool_run(exec->pool, run_attention, t, t->batch->n * n_heads, 8);
    if (t->weights) {
        s2s_record_cube(exec, t->stack, t->layer,
                        t->cross ? "cross_attn.weights" : "self_attn.weights", t->weights, n_heads,
                        1, n);
        free(t->weights);
        t->weights = NULL;
    }
    if (t->cross && last) {
        int wanted = 0;
        for (int32_t i = 0; i < t->batch->n; i++) wanted |= t->batch->alignment[i] != NULL;
        if (wanted) s2s_pool_run(exec->pool, run_alignment, t, t->batch->n, 1);
    }
}

static void self_attention_block(attention_task *t)
{
    s2s_exec *exec = t->exec;
    s2s_workspace *ws = t->ws;
    const s2s_stack *stack = t->stack;
    const s2s_layer *layer = &stack->layers[t->layer];
    const s2s_batch *b = t->batch;
    const float *input = s2s_block_enter(exec, stack, &layer->self_norm, b->n, ws);

    s2s_linear(exec, &layer->self_qkv, (s2s_rows){input, ws->ld_x, b->n}, ws, S2S_IDENTITY, NULL, 0,
               ws->wide, ws->ld_wide);
    for (int32_t i = 0; i < b->n; i++) {
        const float *k = ws->wide + (size_t)i * ws->ld_wide + stack->d_attention;
        s2s_kv_cache_write_self(t->cache, t->layer, b->rows[i], b->positions[i], k,
                                k + stack->d_kv);
    }
    t->cross = 0;
    attention(t);
    s2s_block_leave(exec, stack, &layer->self_norm, &layer->self_out, ws->context, ws->ld_context,
                    b->n, ws);
    s2s_record_rows(exec, stack, t->layer, "self_attn.output", ws->x, b->n, layer->self_out.n_out,
                    ws->ld_x);
}

static void cross_attention_block(attention_task *t)
{
    s2s_exec *exec = t->exec;
    s2s_workspace *ws = t->ws;
    const s2s_stack *stack = t->stack;
    const s2s_layer *layer = &stack->layers[t->layer];
    const s2s_batch *b = t->batch;
    const float *input = s2s_block_enter(exec, stack, &layer->cross_norm, b->n, ws);

    s2s_linear(exec, &layer->cross_q, (s2s_rows){input, ws->ld_x, b->n}, ws, S2S_IDENTITY, NULL, 0,
               ws->wide, ws->ld_wide);
    t->cross = 1;
    attention(t);
    s2s_block_leave(exec, stack, &layer->cross_norm, &layer->cross_out, ws->context, ws->ld_context,
                    b->n, ws);
    s2s_record_rows(exec, stack, t->layer, "cross_attn.output", ws->x, b->n, layer->cross_out.n_out,
                    ws->ld_x);
}

void s2s_decoder_run(s2s_exec *exec, s2s_kv_cache *cache, const s2s_batch *batch, s2s_workspace *ws)
{
    const s2s_stack *stack = &exec->model->decoder;
    attention_task task = {.exec = exec, .stack = stack, .cache = cache, .batch = batch, .ws = ws};

    s2s_embed_rows(exec, stack, batch->tokens, batch->positions, batch->n, ws);
    for (int32_t l = 0; l < stack->config.n_layers; l++) {
        task.layer = l;
        self_attention_block(&task);
        cross_attention_block(&task);
        s2s_ffn_block(exec, stack, l, batch->n, ws);
    }
    if (stack->config.final_norm) {
        s2s_norm_rows(exec, &stack->final_norm, stack->config.norm_eps, ws->x, batch->n, ws->ld_x,
                      ws->x);
    }
    s2s_record_rows(exec, stack, -1, "output", ws->x, batch->n, exec->model->config.d_model,
                    ws->ld_x);
}

void s2s_decoder_logits(s2s_exec *exec, int32_t begin, int32_t end, s2s_workspace *ws, float *out,
                        size_t ld)
{
    const s2s_matrix *m = &exec->model->output;
    const s2s_rows rows = {ws->x + (size_t)begin * ws->ld_x, ws->ld_x, end - begin};
    s2s_linear(exec, m, rows, ws, S2S_IDENTITY, NULL, 0, out, ld);
    s2s_record_rows(exec, &exec->model->decoder, -1, "logits", out, end - begin, m->n_out, ld);
}
