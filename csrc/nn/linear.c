/* linear.c: products of rows and a matrix, see layers.h. */
#include "../base/numbers.h"
#include "../base/profile.h"
#include "layers.h"
#include "sparse.h"

/* Fewest multiply-adds worth waking a second thread: waking costs about two
 * microseconds, in which a core does some 10^5 multiply-adds. */
enum {
    MIN_FMAS_PER_THREAD = 1 << 16,
    MIN_FMAS_I8_PER_THREAD = 1 << 18,
    MIN_WEIGHT_BYTES_PER_THREAD = 1 << 16, /* read from beyond the core's own cache: as long */
};

typedef struct quantize_task {
    const s2s_kernels *kernels;
    s2s_rows rows;
    s2s_workspace *ws;
    int32_t n_in;
} quantize_task;

static void run_quantize(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const quantize_task *t = context;
    (void)worker;
    for (int32_t i = begin; i < end; i++) {
        t->kernels->quantize(t->rows.x + (size_t)i * t->rows.ld, t->n_in,
                             t->ws->quantized + (size_t)i * t->ws->ld_quantized,
                             t->ws->row_scale + i);
    }
}

void s2s_linear_prepare(s2s_exec *exec, const s2s_matrix *m, s2s_rows rows, s2s_workspace *ws)
{
    if (!s2s_matrix_is_quantized(m)) return;
    S2S_OPERATION(QUANTIZE);
    quantize_task task = {exec->model->kernels, rows, ws, m->n_in};
    s2s_pool_run(exec->pool, run_quantize, &task, rows.n, 1 + S2S_MIN_FLOATS_PER_THREAD / m->n_in);
}

typedef void (*matmul_fn)(const s2s_matmul *, int32_t, int32_t);

static matmul_fn matmul_of(const s2s_exec *exec, const s2s_matrix *m)
{
    const s2s_kernels *k = exec->model->kernels;
    return m->dtype == S2S_BF16 ? k->matmul_bf16 : k->matmul_f32;
}

typedef struct linear_task {
    matmul_fn matmul;
    s2s_matmul a;
} linear_task;

static void run_linear(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const linear_task *task = context;
    (void)worker;
    task->matmul(&task->a, begin, end);
}

typedef struct linear_i8_task {
    const s2s_kernels *kernels;
    s2s_matmul_i8 a;
    const s2s_matrix *m;
    const s2s_workspace *ws;
} linear_i8_task;

static void run_linear_i8(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const linear_i8_task *task = context;
    if (task->m->dtype == S2S_INT8) {
        task->kernels->matmul_i8(&task->a, begin, end);
        return;
    }
    const size_t n_bytes = s2s_i8_tile_bytes(task->m->n_in), n_all = task->ws->n_unpacked;
    task->kernels->matmul_i4(&task->a, begin, end, task->ws->unpacked + (size_t)worker * n_all,
                             (int32_t)((n_all - 4 * S2S_TILE) / n_bytes));
}

s2s_matmul s2s_linear_args(const s2s_matrix *m, s2s_rows rows, s2s_activation activation,
                           const float *residual, size_t ldr, float *y, size_t ldy)
{
    return (s2s_matmul){.x = rows.x,
                        .w = m->w,
                        .bias = m->bias,
                        .residual = residual,
                        .y = y,
                        .ldx = rows.ld,
                        .ldy = ldy,
                        .ldr = ldr,
                        .n_rows = rows.n,
                        .k = m->n_in,
                        .activation = activation};
}

s2s_matmul_i8 s2s_linear_args_i8(const s2s_matrix *m, const s2s_workspace *ws, int32_t n_rows,
                                 s2s_activation activation, const float *residual, size_t ldr,
                                 float *y, size_t ldy)
{
    return (s2s_matmul_i8){.x = ws->quantized,
                           .x_scale = ws->row_scale,
                           .w = m->w,
                           .w_scale = m->scale,
                           .w_sum = m->sum,
                           .bias = m->bias,
                           .residual = residual,
                           .y = y,
                           .ldx = ws->ld_quantized,
                           .ldy = ldy,
                           .ldr = ldr,
                           .n_rows = n_rows,
                           .k = m->n_in,
                           .activation = activation};
}

