/* coarse.c: see coarse.h. */
#include "coarse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/arena.h"

enum { MIN_TILES = 4 * S2S_LOGITS_BLOCK / S2S_TILE };

/* The memory of a copy; lays it out, counting (base NULL) or for real. */
typedef struct room {
    int8_t *tiles;
    float *scale, *error, *norm, *bias;
    int32_t *sum;
} room;

static room lay_out(s2s_arena *a, const s2s_matrix *m)
{
    const size_t n_tiles = (size_t)m->n_tiles, n_padded = ((size_t)m->n_in + 3) / 4 * 4;
    s2s_arena_take(a, 1, sizeof(s2s_coarse));
    room r;
    r.tiles = s2s_arena_take(a, n_tiles * S2S_TILE, n_padded);
    r.scale = s2s_arena_take(a, n_tiles, S2S_TILE * sizeof *r.scale);
    r.sum = s2s_arena_take(a, n_tiles, S2S_TILE * sizeof *r.sum);
    r.error = s2s_arena_take(a, n_tiles, sizeof *r.error);
    r.norm = s2s_arena_take(a, n_tiles, sizeof *r.norm);
    r.bias = s2s_arena_take(a, n_tiles, sizeof *r.bias);
    return r;
}

/* Input i of a tile's 16 outputs. */
static void read_inputs(const s2s_matrix *m, size_t tile, size_t i, float *w)
{
    const size_t at = (tile * (size_t)m->n_in + i) * S2S_TILE;
    if (m->dtype == S2S_F32) {
        memcpy(w, (const float *)m->w + at, S2S_TILE * sizeof *w);
        return;
    }
    for (size_t c = 0; c < S2S_TILE; c++) {
        const uint32_t bits = (uint32_t)((const uint16_t *)m->w)[at + c] << 16;
        memcpy(&w[c], &bits, sizeof bits);
    }
}

/* Returns 0 where a weight or a bias is not finite. */
static int quantize_tile(const s2s_matrix *m, size_t tile, const room *r)
{
    const size_t n_in = (size_t)m->n_in, n_quads = (n_in + 3) / 4;
    const float round = 0x1.8p23f; /* added and subtracted: the nearest integer */
    float w[S2S_TILE], most[S2S_TILE] = {0}, inverse[S2S_TILE], poison = 0.0f;
    float *scale = r->scale + tile * S2S_TILE;
    float sum[S2S_TILE] = {0}, error[S2S_TILE] = {0}, norm[S2S_TILE] = {0};
    for (size_t i = 0; i < n_in; i++) {
        read_inputs(m, tile, i, w);
        for (size_t c = 0; c < S2S_TILE; c++) {
            most[c] = fabsf(w[c]) > most[c] ? fabsf(w[c]) : most[c];
            poison += w[c] * 0.0f;
        }
    }
    r->bias[tile] = 0.0f;
    for (size_t c = 0; c < S2S_TILE; c++) {
        const float bias = m->bias != NULL ? fabsf(m->bias[tile * S2S_TILE + c]) : 0.0f;
        poison += bias * 0.0f;
        if (bias > r->bias[tile]) r->bias[tile] = bias;
        scale[c] = most[c] >= 0x1p-100f ? most[c] / 127.0f : 1.0f;
        inverse[c] = 1.0f / scale[c];
    }
    if (poison != 0.0f) return 0;
    int8_t *tiles = r->tiles + tile * n_quads * 4 * S2S_TILE;
    for (size_t i = 0; i < n_in; i++) {
        read_inputs(m, tile, i, w);
        float q[S2S_TILE];
        for (size_t c = 0; c < S2S_TILE; c++) {
            q[c] = (w[c] * inverse[c] + round) - round;
            const float near = q[c] * scale[c], left = w[c] - near;
            sum[c] += q[c]; /* exact: below 2^24 */
            error[c] += left * left;
            norm[c] += near * near;
        }
        int8_t *quad = tiles + i / 4 * 4 * S2S_TILE + i % 4;
        for (size_t c = 0; c < S2S_TILE; c++) quad[c * 4] = (int8_t)q[c];
    }
    r->error[tile] = r->norm[tile] = 0.0f;
    for (size_t c = 0; c < S2S_TILE; c++) {
        r->sum[tile * S2S_TILE + c] = (int32_t)sum[c];
        r->error[tile] = fmaxf(r->error[tile], error[c]);
        r->norm[tile] = fmaxf(r->norm[tile], norm[c]);
    }
    /* rounded up: n_in squares were added, each rounded a few times */
    const float slack = 1.0f + 1e-5f + 1.2e-7f * (float)m->n_in;
    r->error[tile] = sqrtf(r->error[tile]) * slack;
    r->norm[tile] = sqrtf(r->norm[tile]) * slack;
    return 1;
}

static s2s_coarse *coarse_create(const s2s_matrix *m)
{
    s2s_arena a = {0};
    lay_out(&a, m);
    void *block = s2s_arena_from_heap(&a);
    if (block == NULL) return NULL;
    memset(block, 0, a.size);
    const room r = lay_out(&a, m);
    for (size_t tile = 0; tile < (size_t)m->n_tiles; tile++) {
        if (!quantize_tile(m, tile, &r)) {
            free(block);
            return NULL;
        }
    }
    s2s_coarse *coarse = block;
    *coarse = (s2s_coarse){
        .matrix = {.w = r.tiles,
                   .scale = r.scale,
                   .sum = r.sum,
                   .bias = m->bias,
                   .n_in = m->n_in,
                   .n_out = m->n_out,
                   .n_tiles = m->n_tiles,
                   .dtype = S2S_INT8},
        .error = r.error,
        .norm = r.norm,
        .bias = r.bias,
    };
    return coarse;
}

const s2s_coarse *s2s_model_coarse(const s2s_model *model)
{
    return atomic_load_explicit(&((s2s_model *)model)->coarse, memory_order_acquire);
}

void s2s_model_make_coarse(const s2s_model *model)
{
    const s2s_matrix *m = &model->output;
    if (m->dtype == S2S_INT8 || m->n_tiles < MIN_TILES || m->n_in > S2S_INT8_MAX_K ||
        model->config.output_softcap > 0 || s2s_model_coarse(model) != NULL)
        return;
    s2s_coarse *made = coarse_create(m), *expected = NULL;
    if (made != NULL &&
        !atomic_compare_exchange_strong(&((s2s_model *)model)->coarse, &expected, made))
        free(made); /* another thread was faster */
}
