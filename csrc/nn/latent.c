/* latent.c: see latent.h. */
#include "latent.h"

#include <string.h>

#include "rotary.h"

/* Head `head` of a matrix whose outputs are those of all heads, n_out each. */
static s2s_matrix head_of(const s2s_matrix *m, int32_t head, int32_t n_out)
{
    const size_t first = (size_t)head * (size_t)n_out;
    s2s_matrix part = *m;
    part.w = (const char *)m->w + first / S2S_TILE * s2s_matrix_tile_bytes(m);
    if (m->scale) part.scale = m->scale + first;
    if (m->sum) part.sum = m->sum + first;
    part.n_out = n_out;
    part.n_tiles = n_out / S2S_TILE;
    return part;
}

/* y_h = x_h W_h of every head: x [n_rows, n_heads, *], heads d_x apart; y likewise, n_out of each written. */
static void run_heads(s2s_exec *exec, const s2s_matrix *m, int32_t n_heads, const float *x,
                      size_t ldx, int32_t d_x, int32_t n_out, float *y, size_t ldy, int32_t d_y,
                      int32_t n_rows, s2s_workspace *ws)
{
    for (int32_t head = 0; head < n_heads; head++) {
        const s2s_matrix part = head_of(m, head, n_out);
        const s2s_rows rows = {x + (size_t)head * (size_t)d_x, ldx, n_rows};
        s2s_linear(exec, &part, rows, ws, S2S_IDENTITY, NULL, 0, y + (size_t)head * (size_t)d_y,
                   ldy);
    }
}

void s2s_latent_project(s2s_exec *exec, const s2s_stack *stack, const s2s_layer *layer,
                        const float *input, const int32_t *positions, int32_t n_rows,
                        s2s_workspace *ws)
{
    const s2s_stack_config *c = &stack->config;
    const int32_t rank = stack->self_kv.d_value, d_key = stack->self_kv.d_key;
    const int32_t dr = d_key - rank, d_query = stack->d_head + dr;
    s2s_rows rows = {input, ws->ld_x, n_rows};

    if (c->q_rank > 0) {
        s2s_linear(exec, &layer->q_down, rows, ws, S2S_IDENTITY, NULL, 0, ws->context,
                   ws->ld_context);
        s2s_norm_rows(exec, stack, &layer->q_norm, ws->context, n_rows, ws->ld_context,
                      ws->context);
        rows = (s2s_rows){ws->context, ws->ld_context, n_rows};
    }
    s2s_linear(exec, &layer->latent_q, rows, ws, S2S_IDENTITY, NULL, 0, ws->wide, ws->ld_wide);
    run_heads(exec, &layer->k_up, c->n_heads, ws->wide, ws->ld_wide, d_query, rank, ws->query,
              ws->ld_query, d_key, n_rows, ws);
    for (int32_t i = 0; i < n_rows; i++) {
        for (int32_t head = 0; head < c->n_heads; head++) {
            const float *from =
                ws->wide + (size_t)i * ws->ld_wide + (size_t)(head * d_query + stack->d_head);
            float *to = ws->query + (size_t)i * ws->ld_query + (size_t)(head * d_key + rank);
            memcpy(to, from, (size_t)dr * sizeof(float));
            s2s_rotary_turn(stack, ws, positions[i], to);
        }
    }

    rows = (s2s_rows){input, ws->ld_x, n_rows};
    s2s_linear(exec, &layer->kv_down, rows, ws, S2S_IDENTITY, NULL, 0, ws->wide, ws->ld_wide);
    if (c->kv_norm)
        s2s_norm_rows(exec, stack, &layer->kv_norm, ws->wide, n_rows, ws->ld_wide, ws->wide);
    for (int32_t i = 0; i < n_rows; i++)
        s2s_rotary_turn(stack, ws, positions[i], ws->wide + (size_t)i * ws->ld_wide + rank);
}

void s2s_latent_values(s2s_exec *exec, const s2s_stack *stack, const s2s_layer *layer,
                       int32_t n_rows, s2s_workspace *ws)
{
    const int32_t rank = stack->self_kv.d_value, d_value = stack->d_value;
    run_heads(exec, &layer->v_up, stack->config.n_heads, ws->context, ws->ld_context, rank, d_value,
              ws->wide, ws->ld_wide, d_value, n_rows, ws);
}