void s2s_linear_run(s2s_exec *exec, const s2s_matrix *m, s2s_rows rows, const s2s_workspace *ws,
                    s2s_activation activation, const float *residual, size_t ldr, float *y,
                    size_t ldy)
{
    if (rows.n == 0) return;
    if (s2s_matrix_is_quantized(m)) {
        linear_i8_task task = {exec->model->kernels,
                               s2s_linear_args_i8(m, ws, rows.n, activation, residual, ldr, y, ldy),
                               m, ws};
        s2s_pool_run(exec->pool, run_linear_i8, &task, m->n_tiles, s2s_linear_grain(m, rows.n, 1));
        return;
    }
    linear_task task = {matmul_of(exec, m),
                        s2s_linear_args(m, rows, activation, residual, ldr, y, ldy)};
    s2s_pool_run(exec->pool, run_linear, &task, m->n_tiles, s2s_linear_grain(m, rows.n, 1));
}

int32_t s2s_linear_grain(const s2s_matrix *m, int32_t n_rows, int32_t n_tiles)
{
    const int64_t n_weights = (int64_t)m->n_in * n_tiles * S2S_TILE;
    const int64_t n_bytes = (int64_t)s2s_matrix_tile_bytes(m) * n_tiles;
    const int64_t least = s2s_matrix_is_quantized(m) ? MIN_FMAS_I8_PER_THREAD : MIN_FMAS_PER_THREAD;
    /* few rows wait for weights, many for arithmetic */
    const int64_t by_fmas = least / (n_rows * n_weights + 1);
    const int64_t by_bytes = MIN_WEIGHT_BYTES_PER_THREAD / (n_bytes + 1);
    return 1 + s2s_min((int32_t)by_fmas, (int32_t)by_bytes);
}

void s2s_linear_tiles(const s2s_exec *exec, const s2s_matrix *m, s2s_rows rows, int32_t row,
                      int32_t n_rows, const s2s_workspace *ws, int32_t tile_begin, int32_t tile_end,
                      float *y, size_t ldy)
{
    const size_t column = (size_t)tile_begin * S2S_TILE;
    const size_t w_begin = (size_t)tile_begin * s2s_matrix_tile_bytes(m);
    const float *bias = m->bias != NULL ? m->bias + column : NULL;
    if (m->dtype == S2S_INT8) {
        s2s_matmul_i8 a = s2s_linear_args_i8(m, ws, n_rows, S2S_IDENTITY, NULL, 0, y, ldy);
        a.x += (size_t)row * ws->ld_quantized;
        a.x_scale += row;
        a.w += w_begin;
        a.w_scale += column;
        a.w_sum += column;
        a.bias = bias;
        exec->model->kernels->matmul_i8(&a, 0, tile_end - tile_begin);
        return;
    }
    const s2s_rows some = {rows.x + (size_t)row * rows.ld, rows.ld, n_rows};
    s2s_matmul a = s2s_linear_args(m, some, S2S_IDENTITY, NULL, 0, y, ldy);
    a.w = (const char *)a.w + w_begin;
    a.bias = bias;
    matmul_of(exec, m)(&a, 0, tile_end - tile_begin);
}

void s2s_linear(s2s_exec *exec, const s2s_matrix *m, s2s_rows rows, s2s_workspace *ws,
                s2s_activation activation, const float *residual, size_t ldr, float *y, size_t ldy)
{
    if (m->input_name[0] != '\0')
        s2s_record_named(exec, m->input_name, rows.x, rows.n, m->n_in, rows.ld);
    s2s_linear_prepare(exec, m, rows, ws);
    if (s2s_sparse_run(exec, m, rows, ws, activation, residual, ldr, y, ldy)) return;
    s2s_linear_run(exec, m, rows, ws, activation, residual, ldr, y, ldy);
}
