/* rotary.h: rotary positions (Su et al. 2021): queries and keys turned by an angle for each position.
 *
 * Concept.  Element i of a head and element i + d_rotary / 2 are a point of a plane, turned by position *
 * inv_freq[i].  Angles are float32 products, as transformers computes them; their cosines and sines
 * are computed once for every position that a session can have.  Keys are turned before they are cached.
 * Plain C for all SIMD levels: it is little work beside the products.
 */
#ifndef S2S_ROTARY_H
#define S2S_ROTARY_H

#include "layers.h"

/* Fills rows [n_positions, d_rotary]: the d_rotary / 2 cosines of a position, then its sines. */
void s2s_rotary_fill(const s2s_stack *stack, int32_t n_positions, float *rows);

/* Turns the first d_rotary elements of a vector of the decoder at `position`. */
void s2s_rotary_turn(const s2s_stack *stack, const s2s_workspace *ws, int32_t position, float *x);

/* Turns the queries and keys of fused q, k, v rows in ws->wide, row i being at positions[i]; nothing to do
 * for a stack without rotary positions. */
void s2s_rotary_apply(s2s_exec *exec, const s2s_stack *stack, const int32_t *positions,
                      int32_t n_rows, s2s_workspace *ws);

#endif
