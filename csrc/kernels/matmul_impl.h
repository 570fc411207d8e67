/* matmul_impl.h: the product of rows and weight tiles, over whatever v16 the including file chose.
 *
 * A block of R rows x T tiles is kept in registers while k runs: R*T*16 elements, each one accumulator.
 * Per k it costs T weight loads and R broadcasts for R*T multiply-adds.  With more than one block of
 * rows, k runs in pieces of K_PIECE: the weights of a piece (T * K_PIECE * 64 bytes: 32 KiB for T = 2)
 * stay in the first-level cache while up to BLOCKS_MAX blocks of rows pass by, and their accumulators
 * wait in a buffer on the stack.  Storing and loading accumulators changes no bit.  Meanwhile the blocks
 * fetch the next tiles, evenly, so that memory and arithmetic are busy at the same time.  Rows go in chunks
 * of X_BYTES, which stay in the second-level cache while all tiles pass by.  Bias, activation and residual
 * follow when k is complete, once for all block shapes.
 */
#ifndef S2S_MATMUL_IMPL_H
#define S2S_MATMUL_IMPL_H

enum {
    K_PIECE = 256,
    BLOCKS_MAX = 6,
    BLOCK_ELEMENTS = 24 * S2S_TILE, /* the largest block of any level and shape */
    X_BYTES = 1 << 20               /* half of the second-level cache of a server core */
};

/* out [R, T, 16] += R rows of x, row stride ldx, times T tiles of w, k of their inputs.  Tiles are
 * `tile_stride` elements apart.  `next`: k * n_next bytes to fetch for a later call. */
typedef void (*block_fn)(const float *x, size_t ldx, const void *w, size_t tile_stride, size_t k,
                         const char *next, size_t n_next, float *out);

#define S2S_DEFINE_BLOCK(R, T, DTYPE, W_TYPE, LOAD)                                                \
    static void block_##DTYPE##_##R##x##T(const float *x, size_t ldx, const void *weights,         \
                                          size_t tile_stride, size_t k, const char *next,          \
                                          size_t n_next, float *out)                               \
    {                                                                                              \
        const W_TYPE *w = weights;                                                                 \
        const float *x6 = R > 6 ? x + 6 * ldx : x; /* two bases share the offsets of 6 rows */     \
        v16 acc[R][T];                                                                             \
        _Pragma("GCC unroll 12") for (int r = 0; r < R; r++)                                       \
            _Pragma("GCC unroll 8") for (int t = 0; t < T; t++) acc[r][t] =                        \
                v16_load(out + (r * T + t) * S2S_TILE);                                            \
        for (size_t i = 0; i < k; i++, w += S2S_TILE, x++, x6++) {                                 \
            v16 tiles[T];                                                                          \
            if (R > 4) { /* fewer are bound by memory, which the hardware fetches faster alone */  \
                __builtin_prefetch(next, 0, 2);                                                    \
                if (T > 1) __builtin_prefetch(next + S2S_CACHE_LINE, 0, 2);                        \
                next += n_next;                                                                    \
            }                                                                                      \
            _Pragma("GCC unroll 8") for (int t = 0; t < T; t++) tiles[t] =                         \
                LOAD(w + (size_t)t * tile_stride);                                                 \
            _Pragma("GCC unroll 12") for (int r = 0; r < R; r++)                                   \
            {                                                                                      \
                const float *at = r < 6 ? x + (size_t)r * ldx : x6 + (size_t)(r - 6) * ldx;        \
                const v16 element = v16_set1(*at);                                                 \
                _Pragma("GCC unroll 8") for (int t = 0; t < T; t++) acc[r][t] =                    \
                    v16_fma(element, tiles[t], acc[r][t]);                                         \
            }                                                                                      \
        }                                                                                          \
        _Pragma("GCC unroll 12") for (int r = 0; r < R; r++)                                       \
            _Pragma("GCC unroll 8") for (int t = 0; t < T; t++)                                    \
                v16_store(out + (r * T + t) * S2S_TILE, acc[r][t]);                                \
    }

#define S2S_DEFINE_BLOCKS(R, T)                                                                    \
    S2S_DEFINE_BLOCK(R, T, f32, float, v16_load)                                                   \
    S2S_DEFINE_BLOCK(R, T, bf16, uint16_t, v16_load_bf16)

