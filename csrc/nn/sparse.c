/* sparse.c: see sparse.h. */
#include "sparse.h"

#include "../base/numbers.h"
#include "../model/by_input.h"

/* Shares of inputs that may be left for a product that leaves out the others to be the faster one.  Few rows
 * wait for weights, and each reads those of its own list: all lists together count.  Many rows of floats wait
 * for arithmetic: the mean counts. */
enum { FEW_ROWS = 4, MOST_OF_FEW = 62, MOST_OF_MANY = 35 /* % */ };

/* Fewest lines of 64 bytes worth waking a second thread. */
enum { MIN_LINES_PER_THREAD = 512 };

/* The longest list; 0 where no layer (they may differ in dtype) leaves zeros out. */
static size_t n_zeroed(const s2s_stack *stack)
{
    for (int32_t i = 0; i < stack->config.n_layers; i++)
        if (stack->layers[i].ffn_down.by_input != NULL) return (size_t)stack->config.d_ffn;
    return 0;
}

void s2s_sparse_init(s2s_workspace *ws, s2s_arena *arena, const s2s_model *model)
{
    const size_t encoder = n_zeroed(&model->encoder), decoder = n_zeroed(&model->decoder);
    const size_t most = encoder > decoder ? encoder : decoder;
    ws->ld_nonzero = most > 0 ? most + S2S_TILE : 0;
    ws->nonzero = s2s_arena_take(arena, S2S_SPARSE_ROWS, ws->ld_nonzero * sizeof *ws->nonzero);
    ws->n_nonzero =
        s2s_arena_take(arena, ws->ld_nonzero > 0 ? S2S_SPARSE_ROWS : 0, sizeof *ws->n_nonzero);
}

typedef struct sparse_task {
    const s2s_kernels *kernels;
    const s2s_matrix *m;
    const s2s_workspace *ws;
    s2s_matmul a;
    s2s_matmul_i8 a_i8;
    s2s_nonzero of;
    int32_t most;    /* inputs that the next list may hold */
    int32_t n_lines; /* inputs in all lists, each of which is a line of a tile or group */
} sparse_task;

static void run_find(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const sparse_task *t = context;
    (void)worker;
    for (int32_t r = begin; r < end; r++) {
        const int32_t n = t->m->n_in;
        uint16_t *at = t->ws->nonzero + (size_t)r * t->ws->ld_nonzero;
        t->ws->n_nonzero[r] =
            t->m->dtype == S2S_INT8
                ? t->kernels->find_nonzero_i8(t->a_i8.x + (size_t)r * t->a_i8.ldx, n, t->most, at)
                : t->kernels->find_nonzero(t->a.x + (size_t)r * t->a.ldx, n, t->most, at);
    }
}

static void run_tiles(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const sparse_task *t = context;
    (void)worker;
    (t->m->dtype == S2S_BF16 ? t->kernels->matmul_sparse_bf16
                             : t->kernels->matmul_sparse_f32)(&t->a, &t->of, begin, end);
}

static void run_groups(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const sparse_task *t = context;
    (void)worker;
    t->kernels->matmul_sparse_i8(&t->a_i8, &t->of, t->m->by_input->rows, t->m->n_tiles, begin, end);
}

/* Makes the lists.  Returns 0 where there is too much in them. */
static int find_all(s2s_exec *exec, sparse_task *t, int32_t n_rows)
{
    const int64_t n_in = t->m->n_in;
    const int is_i8 = t->m->dtype == S2S_INT8;
    if (!is_i8 && n_rows > FEW_ROWS) {
        t->most = t->m->n_in;
        s2s_pool_run(exec->pool, run_find, t, n_rows, 1 + S2S_MIN_FLOATS_PER_THREAD / t->m->n_in);
        for (int32_t r = 0; r < n_rows; t->n_lines += t->ws->n_nonzero[r++])
            if (t->ws->n_nonzero[r] < 0) return 0;
        return (int64_t)t->n_lines * 100 <= n_in * n_rows * MOST_OF_MANY;
    }
    const int32_t percent = is_i8 ? t->kernels->sparse_i8_percent : MOST_OF_FEW;
    t->most = (int32_t)(n_in * percent / 100); /* of all rows: each reads weights of its own */
    for (int32_t r = 0; r < n_rows; r++) {
        run_find(t, r, r + 1, 0);
        if (t->ws->n_nonzero[r] < 0) return 0;
        t->most -= t->ws->n_nonzero[r];
        t->n_lines += t->ws->n_nonzero[r];
    }
    return 1;
}

/* A few rows; 0 where that is not faster. */
static int run_rows(s2s_exec *exec, sparse_task *t, int32_t n_rows)
{
    const s2s_matrix *m = t->m;
    if (!find_all(exec, t, n_rows) || !s2s_by_input_ready(m)) return 0;
    t->a.n_rows = t->a_i8.n_rows = n_rows;
    const int32_t grain = 1 + MIN_LINES_PER_THREAD / (t->n_lines + 1);
    if (m->dtype == S2S_INT8)
        s2s_pool_run(exec->pool, run_groups, t, (m->n_tiles + 3) / 4, grain);
    else
        s2s_pool_run(exec->pool, run_tiles, t, m->n_tiles, grain);
    return 1;
}

int s2s_sparse_run(s2s_exec *exec, const s2s_matrix *m, s2s_rows rows, const s2s_workspace *ws,
                   s2s_activation activation, const float *residual, size_t ldr, float *y,
                   size_t ldy)
{
    const s2s_kernels *k = exec->model->kernels;
    if (m->by_input == NULL || (m->dtype == S2S_INT8 && rows.n > k->sparse_i8_rows)) return 0;
    if (s2s_by_input_is_unfit(m)) return 0; /* no lists in vain */
    /* Quantized rows, which the workspace keeps from the first on, are so few that they go at once. */
    for (int32_t row = 0, n; row < rows.n; row += n) {
        n = s2s_min(rows.n - row, S2S_SPARSE_ROWS);
        const s2s_rows some = {rows.x + (size_t)row * rows.ld, rows.ld, n};
        const float *some_residual = residual != NULL ? residual + (size_t)row * ldr : NULL;
        float *some_y = y + (size_t)row * ldy;
        sparse_task t = {
            .kernels = k,
            .m = m,
            .ws = ws,
            .a = s2s_linear_args(m, some, activation, some_residual, ldr, some_y, ldy),
            .a_i8 = s2s_linear_args_i8(m, ws, n, activation, some_residual, ldr, some_y, ldy),
            .of = {ws->nonzero, ws->n_nonzero, ws->ld_nonzero},
        };
        if (run_rows(exec, &t, n)) continue;
        if (row == 0) return 0; /* the others are as a rule alike */
        s2s_linear_run(exec, m, some, ws, activation, some_residual, ldr, some_y, ldy);
    }
    return 1;
}
