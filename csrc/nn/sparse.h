/* sparse.h: products of rows of which most elements are 0, see model/by_input.h. */
#ifndef S2S_SPARSE_H
#define S2S_SPARSE_H

#include "layers.h"

enum { S2S_SPARSE_ROWS = 32 }; /* with lists at one time */

/* Takes the lists from the arena (which may be counting). */
void s2s_sparse_init(s2s_workspace *ws, s2s_arena *arena, const s2s_model *model);

/* s2s_linear_run, without the inputs that are 0.  Returns 0, with nothing done, where that is not faster
 * or not possible. */
int s2s_sparse_run(s2s_exec *exec, const s2s_matrix *m, s2s_rows rows, const s2s_workspace *ws,
                   s2s_activation activation, const float *residual, size_t ldr, float *y,
                   size_t ldy);

#endif
