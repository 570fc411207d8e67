/* encoder.c: self-attention over whole sequences, then the feed-forward block, layer by layer.
 *
 * Sequences are packed, so there is no padding and no mask: a query's scores run over the tokens of its
 * own sequence and nothing else.
 */
#include "encoder.h"

#include <stdlib.h>
#include <string.h>

typedef struct attention_task {
    s2s_exec *exec;
    const s2s_stack *stack;
    const s2s_sources *sources;
    s2s_workspace *ws;
    const uint32_t *cells; /* [longest] cell of key j relative to the first, in units of d_head */
    float *weights;        /* [n_heads, n, n] to record, or NULL */
} attention_task;

/* One item is one head of one sequence. */
static void run_attention(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const attention_task *t = context;
    const s2s_stack *stack = t->stack;
    const s2s_kernels *k = t->exec->model->kernels;
    const int32_t n_heads = stack->config.n_heads, d = stack->d_head;
    const int32_t heads_per_kv = n_heads / stack->config.n_kv_heads;
    const size_t ld = t->ws->ld_wide;
    float *scores = t->ws->scores + (size_t)worker * t->ws->ld_scores;

    for (int32_t item = begin; item < end; item++) {
        const int32_t s = item / n_heads, head = item % n_heads;
        const int32_t first = t->sources->offsets[s], n = t->sources->offsets[s + 1] - first;
        const float *rows = t->ws->wide + (size_t)first * ld;
        const float *q = rows + (size_t)head * (size_t)d;
        const float *key = rows + (size_t)(n_heads + head / heads_per_kv) * (size_t)d;
        const float *value = key + (size_t)stack->d_kv;
        float *out = t->ws->context + (size_t)first * t->ws->ld_context + (size_t)head * (size_t)d;
        for (int32_t i = 0; i < n; i++) {
            k->attention_scores(q + (size_t)i * ld, key, t->cells, n, d,
                                stack->config.attention_scale, scores);
            k->softmax(scores, n);
            if (t->weights) {
                memcpy(t->weights + ((size_t)head * (size_t)n + (size_t)i) * (size_t)n, scores,
                       (size_t)n * sizeof(float));
            }
            k->attention_context(scores, value, t->cells, n, d,
                                 out + (size_t)i * t->ws->ld_context);
        }
    }
}

static void self_attention_block(s2s_exec *exec, const s2s_stack *stack, int32_t index,
                                 const s2s_sources *sources, s2s_workspace *ws)
{
    const s2s_layer *layer = &stack->layers[index];
    const int32_t n_tokens = sources->offsets[sources->n_sources];
    const int32_t n_heads = stack->config.n_heads;
    const float *input = s2s_block_enter(exec, stack, &layer->self_norm, n_tokens, ws);
    s2s_linear(exec, &layer->self_qkv, (s2s_rows){input, ws->ld_x, n_tokens}, ws, S2S_IDENTITY,
               NULL, 0, ws->wide, ws->ld_wide);

    attention_task task = {exec, stack, sources, ws, ws->cells, NULL};
    if (exec->record) {
        task.weights =
            malloc((size_t)n_heads * (size_t)n_tokens * (size_t)n_tokens * sizeof(float) + 1);
        if (task.weights == NULL) exec->record_failed = 1;
    }
    s2s_pool_run(exec->pool, run_attention, &task, sources->n_sources * n_heads, 1);
    if (task.weights) {
        s2s_record_cube(exec, stack, index, "self_attn.weights", task.weights, n_heads, n_tokens,
                        n_tokens);
        free(task.weights);
    }
    s2s_block_leave(exec, stack, &layer->self_norm, &layer->self_out, ws->context, ws->ld_context,
                    n_tokens, ws);
    s2s_record_rows(exec, stack, index, "self_attn.output", ws->x, n_tokens, layer->self_out.n_out,
                    ws->ld_x);
}

void s2s_encoder_run(s2s_exec *exec, const s2s_sources *sources, s2s_workspace *ws)
{
    const s2s_stack *stack = &exec->model->encoder;
    const int32_t n_tokens = sources->offsets[sources->n_sources];

    s2s_embed_rows(exec, stack, sources->ids, sources->positions, n_tokens, ws);
    for (uint32_t j = 0; j < (uint32_t)ws->max_positions; j++) {
        ws->cells[j] = j * (uint32_t)(ws->ld_wide / (size_t)stack->d_head);
    }
    for (int32_t i = 0; i < stack->config.n_layers; i++) {
        self_attention_block(exec, stack, i, sources, ws);
        s2s_ffn_block(exec, stack, i, n_tokens, ws);
    }
    if (stack->config.final_norm) {
        s2s_norm_rows(exec, &stack->final_norm, stack->config.norm_eps, ws->x, n_tokens, ws->ld_x,
                      ws->x);
    }
    s2s_record_rows(exec, stack, -1, "output", ws->x, n_tokens, exec->model->config.d_model,
                    ws->ld_x);
}
