/* output.c: see output.h. */
#include "output.h"

#include <math.h>
#include <string.h>

#include "../base/numbers.h"
#include "../base/profile.h"
#include "../model/coarse.h"

enum { BLOCK_TILES = S2S_LOGITS_BLOCK / S2S_TILE };

typedef struct output_task {
    s2s_exec *exec;
    const s2s_matrix *matrix;
    s2s_rows rows;
    s2s_workspace *ws;
    s2s_logits_fn visit;
    void *context;
} output_task;

/* Visits rows [row, row + n_rows) of blocks [block, block + n_blocks). */
static void project(const output_task *t, int32_t row, int32_t n_rows, int32_t block,
                    int32_t n_blocks, int32_t worker)
{
    const s2s_matrix *m = t->matrix;
    const int32_t first = block * BLOCK_TILES;
    const int32_t n_tiles = s2s_min(n_blocks * BLOCK_TILES, m->n_tiles - first);
    const size_t ld = (size_t)(n_tiles + 1) * S2S_TILE; /* rows in different sets of the cache */
    float *logits = t->ws->logits + (size_t)worker * S2S_LOGITS_SCRATCH;
    s2s_linear_tiles(t->exec, m, t->rows, row, n_rows, t->ws, first, first + n_tiles, logits, ld);
    const float softcap = t->exec->model->config.output_softcap;
    for (int32_t i = 0; softcap > 0 && i < n_rows; i++)
        t->exec->model->kernels->soft_cap(logits + (size_t)i * ld, n_tiles * S2S_TILE, softcap);
    for (int32_t i = 0; i < n_rows; i++)
        for (int32_t b = 0; b < n_blocks; b++)
            t->visit(t->context, row + i, worker, block + b,
                     logits + (size_t)i * ld + (size_t)b * S2S_LOGITS_BLOCK);
}

/* One item is a block.  With few rows several blocks are one product, so that the stream of weights is
 * seldom interrupted. */
static void run_blocks(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const output_task *t = context;
    const int32_t height = s2s_min(t->rows.n, S2S_LOGITS_ROWS);
    const int32_t n_together = S2S_LOGITS_ROWS / height;
    for (int32_t block = begin; block < end; block += n_together)
        for (int32_t row = 0; row < t->rows.n; row += height)
            project(t, row, s2s_min(height, t->rows.n - row), block,
                    s2s_min(n_together, end - block), worker);
}

/* Projected rows are contiguous: ws->x itself, or copies in ws->h where some are left out. */
static s2s_rows gather(const int32_t *rows, int32_t n_rows, s2s_workspace *ws)
{
    if (rows[n_rows - 1] == n_rows - 1) return (s2s_rows){ws->x, ws->ld_x, n_rows};
    for (int32_t i = 0; i < n_rows; i++)
        memcpy(ws->h + (size_t)i * ws->ld_x, ws->x + (size_t)rows[i] * ws->ld_x,
               ws->ld_x * sizeof(float));
    return (s2s_rows){ws->h, ws->ld_x, n_rows};
}

static int32_t count_blocks(const s2s_matrix *m)
{
    return (m->n_tiles + BLOCK_TILES - 1) / BLOCK_TILES;
}

static void run_blocks_of(output_task *t)
{
    s2s_pool_run(t->exec->pool, run_blocks, t, count_blocks(t->matrix),
                 s2s_linear_grain(t->matrix, t->rows.n, BLOCK_TILES));
}

void s2s_output_run(s2s_exec *exec, const int32_t *rows, int32_t n_rows, s2s_workspace *ws,
                    s2s_logits_fn visit, void *context)
{
    if (n_rows == 0) return;
    S2S_OPERATION(OUTPUT);
    output_task task = {exec, &exec->model->output, gather(rows, n_rows, ws), ws, visit, context};
    s2s_linear_prepare(exec, task.matrix, task.rows, ws);
    run_blocks_of(&task);
}

/* ---- The largest logit alone -------------------------------------------------------------- */

typedef struct best_task {
    output_task exact, coarse;
    const s2s_coarse *copy;
    s2s_logits_fn rule_out;
    int32_t n_blocks;
} best_task;

/* What is known of one row, in ws->bounds: [n_blocks] pairs, then this. */
typedef struct row_bounds {
    float (*blocks)
        [2]; /* the largest that a logit of the block can be; one that a logit surely reaches */
    float *norm, *error; /* |x|, |x - x'| */
    float *reached;      /* by the largest of all */
} row_bounds;

static row_bounds bounds_of(const best_task *t, int32_t row)
{
    const size_t n = 2 * (size_t)t->n_blocks;
    float *at = t->exact.ws->bounds + (size_t)row * (n + S2S_ROW_BOUNDS);
    return (row_bounds){(float (*)[2])at, at + n, at + n + 1, at + n + 2};
}

