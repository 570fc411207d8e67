/* matmul_i8_impl.h: quantization of rows, and the product of quantized rows and int8 weight tiles, over
 * whatever v16 the including file chose.
 *
 * A block of R rows x T tiles is kept in registers while all of k runs; int32 sums are exact, so a block
 * of few rows may split k over U sums to keep the units busy.  Weights are read once for each block of rows,
 * and blocks of many rows together fetch those of the next tiles, evenly.
 * Rows go in chunks that stay in the second-level cache while all tiles pass by.
 */
#ifndef S2S_MATMUL_I8_IMPL_H
#define S2S_MATMUL_I8_IMPL_H

enum {
    QUAD = 4 * S2S_TILE,               /* bytes of a tile for four inputs: a line of cache */
    I8_BLOCK_ELEMENTS = 24 * S2S_TILE, /* the largest block of any level */
    I8_X_BYTES = 1 << 19,              /* a quarter of the second-level cache of a server core */
    /* rows of a block that is bound by memory, which the hardware fetches faster alone */
    I8_ROWS_ALONE = S2S_I8_ROWS_MAX < 12 ? 0 : 4
};

#ifndef S2S_VEC_HAS_STORE_U8_X4
S2S_INLINE void v16_store_u8_x4(uint8_t *p, v16 a, v16 b, v16 c, v16 d)
{
    v16_store_u8(p, a);
    v16_store_u8(p + S2S_TILE, b);
    v16_store_u8(p + 2 * S2S_TILE, c);
    v16_store_u8(p + 3 * S2S_TILE, d);
}
#endif

/* The bits of absolute values rise with them, and those of infinities and NaNs are above all others. */
S2S_INLINE v16i max_bits(v16i most, v16 v)
{
    return v16i_max(v16_bits(v16_abs(v)), most);
}

static void quantize(const float *x, int32_t n, uint8_t *q, float *scale)
{
    if (n <= 0) {
        *scale = 1.0f;
        return;
    }
    S2S_SPLIT(n);
    enum { VECTORS = 4, STEP = VECTORS * S2S_TILE };
    const v16i zero = v16_bits(v16_set1(0.0f));
    v16i most[VECTORS] = {zero, zero, zero, zero};
    int32_t at = 0;
    for (; at + STEP <= whole; at += STEP)
        for (int c = 0; c < VECTORS; c++)
            most[c] = max_bits(most[c], v16_load(x + at + c * S2S_TILE));
    for (; at < whole; at += S2S_TILE) most[0] = max_bits(most[0], v16_load(x + at));
    if (rest) most[0] = max_bits(most[0], v16_load_n(x + whole, rest));
    const v16i two[] = {v16i_max(most[0], most[1]), v16i_max(most[2], most[3])};
    const int32_t bits = v16i_fold_max(v16i_max(two[0], two[1]));
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    if (!(largest < INFINITY) || largest < 0x1p-100f) {
        memset(q, 128, (size_t)(n + S2S_TILE - 1) / S2S_TILE * S2S_TILE);
        *scale = largest < INFINITY ? 1.0f : NAN;
        return;
    }
    *scale = largest / 127.0f;
    const v16 by = v16_set1(127.0f / largest);
    for (at = 0; at + STEP <= whole; at += STEP, x += STEP, q += STEP)
        v16_store_u8_x4(q, v16_mul(v16_load(x), by), v16_mul(v16_load(x + S2S_TILE), by),
                        v16_mul(v16_load(x + 2 * S2S_TILE), by),
                        v16_mul(v16_load(x + 3 * S2S_TILE), by));
    for (; at < whole; at += S2S_TILE, x += S2S_TILE, q += S2S_TILE)
        v16_store_u8(q, v16_mul(v16_load(x), by));
    if (rest) v16_store_u8(q, v16_mul(v16_load_n(x, rest), by));
}

