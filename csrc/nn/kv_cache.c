/* kv_cache.c: see kv_cache.h. */
#include "kv_cache.h"

#include <string.h>

#include "../base/numbers.h"

static size_t element_size(const s2s_kv_cache *c)
{
    return c->dtype == S2S_F32 ? sizeof(float) : sizeof(uint16_t);
}

const void *s2s_kv_cache_at(const s2s_kv_cache *c, const void *elements, size_t at)
{
    return (const char *)elements + at * element_size(c);
}

/* Keys, or values, of one position, n_heads of d_head each, to cell number `cell`. */
static void write_cell(const s2s_kv_cache *c, void *elements, size_t cell, const float *x,
                       int32_t n_heads, int32_t d_head)
{
    const size_t width = (size_t)n_heads * (size_t)d_head;
    if (c->dtype == S2S_BF16)
        c->kernels->cache_bf16(x, n_heads, d_head, (uint16_t *)elements + cell * width);
    else
        memcpy((float *)elements + cell * width, x, width * sizeof(float));
}

static void write_position(const s2s_kv_cache *c, const s2s_kv_shape *shape, void *keys,
                           void *values, size_t cell, const float *k, const float *v)
{
    write_cell(c, keys, cell, k, shape->n_heads, shape->d_key);
    if (shape->d_v > 0) write_cell(c, values, cell, v, shape->n_heads, shape->d_value);
}

/* Whether a layer's ring is the second one: it sees everything, where others see a window. */
static int is_full(const s2s_stack_config *config, int32_t layer)
{
    return config->window > 0 && config->full_layers[layer];
}

int s2s_kv_cache_init(s2s_kv_cache *c, s2s_arena *arena, const s2s_model *model, int32_t n_rows,
                      int32_t n_sources, int32_t max_target, int32_t max_source, int32_t n_shared,
                      s2s_dtype dtype)
{
    const s2s_stack *d = &model->decoder;
    const s2s_stack_config *config = &d->config;
    int32_t n_full = 0;
    c->n_layers = config->n_layers;
    c->self_kv = d->self_kv;
    c->cross_kv = d->cross_kv;
    c->n_rows = n_rows;
    c->pitch = n_rows | 1;
    c->n_sources = s2s_has_cross_attention(model) ? n_sources : 0;
    c->max_source = max_source;
    c->n_shared = n_shared;
    for (int32_t l = 0; l < c->n_layers; l++) n_full += is_full(config, l);
    for (int32_t r = 0; r < S2S_KV_RINGS; r++) {
        s2s_kv_ring *ring = &c->rings[r];
        const int32_t n_layers = r == 0 ? c->n_layers - n_full : n_full;
        const int32_t window = r == 0 && config->window > 0 ? config->window : max_target;
        ring->window = s2s_min(window, max_target);
        ring->capacity = n_layers > 0 ? s2s_min(ring->window + S2S_KV_BLOCK - 1, max_target) : 0;
        if ((uint64_t)c->pitch * (uint64_t)ring->capacity + (uint64_t)n_shared > UINT32_MAX)
            return 0;
    }
    c->dtype = dtype;
    c->kernels = model->kernels;
    const size_t self = ((size_t)(c->n_layers - n_full) * (size_t)c->rings[0].capacity +
                         (size_t)n_full * (size_t)c->rings[1].capacity) *
                            (size_t)c->pitch +
                        (size_t)c->n_layers * (size_t)n_shared;
    const size_t cross = (size_t)c->n_layers * (size_t)c->n_sources;
    const size_t source = (size_t)max_source * element_size(c);
    c->self_k = s2s_arena_take(arena, self, (size_t)c->self_kv.d_k * element_size(c));
    c->self_v = s2s_arena_take(arena, self, (size_t)c->self_kv.d_v * element_size(c));
    c->cross_k = s2s_arena_take(arena, cross, (size_t)c->cross_kv.d_k * source);
    c->cross_v = s2s_arena_take(arena, cross, (size_t)c->cross_kv.d_v * source);
    for (int32_t r = 0; r < S2S_KV_RINGS; r++) {
        const size_t table = 2 * (size_t)c->rings[r].capacity * sizeof(uint32_t);
        c->rings[r].tables[0] = s2s_arena_take(arena, (size_t)n_rows, table);
        c->rings[r].tables[1] = s2s_arena_take(arena, (size_t)n_rows, table);
    }
    c->current = s2s_arena_take(arena, (size_t)n_rows, 1);
    c->layer_ring = s2s_arena_take(arena, (size_t)c->n_layers, 1);
    c->layer_first = s2s_arena_take(arena, (size_t)c->n_layers, sizeof *c->layer_first);
    return 1;
}

void s2s_kv_cache_start(s2s_kv_cache *c, const s2s_model *model)
{
    size_t first = 0;
    memset(c->current, 0, (size_t)c->n_rows);
    for (int32_t l = 0; l < c->n_layers; l++) {
        c->layer_ring[l] = (unsigned char)is_full(&model->decoder.config, l);
        c->layer_first[l] = first;
        first +=
            (size_t)c->pitch * (size_t)c->rings[c->layer_ring[l]].capacity + (size_t)c->n_shared;
    }
    /* positions are entered in rising order: what is used lies together */
    s2s_arena_large_pages(c->self_k, first * (size_t)c->self_kv.d_k * element_size(c));
    s2s_arena_large_pages(c->self_v, first * (size_t)c->self_kv.d_v * element_size(c));
}

