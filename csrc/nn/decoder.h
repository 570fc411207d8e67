/* decoder.h: one token for every active row, over the KV cache. */
#ifndef S2S_DECODER_H
#define S2S_DECODER_H

#include "kv_cache.h"
#include "layers.h"

/* The rows of one step: arrays of n, row i of the batch being decoder row rows[i]. */
typedef struct s2s_batch {
    int32_t n;
    int32_t *tokens;    /* [n] to feed */
    int32_t *positions; /* [n] where */
    int32_t *rows;      /* [n] decoder row, its table already extended to the position */
    int32_t *sources;   /* [n] cross-attention slot */
    int32_t *n_source;  /* [n] positions of that source */
    const uint32_t **cells[S2S_KV_RINGS]; /* [n] visible self-attention cells of each ring ... */
    int32_t *n_cells[S2S_KV_RINGS];       /* ... and their number (s2s_kv_cache_visible) */
    float **alignment; /* [n] where the last layer's mean cross-attention goes, or NULL */
} s2s_batch;

/* Computes cross-attention keys and values of all layers from the encoder's output in ws->x: rows
 * offsets[s] .. offsets[s + 1] - 1 are source s and go into slots[s] of the cache. */
void s2s_decoder_prepare(s2s_exec *exec, s2s_kv_cache *cache, const int32_t *slots,
                         const int32_t *offsets, int32_t n_sources, s2s_workspace *ws);

/* Runs the layers; the hidden states [n, d_model] are left in ws->x. */
void s2s_decoder_run(s2s_exec *exec, s2s_kv_cache *cache, const s2s_batch *batch,
                     s2s_workspace *ws);

#endif
