/* bound_i4_impl.h: four-bit copies of int8 weight tiles, and the upper bounds of an int8 product that they
 * give, over whatever v16 the including file chose.
 *
 * A line of 64 bytes holds eight inputs of 16 outputs: four in the lower halves of its bytes, the next
 * four in the upper ones, in the order in which int8 tiles have them.
 */
#ifndef S2S_BOUND_I4_IMPL_H
#define S2S_BOUND_I4_IMPL_H

/* ---- The copy ----------------------------------------------------------------------------- */

enum { STEP_MAX = 17 }; /* 7.5 steps of 17 reach 127 */

/* The number from 0 to 15 that stands for w, where step = 4096 / STEP. */
S2S_INLINE int16_t nibble_of(int8_t w, int16_t inverse)
{
    int16_t n = (int16_t)((int16_t)((w * 16 * inverse) >> 16) + 8);
    n = n < 0 ? 0 : n;
    return n > 15 ? 15 : n;
}

/* Of each of the tile's bytes of four inputs: what belongs to its output. */
typedef struct i4_lanes {
    int16_t step[QUAD], inverse[QUAD];
} i4_lanes;

static void spread_steps(const int32_t *step, i4_lanes *to)
{
    for (int i = 0; i < QUAD; i++) {
        to->step[i] = (int16_t)step[i / 4];
        to->inverse[i] = (int16_t)(4096 / step[i / 4]);
    }
}

/* sums[c]: of the four lanes of output c. */
static void fold_lanes(const int32_t *lanes, int32_t *sums)
{
    for (int c = 0; c < S2S_TILE; c++)
        sums[c] = lanes[4 * c] + lanes[4 * c + 1] + lanes[4 * c + 2] + lanes[4 * c + 3];
}

/* Twice what is left of w, whose number is n. */
S2S_INLINE int16_t left_of(int8_t w, int16_t n, int16_t step)
{
    return (int16_t)(2 * w - step * (2 * n - 15));
}

/* Sums of the squares of what is left_of each output. */
static void sum_errors(const int8_t *tile, size_t n_quads, const i4_lanes *of, int32_t *errors)
{
    int32_t lanes[QUAD] = {0};
    for (size_t q = 0; q < n_quads; q++, tile += QUAD)
        for (int i = 0; i < QUAD; i++) {
            const int16_t n = nibble_of(tile[i], of->inverse[i]);
            const int16_t left = left_of(tile[i], n, of->step[i]);
            lanes[i] += left * left;
        }
    fold_lanes(lanes, errors);
}

/* The best step for normally distributed weights, or where few are large, one that cuts nothing off if
 * less is left then. */
static void choose_steps(const int8_t *tile, size_t n_quads, const int32_t *squares, i4_lanes *of)
{
    int32_t step[S2S_TILE], wide[S2S_TILE], error[S2S_TILE], wide_error[S2S_TILE];
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
        sum_errors(tile, n_quads, of, wide_error);
        spread_steps(step, of);
        sum_errors(tile, n_quads, of, error);
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

    int32_t nibbles[QUAD] = {0}, errors[QUAD] = {0};
    for (size_t q = 0; q < n_quads; q++, tile += QUAD) {
        uint8_t *line = to->w + q / 2 * QUAD;
        uint8_t n_of[QUAD];
        for (int i = 0; i < QUAD; i++) {
            const int16_t n = nibble_of(tile[i], of.inverse[i]);
            const int16_t left = left_of(tile[i], n, of.step[i]);
            n_of[i] = (uint8_t)n;
            nibbles[i] += n;
            errors[i] += left * left;
        }
        if (q % 2 == 0)
            memcpy(line, n_of, QUAD);
        else
            for (int i = 0; i < QUAD; i++) line[i] = (uint8_t)(line[i] | n_of[i] << 4);
    }
    fold_lanes(nibbles, to->sum);
    fold_lanes(errors, total);
    for (int c = 0; c < S2S_TILE; c++) {
        to->half_step[c] = 0.5f * (float)of.step[4 * c];
        to->error[c] = 0.5f * __builtin_sqrtf((float)total[c]) * S2S_ABOVE;
    }
}

/* ---- Bounds ------------------------------------------------------------------------------- */

/* out [R, 16] = start [16] + R rows of x, row stride ldx, times a tile of n_lines lines; `next`: as many
 * bytes to fetch for a later call. */
typedef void (*i4_block_fn)(const uint8_t *x, size_t ldx, const uint8_t *w, size_t n_lines,
                            const uint8_t *next, const int32_t *start, int32_t *out);

#define S2S_I4_STEP(R, u)                                                                          \
    {                                                                                              \
        v16w low, high;                                                                            \
        v16w_load_i4(w + (size_t)(u) * QUAD, &low, &high);                                         \
        _Pragma("GCC unroll 4") for (int r = 0; r < R; r++)                                        \
        {                                                                                          \
            const uint8_t *at = x + (size_t)r * ldx + 8 * (u);                                     \
            acc[u][0][r] = v16i_dot(acc[u][0][r], v16x_load(at), low);                             \
            acc[u][1][r] = v16i_dot(acc[u][1][r], v16x_load(at + 4), high);                        \
        }                                                                                          \
    }