/* Element i of column id is at tiles[id / 16][i / 4][id % 16][i % 4]. */
static void embed_i8(const void *tiles, const float *w_scale, int32_t d, int32_t id, float scale,
                     const float *position, float *y)
{
    const size_t n_quads = ((size_t)d + 3) / 4;
    const int8_t *w = (const int8_t *)tiles + (size_t)(id / S2S_TILE) * n_quads * QUAD;
    w += id % S2S_TILE * 4;
    const v16 by = v16_set1(scale), w_by = v16_set1(w_scale[id]);
    S2S_SPLIT(d);
    for (int32_t i = 0; i < whole;
         i += S2S_TILE, w += 4 * QUAD) { /* a line of cache for each four */
        v16 v = v16_mul(v16_mul(v16_load_quads(w, QUAD), w_by), by);
        if (position != NULL) v = v16_add(v, v16_load(position + i));
        v16_store(y + i, v);
    }
    if (rest) {
        int8_t column[S2S_TILE] = {0};
        for (int c = 0; c < rest; c++) column[c] = w[c / 4 * QUAD + c % 4];
        v16 v = v16_mul(v16_mul(v16_load_quads(column, 4), w_by), by);
        if (position != NULL) v = v16_add(v, v16_load_n(position + whole, rest));
        v16_store_n(y + whole, v, rest);
    }
}

/* out [R, T, 16] = start [T, 16] + R rows of x, row stride ldx, times T tiles of w of n_quads lines each,
 * one after another.  `next`: n_quads * n_next bytes to fetch for a later call. */
typedef void (*i8_block_fn)(const uint8_t *x, size_t ldx, const int8_t *w, size_t n_quads,
                            const int8_t *next, size_t n_next, const int32_t *start, int32_t *out);

#define S2S_I8_STEP(R, T, u)                                                                       \
    {                                                                                              \
        v16w tiles[T];                                                                             \
        _Pragma("GCC unroll 4") for (int t = 0; t < T; t++) tiles[t] =                             \
            v16w_load(w + (size_t)t * stride + (size_t)(u) * QUAD);                                \
        _Pragma("GCC unroll 12") for (int r = 0; r < R; r++)                                       \
        {                                                                                          \
            const uint8_t *at = r < 6 ? x + (size_t)r * ldx : x6 + (size_t)(r - 6) * ldx;          \
            const v16x four = v16x_load(at + 4 * (u));                                             \
            _Pragma("GCC unroll 4") for (int t = 0; t < T; t++) acc[u][r][t] =                     \
                v16i_dot(acc[u][r][t], four, tiles[t]);                                            \
        }                                                                                          \
    }

#define S2S_DEFINE_I8_BLOCK(R, T, U)                                                               \
    static void i8_block_##R##x##T(const uint8_t *x, size_t ldx, const int8_t *w, size_t n_quads,  \
                                   const int8_t *next, size_t n_next, const int32_t *start,        \
                                   int32_t *out)                                                   \
    {                                                                                              \
        const size_t stride = n_quads * QUAD;                                                      \
        const uint8_t *x6 = R > 6 ? x + 6 * ldx : x; /* two bases share the offsets of 6 rows */   \
        v16i acc[U][R][T];                                                                         \
        _Pragma("GCC unroll 8") for (int u = 0; u < U;                                             \
                                     u++) _Pragma("GCC unroll 12") for (int r = 0; r < R; r++)     \
            _Pragma("GCC unroll 4") for (int t = 0; t < T; t++) acc[u][r][t] =                     \
                u > 0 ? v16i_sub(acc[0][0][0], acc[0][0][0]) : v16i_load(start + t * S2S_TILE);    \
        size_t i = 0;                                                                              \
        for (; i + U <= n_quads; i += U, w += U * QUAD, x += 4 * U, x6 += 4 * U) {                 \
            for (int u = 0; R > I8_ROWS_ALONE && u < U; u++, next += n_next) {                     \
                __builtin_prefetch(next, 0, 2);                                                    \
                if (T > 1) __builtin_prefetch(next + QUAD, 0, 2);                                  \
            }                                                                                      \
            _Pragma("GCC unroll 8") for (int u = 0; u < U; u++) S2S_I8_STEP(R, T, u)               \
        }                                                                                          \
        for (; U > 1 && i < n_quads; i++, w += QUAD, x += 4, x6 += 4) S2S_I8_STEP(R, T, 0)         \
        _Pragma("GCC unroll 12") for (int r = 0; r < R; r++)                                       \
            _Pragma("GCC unroll 4") for (int t = 0; t < T; t++)                                    \
        {                                                                                          \
            v16i sum = acc[0][r][t];                                                               \
            _Pragma("GCC unroll 8") for (int u = 1; u < U; u++) sum = v16i_add(sum, acc[u][r][t]); \
            v16i_store(out + (r * T + t) * S2S_TILE, sum);                                         \
        }                                                                                          \
    }

