/* bound_i4_impl.h: four-bit copies of int8 weight tiles, and the upper bounds of an int8 product that they
 * give, over whatever v16 the including file chose.
 *
 * A line of 64 bytes holds eight inputs of 16 outputs: four in the lower halves of its bytes, the next
 * four in the upper ones, in the order in which int8 tiles have them.  The upper ones are read as whole
 * bytes, which saves taking them out: their halves are chosen so that the bytes, a sixteenth of a step
 * being one, are near the weights.
 */
#ifndef S2S_BOUND_I4_IMPL_H
#define S2S_BOUND_I4_IMPL_H

/* ---- The copy ----------------------------------------------------------------------------- */

enum { STEP_MAX = 17 }; /* 7.5 steps of 17 reach 127 */

/* A weight is about step / 32 times this, of a byte or of sixteen times a lower half. */
S2S_INLINE int16_t centred(int16_t byte)
{
    return (int16_t)(2 * byte - 240);
}

/* The half byte that stands for w, above `lower` sixteenths, where step = 4096 / inverse. */
S2S_INLINE int16_t half_of(int8_t w, int32_t inverse, int16_t lower)
{
    const int32_t half = (((w * inverse) >> 8) + 128 - lower) >> 4;
    return (int16_t)(half < 0 ? 0 : half > 15 ? 15 : half);
}

/* Of each of the tile's bytes of four inputs: what belongs to its output. */
typedef struct i4_lanes {
    int16_t step[QUAD];
    int32_t inverse[QUAD];
} i4_lanes;

static void spread_steps(const int32_t *step, i4_lanes *to)
{
    for (int i = 0; i < QUAD; i++) {
        to->step[i] = (int16_t)step[i / 4];
        to->inverse[i] = 4096 / step[i / 4];
    }
}

/* sums[c]: of the four lanes of output c. */
static void fold_lanes(const int32_t *lanes, int32_t *sums)
{
    for (int c = 0; c < S2S_TILE; c++)
        sums[c] = lanes[4 * c] + lanes[4 * c + 1] + lanes[4 * c + 2] + lanes[4 * c + 3];
}

/* 32 times what is left of w; its square is above the sum of squares by less than 64. */
S2S_INLINE int32_t left_of(int8_t w, int16_t value, int16_t step)
{
    const int32_t left = 32 * w - step * value;
    return ((left * left) >> 6) + 1;
}

/* Halves the quads of four inputs and of the next four, if there are such; to `line` unless NULL.  Adds up
 * what is left, and the squares of what the weights became. */
S2S_INLINE void halve_quads(const int8_t *lower, const int8_t *upper, const i4_lanes *of,
                            uint8_t *line, int32_t *errors, int32_t *squares)
{
    for (int i = 0; i < QUAD; i++) {
        const int16_t half = half_of(lower[i], of->inverse[i], 0), value = centred(half * 16);
        int16_t byte = half;
        errors[i] += left_of(lower[i], value, of->step[i]);
        squares[i] += value * value;
        if (upper != NULL) {
            byte = (int16_t)(half | half_of(upper[i], of->inverse[i], half) << 4);
            errors[i] += left_of(upper[i], centred(byte), of->step[i]);
            squares[i] += centred(byte) * centred(byte);
        }
        if (line != NULL) line[i] = (uint8_t)byte;
    }
}

/* The same for a tile; to `lines` unless NULL. */
static void halve_tile(const int8_t *tile, size_t n_quads, const i4_lanes *of, uint8_t *lines,
                       int32_t *errors, int32_t *squares)
{
    int32_t left[QUAD] = {0}, value[QUAD] = {0};
    for (size_t q = 0; q < n_quads; q += 2, tile += 2 * QUAD)
        halve_quads(tile, q + 1 < n_quads ? tile + QUAD : NULL, of,
                    lines != NULL ? lines + q / 2 * QUAD : NULL, left, value);
    fold_lanes(left, errors);
    fold_lanes(value, squares);
}

/* The best step for normally distributed weights, or where few are large, one that cuts nothing off if
 * less is left then. */
static void choose_steps(const int8_t *tile, size_t n_quads, const int32_t *squares, i4_lanes *of)
{
    int32_t step[S2S_TILE], wide[S2S_TILE], error[S2S_TILE], wide_error[S2S_TILE];
    int32_t unused[S2S_TILE];
    int n_narrow = 0;
    for (int c = 0; c < S2S_TILE; c++) {
        const float deviation = __builtin_sqrtf((float)squares[c] / (float)(4 * n_quads));
        const int32_t best = (int32_t)(0.335f * deviation + 0.5f);
        step[c] = best < 1 ? 1 : best > STEP_MAX ? STEP_MAX : best;
        wide[c] = STEP_MAX;
        n_narrow += step[c] < STEP_MAX / 2;
    }
    if (n_narrow > 0) {
        spread_steps(wide, of);
        halve_tile(tile, n_quads, of, NULL, wide_error, unused);
        spread_steps(step, of);
        halve_tile(tile, n_quads, of, NULL, error, unused);
        for (int c = 0; c < S2S_TILE; c++)
            if (wide_error[c] < error[c]) step[c] = wide[c];
    }
    spread_steps(step, of);
}

