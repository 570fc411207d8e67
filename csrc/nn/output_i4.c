/* output_i4.c: the largest logit of an int8 output matrix, see model/coarse_i4.h. */
#include <math.h>
#include <string.h>

#include "../base/compiler.h"
#include "../base/numbers.h"
#include "../base/profile.h"
#include "../model/coarse_i4.h"
#include "output.h"

enum {
    BLOCK_TILES = S2S_LOGITS_BLOCK / S2S_TILE,
    N_RESTS = 16, /* calls that do without bounds after bounds that left too much */
};

typedef struct best_i4_task {
    s2s_exec *exec;
    s2s_rows rows;
    s2s_workspace *ws;
    s2s_logits_fn rule_out, visit;
    void *context;
    s2s_bound_i4 bound;
    s2s_bounds *b;
    int32_t n_blocks, n_left;
} best_i4_task;

/* Tells the kernel what the quantized rows are like.  Returns 0 where a row has no bounds. */
static int measure(best_i4_task *t, const s2s_coarse_i4 *copy)
{
    for (int32_t row = 0; row < t->rows.n; row++) {
        const uint8_t *q = t->ws->quantized + (size_t)row * t->ws->ld_quantized;
        const float scale = t->ws->row_scale[row];
        int8_t *x = t->b->x + (size_t)row * t->ws->ld_quantized;
        int32_t sum = 0, squares = 0;
        for (int32_t i = 0; i < (t->bound.k + 7) / 8 * 8; i++) { /* 128 beyond k */
            const int32_t value = q[i] - 128;
            x[i] = (int8_t)value;
            sum += value;
            squares += value * value;
        }
        t->b->x_sum[row] = sum;
        t->b->x_norm[row] = sqrtf((float)squares) * S2S_ABOVE * S2S_ABOVE;
        /* not so for a NaN */
        if (!(scale * copy->least_scale > 0x1p-100f && scale * copy->largest_scale < 0x1p60f))
            return 0;
    }
    return 1;
}

static float *bounds_of(const best_i4_task *t, int32_t row, int32_t block)
{
    return t->b->upper + (size_t)row * t->b->ld + (size_t)block * S2S_LOGITS_BLOCK;
}

static int32_t n_outputs(const best_i4_task *t, int32_t block)
{
    return s2s_min(S2S_LOGITS_BLOCK, t->exec->model->output.n_out - block * S2S_LOGITS_BLOCK);
}

/* One item is a block. */
static void run_bounds(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const best_i4_task *t = context;
    const s2s_matrix *m = &t->exec->model->output;
    t->exec->model->kernels->bound_i4(&t->bound, begin * BLOCK_TILES,
                                      s2s_min(end * BLOCK_TILES, m->n_tiles));
    for (int32_t block = begin; block < end; block++)
        for (int32_t row = 0; row < t->rows.n; row++) {
            float *upper = bounds_of(t, row, block);
            t->rule_out(t->context, row, worker, block, upper);
            t->b->most[row * t->n_blocks + block] =
                t->exec->model->kernels->max(upper, n_outputs(t, block));
        }
}

/* The exact logits of a tile: x [16], 64-byte aligned. */
static void run_tile(const best_i4_task *t, int32_t row, int32_t tile, float *x)
{
    s2s_linear_tiles(t->exec, &t->exec->model->output, t->rows, row, 1, t->ws, tile, tile + 1, x,
                     S2S_TILE);
}

/* A logit of the row that the largest one reaches: that of the largest bound. */
static float reached_by(const best_i4_task *t, int32_t row)
{
    const s2s_kernels *k = t->exec->model->kernels;
    const float *most = t->b->most + (size_t)row * (size_t)t->n_blocks;
    const int32_t block = k->argmax(most, t->n_blocks);
    if (most[block] == -INFINITY) return INFINITY; /* nothing counts */
    const int32_t at = k->argmax(bounds_of(t, row, block), n_outputs(t, block));
    S2S_ALIGN(64) float x[S2S_TILE];
    run_tile(t, row, block * BLOCK_TILES + at / S2S_TILE, x);
    return x[at % S2S_TILE];
}

