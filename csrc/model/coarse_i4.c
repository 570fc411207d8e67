/* coarse_i4.c: see coarse_i4.h. */
#include "coarse_i4.h"

#include <math.h>
#include <stdlib.h>

#include "../base/arena.h"

enum {
    MIN_TILES = 4 * S2S_LOGITS_BLOCK / S2S_TILE,
    MIN_TILES_PER_THREAD = 16,
    N_WITHOUT = 16, /* calls before the copy is made */
};

/* Takes the copy from the arena, which may be counting. */
static s2s_coarse_i4 *lay_out(s2s_arena *a, const s2s_matrix *m)
{
    const size_t n_tiles = (size_t)m->n_tiles, n_lines = ((size_t)m->n_in + 7) / 8;
    s2s_coarse_i4 *copy = s2s_arena_take(a, 1, sizeof *copy), made = {0};
    made.w = s2s_arena_take(a, n_tiles, n_lines * 4 * S2S_TILE);
    made.unit = s2s_arena_take(a, n_tiles, S2S_TILE * sizeof *made.unit);
    made.error = s2s_arena_take(a, n_tiles, S2S_TILE * sizeof *made.error);
    if (copy != NULL) *copy = made;
    return copy;
}

/* Bounds hold for honest sums, and scales and biases whose products stay far from the ends of float32. */
static int is_sound(const s2s_matrix *m, size_t tile, const int32_t *w_sum)
{
    for (size_t c = 0; c < S2S_TILE; c++) {
        const size_t at = tile * S2S_TILE + c;
        if (m->sum[at] != w_sum[c] || !(m->scale[at] > 0.0f) || !(m->scale[at] < 0x1p100f) ||
            (m->bias != NULL && !(fabsf(m->bias[at]) < 0x1p100f)))
            return 0;
    }
    return 1;
}

typedef struct copy_task {
    const s2s_matrix *m;
    const s2s_kernels *kernels;
    s2s_coarse_i4 *copy;
    atomic_int n_unsound;
} copy_task;

static void run_copy(void *context, int32_t begin, int32_t end, int32_t worker)
{
    copy_task *t = context;
    const s2s_coarse_i4 *copy = t->copy;
    const size_t n_in = (size_t)t->m->n_in;
    const size_t tile_bytes = (n_in + 3) / 4 * 4 * S2S_TILE;
    const size_t copy_bytes = (n_in + 7) / 8 * 4 * S2S_TILE;
    (void)worker;
    for (size_t tile = (size_t)begin; tile < (size_t)end; tile++) {
        const size_t at = tile * S2S_TILE;
        int32_t w_sum[S2S_TILE];
        const s2s_tile_i4 to = {copy->w + tile * copy_bytes, copy->unit + at, copy->error + at,
                                w_sum};
        t->kernels->halve_i8((const int8_t *)t->m->w + tile * tile_bytes, t->m->n_in, &to);
        if (!is_sound(t->m, tile, w_sum)) atomic_fetch_add(&t->n_unsound, 1);
    }
}

int s2s_model_may_have_coarse_i4(const s2s_model *model)
{
    const s2s_matrix *m = &model->output;
    return m->dtype == S2S_INT8 && m->n_tiles >= MIN_TILES && m->n_in <= S2S_INT4_MAX_K &&
           !(model->config.output_softcap > 0);
}

static s2s_coarse_i4 *published(const s2s_model *model)
{
    return atomic_load_explicit(&((s2s_model *)model)->coarse_i4, memory_order_acquire);
}

void s2s_model_make_coarse_i4(const s2s_model *model, s2s_pool *pool)
{
    const s2s_matrix *m = &model->output;
    if (!s2s_model_may_have_coarse_i4(model) || published(model) != NULL) return;
    s2s_arena a = {0};
    lay_out(&a, m);
    void *block = s2s_arena_from_heap(&a);
    if (block == NULL) return;
    s2s_coarse_i4 *made = lay_out(&a, m), *expected = NULL;
    made->least_scale = INFINITY;
    for (size_t i = 0; i < (size_t)m->n_tiles * S2S_TILE; i++) {
        made->least_scale = fminf(made->least_scale, m->scale[i]);
        made->largest_scale = fmaxf(made->largest_scale, m->scale[i]);
    }
    copy_task task = {.m = m, .kernels = model->kernels, .copy = made};
    s2s_pool_run(pool, run_copy, &task, m->n_tiles, MIN_TILES_PER_THREAD);
    if (atomic_load(&task.n_unsound) > 0 ||
        !atomic_compare_exchange_strong(&((s2s_model *)model)->coarse_i4, &expected, made))
        free(block); /* or another thread was faster */
}

const s2s_coarse_i4 *s2s_model_coarse_i4(const s2s_model *model, s2s_pool *pool)
{
    const s2s_coarse_i4 *copy = published(model);
    atomic_int *n_without = &((s2s_model *)model)->n_without_coarse_i4;
    if (copy != NULL || atomic_load_explicit(n_without, memory_order_relaxed) >= N_WITHOUT)
        return copy;
    if (atomic_fetch_add(n_without, 1) + 1 < N_WITHOUT) return NULL;
    s2s_model_make_coarse_i4(model, pool);
    return published(model);
}