S2S_DEFINE_BLOCKS(1, 1)
#if S2S_ROWS_MAX > 1
S2S_DEFINE_BLOCKS(1, 2)
S2S_DEFINE_BLOCKS(1, 4)
S2S_DEFINE_BLOCKS(2, 1)
S2S_DEFINE_BLOCKS(2, 2)
S2S_DEFINE_BLOCKS(3, 1)
S2S_DEFINE_BLOCKS(3, 2)
S2S_DEFINE_BLOCKS(4, 1)
S2S_DEFINE_BLOCKS(5, 1)
S2S_DEFINE_BLOCKS(6, 1)
#endif
#if S2S_ROWS_MAX > 6
S2S_DEFINE_BLOCKS(1, 8)
S2S_DEFINE_BLOCKS(2, 4)
S2S_DEFINE_BLOCKS(2, 8)
S2S_DEFINE_BLOCKS(3, 4)
S2S_DEFINE_BLOCKS(4, 2)
S2S_DEFINE_BLOCKS(4, 4)
S2S_DEFINE_BLOCKS(5, 2)
S2S_DEFINE_BLOCKS(6, 2)
S2S_DEFINE_BLOCKS(7, 1)
S2S_DEFINE_BLOCKS(7, 2)
S2S_DEFINE_BLOCKS(8, 1)
S2S_DEFINE_BLOCKS(8, 2)
S2S_DEFINE_BLOCKS(9, 1)
S2S_DEFINE_BLOCKS(9, 2)
S2S_DEFINE_BLOCKS(10, 1)
S2S_DEFINE_BLOCKS(10, 2)
S2S_DEFINE_BLOCKS(11, 1)
S2S_DEFINE_BLOCKS(11, 2)
S2S_DEFINE_BLOCKS(12, 1)
S2S_DEFINE_BLOCKS(12, 2)
#endif