#if S2S_I8_ROWS_MAX == 1
S2S_DEFINE_I8_BLOCK(1, 1, 1)
static const i8_block_fn i8_blocks[S2S_I8_ROWS_MAX][2] = {{i8_block_1x1, NULL}};
#define S2S_I8_TILES(r) ((void)(r), 1)
#elif S2S_I8_ROWS_MAX == 4
S2S_DEFINE_I8_BLOCK(1, 1, 2)
S2S_DEFINE_I8_BLOCK(2, 1, 1)
S2S_DEFINE_I8_BLOCK(3, 1, 1)
S2S_DEFINE_I8_BLOCK(4, 1, 1)
static const i8_block_fn i8_blocks[S2S_I8_ROWS_MAX][2] = {
    {i8_block_1x1, NULL}, {i8_block_2x1, NULL}, {i8_block_3x1, NULL}, {i8_block_4x1, NULL}};
#define S2S_I8_TILES(r) ((void)(r), 1)
#else
S2S_DEFINE_I8_BLOCK(1, 1, 8)
S2S_DEFINE_I8_BLOCK(1, 2, 4)
S2S_DEFINE_I8_BLOCK(2, 1, 4)
S2S_DEFINE_I8_BLOCK(2, 2, 2)
S2S_DEFINE_I8_BLOCK(3, 1, 2)
S2S_DEFINE_I8_BLOCK(3, 2, 2)
S2S_DEFINE_I8_BLOCK(4, 1, 2)
S2S_DEFINE_I8_BLOCK(4, 2, 2)
S2S_DEFINE_I8_BLOCK(5, 1, 1)
S2S_DEFINE_I8_BLOCK(5, 2, 1)
S2S_DEFINE_I8_BLOCK(6, 1, 1)
S2S_DEFINE_I8_BLOCK(6, 2, 1)
S2S_DEFINE_I8_BLOCK(7, 1, 1)
S2S_DEFINE_I8_BLOCK(7, 2, 1)
S2S_DEFINE_I8_BLOCK(8, 1, 1)
S2S_DEFINE_I8_BLOCK(8, 2, 1)
S2S_DEFINE_I8_BLOCK(9, 1, 1)
S2S_DEFINE_I8_BLOCK(9, 2, 1)
S2S_DEFINE_I8_BLOCK(10, 1, 1)
S2S_DEFINE_I8_BLOCK(10, 2, 1)
S2S_DEFINE_I8_BLOCK(11, 1, 1)
S2S_DEFINE_I8_BLOCK(11, 2, 1)
S2S_DEFINE_I8_BLOCK(12, 1, 1)
S2S_DEFINE_I8_BLOCK(12, 2, 1)
static const i8_block_fn i8_blocks[S2S_I8_ROWS_MAX][2] = {
    {i8_block_1x1, i8_block_1x2},   {i8_block_2x1, i8_block_2x2},   {i8_block_3x1, i8_block_3x2},
    {i8_block_4x1, i8_block_4x2},   {i8_block_5x1, i8_block_5x2},   {i8_block_6x1, i8_block_6x2},
    {i8_block_7x1, i8_block_7x2},   {i8_block_8x1, i8_block_8x2},   {i8_block_9x1, i8_block_9x2},
    {i8_block_10x1, i8_block_10x2}, {i8_block_11x1, i8_block_11x2}, {i8_block_12x1, i8_block_12x2}};
#define S2S_I8_TILES(r) ((void)(r), 2)
#endif