static void halve_i8(const int8_t *tile, int32_t k, const s2s_tile_i4 *to)
{
    const size_t n_quads = ((size_t)k + 3) / 4;
    int32_t sums[QUAD] = {0}, squares[QUAD] = {0}, total[S2S_TILE];
    for (size_t q = 0; q < n_quads; q++)
        for (int i = 0; i < QUAD; i++) {
            const int16_t w = tile[q * QUAD + i];
            sums[i] += w;
            squares[i] += w * w;
        }
    fold_lanes(sums, to->w_sum);
    fold_lanes(squares, total);
    i4_lanes of;
    choose_steps(tile, n_quads, total, &of);

    int32_t errors[S2S_TILE], norms[S2S_TILE];
    halve_tile(tile, n_quads, &of, to->w, errors, norms);
    for (int c = 0; c < S2S_TILE; c++) {
        const float step = (float)of.step[4 * c];
        const float left = __builtin_sqrtf((float)errors[c]) / 4.0f;
        /* and something for the rounding of sums */
        const float norm = step / 32.0f * __builtin_sqrtf((float)norms[c]);
        to->unit[c] = step / 16.0f;
        to->error[c] = (left + 0x1p-20f * norm) * S2S_ABOVE;
    }
}

/* ---- Bounds ------------------------------------------------------------------------------- */

/* out [R, T, 16] = R rows of x, row stride ldx, times T tiles of n_lines lines each, one after another:
 * sixteen times lower halves, and whole bytes.  `next`: as many bytes to fetch for a later call. */
typedef void (*i4_block_fn)(const int8_t *x, size_t ldx, const uint8_t *w, size_t n_lines,
                            const uint8_t *next, int32_t *out);

#define S2S_I4_STEP(R, T, u)                                                                       \
    {                                                                                              \
        v16u low[T], whole[T];                                                                     \
        _Pragma("GCC unroll 2") for (int t = 0; t < T; t++)                                        \
            v16u_load_i4(w + ((size_t)t * n_lines + (size_t)(u)) * QUAD, &low[t], &whole[t]);      \
        _Pragma("GCC unroll 4") for (int r = 0; r < R; r++)                                        \
        {                                                                                          \
            const int8_t *at = x + (size_t)r * ldx + 8 * (u);                                      \
            const v16s first = v16s_load(at), second = v16s_load(at + 4);                          \
            _Pragma("GCC unroll 2") for (int t = 0; t < T; t++)                                    \
            {                                                                                      \
                acc[u][0][r][t] = v16i_dot_u(acc[u][0][r][t], low[t], first);                      \
                acc[u][1][r][t] = v16i_dot_u(acc[u][1][r][t], whole[t], second);                   \
            }                                                                                      \
        }                                                                                          \
    }

#define S2S_DEFINE_I4_BLOCK(R, T, U)                                                               \
    static void i4_block_##R##x##T(const int8_t *x, size_t ldx, const uint8_t *w, size_t n_lines,  \
                                   const uint8_t *next, int32_t *out)                              \
    {                                                                                              \
        const v16i zero = v16_bits(v16_set1(0.0f));                                                \
        v16i acc[U][2][R][T];                                                                      \
        _Pragma("GCC unroll 4") for (int u = 0; u < U; u++)                                        \
            _Pragma("GCC unroll 4") for (int r = 0; r < R; r++)                                    \
                _Pragma("GCC unroll 2") for (int t = 0; t < T; t++) acc[u][0][r][t] =              \
                    acc[u][1][r][t] = zero;                                                        \
        size_t i = 0;                                                                              \
        for (; i + U <= n_lines; i += U, w += U * QUAD, next += U * QUAD, x += 8 * U) {            \
            for (int u = 0; I8_ROWS_ALONE == 0 && u < U; u++)                                      \
                __builtin_prefetch(next + u * QUAD, 0, 2);                                         \
            _Pragma("GCC unroll 4") for (int u = 0; u < U; u++) S2S_I4_STEP(R, T, u)               \
        }                                                                                          \
        for (; U > 1 && i < n_lines; i++, w += QUAD, x += 8) S2S_I4_STEP(R, T, 0)                  \
        _Pragma("GCC unroll 4") for (int r = 0; r < R; r++)                                        \
            _Pragma("GCC unroll 2") for (int t = 0; t < T; t++)                                    \
        {                                                                                          \
            v16i low = acc[0][0][r][t], whole = acc[0][1][r][t];                                   \
            _Pragma("GCC unroll 4") for (int u = 1; u < U; u++)                                    \
            {                                                                                      \
                low = v16i_add(low, acc[u][0][r][t]);                                              \
                whole = v16i_add(whole, acc[u][1][r][t]);                                          \
            }                                                                                      \
            v16i_store(out + (r * T + t) * S2S_TILE, v16i_add(v16i_shift_left_4(low), whole));     \
        }                                                                                          \
    }