static uint32_t *table_of(const s2s_kv_ring *ring, int32_t row, int which)
{
    return ring->tables[which] + (size_t)row * 2 * (size_t)ring->capacity;
}

static uint32_t own_cell(const s2s_kv_cache *c, const s2s_kv_ring *ring, int32_t row,
                         int32_t position)
{
    return (uint32_t)(position % ring->capacity) * (uint32_t)c->pitch + (uint32_t)row;
}

/* The first shared cell of a ring, counted from a layer's first. */
static uint32_t shared_cell(const s2s_kv_cache *c, const s2s_kv_ring *ring)
{
    return (uint32_t)c->pitch * (uint32_t)ring->capacity;
}

static void copy_cells(const s2s_kv_cache *c, void *to, size_t to_cell, const void *from,
                       size_t from_cell, size_t n, int32_t width)
{
    const size_t size = (size_t)width * element_size(c);
    if (size > 0)
        memcpy((char *)to + to_cell * size, (const char *)from + from_cell * size, n * size);
}

void s2s_kv_cache_put_shared(s2s_kv_cache *c, const void *k, const void *v)
{
    const size_t n = (size_t)c->n_shared;
    for (int32_t l = 0; l < c->n_layers; l++) {
        const size_t to =
            s2s_kv_cache_self_first(c, l) + shared_cell(c, &c->rings[c->layer_ring[l]]);
        copy_cells(c, c->self_k, to, k, (size_t)l * n, n, c->self_kv.d_k);
        copy_cells(c, c->self_v, to, v, (size_t)l * n, n, c->self_kv.d_v);
    }
}

void s2s_kv_cache_copy(const s2s_kv_cache *c, int32_t row, int32_t begin, int32_t end, int32_t n,
                       void *k, void *v)
{
    for (int32_t l = 0; l < c->n_layers; l++) {
        const s2s_kv_ring *ring = &c->rings[c->layer_ring[l]];
        for (int32_t p = begin; p < end; p++) {
            const size_t to = (size_t)l * (size_t)n + (size_t)p;
            const size_t from = s2s_kv_cache_self_first(c, l) + own_cell(c, ring, row, p);
            copy_cells(c, k, to, c->self_k, from, 1, c->self_kv.d_k);
            copy_cells(c, v, to, c->self_v, from, 1, c->self_kv.d_v);
        }
    }
}

void s2s_kv_cache_share(s2s_kv_cache *c, int32_t row, int32_t n)
{
    for (int32_t r = 0; r < S2S_KV_RINGS; r++) {
        const s2s_kv_ring *ring = &c->rings[r];
        if (ring->capacity == 0) continue;
        uint32_t *table = table_of(ring, row, c->current[row]);
        for (int32_t p = s2s_max(n - ring->capacity, 0); p < n; p++) {
            const int32_t slot = p % ring->capacity;
            table[slot] = table[slot + ring->capacity] = shared_cell(c, ring) + (uint32_t)p;
        }
    }
}

void s2s_kv_cache_extend(s2s_kv_cache *c, int32_t row, int32_t position)
{
    for (int32_t r = 0; r < S2S_KV_RINGS; r++) {
        const s2s_kv_ring *ring = &c->rings[r];
        if (ring->capacity == 0) continue;
        uint32_t *table = table_of(ring, row, c->current[row]);
        const int32_t slot = position % ring->capacity;
        table[slot] = table[slot + ring->capacity] = own_cell(c, ring, row, position);
    }
}

const uint32_t *s2s_kv_cache_visible(const s2s_kv_cache *c, int32_t r, int32_t row,
                                     int32_t position, int32_t *n)
{
    const s2s_kv_ring *ring = &c->rings[r];
    *n = s2s_min(position + 1, ring->window);
    if (ring->capacity == 0) return NULL;
    return table_of(ring, row, c->current[row]) + (position + 1 - *n) % ring->capacity;
}

void s2s_kv_cache_reorder(s2s_kv_cache *c, const int32_t *rows, const int32_t *parents, int32_t n,
                          int32_t n_positions)
{
    int32_t i = 0;
    while (i < n && parents[i] == i) i++;
    if (i == n) return;
    for (int32_t r = 0; r < S2S_KV_RINGS; r++) {
        const s2s_kv_ring *ring = &c->rings[r];
        /* In the first lap nothing has been read one lap on. */
        const int32_t used = n_positions < ring->capacity ? n_positions : 2 * ring->capacity;
        for (i = 0; i < n; i++) {
            const int32_t from = rows[parents[i]];
            memcpy(table_of(ring, rows[i], !c->current[rows[i]]),
                   table_of(ring, from, c->current[from]), (size_t)used * sizeof(uint32_t));
        }
    }
    for (i = 0; i < n; i++) c->current[rows[i]] = !c->current[rows[i]];
}

void s2s_kv_cache_write_self(s2s_kv_cache *c, int32_t layer, int32_t row, int32_t position,
                             const float *k, const float *v)
{
    const s2s_kv_ring *ring = &c->rings[c->layer_ring[layer]];
    const size_t cell = s2s_kv_cache_self_first(c, layer) + own_cell(c, ring, row, position);
    write_position(c, &c->self_kv, c->self_k, c->self_v, cell, k, v);
}

void s2s_kv_cache_write_cross(s2s_kv_cache *c, int32_t layer, int32_t source, int32_t position,
                              const float *k, const float *v)
{
    const size_t cell = s2s_kv_cache_cross_first(c, layer, source) + (size_t)position;
    write_position(c, &c->cross_kv, c->cross_k, c->cross_v, cell, k, v);
}
