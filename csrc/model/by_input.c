/* by_input.c: see by_input.h. */
#include "by_input.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/compiler.h"

enum { UNKNOWN, WORKING, READY, UNFIT };
enum { N_MISSED = 32 }; /* products cost as much as making the copy */

/* The sums of the matrix are those of its weights. */
static int is_honest(const s2s_matrix *m)
{
    const size_t n_quads = ((size_t)m->n_in + 3) / 4, n_tiles = (size_t)m->n_tiles;
    const int8_t *w = m->w;
    for (size_t tile = 0; tile < n_tiles; tile++) {
        int32_t lanes[4 * S2S_TILE] = {0};
        for (size_t quad = 0; quad < n_quads; quad++, w += 4 * S2S_TILE)
            for (size_t i = 0; i < 4 * S2S_TILE; i++) lanes[i] += w[i];
        for (size_t c = 0; c < S2S_TILE; c++) {
            const int32_t *four = lanes + 4 * c;
            if (four[0] + four[1] + four[2] + four[3] != m->sum[tile * S2S_TILE + c]) return 0;
        }
    }
    return 1;
}

/* The copy, or NULL: where the matrix is not what quantization gives, or without memory. */
static int8_t *copy_i8(const s2s_matrix *m)
{
    const size_t n_bytes = s2s_by_input_bytes(m->n_in, m->n_tiles);
    int8_t *rows = is_honest(m) ? aligned_alloc(S2S_CACHE_LINE, n_bytes) : NULL;
    if (rows != NULL) s2s_pack_by_input(m->w, m->n_in, m->n_tiles, rows);
    return rows;
}

/* No sum of products with such weights is -0, see find_nonzero. */
static int is_plain(float w)
{
    return w == 0.0f || (fabsf(w) >= 0x1p-63f && fabsf(w) < INFINITY);
}

static int are_plain(const s2s_matrix *m)
{
    const size_t n = (size_t)m->n_tiles * (size_t)m->n_in * S2S_TILE;
    int plain = 1;
    for (size_t i = 0; i < n && plain; i++) {
        float w;
        if (m->dtype == S2S_BF16) {
            const uint32_t bits = (uint32_t)((const uint16_t *)m->w)[i] << 16;
            memcpy(&w, &bits, sizeof w);
        } else {
            w = ((const float *)m->w)[i];
        }
        plain = is_plain(w);
    }
    return plain;
}

int s2s_by_input_is_unfit(const s2s_matrix *m)
{
    return atomic_load_explicit(&m->by_input->state, memory_order_relaxed) == UNFIT;
}

int s2s_by_input_ready(const s2s_matrix *m)
{
    s2s_by_input *b = m->by_input;
    int state = atomic_load_explicit(&b->state, memory_order_acquire);
    if (state != UNKNOWN) return state == READY;
    if (atomic_fetch_add(&b->n_missed, 1) + 1 < N_MISSED) return 0;
    if (!atomic_compare_exchange_strong(&b->state, &state, WORKING)) return 0;
    if (m->dtype == S2S_INT8) {
        b->rows = copy_i8(m);
        state = b->rows != NULL ? READY : UNFIT;
    } else {
        state = are_plain(m) ? READY : UNFIT;
    }
    atomic_store_explicit(&b->state, state, memory_order_release);
    return state == READY;
}

void s2s_by_input_free(s2s_by_input *b)
{
    free(b->rows);
}
