/* kv_cache.h: keys and values that the decoder has already computed.
 *
 * Concept.  Self-attention: each decoder row owns a ring of `capacity` slots; position t of a row is
 * written once, to slot t mod capacity of its own ring.  A table per row says in which row's ring every
 * visible position lies, so a beam that continues another one takes over a table, not keys and values.
 * All rows of a request are at the same position and are given back together, so a slot is only
 * overwritten when its position has left the window of every hypothesis that could refer to it.
 * Layers that see a window and layers that see everything have rings of their own sizes: two classes
 * ("rings").  A ring holds S2S_KV_BLOCK - 1 positions more than its window, so that as many positions of a
 * row can be entered before the first of them is read (a prompt in blocks).
 * Behind the rings of a layer lie cells of nobody's row, one for each position of a prompt that rows may share: a
 * row begins with a table that names them.
 * Cross-attention: keys and values are computed once per source and shared by its rows.
 *
 * Layouts, in units of one position's keys, or values, of all KV heads ("cell"), so that attention over all
 * heads reads memory in order; a latent cache has no values of its own (s2s_kv_shape):
 *   self_k, self_v   [n_layers], each [capacity of the layer's ring][pitch >= n_rows], then [n_shared]
 *   cross_k, cross_v [n_layers][n_sources][max_source]
 * Slots of all rows lie together, so that what is used does, and what beams of a request share is near.
 * A table has every slot twice, one lap apart, so that the visible positions, oldest first, are one piece of
 * it wherever the ring wraps.  An entry is a cell, counted from the layer's first.
 * Elements are float32, or bfloat16, which halves what a step reads.
 * Ownership.  Memory lies in the session's arena.  One thread writes tables; distinct rows may be read
 * and written by distinct threads.
 */
#ifndef S2S_KV_CACHE_H
#define S2S_KV_CACHE_H

#include "../base/arena.h"
#include "../model/model.h"

enum {
    S2S_KV_BLOCK = 128, /* most positions of a row entered at once */
    S2S_KV_RINGS = 2    /* of layers with a window (or of all, if there is none); of the others */
};

typedef struct s2s_kv_ring {
    int32_t capacity;    /* slots of a row; 0: no layer has this ring */
    int32_t window;      /* positions that a query sees, its own included; <= capacity */
    uint32_t *tables[2]; /* [n_rows][2 * capacity]: the current one and one to reorder into */
} s2s_kv_ring;

typedef struct s2s_kv_cache {
    const s2s_kernels *kernels;
    int32_t n_layers;
    s2s_kv_shape self_kv, cross_kv;
    int32_t n_rows;
    int32_t
        pitch; /* cells from a slot to the next: odd, so that slots spread over the sets of a cache */
    int32_t n_sources, max_source;
    int32_t n_shared; /* positions that rows may share */
    s2s_dtype dtype;  /* F32, or BF16: rounded once, when written */
    s2s_kv_ring rings[S2S_KV_RINGS];
    unsigned char *layer_ring; /* [n_layers] 0 or 1 */
    size_t *layer_first;       /* [n_layers] first cell of the layer in self_k and self_v */
    void *self_k, *self_v, *cross_k, *cross_v;
    unsigned char *current; /* [n_rows] which of a ring's two tables is this row's */
} s2s_kv_cache;

/* Sizes the cache and takes its memory (the arena may be counting).  Returns 0 when the cells cannot
 * be counted in 32 bits. */
int s2s_kv_cache_init(s2s_kv_cache *cache, s2s_arena *arena, const s2s_model *model, int32_t n_rows,
                      int32_t n_sources, int32_t max_target, int32_t max_source, int32_t n_shared,
                      s2s_dtype dtype);
/* Fills what init only took: once, when the arena is real. */
void s2s_kv_cache_start(s2s_kv_cache *cache, const s2s_model *model);

/* Copies keys and values, [n_layers][n_shared] cells each, to where rows may share them. */
void s2s_kv_cache_put_shared(s2s_kv_cache *cache, const void *k, const void *v);
/* Copies those of positions [begin, end) of a row, which its rings still hold, to k and v, [n_layers][n]. */
void s2s_kv_cache_copy(const s2s_kv_cache *cache, int32_t row, int32_t begin, int32_t end,
                       int32_t n, void *k, void *v);
/* The first n positions of a row are the shared ones. */
void s2s_kv_cache_share(s2s_kv_cache *cache, int32_t row, int32_t n);

/* Enters `position` of a row into its tables: its keys and values will lie in the row's own rings. */
void s2s_kv_cache_extend(s2s_kv_cache *cache, int32_t row, int32_t position);
/* The cells that the query at `position` sees in layers of a ring, oldest first; their number to *n. */
const uint32_t *s2s_kv_cache_visible(const s2s_kv_cache *cache, int32_t ring, int32_t row,
                                     int32_t position, int32_t *n);
/* rows[i] takes over the tables of rows[parents[i]], for all i < n at once; `n_positions` so far. */
void s2s_kv_cache_reorder(s2s_kv_cache *cache, const int32_t *rows, const int32_t *parents,
                          int32_t n, int32_t n_positions);

/* The cell that a layer's table entries count from. */
static inline size_t s2s_kv_cache_self_first(const s2s_kv_cache *c, int32_t layer)
{
    return c->layer_first[layer];
}

/* The first cell of a source in a layer; its positions follow one another. */
static inline size_t s2s_kv_cache_cross_first(const s2s_kv_cache *c, int32_t layer, int32_t source)
{
    const size_t slot = (size_t)layer * (size_t)c->n_sources + (size_t)source;
    return slot * (size_t)c->max_source;
}

/* Element `at` of self_k, self_v, cross_k or cross_v. */
const void *s2s_kv_cache_at(const s2s_kv_cache *cache, const void *elements, size_t at);

/* Stores the keys and values of one position of layer `layer`; v is not read where there are none. */
void s2s_kv_cache_write_self(s2s_kv_cache *cache, int32_t layer, int32_t row, int32_t position,
                             const float *k, const float *v);
void s2s_kv_cache_write_cross(s2s_kv_cache *cache, int32_t layer, int32_t source, int32_t position,
                              const float *k, const float *v);

#endif
