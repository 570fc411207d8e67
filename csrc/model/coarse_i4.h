/* coarse_i4.h: a four-bit copy of an int8 output matrix, which tells cheaply which logits can be the largest.
 *
 * Concept.  The copy gives an upper bound of every logit (s2s_bound_i4 in kernels.h).  The logit whose bound is
 * the largest is computed exactly, and after it the few whose bound reaches it: as a rule it was the largest.
 * So about half of the bytes are read, and the result has the bits of the whole product.
 * Ownership.  The copy takes about half of the matrix's memory, and belongs to the model.  It costs some
 * twenty products of one row to make, so it is made when it was missed that often.  Thread-safety: read-only
 * once it is published.
 */
#ifndef S2S_COARSE_I4_H
#define S2S_COARSE_I4_H

#include "../base/pool.h"
#include "model.h"

struct s2s_coarse_i4 {
    uint8_t *w;                       /* tiles [n_tiles, ceil(n_in / 8), 16, 4] of s2s_tile_i4 */
    float *unit, *error;              /* [16 * n_tiles] */
    float least_scale, largest_scale; /* of the outputs */
};

/* There can be no copy of another than an int8 matrix, of a small one, where logits are capped, or with more
 * inputs than S2S_INT4_MAX_K. */
int s2s_model_may_have_coarse_i4(const s2s_model *model);
/* Makes the copy unless there is one.  There is none where a scale, a sum or a bias is not what
 * quantization gives, or without memory: then everything is computed. */
void s2s_model_make_coarse_i4(const s2s_model *model, s2s_pool *pool);
/* The copy, or NULL.  Asked for often enough, it is made. */
const s2s_coarse_i4 *s2s_model_coarse_i4(const s2s_model *model, s2s_pool *pool);

#endif
