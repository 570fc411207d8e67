/* matmul_i8_amx_impl.h: the int8 product of many rows on AMX tile registers (Intel's TDPBUSD).
 *
 * A tile register holds 16 rows of 64 bytes.  Sixteen lines of a weight tile, in the layout that every
 * level reads, are one operand as they lie in memory; 64 inputs of up to 16 rows of x are the other; the
 * product adds 16 x 16 exact int32 sums, so the bits are those of the other levels.  Two row tiles by two
 * weight tiles stay in registers while all of k runs.
 *
 * Row tiles have one height, for which the registers are configured once in a call; the last row tile may
 * overlap the one before it, and what it has again is not written.  Nothing is left in the registers.
 *
 * The first block of rows reads the weights from memory and fetches its own a little ahead into the
 * first-level cache: with tile loads the hardware alone reaches three quarters of the core's reading rate.
 * The other blocks find them in the caches, and meanwhile fetch those of the next tiles into the second level.
 */
#ifndef S2S_MATMUL_I8_AMX_IMPL_H
#define S2S_MATMUL_I8_AMX_IMPL_H

enum {
    AMX_ROWS_MIN = 2, /* measured: a single row is faster with vectors, in matmul_i8 */
    AMX_K = 64,       /* inputs that a register holds */
    AMX_BYTES = 16 * QUAD,
    AMX_AHEAD = 2 * AMX_K /* inputs between fetching and use */
};

/* The compiler is not told which memory tile loads and stores touch. */
#define S2S_AMX_FENCE() __asm__ volatile("" ::: "memory")

/* Registers: sums 0 and 1 of row tile 0, 2 and 3 of row tile 1, rows of x 4 and 5, weights 6 and 7. */
static void amx_configure(int32_t height)
{
    S2S_ALIGN(64) struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t n_rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.n_rows[i] = (uint8_t)(i < 6 ? height : 16);
    }
    S2S_AMX_FENCE();
    _tile_loadconfig(&config);
}

/* 1 or 2 row tiles times 1 or 2 weight tiles. */
typedef struct amx_block {
    const uint8_t *x0, *x1; /* first row of each row tile, row stride ldx */
    size_t ldx, k;
    const int8_t *w;      /* weight tiles of `stride` bytes, one after the other */
    const int8_t *w_tail; /* [n_tiles, AMX_BYTES] the last k mod 64 inputs, then zeros */
    size_t stride;
    const int32_t *start; /* [n_tiles, 16] */
    const int8_t *next; /* n_next lines to fetch for each 64 inputs; NULL: its own weights ahead */
    int n_next;         /* 0: these are the last tiles */
} amx_block;

S2S_INLINE void amx_fetch(const amx_block *b, size_t i, int n_tiles)
{
    if (b->next != NULL) {
        const int8_t *next = b->next + i / AMX_K * (size_t)b->n_next * QUAD;
        for (int p = 0; p < b->n_next; p++) __builtin_prefetch(next + p * QUAD, 0, 2);
        return;
    }
    size_t at = i + AMX_AHEAD;
    if (at >= b->k && b->n_next == 0) return;           /* these are the last tiles */
    if (at >= b->k) at += (size_t)(n_tiles - 1) * b->k; /* of the next tiles */
    for (int t = 0; t < n_tiles; t++)
        for (int p = 0; p < 16; p++)
            __builtin_prefetch(b->w + (size_t)t * b->stride + at * S2S_TILE + p * QUAD, 0, 3);
}

/* out [R, height, T, 16] = start + rows of x times weights.  Bytes of x beyond k meet zeros. */
#define S2S_DEFINE_AMX_BLOCK(R, T)                                                                 \
    static void amx_block_##R##x##T(const amx_block *b, int32_t height, int32_t *out)              \
    {                                                                                              \
        const size_t ldx = b->ldx, ld_out = T * QUAD;                                              \
        int32_t *out1 = out + height * (T * S2S_TILE);                                             \
        S2S_AMX_FENCE();                                                                           \
        _tile_loadd(0, b->start, 0); /* stride 0: one line for all rows */                         \
        if (T > 1) _tile_loadd(1, b->start + S2S_TILE, 0);                                         \
        if (R > 1) _tile_loadd(2, b->start, 0);                                                    \
        if (R > 1 && T > 1) _tile_loadd(3, b->start + S2S_TILE, 0);                                \
        for (size_t i = 0; i < b->k; i += AMX_K) {                                                 \
            const int whole = b->k - i >= AMX_K;                                                   \
            const int8_t *w0 = whole ? b->w + i * S2S_TILE : b->w_tail;                            \
            const int8_t *w1 = w0 + (whole ? b->stride : AMX_BYTES);                               \
            amx_fetch(b, i, T);                                                                    \
            _tile_loadd(6, w0, QUAD);                                                              \
            _tile_loadd(4, b->x0 + i, ldx);                                                        \
            _tile_dpbusd(0, 4, 6);                                                                 \
            if (T > 1) _tile_loadd(7, w1, QUAD);                                                   \
            if (T > 1) _tile_dpbusd(1, 4, 7);                                                      \
            if (R > 1) _tile_loadd(5, b->x1 + i, ldx);                                             \
            if (R > 1) _tile_dpbusd(2, 5, 6);                                                      \
            if (R > 1 && T > 1) _tile_dpbusd(3, 5, 7);                                             \
        }                                                                                          \
        _tile_stored(0, out, ld_out);                                                              \
        if (T > 1) _tile_stored(1, out + S2S_TILE, ld_out);                                        \
        if (R > 1) _tile_stored(2, out1, ld_out);                                                  \
        if (R > 1 && T > 1) _tile_stored(3, out1 + S2S_TILE, ld_out);                              \
        S2S_AMX_FENCE();                                                                           \
    }