static void run_measure(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const best_task *t = context;
    const s2s_workspace *ws = t->exact.ws;
    (void)worker;
    for (int32_t row = begin; row < end; row++) {
        const row_bounds b = bounds_of(t, row);
        const float *x = t->exact.rows.x + (size_t)row * t->exact.rows.ld;
        const uint8_t *q = ws->quantized + (size_t)row * ws->ld_quantized;
        const double scale = (double)ws->row_scale[row];
        double squares = 0.0, errors = 0.0;
        for (int32_t i = 0; i < t->exact.matrix->n_in; i++) {
            const double left = (double)x[i] - ((double)q[i] - 128.0) * scale;
            squares += (double)x[i] * (double)x[i];
            errors += left * left;
        }
        *b.norm = nextafterf((float)sqrt(squares), INFINITY);
        *b.error = nextafterf((float)sqrt(errors), INFINITY);
    }
}

static void bound_block(void *context, int32_t row, int32_t worker, int32_t block, float *x)
{
    const best_task *t = context;
    const s2s_matrix *m = t->coarse.matrix;
    const row_bounds bounds = bounds_of(t, row);
    const double norm = (double)*bounds.norm, error = (double)*bounds.error;
    /* what rounding may add to both logits: k fused steps of the exact one, a few of the coarse */
    const double rounding = (double)(m->n_in + 16) * 0x1p-23;
    const int32_t first = block * BLOCK_TILES;
    const int32_t n_tiles = s2s_min(BLOCK_TILES, m->n_tiles - first);
    double upper = -INFINITY, lower = -INFINITY;
    t->rule_out(t->exact.context, row, worker, block, x);
    for (int32_t c = m->n_out - first * S2S_TILE; c < n_tiles * S2S_TILE; c++) x[c] = -INFINITY;
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        const int32_t at = first + tile;
        const double most = (double)t->exact.exec->model->kernels->max_or_nan(
            x + (size_t)tile * S2S_TILE, S2S_TILE);
        const double w_error = (double)t->copy->error[at], w_norm = (double)t->copy->norm[at];
        const double size = (norm + error) * (w_norm + w_error) + (double)t->copy->bias[at];
        const double bound = norm * w_error + error * w_norm + rounding * size + 1e-30;
        if (isnan(most) || !(size < 1e30)) { /* anything may happen */
            upper = INFINITY;
        } else {
            upper = fmax(upper, most + bound);
            lower = fmax(lower, most - bound);
        }
    }
    bounds.blocks[block][0] = nextafterf((float)upper, INFINITY);
    bounds.blocks[block][1] = nextafterf((float)lower, -INFINITY);
}

/* One item is one block of one row, those of one block side by side. */
static void run_exact(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const best_task *t = context;
    const int32_t n_rows = t->exact.rows.n;
    for (int32_t item = begin; item < end; item++) {
        const int32_t block = item / n_rows, row = item % n_rows;
        const row_bounds b = bounds_of(t, row);
        if (b.blocks[block][0] >= *b.reached) project(&t->exact, row, 1, block, 1, worker);
    }
}

void s2s_output_run_best(s2s_exec *exec, const int32_t *rows, int32_t n_rows, s2s_workspace *ws,
                         s2s_logits_fn rule_out, s2s_logits_fn visit, void *context)
{
    const s2s_coarse *copy = s2s_model_coarse(exec->model);
    if (n_rows == 0) return;
    S2S_OPERATION(OUTPUT);
    const s2s_rows gathered = gather(rows, n_rows, ws);
    if (copy == NULL) {
        output_task task = {exec, &exec->model->output, gathered, ws, visit, context};
        s2s_linear_prepare(exec, task.matrix, gathered, ws);
        if (!s2s_output_run_best_i4(exec, gathered, ws, rule_out, visit, context))
            run_blocks_of(&task);
        return;
    }
    best_task task = {
        .exact = {exec, &exec->model->output, gathered, ws, visit, context},
        .coarse = {exec, &copy->matrix, gathered, ws, bound_block, &task},
        .copy = copy,
        .rule_out = rule_out,
        .n_blocks = count_blocks(&copy->matrix),
    };
    s2s_linear_prepare(exec, &copy->matrix, gathered, ws);
    s2s_pool_run(exec->pool, run_measure, &task, n_rows, 32);
    run_blocks_of(&task.coarse);
    for (int32_t row = 0; row < n_rows; row++) {
        const row_bounds b = bounds_of(&task, row);
        *b.reached = -INFINITY;
        for (int32_t block = 0; block < task.n_blocks; block++)
            *b.reached = fmaxf(*b.reached, b.blocks[block][1]);
    }
    s2s_pool_run(exec->pool, run_exact, &task, n_rows * task.n_blocks, task.n_blocks);
}
