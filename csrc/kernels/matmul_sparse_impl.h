/* matmul_sparse_impl.h: products of rows of which most elements are zero, over whatever v16 the including
 * file chose.
 *
 * A list tells which inputs of a row count; the weights of the others are neither read nor multiplied.
 * Float: the same multiply-adds in the same order but for those that add nothing.  int8: sums are exact.
 */
#ifndef S2S_MATMUL_SPARSE_IMPL_H
#define S2S_MATMUL_SPARSE_IMPL_H

/* A few rows wait for weights, of which the units that multiply bytes can spare the time to sort more. */
enum {
#if defined(__AVX512VNNI__)
    SPARSE_I8_PERCENT = 62,
#else
    SPARSE_I8_PERCENT = 35,
#endif
#ifdef S2S_VEC_HAS_ZIP
    SPARSE_I8_ROWS = 16
#else
    SPARSE_I8_ROWS = 0
#endif
};

#ifndef S2S_VEC_HAS_ZIP
/* The quads of four rows of 64 bytes: of each quarter of a row, four bytes belong to each of four tiles. */
S2S_INLINE void v16w_zip(const int8_t *a, const int8_t *b, const int8_t *c, const int8_t *d,
                         v16w *to)
{
    int8_t tiles[4][QUAD];
    for (int i = 0; i < QUAD; i++) {
        int8_t *quad = tiles[i / 4 % 4] + (i / 16 * 4 + i % 4) * 4;
        quad[0] = a[i], quad[1] = b[i], quad[2] = c[i], quad[3] = d[i];
    }
    for (int t = 0; t < 4; t++) to[t] = v16w_load(tiles[t]);
}
/* Bit i: p[i] is not 128. */
S2S_INLINE uint64_t v64_nonzero(const uint8_t *p)
{
    uint64_t bits = 0;
    for (int i = 0; i < 64; i++) bits |= (uint64_t)(p[i] != 128) << i;
    return bits;
}
#endif

#ifndef S2S_VEC_HAS_PUT_INDICES
/* first + i for each bit i to `to` [16], the rest of which is rubbish; returns how many. */
S2S_INLINE int32_t v16_put_indices(uint16_t *to, int32_t first, unsigned bits)
{
    int32_t n = 0;
    for (; bits != 0; bits &= bits - 1) to[n++] = (uint16_t)(first + __builtin_ctz(bits));
    return n;
}
#endif

/* ---- Lists -------------------------------------------------------------------------------- */

static int32_t find_nonzero(const float *x, int32_t n, int32_t most, uint16_t *at)
{
    const v16 zero = v16_set1(0.0f), least = v16_set1(0x1p-40f), infinity = v16_set1(INFINITY);
    int32_t n_found = 0;
    for (int32_t i = 0; i < n && n_found <= most; i += S2S_TILE) {
        const int left = n - i;
        const v16 v = left >= S2S_TILE ? v16_load(x + i) : v16_load_n(x + i, left);
        const v16 size = v16_abs(v);
        unsigned bits = ~v16_mask_bits(v16_eq(v, zero)) & 0xffff;
        const unsigned plain =
            ~v16_mask_bits(v16_gt(least, size)) & v16_mask_bits(v16_gt(infinity, size));
        if ((bits & ~plain) != 0) return -1;
        n_found += v16_put_indices(at + n_found, i, bits);
    }
    return n_found <= most ? n_found : -1;
}

static int32_t find_nonzero_i8(const uint8_t *q, int32_t n, int32_t most, uint16_t *at)
{
    int32_t n_found = 0;
    for (int32_t i = 0; i < n && n_found <= most; i += 64) {
        uint64_t bits = v64_nonzero(q + i);
        if (n - i < 64) bits &= ((uint64_t)1 << (n - i)) - 1;
        for (int part = 0; part < 64; part += S2S_TILE)
            n_found += v16_put_indices(at + n_found, i + part, (unsigned)(bits >> part) & 0xffff);
    }
    return n_found <= most ? n_found : -1;
}

/* ---- Float -------------------------------------------------------------------------------- */

/* out [T, 16] = the row times T tiles, k inputs each. */
#define S2S_DEFINE_SPARSE(T, DTYPE, W_TYPE, LOAD)                                                  \
    static void sparse_##DTYPE##_##T(const float *x, const uint16_t *at, int32_t n_at,             \
                                     const void *weights, size_t k, float *out)                    \
    {                                                                                              \
        const W_TYPE *w = weights;                                                                 \
        v16 acc[T];                                                                                \
        _Pragma("GCC unroll 16") for (int t = 0; t < T; t++) acc[t] = v16_set1(0.0f);              \
        for (int32_t j = 0; j < n_at; j++) {                                                       \
            const W_TYPE *line = w + (size_t)at[j] * S2S_TILE;                                     \
            const v16 element = v16_set1(x[at[j]]);                                                \
            _Pragma("GCC unroll 16") for (int t = 0; t < T; t++) acc[t] =                          \
                v16_fma(element, LOAD(line + (size_t)t * k * S2S_TILE), acc[t]);                   \
        }                                                                                          \
        _Pragma("GCC unroll 16") for (int t = 0; t < T; t++)                                       \
            v16_store(out + t * S2S_TILE, acc[t]);                                                 \
    }

typedef void (*sparse_fn)(const float *x, const uint16_t *at, int32_t n_at, const void *w, size_t k,
                          float *out);

#define S2S_DEFINE_SPARSES(T)                                                                      \
    S2S_DEFINE_SPARSE(T, f32, float, v16_load)                                                     \
    S2S_DEFINE_SPARSE(T, bf16, uint16_t, v16_load_bf16)