S2S_DEFINE_AMX_BLOCK(1, 1)
S2S_DEFINE_AMX_BLOCK(1, 2)
S2S_DEFINE_AMX_BLOCK(2, 1)
S2S_DEFINE_AMX_BLOCK(2, 2)

/* [row tiles - 1][weight tiles - 1] */
static void (*const amx_blocks[2][2])(const amx_block *b, int32_t height, int32_t *out) = {
    {amx_block_1x1, amx_block_1x2}, {amx_block_2x1, amx_block_2x2}};

/* Row tiles [begin, end) times the n_tiles weight tiles from `tile` on, of [0, tile_end). */
S2S_INLINE void amx_group(const s2s_matmul_i8 *a, int32_t height, int32_t begin, int32_t end,
                          int32_t tile, int32_t n_tiles, int32_t tile_end)
{
    S2S_ALIGN(64) int32_t out[4 * 16 * S2S_TILE], start[2 * S2S_TILE];
    S2S_ALIGN(64) int8_t w_tail[2 * AMX_BYTES];
    const size_t k = (size_t)a->k, stride = (k + 3) / 4 * QUAD, ldx = a->ldx;
    const size_t whole = k / AMX_K * AMX_BYTES;
    const int32_t n_blocks = (end - begin + 1) / 2, last_row = a->n_rows - height;
    amx_block b = {.ldx = ldx, .k = k, .stride = stride, .w_tail = w_tail, .start = start};
    b.w = a->w + (size_t)tile * stride;
    if (tile + 2 * n_tiles <= tile_end) b.n_next = (16 * n_tiles + n_blocks - 1) / n_blocks;
    for (int32_t i = 0; i < n_tiles * S2S_TILE; i++)
        start[i] = (int32_t)(-S2S_I8_OFFSET * (uint32_t)a->w_sum[tile * S2S_TILE + i]);
    if (whole < stride) {
        memset(w_tail, 0, sizeof w_tail);
        for (size_t t = 0; t < (size_t)n_tiles; t++)
            memcpy(w_tail + t * AMX_BYTES, b.w + t * stride + whole, stride - whole);
    }

    const int8_t *next = b.w + (size_t)n_tiles * stride;
    for (int32_t r = begin; r < end; r += 2) {
        const int n = end - r < 2 ? 1 : 2;
        const int32_t row = r * height; /* the first that is new; those before it overlap */
        const int32_t row0 = s2s_min(row, last_row), row1 = s2s_min(row + height, last_row);
        b.x0 = a->x + (size_t)row0 * ldx;
        b.x1 = a->x + (size_t)row1 * ldx;
        amx_blocks[n - 1][n_tiles - 1](&b, height, out);
        matmul_i8_finish(a, row, row0 + height - row, tile, n_tiles,
                         out + (row - row0) * n_tiles * S2S_TILE);
        if (n == 2)
            matmul_i8_finish(a, row + height, row1 - row, tile, n_tiles,
                             out + (2 * height + row - row1) * n_tiles * S2S_TILE);
        if (b.next != NULL) next += k / AMX_K * (size_t)b.n_next * QUAD;
        b.next = next;
    }
}

static void matmul_i8_amx(const s2s_matmul_i8 *a, int32_t tile_begin, int32_t tile_end)
{
    if (a->n_rows < AMX_ROWS_MIN || a->k <= 0) {
        matmul_i8(a, tile_begin, tile_end);
        return;
    }
    const int32_t n_row_tiles = (a->n_rows + 15) / 16;
    const int32_t height = (a->n_rows + n_row_tiles - 1) / n_row_tiles;
    int32_t chunk = I8_X_BYTES / (a->k + 1) / 32 * 2; /* row tiles: as many as stay in the cache */
    if (chunk < 2) chunk = 2;
    amx_configure(height);
    for (int32_t begin = 0; begin < n_row_tiles; begin += chunk) {
        const int32_t end = s2s_min(begin + chunk, n_row_tiles);
        int32_t n_tiles = 2;
        for (int32_t tile = tile_begin; tile < tile_end; tile += n_tiles) {
            n_tiles = s2s_min(n_tiles, tile_end - tile);
            amx_group(a, height, begin, end, tile, n_tiles, tile_end);
        }
    }
    _tile_release();
}

#endif