#define S2S_DEFINE_I4_BLOCK(R, U)                                                                  \
    static void i4_block_##R(const uint8_t *x, size_t ldx, const uint8_t *w, size_t n_lines,       \
                             const uint8_t *next, const int32_t *start, int32_t *out)              \
    {                                                                                              \
        v16i acc[U][2][R];                                                                         \
        _Pragma("GCC unroll 4") for (int u = 0; u < U; u++)                                        \
            _Pragma("GCC unroll 2") for (int h = 0; h < 2; h++)                                    \
                _Pragma("GCC unroll 4") for (int r = 0; r < R; r++) acc[u][h][r] =                 \
                    u + h > 0 ? v16i_sub(acc[0][0][0], acc[0][0][0]) : v16i_load(start);           \
        size_t i = 0;                                                                              \
        for (; i + U <= n_lines; i += U, w += U * QUAD, next += U * QUAD, x += 8 * U)              \
            _Pragma("GCC unroll 4") for (int u = 0; u < U; u++)                                    \
            {                                                                                      \
                if (I8_ROWS_ALONE == 0) __builtin_prefetch(next + u * QUAD, 0, 2);                 \
                S2S_I4_STEP(R, u)                                                                  \
            }                                                                                      \
        for (; U > 1 && i < n_lines; i++, w += QUAD, x += 8) S2S_I4_STEP(R, 0)                     \
        _Pragma("GCC unroll 4") for (int r = 0; r < R; r++)                                        \
        {                                                                                          \
            v16i sum = v16i_add(acc[0][0][r], acc[0][1][r]);                                       \
            _Pragma("GCC unroll 4") for (int u = 1; u < U; u++) sum =                              \
                v16i_add(sum, v16i_add(acc[u][0][r], acc[u][1][r]));                               \
            v16i_store(out + r * S2S_TILE, sum);                                                   \
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
S2S_DEFINE_I4_BLOCK(1, 1)
static const i4_block_fn i4_blocks[I4_ROWS_MAX] = {i4_block_1};
#else
enum { I4_ROWS_MAX = 4 };
S2S_DEFINE_I4_BLOCK(1, 4)
S2S_DEFINE_I4_BLOCK(2, 2)
S2S_DEFINE_I4_BLOCK(3, 2)
S2S_DEFINE_I4_BLOCK(4, 1)
static const i4_block_fn i4_blocks[I4_ROWS_MAX] = {i4_block_1, i4_block_2, i4_block_3, i4_block_4};
#endif

/* The same operations as matmul_i8_finish: each is monotone, so a bound of the sum gives one of the result. */
S2S_INLINE void bound_i4_finish(const s2s_bound_i4 *a, int32_t row, int32_t n_rows, int32_t tile,
                                const int32_t *out)
{
    const size_t column = (size_t)tile * S2S_TILE;
    const v16 half_step = v16_load(a->half_step + column), error = v16_load(a->error + column);
    const v16 w_scale = v16_load(a->w_scale + column);
    const v16 bias = a->bias != NULL ? v16_load(a->bias + column) : v16_set1(-0.0f);
    for (int32_t r = 0; r < n_rows; r++) {
        const size_t at = (size_t)row + (size_t)r;
        const v16i sum = v16i_load(out + r * S2S_TILE);
        /* whole numbers below 2^24: exact */
        const v16 middle = v16_set1(15.0f * (float)a->x_sum[at]);
        const v16 twice = v16_sub(v16_from_i32(v16i_add(sum, sum)), middle);
        const v16 most = v16_fma(half_step, twice, v16_mul(v16_set1(a->x_norm[at]), error));
        const v16 scale = v16_mul(v16_set1(a->x_scale[at]), w_scale);
        v16_store(a->y + at * a->ldy + column, v16_fma(most, scale, bias));
    }
}

static void bound_i4(const s2s_bound_i4 *a, int32_t tile_begin, int32_t tile_end)
{
    if (a->n_rows <= 0) return;
    S2S_ALIGN(64) int32_t out[I4_ROWS_MAX * S2S_TILE], start[S2S_TILE];
    const size_t n_lines = ((size_t)a->k + 7) / 8, n_bytes = n_lines * QUAD;
    const row_blocks r = cut_rows(a->n_rows, I4_ROWS_MAX);
    for (int32_t tile = tile_begin; tile < tile_end; tile++) {
        const uint8_t *w = a->w + (size_t)tile * n_bytes;
        const uint8_t *next = tile + 1 < tile_end ? w + n_bytes : w;
        for (int32_t c = 0; c < S2S_TILE; c++)
            start[c] = -S2S_I8_OFFSET * a->sum[tile * S2S_TILE + c];
        for (int32_t b = 0; b < r.n_blocks; b++) {
            const int32_t height = block_height(r, b), row = block_row(r, b);
            i4_blocks[height - 1](a->x + (size_t)row * a->ldx, a->ldx, w, n_lines,
                                  b == 0 ? next : w, start, out);
            bound_i4_finish(a, row, height, tile, out);
        }
    }
}

#endif
