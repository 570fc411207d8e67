/* coarse.h: an int8 copy of the output matrix, which tells cheaply which logits can be the largest.
 *
 * Concept.  For a row x and an output w, with their quantized values x' and w',
 *     |x.w - x'.w'| = |x.(w - w') + (x - x').w'| <= |x| |w - w'| + |x - x'| |w'|    (Cauchy-Schwarz),
 * so the coarse logits bound the exact ones, and only blocks that may hold the largest are computed
 * exactly, with the bits that they always have.  Of some ten thousand outputs one or two remain as a
 * rule, while a quarter (float32) or half (bfloat16) of the bytes are read.
 * Ownership.  A copy takes a quarter of a float32 matrix's memory.  It is made when a request first can use
 * it, and belongs to the model.  Thread-safety: read-only once it is published.
 */
#ifndef S2S_COARSE_H
#define S2S_COARSE_H

#include "model.h"

struct s2s_coarse {
    s2s_matrix matrix; /* INT8, with the bias of the output */
    /* Of each tile the largest |w - w'|, |w'| and |bias| among its outputs, [n_tiles]. */
    const float *error, *norm, *bias;
};

/* Makes the copy unless there is one.  There is none for an int8 or a small matrix, where logits are
 * capped, where a weight is not finite, or without memory: then everything is computed. */
void s2s_model_make_coarse(const s2s_model *model);
/* The copy, or NULL. */
const s2s_coarse *s2s_model_coarse(const s2s_model *model);

#endif