/* One item is a block of a row that may hold its largest logit. */
static void run_left(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const best_i4_task *t = context;
    const s2s_kernels *k = t->exec->model->kernels;
    float *x = t->ws->logits + (size_t)worker * S2S_LOGITS_SCRATCH;
    int32_t found[S2S_LOGITS_BLOCK];
    for (int32_t item = begin; item < end; item++) {
        const int32_t row = t->b->left[item] / t->n_blocks, block = t->b->left[item] % t->n_blocks;
        const float *upper = bounds_of(t, row, block);
        float reached = t->b->reached[row];
        const int32_t n_found = k->find_above(
            upper, n_outputs(t, block), nextafterf(reached, -INFINITY), found, S2S_LOGITS_BLOCK);
        for (int32_t i = 0; i < S2S_LOGITS_BLOCK; i++) x[i] = -INFINITY;
        int32_t n_tiles = 0;
        for (int32_t i = 0; i < n_found;) {
            const int32_t tile = found[i] / S2S_TILE;
            int32_t is_left = 0, first = i;
            for (; i < n_found && found[i] / S2S_TILE == tile; i++)
                is_left |= upper[found[i]] >= reached;
            if (!is_left) continue;
            n_tiles++;
            run_tile(t, row, block * BLOCK_TILES + tile, x + (size_t)tile * S2S_TILE);
            for (; first < i; first++) reached = fmaxf(reached, x[found[first]]);
        }
        t->b->left[item] = n_tiles; /* what it took */
        if (n_tiles > 0) t->visit(t->context, row, worker, block, x);
    }
}

static void find_left(best_i4_task *t)
{
    t->n_left = 0;
    for (int32_t row = 0; row < t->rows.n; row++) {
        const float *most = t->b->most + (size_t)row * (size_t)t->n_blocks;
        t->b->reached[row] = reached_by(t, row);
        for (int32_t block = 0; block < t->n_blocks; block++)
            if (most[block] >= t->b->reached[row])
                t->b->left[t->n_left++] = row * t->n_blocks + block;
    }
}

int s2s_output_run_best_i4(s2s_exec *exec, s2s_rows rows, s2s_workspace *ws, s2s_logits_fn rule_out,
                           s2s_logits_fn visit, void *context)
{
    const s2s_matrix *m = &exec->model->output;
    s2s_bounds *b = &ws->bounds_i4;
    if (rows.n > b->n_rows) return 0;
    const s2s_coarse_i4 *copy = s2s_model_coarse_i4(exec->model, exec->pool);
    if (copy == NULL) return 0;
    if (b->n_rests > 0) {
        b->n_rests--;
        return 0;
    }
    best_i4_task task = {
        .exec = exec,
        .rows = rows,
        .ws = ws,
        .rule_out = rule_out,
        .visit = visit,
        .context = context,
        .bound = {.x = b->x,
                  .x_scale = ws->row_scale,
                  .x_sum = b->x_sum,
                  .x_norm = b->x_norm,
                  .w = copy->w,
                  .unit = copy->unit,
                  .error = copy->error,
                  .w_scale = m->scale,
                  .bias = m->bias,
                  .y = b->upper,
                  .ldx = ws->ld_quantized,
                  .ldy = b->ld,
                  .n_rows = rows.n,
                  .k = m->n_in},
        .b = b,
        .n_blocks = (m->n_tiles + BLOCK_TILES - 1) / BLOCK_TILES,
    };
    if (!measure(&task, copy)) return 0;
    s2s_pool_run(exec->pool, run_bounds, &task, task.n_blocks,
                 s2s_linear_grain(m, rows.n, BLOCK_TILES));
    find_left(&task);
    s2s_pool_run(exec->pool, run_left, &task, task.n_left, 8);
    int32_t n_tiles = 0;
    for (int32_t i = 0; i < task.n_left; i++) n_tiles += b->left[i];
    /* half of the bytes are read to leave out the rest */
    if (n_tiles > m->n_tiles / 3) b->n_rests = N_RESTS;
    return 1;
}
