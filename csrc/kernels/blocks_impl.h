/* blocks_impl.h: the small steps between products that some kinds of layers have, over whatever v16 the
 * including file chose. */
#ifndef S2S_BLOCKS_IMPL_H
#define S2S_BLOCKS_IMPL_H

static void rms_norm(const float *x, const float *weight, int32_t d, float eps, float *y)
{
    if (d <= 0) return;
    S2S_SPLIT(d);
    v16 squares = v16_set1(0.0f);
    for (int32_t i = 0; i < whole; i += S2S_TILE) {
        const v16 v = v16_load(x + i);
        squares = v16_fma(v, v, squares);
    }
    if (rest) {
        const v16 v = v16_load_n(x + whole, rest);
        squares = v16_fma(v, v, squares);
    }
    const float mean = v16_fold_sum(squares) / (float)d;
    const v16 inverse = v16_set1(1.0f / __builtin_sqrtf(mean + eps));

    for (int32_t i = 0; i < whole; i += S2S_TILE)
        v16_store(y + i, v16_mul(v16_mul(v16_load(x + i), inverse), v16_load(weight + i)));
    if (rest) {
        const v16 normal = v16_mul(v16_load_n(x + whole, rest), inverse);
        v16_store_n(y + whole, v16_mul(normal, v16_load_n(weight + whole, rest)), rest);
    }
}

static void gate(float *x, const float *up, int32_t n, int32_t activation)
{
    if (n <= 0) return;
    S2S_SPLIT(n);
    for (int32_t i = 0; i < whole; i += S2S_TILE)
        v16_store(x + i, v16_mul(v16_activate(v16_load(x + i), activation), v16_load(up + i)));
    if (rest) {
        const v16 active = v16_activate(v16_load_n(x + whole, rest), activation);
        v16_store_n(x + whole, v16_mul(active, v16_load_n(up + whole, rest)), rest);
    }
}

static void soft_cap(float *x, int32_t n, float cap)
{
    if (n <= 0) return;
    S2S_SPLIT(n);
    const v16 by = v16_set1(cap);
    for (int32_t i = 0; i < whole; i += S2S_TILE)
        v16_store(x + i, v16_mul(v16_tanh(v16_div(v16_load(x + i), by)), by));
    if (rest)
        v16_store_n(x + whole, v16_mul(v16_tanh(v16_div(v16_load_n(x + whole, rest), by)), by),
                    rest);
}

#endif
