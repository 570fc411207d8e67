/* latent.h: multi-head latent attention (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1).
 *
 * Concept.  What is cached of a position is one short latent vector c, normed, and a rotary key that all
 * heads share: [c ; rotary key].  The heads' own keys and values would be products of c; instead a
 * query's plain part goes through its head's key matrix first ("k_up"), and what attention collects goes
 * through its value matrix afterwards ("v_up").  So attention itself is multi-query attention over
 * the latents, whose first kv_rank elements are at the same time the values.
 * Shapes.  rank = kv_rank rounded up to 32, dn = d_head, dr = d_rotary, dv = d_value rounded up to 16.
 * Ownership, thread-safety: as layers.h.
 */
#ifndef S2S_LATENT_H
#define S2S_LATENT_H

#include "layers.h"

/* From a block's input [n_rows, d_model] at `positions`: queries to ws->query [n_rows, n_heads, rank + dr], what is to
 * be cached to ws->wide [n_rows, rank + dr]. */
void s2s_latent_project(s2s_exec *exec, const s2s_stack *stack, const s2s_layer *layer,
                        const float *input, const int32_t *positions, int32_t n_rows,
                        s2s_workspace *ws);

/* What the heads collected, ws->context [n_rows, n_heads, rank], to their values in ws->wide [n_rows, n_heads,
 * dv]. */
void s2s_latent_values(s2s_exec *exec, const s2s_stack *stack, const s2s_layer *layer,
                       int32_t n_rows, s2s_workspace *ws);

#endif