/* [R - 1][log2 T] */
#define S2S_ROW_1(DTYPE, R) {block_##DTYPE##_##R##x1, NULL, NULL, NULL}
#define S2S_ROW_2(DTYPE, R) {block_##DTYPE##_##R##x1, block_##DTYPE##_##R##x2, NULL, NULL}
#define S2S_ROW_4(DTYPE, R)                                                                        \
    {block_##DTYPE##_##R##x1, block_##DTYPE##_##R##x2, block_##DTYPE##_##R##x4, NULL}
#define S2S_ROW_8(DTYPE, R)                                                                        \
    {block_##DTYPE##_##R##x1, block_##DTYPE##_##R##x2, block_##DTYPE##_##R##x4,                    \
     block_##DTYPE##_##R##x8}
#if S2S_ROWS_MAX == 1
#define S2S_BLOCK_TABLE(D) {S2S_ROW_1(D, 1)}
#elif S2S_ROWS_MAX == 6
#define S2S_BLOCK_TABLE(D)                                                                         \
    {S2S_ROW_4(D, 1), S2S_ROW_2(D, 2), S2S_ROW_2(D, 3),                                            \
     S2S_ROW_1(D, 4), S2S_ROW_1(D, 5), S2S_ROW_1(D, 6)}
#else
#define S2S_BLOCK_TABLE(D)                                                                         \
    {S2S_ROW_8(D, 1), S2S_ROW_8(D, 2),  S2S_ROW_4(D, 3),  S2S_ROW_4(D, 4),                         \
     S2S_ROW_2(D, 5), S2S_ROW_2(D, 6),  S2S_ROW_2(D, 7),  S2S_ROW_2(D, 8),                         \
     S2S_ROW_2(D, 9), S2S_ROW_2(D, 10), S2S_ROW_2(D, 11), S2S_ROW_2(D, 12)}
#endif

static const block_fn blocks_f32[S2S_ROWS_MAX][4] = S2S_BLOCK_TABLE(f32);
static const block_fn blocks_bf16[S2S_ROWS_MAX][4] = S2S_BLOCK_TABLE(bf16);

/* y = activation(out + bias) + residual for one block. */
S2S_NOINLINE void matmul_finish(const s2s_matmul *a, int32_t row, int32_t n_rows, int32_t tile,
                                int32_t n_tiles, const float *out)
{
    const size_t column = (size_t)tile * S2S_TILE;
    for (int32_t r = 0; r < n_rows; r++) {
        float *y = a->y + (size_t)(row + r) * a->ldy + column;
        const float *residual = NULL;
        if (a->residual != NULL) residual = a->residual + (size_t)(row + r) * a->ldr + column;
        for (size_t c = 0; c < (size_t)n_tiles * S2S_TILE; c += S2S_TILE, out += S2S_TILE) {
            v16 v = v16_load(out);
            if (a->bias != NULL) v = v16_add(v, v16_load(a->bias + column + c));
            v = v16_activate(v, a->activation);
            if (residual != NULL) v = v16_add(v, v16_load(residual + c));
            v16_store(y + c, v);
        }
    }
}

S2S_INLINE int log2_of_block_tiles(int32_t n_rows)
{
    const int tiles = S2S_BLOCK_TILES(n_rows);
    return tiles == 8 ? 3 : tiles == 4 ? 2 : tiles == 2 ? 1 : 0;
}

/* Rows are cut into blocks of nearly equal height (13 is 7 + 6, not 12 + 1): the first n_high are
 * `height` rows high, the others one less. */
typedef struct row_blocks {
    int32_t n_blocks, height, n_high;
} row_blocks;

S2S_INLINE row_blocks cut_rows(int32_t n_rows, int32_t most)
{
    row_blocks r;
    r.n_blocks = (n_rows + most - 1) / most;
    r.height = (n_rows + r.n_blocks - 1) / r.n_blocks;
    r.n_high = n_rows - (r.height - 1) * r.n_blocks;
    return r;
}
S2S_INLINE int32_t block_height(row_blocks r, int32_t b)
{
    return r.height - (b >= r.n_high);
}
S2S_INLINE int32_t block_row(row_blocks r, int32_t b)
{
    return b * r.height - (b > r.n_high ? b - r.n_high : 0);
}

/* Blocks [begin, end), at most BLOCKS_MAX, times the 2^shape tiles from `tile` on; fetches n_next bytes from
 * `next` on for each input and block, and returns where it came to. */
S2S_INLINE const char *matmul_group(const block_fn blocks[S2S_ROWS_MAX][4], size_t w_size,
                                    const s2s_matmul *a, row_blocks r, int32_t begin, int32_t end,
                                    int32_t tile, int shape, const char *next, size_t n_next)
{
    S2S_ALIGN(64) float out[BLOCKS_MAX][BLOCK_ELEMENTS];
    const size_t k = (size_t)a->k, line = S2S_TILE * w_size; /* bytes of a tile for one input */
    const size_t piece = r.n_blocks > 1 ? K_PIECE : k;
    const int32_t n_tiles = 1 << shape;
    const char *w = (const char *)a->w + (size_t)tile * k * line;
    memset(out, 0, (size_t)(end - begin) * sizeof *out);
    for (size_t i = 0; i < k; i += piece) {
        const size_t length = k - i < piece ? k - i : piece;
        for (int32_t b = begin; b < end; b++, next += length * n_next)
            blocks[block_height(r, b) - 1][shape](a->x + (size_t)block_row(r, b) * a->ldx + i,
                                                  a->ldx, w + i * line, k * S2S_TILE, length, next,
                                                  n_next, out[b - begin]);
    }
    for (int32_t b = begin; b < end; b++)
        matmul_finish(a, block_row(r, b), block_height(r, b), tile, n_tiles, out[b - begin]);
    return next;
}

/* Tiles go in groups as wide as the blocks; a remainder is halved down to 1. */
S2S_INLINE void matmul(const block_fn blocks[S2S_ROWS_MAX][4], size_t w_size, const s2s_matmul *a,
                       int32_t tile_begin, int32_t tile_end)
{
    if (a->n_rows <= 0) return;
    const row_blocks r = cut_rows(a->n_rows, S2S_ROWS_MAX);
    const size_t block_bytes = ((size_t)a->k + 1) * S2S_ROWS_MAX * sizeof(float);
    size_t chunk = X_BYTES / block_bytes;
    if (chunk < BLOCKS_MAX) chunk = BLOCKS_MAX;
    if (chunk > (size_t)r.n_blocks) chunk = (size_t)r.n_blocks;

    for (int32_t begin = 0; begin < r.n_blocks; begin += (int32_t)chunk) {
        const int32_t end =
            r.n_blocks - begin < (int32_t)chunk ? r.n_blocks : begin + (int32_t)chunk;
        int shape = log2_of_block_tiles(r.height);
        for (int32_t tile = tile_begin; tile < tile_end; tile += 1 << shape) {
            while ((1 << shape) > tile_end - tile) shape--;
            const size_t n = (size_t)(end - begin), n_bytes = (S2S_TILE * w_size) << shape;
            const int has_next = (2 << shape) <= tile_end - tile;
            const int32_t next_tile = has_next ? tile + (1 << shape) : tile;
            const char *next =
                (const char *)a->w + (size_t)next_tile * (size_t)a->k * S2S_TILE * w_size;
            const size_t n_next = has_next ? (n_bytes + n - 1) / n : 0;
            for (int32_t b = begin; b < end; b += BLOCKS_MAX)
                next = matmul_group(blocks, w_size, a, r, b,
                                    end - b < BLOCKS_MAX ? end : b + BLOCKS_MAX, tile, shape, next,
                                    n_next);
        }
    }
}

static void matmul_f32(const s2s_matmul *a, int32_t tile_begin, int32_t tile_end)
{
    matmul(blocks_f32, sizeof(float), a, tile_begin, tile_end);
}

static void matmul_bf16(const s2s_matmul *a, int32_t tile_begin, int32_t tile_end)
{
    matmul(blocks_bf16, sizeof(uint16_t), a, tile_begin, tile_end);
}

#endif
