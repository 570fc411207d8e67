/* encoder.c: self-attention over whole sequences, then the feed-forward block, layer by layer.
 *
 * Sequences are packed, so there is no padding and no mask: a query's scores run over the tokens of its
 * own sequence and nothing else.
 */
#include "encoder.h"

#include "../base/profile.h"
#include "attention.h"
#include "rotary.h"

static void self_attention_block(s2s_exec *exec, const s2s_stack *stack, int32_t index,
                                 const s2s_sources *sources, s2s_workspace *ws)
{
    const s2s_layer *layer = &stack->layers[index];
    const int32_t n_tokens = sources->offsets[sources->n_sources];
    const float *input = s2s_block_enter(exec, stack, &layer->self_norms, n_tokens, ws);
    S2S_OPERATION(QKV);
    s2s_linear(exec, &layer->self_qkv, (s2s_rows){input, ws->ld_x, n_tokens}, ws, S2S_IDENTITY,
               NULL, 0, ws->wide, ws->ld_wide);

    s2s_rotary_apply(exec, stack, sources->positions, n_tokens, ws);
    S2S_OPERATION(SELF_ATTENTION);
    s2s_attention_sources(exec, stack, index, sources, ws);
    S2S_OPERATION(OUT);
    s2s_block_leave(exec, stack, &layer->self_norms, &layer->self_out, ws->context, ws->ld_context,
                    n_tokens, ws);
    s2s_record_rows(exec, stack, index, "self_attn.output", ws->x, n_tokens, layer->self_out.n_out,
                    ws->ld_x);
}

void s2s_encoder_run(s2s_exec *exec, const s2s_sources *sources, s2s_workspace *ws)
{
    const s2s_stack *stack = &exec->model->encoder;
    const int32_t n_tokens = sources->offsets[sources->n_sources];

    S2S_OPERATION(ENCODER);
    s2s_embed_rows(exec, stack, sources->ids, sources->positions, sources->token_types, n_tokens,
                   ws);
    for (int32_t i = 0; i < stack->config.n_layers; i++) {
        self_attention_block(exec, stack, i, sources, ws);
        s2s_ffn_block(exec, stack, i, n_tokens, ws);
    }
    if (stack->config.final_norm) {
        s2s_norm_rows(exec, stack, &stack->final_norm, ws->x, n_tokens, ws->ld_x, ws->x);
    }
    s2s_record_rows(exec, stack, -1, "output", ws->x, n_tokens, exec->model->config.d_model,
                    ws->ld_x);
}
