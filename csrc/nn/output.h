/* output.h: the output projection, block by block: logits are handed to whoever reads them while they
 * are in the cache, and never written out as rows of the vocabulary.
 *
 * Concept.  The vocabulary is cut into blocks of S2S_LOGITS_BLOCK outputs, whatever the batch and the
 * threads.  Blocks are split between the threads; the weights of a block are read from memory once for
 * all rows.
 * Ownership.  Logits are scratch of the worker, valid during the visit.  Thread-safety: as layers.h.
 */
#ifndef S2S_OUTPUT_H
#define S2S_OUTPUT_H

#include "layers.h"

/* Takes the logits of row number `row` of those projected, outputs S2S_LOGITS_BLOCK * block and
 * following: x [S2S_LOGITS_BLOCK], or what is left of the vocabulary, 64-byte aligned, room for a
 * multiple of 16; may be overwritten.  Blocks come in any order. */
typedef void (*s2s_logits_fn)(void *context, int32_t row, int32_t worker, int32_t block, float *x);

/* Projects rows[0] .. rows[n_rows - 1] of ws->x, rising. */
void s2s_output_run(s2s_exec *exec, const int32_t *rows, int32_t n_rows, s2s_workspace *ws,
                    s2s_logits_fn visit, void *context);

/* As s2s_output_run, but a row's blocks that surely lack its largest logit may be left out
 * (model/coarse.h).  rule_out makes -inf of the logits that do not count. */
void s2s_output_run_best(s2s_exec *exec, const int32_t *rows, int32_t n_rows, s2s_workspace *ws,
                         s2s_logits_fn rule_out, s2s_logits_fn visit, void *context);

/* That of an int8 matrix and prepared rows, by means of model/coarse_i4.h; logits that surely are not the
 * largest may be -inf.  Returns 0 and does nothing where it cannot, or would not pay. */
int s2s_output_run_best_i4(s2s_exec *exec, s2s_rows rows, s2s_workspace *ws, s2s_logits_fn rule_out,
                           s2s_logits_fn visit, void *context);

#endif
