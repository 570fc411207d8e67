/* rotary.c: see rotary.h. */
#include "rotary.h"

#include "../base/sine.h"

void s2s_rotary_fill(const s2s_stack *stack, int32_t n_positions, float *rows)
{
    const int32_t half = stack->config.d_rotary / 2;
    const float scale = stack->config.rotary_scale;
    for (int32_t p = 0; p < n_positions; p++, rows += 2 * (size_t)half) {
        for (int32_t i = 0; i < half; i++) {
            float sine, cosine;
            s2s_sine_cosine((float)p * stack->inv_freq[i], &sine, &cosine);
            rows[i] = cosine * scale;
            rows[half + i] = sine * scale;
        }
    }
}

typedef struct rotary_task {
    const s2s_stack *stack;
    const int32_t *positions;
    const float *table; /* as s2s_rotary_fill */
    s2s_workspace *ws;
} rotary_task;

static void turn(float *x, const float *cosines, const float *sines, int32_t half)
{
    for (int32_t i = 0; i < half; i++) {
        const float a = x[i], b = x[half + i];
        x[i] = a * cosines[i] - b * sines[i];
        x[half + i] = b * cosines[i] + a * sines[i];
    }
}

void s2s_rotary_turn(const s2s_stack *stack, const s2s_workspace *ws, int32_t position, float *x)
{
    const int32_t half = stack->config.d_rotary / 2;
    if (half == 0) return;
    const float *cosines = ws->decoder_rotary + (size_t)position * 2 * (size_t)half;
    turn(x, cosines, cosines + half, half);
}

static void run_rotary(void *context, int32_t begin, int32_t end, int32_t worker)
{
    const rotary_task *t = context;
    const s2s_stack *stack = t->stack;
    const int32_t half = stack->config.d_rotary / 2;
    const int32_t n_turned = stack->config.n_heads + stack->config.n_kv_heads;
    (void)worker;
    for (int32_t i = begin; i < end; i++) {
        const float *cosines = t->table + (size_t)t->positions[i] * 2 * (size_t)half;
        float *x = t->ws->wide + (size_t)i * t->ws->ld_wide;
        for (int32_t head = 0; head < n_turned; head++, x += stack->d_head)
            turn(x, cosines, cosines + half, half);
    }
}

void s2s_rotary_apply(s2s_exec *exec, const s2s_stack *stack, const int32_t *positions,
                      int32_t n_rows, s2s_workspace *ws)
{
    if (stack->config.positions != S2S_POSITIONS_ROTARY) return;
    const int is_encoder = stack == &exec->model->encoder;
    rotary_task task = {stack, positions, is_encoder ? ws->encoder_rotary : ws->decoder_rotary, ws};
    const int32_t n_turned = stack->config.n_heads + stack->config.n_kv_heads;
    s2s_pool_run(exec->pool, run_rotary, &task, n_rows,
                 1 + S2S_MIN_FLOATS_PER_THREAD / (n_turned * stack->config.d_rotary));
}
