/* matmul_i4_impl.h: the product of quantized rows and four-bit weight tiles, over whatever v16 the including
 * file chose.
 *
 * An int4 weight is an int8 one that is a multiple, from -8 to 7, of its step, a whole number from 0 to 15 that
 * 32 inputs of an output share.  So sums are exact integers, and the result is that of matmul_i8 with the
 * same weights written out.  A tile is cut into pieces of 128 inputs: a line of the steps of its four groups,
 * [4, 16], then 16 lines of eight inputs each as in bound_i4_impl.h, signed.
 * Few rows wait for memory: weights are unpacked in registers.  For more of them some tiles are written out
 * where they stay in the cache, and matmul_i8 does the rest.
 */
#ifndef S2S_MATMUL_I4_IMPL_H
#define S2S_MATMUL_I4_IMPL_H

enum { PIECE_LINES = 17, GROUP_LINES = 4, GROUP = 32 };

S2S_INLINE size_t i4_tile_bytes(int32_t k)
{
    return ((size_t)k + 127) / 128 * PIECE_LINES * QUAD;
}

/* out [R, 16] = start [16] + R rows of x, row stride ldx, times one tile of n_groups. */
typedef void (*i4_product_fn)(const uint8_t *x, size_t ldx, const uint8_t *w, size_t n_groups,
                              const uint8_t *next, const int32_t *start, int32_t *out);

#define S2S_DEFINE_I4_PRODUCT(R)                                                                   \
    static void i4_product_##R(const uint8_t *x, size_t ldx, const uint8_t *w, size_t n_groups,    \
                               const uint8_t *next, const int32_t *start, int32_t *out)            \
    {                                                                                              \
        v16i acc[R];                                                                               \
        const v16i zero = v16i_sub(v16i_load(start), v16i_load(start));                            \
        _Pragma("GCC unroll 4") for (int r = 0; r < R; r++) acc[r] = v16i_load(start);             \
        for (size_t g = 0; g < n_groups; w += PIECE_LINES * QUAD, next += PIECE_LINES * QUAD) {    \
            const size_t end = n_groups - g < 4 ? n_groups - g : 4;                                \
            g += end;                                                                              \
            __builtin_prefetch(next, 0, 2);                                                        \
            const uint8_t *lines = w + QUAD;                                                       \
            for (size_t j = 0; j < end; j++, x += GROUP, lines += GROUP_LINES * QUAD) {            \
                v16i low[R], high[R];                                                              \
                _Pragma("GCC unroll 4") for (int r = 0; r < R; r++) low[r] = high[r] = zero;       \
                _Pragma("GCC unroll 4") for (int i = 0; i < GROUP_LINES; i++)                      \
                {                                                                                  \
                    v16w a, b;                                                                     \
                    v16w_load_i4s(lines + i * QUAD, &a, &b);                                       \
                    __builtin_prefetch(next + (lines - w) + i * QUAD, 0, 2);                       \
                    _Pragma("GCC unroll 4") for (int r = 0; r < R; r++)                            \
                    {                                                                              \
                        const uint8_t *at = x + (size_t)r * ldx + 8 * i;                           \
                        low[r] = v16i_dot(low[r], v16x_load(at), a);                               \
                        high[r] = v16i_dot(high[r], v16x_load(at + 4), b);                         \
                    }                                                                              \
                }                                                                                  \
                const v16i step = v16i_load_u4(w + j * S2S_TILE);                                  \
                _Pragma("GCC unroll 4") for (int r = 0; r < R; r++) acc[r] =                       \
                    v16i_add(acc[r], v16i_mul(v16i_i4_sum(v16i_add(low[r], high[r])), step));      \
            }                                                                                      \
        }                                                                                          \
        _Pragma("GCC unroll 4") for (int r = 0; r < R; r++)                                        \
            v16i_store(out + r * S2S_TILE, acc[r]);                                                \
    }

S2S_DEFINE_I4_PRODUCT(1)
#if S2S_I4_ROWS == 1
static const i4_product_fn i4_products[S2S_I4_ROWS] = {i4_product_1};
#else
S2S_DEFINE_I4_PRODUCT(2)
S2S_DEFINE_I4_PRODUCT(3)
S2S_DEFINE_I4_PRODUCT(4)
static const i4_product_fn i4_products[S2S_I4_ROWS] = {i4_product_1, i4_product_2, i4_product_3,
                                                       i4_product_4};
#endif

/* A tile as int8, [ceil(k / 4), 16, 4], and a quad more if that is odd. */
static void unpack_i4(const uint8_t *w, int32_t k, int8_t *tile)
{
    const size_t n_lines = ((size_t)k + 7) / 8;
    for (size_t i = 0; i < n_lines; i++, tile += 2 * QUAD) {
        const uint8_t *piece = w + i / 16 * PIECE_LINES * QUAD;
        v16w_unpack_i4(piece + QUAD + i % 16 * QUAD, piece + i % 16 / GROUP_LINES * S2S_TILE, tile,
                       tile + QUAD);
    }
}

static void matmul_i4(const s2s_matmul_i8 *a, int32_t tile_begin, int32_t tile_end, int8_t *scratch,
                      int32_t n_scratch)
{
    if (a->n_rows <= 0) return;
    const size_t n_bytes = i4_tile_bytes(a->k), n_groups = ((size_t)a->k + GROUP - 1) / GROUP;
    const uint8_t *w = (const uint8_t *)a->w;
    if (a->n_rows <= S2S_I4_ROWS) {
        S2S_ALIGN(64) int32_t out[S2S_I4_ROWS * S2S_TILE], start[S2S_TILE];
        for (int32_t tile = tile_begin; tile < tile_end; tile++) {
            const uint8_t *at = w + (size_t)tile * n_bytes;
            for (int32_t i = 0; i < S2S_TILE; i++)
                start[i] = (int32_t)(-S2S_I8_OFFSET * (uint32_t)a->w_sum[tile * S2S_TILE + i]);
            i4_products[a->n_rows - 1](a->x, a->ldx, at, n_groups,
                                       tile + 1 < tile_end ? at + n_bytes : at, start, out);
            matmul_i8_finish(a, 0, a->n_rows, tile, 1, out);
        }
        return;
    }
    const size_t i8_bytes =
        ((size_t)a->k + 3) / 4 * QUAD; /* a quad more is that of the next tile */
    for (int32_t tile = tile_begin; tile < tile_end; tile += n_scratch) {
        const int32_t n = tile_end - tile < n_scratch ? tile_end - tile : n_scratch;
        const size_t column = (size_t)tile * S2S_TILE;
        for (int32_t i = 0; i < n; i++)
            unpack_i4(w + (size_t)(tile + i) * n_bytes, a->k, scratch + (size_t)i * i8_bytes);
        s2s_matmul_i8 part = *a;
        part.w = scratch;
        part.w_scale += column;
        part.w_sum += column;
        if (a->bias != NULL) part.bias += column;
        if (a->residual != NULL) part.residual += column;
        part.y += column;
        S2S_MATMUL_I8(&part, 0, n);
    }
}

#endif
