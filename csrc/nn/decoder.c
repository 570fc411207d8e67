/* decoder.c: self-attention over the cache, cross-attention over the source, feed-forward.
 *
 * The causal mask is not a matrix here: a row's cache simply holds no later position.
 */
#include "decoder.h"

#include "../base/profile.h"
#include "attention.h"
#include "latent.h"
#include "rotary.h"

void s2s_decoder_prepare(s2s_exec *exec, s2s_kv_cache *cache, const int32_t *slots,
                         const int32_t *offsets, int32_t n_sources, s2s_workspace *ws)
{
    const s2s_stack *stack = &exec->model->decoder;
    const s2s_rows rows = {ws->x, ws->ld_x, offsets[n_sources]};
    S2S_OPERATION(CROSS_KV);
    for (int32_t l = 0; l < stack->config.n_layers; l++) {
        const s2s_matrix *m = &stack->layers[l].cross_kv;
        /* All layers read the same rows: those of one dtype are prepared once. */
        if (l == 0 || m->dtype != stack->layers[l - 1].cross_kv.dtype)
            s2s_linear_prepare(exec, m, rows, ws);
        s2s_linear_run(exec, m, rows, ws, S2S_IDENTITY, NULL, 0, ws->wide, ws->ld_wide);
        S2S_OPERATION(KV_WRITE);
        for (int32_t s = 0; s < n_sources; s++) {
            const int32_t first = offsets[s], n = offsets[s + 1] - first;
            for (int32_t i = 0; i < n; i++) {
                const float *k = ws->wide + (size_t)(first + i) * ws->ld_wide;
                s2s_kv_cache_write_cross(cache, l, slots[s], i, k, k + stack->cross_kv.d_k);
            }
        }
    }
}

static void self_attention_block(s2s_exec *exec, const s2s_stack *stack, int32_t index,
                                 s2s_kv_cache *cache, const s2s_batch *b, s2s_workspace *ws)
{
    const s2s_layer *layer = &stack->layers[index];
    const float *input = s2s_block_enter(exec, stack, &layer->self_norms, b->n, ws);

    const int is_latent = stack->config.kv_rank > 0;

    S2S_OPERATION(QKV);
    if (is_latent) {
        s2s_latent_project(exec, stack, layer, input, b->positions, b->n, ws);
    } else {
        s2s_linear(exec, &layer->self_qkv, (s2s_rows){input, ws->ld_x, b->n}, ws, S2S_IDENTITY,
                   NULL, 0, ws->wide, ws->ld_wide);
        s2s_rotary_apply(exec, stack, b->positions, b->n, ws);
    }
    S2S_OPERATION(KV_WRITE);
    for (int32_t i = 0; i < b->n; i++) {
        const float *row = ws->wide + (size_t)i * ws->ld_wide;
        const float *k = is_latent ? row : row + stack->d_attention;
        s2s_kv_cache_write_self(cache, index, b->rows[i], b->positions[i], k,
                                k + stack->self_kv.d_k);
    }
    S2S_OPERATION(SELF_ATTENTION);
    s2s_attention_rows(exec, stack, index, S2S_SELF_ATTENTION, cache, b, ws);
    S2S_OPERATION(OUT);
    if (is_latent) s2s_latent_values(exec, stack, layer, b->n, ws);
    s2s_block_leave(exec, stack, &layer->self_norms, &layer->self_out,
                    is_latent ? ws->wide : ws->context, is_latent ? ws->ld_wide : ws->ld_context,
                    b->n, ws);
    s2s_record_rows(exec, stack, index, "self_attn.output", ws->x, b->n, layer->self_out.n_out,
                    ws->ld_x);
}

static void cross_attention_block(s2s_exec *exec, const s2s_stack *stack, int32_t index,
                                  const s2s_kv_cache *cache, const s2s_batch *b, s2s_workspace *ws)
{
    const s2s_layer *layer = &stack->layers[index];
    const float *input = s2s_block_enter(exec, stack, &layer->cross_norms, b->n, ws);

    S2S_OPERATION(CROSS_Q);
    s2s_linear(exec, &layer->cross_q, (s2s_rows){input, ws->ld_x, b->n}, ws, S2S_IDENTITY, NULL, 0,
               ws->wide, ws->ld_wide);
    S2S_OPERATION(CROSS_ATTENTION);
    s2s_attention_rows(exec, stack, index, S2S_CROSS_ATTENTION, cache, b, ws);
    S2S_OPERATION(CROSS_OUT);
    s2s_block_leave(exec, stack, &layer->cross_norms, &layer->cross_out, ws->context,
                    ws->ld_context, b->n, ws);
    s2s_record_rows(exec, stack, index, "cross_attn.output", ws->x, b->n, layer->cross_out.n_out,
                    ws->ld_x);
}

void s2s_decoder_run(s2s_exec *exec, s2s_kv_cache *cache, const s2s_batch *batch, s2s_workspace *ws)
{
    const s2s_stack *stack = &exec->model->decoder;

    s2s_embed_rows(exec, stack, batch->tokens, batch->positions, NULL, batch->n, ws);
    for (int32_t l = 0; l < stack->config.n_layers; l++) {
        self_attention_block(exec, stack, l, cache, batch, ws);
        if (s2s_has_cross_attention(exec->model))
            cross_attention_block(exec, stack, l, cache, batch, ws);
        s2s_ffn_block(exec, stack, l, batch->n, ws);
    }
    if (stack->config.final_norm) {
        s2s_norm_rows(exec, stack, &stack->final_norm, ws->x, batch->n, ws->ld_x, ws->x);
    }
    s2s_record_rows(exec, stack, -1, "output", ws->x, batch->n, exec->model->config.d_model,
                    ws->ld_x);
}
