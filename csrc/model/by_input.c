/* by_input.c: see by_input.h. */
#include "by_input.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/compiler.h"

enum { UNKNOWN, WORKING, READY, UNFIT };
enum { N_MISSED = 16 };

/* The copy, or NULL where the matrix's sums are not those of its weights, or without memory. */
static int8_t *copy_i8(const s2s_matrix *m)
{
    const size_t n_quads = ((size_t)m->n_in + 3) / 4, n_tiles = (size_t)m->n_tiles;
    const size_t ld = (n_tiles + 3) / 4 * 4 * S2S_TILE;
    int8_t *rows = aligned_alloc(S2S_CACHE_LINE, (size_t)m->n_in * ld);
    if (rows == NULL) return NULL;
    memset(rows, 0, (size_t)m->n_in * ld);
    const int8_t *w = m->w;
    for (size_t tile = 0; tile < n_tiles; tile++) {
        int32_t sum[S2S_TILE] = {0};
        int8_t *to = rows + tile / 4 * 4 * S2S_TILE + tile % 4 * 4;
        for (size_t quad = 0; quad < n_quads; quad++)
            for (size_t c = 0; c < S2S_TILE; c++)
                for (size_t i = 0; i < 4; i++) {
                    const int8_t weight = *w++;
                    sum[c] += weight;
                    if (quad * 4 + i < (size_t)m->n_in)
                        to[(quad * 4 + i) * ld + c / 4 * S2S_TILE + c % 4] = weight;
                }
        if (memcmp(sum, m->sum + tile * S2S_TILE, sizeof sum) != 0) {
            free(rows);
            return NULL;
        }
    }
    return rows;
}

/* A sum of products with such weights is -0 only if it was before. */
static int is_plain(float w)
{
    return w == 0.0f || (fabsf(w) >= 0x1p-89f && fabsf(w) < INFINITY);
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
