/* kv_cache.c: see kv_cache.h. */
#include "kv_cache.h"

#include <string.h>

static size_t element_size(const s2s_kv_cache *c)
{
    return c->dtype == S2S_F32 ? sizeof(float) : sizeof(uint16_t);
}

const void *s2s_kv_cache_at(const s2s_kv_cache *c, const void *elements, size_t at)
{
    return (const char *)elements + at * element_size(c);
}

/* One position's vector to element `to`. */
static void write_cell(const s2s_kv_cache *c, void *elements, size_t to, const float *x)
{
    if (c->dtype == S2S_BF16)
        c->kernels->cache_bf16(x, c->n_kv_heads, c->d_head, (uint16_t *)elements + to);
    else
        memcpy((float *)elements + to, x, (size_t)c->d_kv * sizeof(float));
}

int s2s_kv_cache_init(s2s_kv_cache *c, s2s_arena *arena, const s2s_model *model, int32_t n_rows,
                      int32_t max_target, int32_t max_source, s2s_dtype dtype)
{
    const s2s_stack *d = &model->decoder;
    c->n_layers = d->config.n_layers;
    c->n_kv_heads = d->config.n_kv_heads;
    c->d_head = d->d_head;
    c->d_kv = d->d_kv;
    c->n_rows = n_rows;
    c->window = max_target;
    if (d->config.window > 0 && d->config.window < max_target) c->window = d->config.window;
    c->capacity = c->window;
    c->n_sources = n_rows; /* every request has at least one row */
    c->max_source = max_source;

    const uint64_t cells = (uint64_t)n_rows * (uint64_t)c->capacity;
    if (cells > UINT32_MAX) return 0;
    c->dtype = dtype;
    c->kernels = model->kernels;
    const size_t cell = (size_t)c->d_kv * element_size(c);
    const size_t self = (size_t)c->n_layers * (size_t)cells;
    const size_t cross = (size_t)c->n_layers * (size_t)n_rows;
    const size_t source = (size_t)max_source * cell;
    const size_t table = (size_t)c->capacity * sizeof(uint32_t);
    c->self_k = s2s_arena_take(arena, self, cell);
    c->self_v = s2s_arena_take(arena, self, cell);
    c->cross_k = s2s_arena_take(arena, cross, source);
    c->cross_v = s2s_arena_take(arena, cross, source);
    c->tables[0] = s2s_arena_take(arena, (size_t)n_rows, table);
    c->tables[1] = s2s_arena_take(arena, (size_t)n_rows, table);
    c->ordered = s2s_arena_take(arena, (size_t)n_rows, table);
    c->current = s2s_arena_take(arena, (size_t)n_rows, 1);
    return 1;
}

static uint32_t *table_of(const s2s_kv_cache *c, int32_t row, int which)
{
    return c->tables[which] + (size_t)row * (size_t)c->capacity;
}

static uint32_t own_cell(const s2s_kv_cache *c, int32_t row, int32_t position)
{
    return (uint32_t)row * (uint32_t)c->capacity + (uint32_t)(position % c->capacity);
}

void s2s_kv_cache_extend(s2s_kv_cache *c, int32_t row, int32_t position)
{
    table_of(c, row, c->current[row])[position % c->capacity] = own_cell(c, row, position);
}

const uint32_t *s2s_kv_cache_visible(s2s_kv_cache *c, int32_t row, int32_t position, int32_t *n)
{
    const uint32_t *table = table_of(c, row, c->current[row]);
    *n = position < c->window ? position + 1 : c->window;
    const int32_t oldest = (position - *n + 1) % c->capacity;
    const int32_t tail = c->capacity - oldest;
    if (*n <= tail) return table + oldest;
    /* The window runs over the end of the ring: lay its two parts out in order. */
    uint32_t *ordered = c->ordered + (size_t)row * (size_t)c->capacity;
    memcpy(ordered, table + oldest, (size_t)tail * sizeof *table);
    memcpy(ordered + tail, table, (size_t)(*n - tail) * sizeof *table);
    return ordered;
}

void s2s_kv_cache_reorder(s2s_kv_cache *c, const int32_t *rows, const int32_t *parents, int32_t n,
                          int32_t n_positions)
{
    int32_t i = 0;
    while (i < n && parents[i] == i) i++;
    if (i == n) return;
    const size_t used =
        (size_t)(n_positions < c->capacity ? n_positions : c->capacity) * sizeof(uint32_t);
    for (i = 0; i < n; i++) {
        int32_t from = rows[parents[i]];
        memcpy(table_of(c, rows[i], !c->current[rows[i]]), table_of(c, from, c->current[from]),
               used);
    }
    for (i = 0; i < n; i++) c->current[rows[i]] = !c->current[rows[i]];
}

void s2s_kv_cache_write_self(s2s_kv_cache *c, int32_t layer, int32_t row, int32_t position,
                             const float *k, const float *v)
{
    const size_t to =
        s2s_kv_cache_self_base(c, layer) + (size_t)own_cell(c, row, position) * (size_t)c->d_kv;
    write_cell(c, c->self_k, to, k);
    write_cell(c, c->self_v, to, v);
}

void s2s_kv_cache_write_cross(s2s_kv_cache *c, int32_t layer, int32_t source, int32_t position,
                              const float *k, const float *v)
{
    const size_t to =
        s2s_kv_cache_cross_base(c, layer, source) + (size_t)position * (size_t)c->d_kv;
    write_cell(c, c->cross_k, to, k);
    write_cell(c, c->cross_v, to, v);
}
