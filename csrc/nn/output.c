/* output.c: see output.h. */
#include "output.h"

#include <string.h>

#include "../base/numbers.h"
#include "../base/profile.h"

enum { BLOCK_TILES = S2S_LOGITS_BLOCK / S2S_TILE };

typedef struct output_task {
    s2s_exec *exec;
    s2s_rows rows;
    s2s_workspace *ws;
    s2s_logits_fn visit;
    void *context;
} output_task;

/* Visits rows [row, row + n_rows) of blocks [block, block + n_blocks). */
static void project(const output_task *t, int32_t row, int32_t n_rows, int32_t block,
                    int32_t n_blocks, int32_t worker)
{
    const s2s_matrix *m = &t->exec->model->output;
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

void s2s_output_run(s2s_exec *exec, const int32_t *rows, int32_t n_rows, s2s_workspace *ws,
                    s2s_logits_fn visit, void *context)
{
    const s2s_matrix *m = &exec->model->output;
    if (n_rows == 0) return;
    S2S_OPERATION(OUTPUT);
    output_task task = {exec, {ws->x, ws->ld_x, n_rows}, ws, visit, context};
    if (rows[n_rows - 1] != n_rows - 1) { /* some are left out */
        for (int32_t i = 0; i < n_rows; i++)
            memcpy(ws->h + (size_t)i * ws->ld_x, ws->x + (size_t)rows[i] * ws->ld_x,
                   ws->ld_x * sizeof(float));
        task.rows.x = ws->h;
    }
    s2s_linear_prepare(exec, m, task.rows, ws);
    s2s_pool_run(exec->pool, run_blocks, &task, (m->n_tiles + BLOCK_TILES - 1) / BLOCK_TILES,
                 s2s_linear_grain(m, n_rows, BLOCK_TILES));
}