S2S_DEFINE_SPARSES(1)
S2S_DEFINE_SPARSES(4)
#if S2S_ROWS_MAX > 6
S2S_DEFINE_SPARSES(16)
#else
#define sparse_f32_16 sparse_f32_4
#define sparse_bf16_16 sparse_bf16_4
#endif
enum { SPARSE_TILES = S2S_ROWS_MAX > 6 ? 16 : 4 };

S2S_INLINE void matmul_sparse(const sparse_fn by_tiles[3], size_t w_size, const s2s_matmul *a,
                              const s2s_nonzero *of, int32_t tile_begin, int32_t tile_end)
{
    S2S_ALIGN(64) float out[SPARSE_TILES * S2S_TILE];
    const size_t tile_bytes = (size_t)a->k * S2S_TILE * w_size;
    /* few of the tiles that many rows pass by: they stay in the second-level cache, and few pages are
     * read at one time */
    const int32_t most = a->n_rows == 1 ? SPARSE_TILES : 4;
    int32_t n_tiles = most;
    for (int32_t tile = tile_begin; tile < tile_end; tile += n_tiles) {
        while (n_tiles > tile_end - tile) n_tiles = n_tiles > 4 ? 4 : 1;
        const sparse_fn run = by_tiles[n_tiles > 4 ? 2 : n_tiles > 1];
        for (int32_t r = 0; r < a->n_rows; r++) {
            run(a->x + (size_t)r * a->ldx, of->at + (size_t)r * of->ld, of->n[r],
                (const char *)a->w + (size_t)tile * tile_bytes, (size_t)a->k, out);
            matmul_finish(a, r, 1, tile, n_tiles, out);
        }
    }
}

static void matmul_sparse_f32(const s2s_matmul *a, const s2s_nonzero *of, int32_t tile_begin,
                              int32_t tile_end)
{
    static const sparse_fn by_tiles[3] = {sparse_f32_1, sparse_f32_4, sparse_f32_16};
    matmul_sparse(by_tiles, sizeof(float), a, of, tile_begin, tile_end);
}

static void matmul_sparse_bf16(const s2s_matmul *a, const s2s_nonzero *of, int32_t tile_begin,
                               int32_t tile_end)
{
    static const sparse_fn by_tiles[3] = {sparse_bf16_1, sparse_bf16_4, sparse_bf16_16};
    matmul_sparse(by_tiles, sizeof(uint16_t), a, of, tile_begin, tile_end);
}

/* ---- int8 --------------------------------------------------------------------------------- */

/* Groups of four tiles at one time: registers hold 4 sums for each. */
#define S2S_SPARSE_GROUPS (S2S_I8_ROWS_MAX >= 12 ? 4 : 1)

S2S_INLINE void sparse_i8_groups(const uint8_t *x, const uint16_t *at, int32_t n_at,
                                 const int8_t *w, size_t ld, int n_groups, int32_t *out)
{
    v16i acc[S2S_SPARSE_GROUPS][4];
    const v16i zero = v16_bits(v16_set1(0.0f));
    for (int g = 0; g < n_groups; g++)
        for (int t = 0; t < 4; t++) acc[g][t] = zero;
    for (int32_t j = 0; j < n_at; j += 4) {
        /* inputs beyond the last: of the first, with the value that stands for 0 */
        uint8_t four[4];
        const int8_t *rows[4];
        for (int i = 0; i < 4; i++) {
            const int is_one = j + i < n_at;
            const uint16_t input = at[is_one ? j + i : j];
            four[i] = (uint8_t)((is_one ? x[input] : 128) - S2S_I8_OFFSET);
            rows[i] = w + (size_t)input * ld;
        }
        const v16x values = v16x_load(four);
        for (int g = 0; g < n_groups; g++) {
            v16w tiles[4];
            v16w_zip(rows[0] + g * QUAD, rows[1] + g * QUAD, rows[2] + g * QUAD, rows[3] + g * QUAD,
                     tiles);
            for (int t = 0; t < 4; t++) acc[g][t] = v16i_dot(acc[g][t], values, tiles[t]);
        }
    }
    for (int g = 0; g < n_groups; g++)
        for (int t = 0; t < 4; t++) v16i_store(out + (g * 4 + t) * S2S_TILE, acc[g][t]);
}

static void matmul_sparse_i8(const s2s_matmul_i8 *a, const s2s_nonzero *of, const int8_t *by_input,
                             int32_t n_tiles, int32_t group_begin, int32_t group_end)
{
    S2S_ALIGN(64) int32_t out[S2S_SPARSE_GROUPS * 4 * S2S_TILE];
    const size_t ld = (size_t)(n_tiles + 3) / 4 * QUAD;
    int32_t n_groups = S2S_SPARSE_GROUPS;
    for (int32_t group = group_begin; group < group_end; group += n_groups) {
        if (n_groups > group_end - group) n_groups = 1;
        for (int32_t r = 0; r < a->n_rows; r++) {
            const uint8_t *x = a->x + (size_t)r * a->ldx;
            const uint16_t *at = of->at + (size_t)r * of->ld;
            const int8_t *w = by_input + (size_t)group * QUAD;
            if (n_groups == 1)
                sparse_i8_groups(x, at, of->n[r], w, ld, 1, out);
            else
                sparse_i8_groups(x, at, of->n[r], w, ld, S2S_SPARSE_GROUPS, out);
            const int32_t tile = group * 4, left = n_tiles - tile;
            const int32_t n_here = left < n_groups * 4 ? left : n_groups * 4;
            for (int32_t t = 0; t < n_here; t += 2)
                matmul_i8_finish(a, r, 1, tile + t, n_here - t > 1 ? 2 : 1, out + t * S2S_TILE);
        }
    }
}

#endif
