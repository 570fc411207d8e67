/* by_input.h: what products need that leave out inputs which are 0.
 *
 * Concept.  Behind a ReLU most inputs of a row are 0, and adding nothing can be left out.  An int8 matrix is
 * copied for that, with the weights of an input side by side; others are read as they are, but checked once:
 * leaving out must give the same bits.
 * Ownership.  The copy takes the matrix's memory once more, and belongs to the model.  It is made when it was
 * missed as often as is worth it.  Thread-safety: read-only once it is published.
 */
#ifndef S2S_BY_INPUT_H
#define S2S_BY_INPUT_H

#include "model.h"

/* Whether it is known that products of m must not leave zeros out: to ask first. */
int s2s_by_input_is_unfit(const s2s_matrix *m);
/* Whether products of m may leave zeros out.  Asked for often enough, the matrix is made ready. */
int s2s_by_input_ready(const s2s_matrix *m);
void s2s_by_input_free(s2s_by_input *b);

#endif
