/* encoder.h: packed source sequences in, hidden states out. */
#ifndef S2S_ENCODER_H
#define S2S_ENCODER_H

#include "layers.h"

/* n_sources sequences one after another: sequence s is ids[offsets[s]] .. ids[offsets[s + 1]] - 1. */
typedef struct s2s_sources {
    const int32_t *ids;       /* [offsets[n_sources]] */
    const int32_t *positions; /* likewise: position within the own sequence */
    const int32_t *offsets;   /* [n_sources + 1] */
    int32_t n_sources;
    const int32_t *token_types; /* as ids, or NULL: all 0 */
} s2s_sources;

/* Runs the encoder; the hidden states [n_tokens, d_model] are left in ws->x (stride ws->ld_x).
 * n_tokens <= ws->max_tokens.  Recording needs n_sources == 1.  (Vaswani et al. 2017, section 3.1.) */
void s2s_encoder_run(s2s_exec *exec, const s2s_sources *sources, s2s_workspace *ws);

#endif