/* y = activation(out scaled + bias) + residual for one block of n_tiles; what is frequent by constants. */
S2S_INLINE void finish_block(const s2s_matmul_i8 *a, int32_t row, int32_t n_rows, int32_t tile,
                             int n_tiles, const int32_t *out, int32_t activation, int has_residual)
{
    enum { MOST = 2 };
    const size_t column = (size_t)tile * S2S_TILE, ldy = a->ldy;
    const size_t ldr = has_residual ? a->ldr : 0;
    const float *x_scale = a->x_scale + row;
    float *y = a->y + (size_t)row * ldy + column;
    const float *residual = has_residual ? a->residual + (size_t)row * ldr + column : NULL;
    v16 w_scale[MOST], bias[MOST];
    for (int t = 0; t < n_tiles; t++) {
        w_scale[t] = v16_load(a->w_scale + column + t * S2S_TILE);
        /* -0.0 adds nothing, to a negative zero neither */
        bias[t] = a->bias != NULL ? v16_load(a->bias + column + t * S2S_TILE) : v16_set1(-0.0f);
    }
    for (int32_t r = 0; r < n_rows; r++, y += ldy, out += n_tiles * S2S_TILE) {
        const v16 scale = v16_set1(x_scale[r]);
        for (int t = 0; t < n_tiles; t++) {
            const v16 sum = v16_from_i32(v16i_load(out + t * S2S_TILE));
            v16 v = v16_fma(sum, v16_mul(scale, w_scale[t]), bias[t]);
            v = v16_activate(v, activation);
            if (has_residual) v = v16_add(v, v16_load(residual + t * S2S_TILE));
            v16_store(y + t * S2S_TILE, v);
        }
        if (has_residual) residual += ldr;
    }
}

S2S_NOINLINE void matmul_i8_finish(const s2s_matmul_i8 *a, int32_t row, int32_t n_rows,
                                   int32_t tile, int32_t n_tiles, const int32_t *out)
{
    const int has_residual = a->residual != NULL;
    if (n_tiles == 1)
        finish_block(a, row, n_rows, tile, 1, out, a->activation, has_residual);
    else if (a->activation == S2S_IDENTITY && !has_residual)
        finish_block(a, row, n_rows, tile, 2, out, S2S_IDENTITY, 0);
    else if (a->activation == S2S_IDENTITY)
        finish_block(a, row, n_rows, tile, 2, out, S2S_IDENTITY, 1);
    else if (a->activation == S2S_RELU && !has_residual)
        finish_block(a, row, n_rows, tile, 2, out, S2S_RELU, 0);
    else
        finish_block(a, row, n_rows, tile, 2, out, a->activation, has_residual);
}

static void matmul_i8(const s2s_matmul_i8 *a, int32_t tile_begin, int32_t tile_end)
{
    if (a->n_rows <= 0) return;
    S2S_ALIGN(64) int32_t out[I8_BLOCK_ELEMENTS], start[2 * S2S_TILE];
    const size_t n_quads = ((size_t)a->k + 3) / 4;
    const row_blocks r = cut_rows(a->n_rows, S2S_I8_ROWS_MAX);
    size_t chunk = I8_X_BYTES / ((4 * n_quads + 1) * S2S_I8_ROWS_MAX);
    if (chunk < 1) chunk = 1;
    if (chunk > (size_t)r.n_blocks) chunk = (size_t)r.n_blocks;

    for (int32_t begin = 0; begin < r.n_blocks; begin += (int32_t)chunk) {
        const int32_t end =
            r.n_blocks - begin < (int32_t)chunk ? r.n_blocks : begin + (int32_t)chunk;
        int32_t n_tiles = S2S_I8_TILES(r.height);
        for (int32_t tile = tile_begin; tile < tile_end; tile += n_tiles) {
            if (n_tiles > tile_end - tile) n_tiles = 1;
            const int8_t *w = a->w + (size_t)tile * n_quads * QUAD;
            const size_t n_bytes = (size_t)n_tiles * n_quads * QUAD;
            const int has_next = tile + 2 * n_tiles <= tile_end;
            const int8_t *next = has_next ? w + n_bytes : w;
            const size_t n_next =
                has_next ? (size_t)(n_tiles * QUAD + end - begin - 1) / (size_t)(end - begin) : 0;
            for (int32_t i = 0; i < n_tiles * S2S_TILE; i++)
                start[i] = (int32_t)(-S2S_I8_OFFSET * (uint32_t)a->w_sum[tile * S2S_TILE + i]);
            for (int32_t b = begin; b < end; b++, next += n_quads * n_next) {
                const int32_t height = block_height(r, b), row = block_row(r, b);
                i8_blocks[height - 1][n_tiles - 1](a->x + (size_t)row * a->ldx, a->ldx, w, n_quads,
                                                   next, n_next, start, out);
                matmul_i8_finish(a, row, height, tile, n_tiles, out);
            }
        }
    }
}

#endif