/* Rows wait for memory, until there are so many that they wait for arithmetic, of which there is more than
 * in matmul_i8. */
#if defined(__AVX512VNNI__)
#define S2S_I4_ROWS 4
#else
#define S2S_I4_ROWS 1
#endif

#if S2S_I8_ROWS_MAX < 12
enum { I4_ROWS_MAX = 1 };
S2S_DEFINE_I4_BLOCK(1, 1, 1)
static const i4_block_fn i4_blocks[I4_ROWS_MAX][2] = {{i4_block_1x1, NULL}};
#else
enum { I4_ROWS_MAX = 4 };
S2S_DEFINE_I4_BLOCK(1, 1, 4)
S2S_DEFINE_I4_BLOCK(1, 2, 2)
S2S_DEFINE_I4_BLOCK(2, 1, 2)
S2S_DEFINE_I4_BLOCK(2, 2, 2)
S2S_DEFINE_I4_BLOCK(3, 1, 2)
S2S_DEFINE_I4_BLOCK(3, 2, 1)
S2S_DEFINE_I4_BLOCK(4, 1, 2)
S2S_DEFINE_I4_BLOCK(4, 2, 1)
static const i4_block_fn i4_blocks[I4_ROWS_MAX][2] = {{i4_block_1x1, i4_block_1x2},
                                                      {i4_block_2x1, i4_block_2x2},
                                                      {i4_block_3x1, i4_block_3x2},
                                                      {i4_block_4x1, i4_block_4x2}};
#endif

/* The same operations as matmul_i8_finish: each is monotone, so a bound of the sum gives one of the result. */
S2S_INLINE void bound_i4_finish(const s2s_bound_i4 *a, int32_t row, int32_t n_rows, int32_t tile,
                                int32_t n_tiles, const int32_t *out)
{
    for (int32_t t = 0; t < n_tiles; t++) {
        const size_t column = (size_t)(tile + t) * S2S_TILE;
        const v16 unit = v16_load(a->unit + column), error = v16_load(a->error + column);
        const v16 w_scale = v16_load(a->w_scale + column);
        const v16 bias = a->bias != NULL ? v16_load(a->bias + column) : v16_set1(-0.0f);
        for (int32_t r = 0; r < n_rows; r++) {
            const size_t at = (size_t)row + (size_t)r;
            const v16i sum = v16i_load(out + (r * n_tiles + t) * S2S_TILE);
            const v16i middle = v16i_set1(120 * a->x_sum[at]);
            const v16 near = v16_from_i32(v16i_sub(sum, middle));
            const v16 most = v16_fma(unit, near, v16_mul(v16_set1(a->x_norm[at]), error));
            const v16 scale = v16_mul(v16_set1(a->x_scale[at]), w_scale);
            v16_store(a->y + at * a->ldy + column, v16_fma(most, scale, bias));
        }
    }
}

static void bound_i4(const s2s_bound_i4 *a, int32_t tile_begin, int32_t tile_end)
{
    if (a->n_rows <= 0) return;
    S2S_ALIGN(64) int32_t out[I4_ROWS_MAX * 2 * S2S_TILE];
    const size_t n_lines = ((size_t)a->k + 7) / 8, n_bytes = n_lines * QUAD;
    const row_blocks r = cut_rows(a->n_rows, I4_ROWS_MAX);
    int32_t n_tiles = S2S_I8_TILES(r.height);
    for (int32_t tile = tile_begin; tile < tile_end; tile += n_tiles) {
        if (n_tiles > tile_end - tile) n_tiles = 1;
        const uint8_t *w = a->w + (size_t)tile * n_bytes;
        const uint8_t *next = tile + 1 < tile_end ? w + n_bytes : w;
        for (int32_t b = 0; b < r.n_blocks; b++) {
            const int32_t height = block_height(r, b), row = block_row(r, b);
            i4_blocks[height - 1][n_tiles - 1](a->x + (size_t)row * a->ldx, a->ldx, w, n_lines,
                                               b == 0 ? next : w, out);
            bound_i4_finish(a, row, height, tile, n_tiles, out);
        }
    }
}

#endif
