/* Products that leave zeros out equal the whole products bit for bit, at every level that this CPU has. */
#include "kernel_data.h"

/* The smallest that may be. */
#define LEAST_X 0x1p-40f
#define LEAST_W 0x1p-63f

static const int32_t k_sweep[] = {1, 2, 3, 4, 5, 15, 16, 17, 33, 63, 64, 65, 130, 257};
static const int32_t tiles_sweep[] = {1, 2, 3, 4, 5, 7, 8, 16, 17, 21};

/* A row as a ReLU leaves it: zeros of both signs, of which there are `zeros` of 8. */
static void make_row(float *x, int32_t k, int zeros)
{
    for (int32_t i = 0; i < k; i++) {
        x[i] = random_below(8) < zeros ? (random_below(2) ? 0.0f : -0.0f) : random_float();
        if (x[i] != 0.0f && random_below(9) == 0) x[i] = LEAST_X;
    }
}

TEST(lists_equal_the_definition)
{
    for (size_t n = 0; n < LENGTH(k_sweep); n++)
        for (int zeros = 0; zeros <= 8; zeros++) {
            const int32_t k = k_sweep[n];
            float *x = make_floats((size_t)k, NORMAL);
            uint8_t *q = malloc(((size_t)k + 63) / 64 * 64);
            uint16_t *at = malloc(((size_t)k + 16) * sizeof *at);
            memset(q, 7, ((size_t)k + 63) / 64 * 64);
            make_row(x, k, zeros);
            int32_t n_expected = 0;
            for (int32_t i = 0; i < k; i++) {
                q[i] = (uint8_t)(x[i] == 0.0f ? 128 : 129 + random_below(127));
                n_expected += x[i] != 0.0f;
            }
            for (int is_i8 = 0; is_i8 < 2; is_i8++) {
                const int32_t n_found = is_i8 ? tested->find_nonzero_i8(q, k, k, at)
                                              : tested->find_nonzero(x, k, k, at);
                CHECK(n_found == n_expected, "%d of %d, k %d", n_found, n_expected, k);
                for (int32_t i = 0, j = 0; i < k && n_found == n_expected; i++) {
                    if (x[i] == 0.0f) continue;
                    CHECK(at[j] == i, "number %d is %d, not %d", j, at[j], i);
                    j++;
                }
                if (n_expected == 0) continue;
                CHECK((is_i8 ? tested->find_nonzero_i8(q, k, n_expected - 1, at)
                             : tested->find_nonzero(x, k, n_expected - 1, at)) == -1,
                      "more than %d of %d", n_expected - 1, k);
            }
            free(x), free(q), free(at);
        }
}

TEST(rows_that_are_not_plain_have_no_list)
{
    const float bad[] = {NAN, INFINITY, -INFINITY, LEAST_X / 2, -LEAST_X / 2, 1e-45f};
    uint16_t at[40 + 16];
    for (size_t b = 0; b < LENGTH(bad); b++)
        for (int32_t i = 0; i < 40; i++) {
            float x[40] = {0};
            x[i] = bad[b];
            CHECK(tested->find_nonzero(x, 40, 40, at) == -1, "%g at %d", (double)bad[b], i);
        }
}

typedef struct lists {
    uint16_t *at;
    int32_t n[9];
    s2s_nonzero of;
} lists;

static void lists_make(lists *l, size_t k)
{
    l->at = malloc(9 * (k + 16) * sizeof *l->at);
    l->of = (s2s_nonzero){l->at, l->n, k + 16};
}

static float *sentinels(size_t n)
{
    float *y = malloc(n * sizeof *y);
    for (size_t i = 0; i < n; i++) y[i] = SENTINEL;
    return y;
}

/* The whole product at the generic level against that of the lists; any cut of the tiles is the same. */
static void check_float(int32_t n_rows, int32_t k, int32_t n_tiles, int is_bf16)
{
    const size_t width = (size_t)n_tiles * 16, ldx = (size_t)k + 3, n_w = width * (size_t)k;
    const size_t n = (size_t)n_rows * (width + 1);
    float *x = make_floats((size_t)n_rows * ldx, NORMAL), *w = make_floats(n_w, NORMAL);
    float *bias = make_floats(width, NORMAL), *residual = make_floats(n, NORMAL);
    uint16_t *half = malloc(n_w * sizeof *half);
    for (size_t i = 0; i < n_w; i++) {
        const int kind =
            random_below(20); /* the smallest that may be: sums come to the end of the range */
        if (kind < 2) w[i] = kind ? 0.0f : w[i] < 0.0f ? -LEAST_W : LEAST_W;
        half[i] = s2s_bf16_from_f32(w[i]);
    }
    lists l;
    lists_make(&l, (size_t)k);
    for (int32_t r = 0; r < n_rows; r++) {
        make_row(x + (size_t)r * ldx, k, random_below(9));
        l.n[r] = tested->find_nonzero(x + (size_t)r * ldx, k, k, l.at + (size_t)r * l.of.ld);
    }
    s2s_matmul a = {.x = x,
                    .w = is_bf16 ? (void *)half : (void *)w,
                    .bias = random_below(2) ? bias : NULL,
                    .residual = random_below(2) ? residual : NULL,
                    .ldx = ldx,
                    .ldy = width + 1,
                    .ldr = width + 1,
                    .n_rows = n_rows,
                    .k = k,
                    .activation = random_below(S2S_TANH + 1)};
    float *expected = sentinels(n), *y = sentinels(n);
    const int32_t cut = random_below(n_tiles + 1);
    a.y = expected;
    (is_bf16 ? generic->matmul_bf16 : generic->matmul_f32)(&a, 0, n_tiles);
    a.y = y;
    (is_bf16 ? tested->matmul_sparse_bf16 : tested->matmul_sparse_f32)(&a, &l.of, cut, n_tiles);
    (is_bf16 ? tested->matmul_sparse_bf16 : tested->matmul_sparse_f32)(&a, &l.of, 0, cut);
    check_same(expected, y, n, is_bf16 ? "bf16" : "f32", k);
    free(x), free(w), free(bias), free(residual), free(half), free(l.at), free(expected), free(y);
}

/* What cancels leaves a rounding error: where that is too small for a float, it may be -0, and adding 0 to
 * it makes a 0.  No pair of what may be has such errors. */
static void check_cancelling(float x_size, float w_size)
{
    enum { K = 3 };
    for (int trial = 0; trial < 100; trial++) {
        const float some = x_size * (1.0f + (float)random_below(1 << 23) / (1 << 23));
        const float x[K] = {some, some, 0.0f};
        float w[K * S2S_TILE], expected[S2S_TILE], y[S2S_TILE];
        for (int c = 0; c < S2S_TILE; c++) {
            w[c] = w_size * (1.0f + (float)random_below(1 << 23) / (1 << 23));
            if (random_below(2)) w[c] = -w[c];
            w[S2S_TILE + c] = -w[c];
            w[2 * S2S_TILE + c] = 1.0f;
        }
        uint16_t at[K + 16];
        const int32_t n = tested->find_nonzero(x, K, K, at);
        CHECK(n == 2, "%d", n);
        if (n != 2) return;
        const s2s_nonzero of = {at, &n, K + 16};
        s2s_matmul a = {.x = x,
                        .w = w,
                        .y = expected,
                        .ldx = K,
                        .ldy = S2S_TILE,
                        .n_rows = 1,
                        .k = K,
                        .activation = S2S_IDENTITY};
        generic->matmul_f32(&a, 0, 1);
        a.y = y;
        tested->matmul_sparse_f32(&a, &of, 0, 1);
        check_same(expected, y, S2S_TILE, "what cancels", K);
    }
}

TEST(float_products_that_cancel_equal_the_whole_ones)
{
    check_cancelling(LEAST_X, LEAST_W);
    check_cancelling(1.0f, LEAST_W);
    check_cancelling(LEAST_X, 1.0f);
}

TEST(float_products_equal_the_whole_ones)
{
    for (size_t i = 0; i < LENGTH(k_sweep); i++)
        for (size_t t = 0; t < LENGTH(tiles_sweep); t++)
            for (int is_bf16 = 0; is_bf16 < 2; is_bf16++)
                check_float(1 + random_below(9), k_sweep[i], tiles_sweep[t], is_bf16);
}

static void check_i8(int32_t n_rows, int32_t k, int32_t n_tiles)
{
    const size_t quads = ((size_t)k + 3) / 4, width = (size_t)n_tiles * 16;
    const size_t ldx = ((size_t)k + 63) / 64 * 64, n_w = width * 4 * quads;
    const size_t n = (size_t)n_rows * (width + 1);
    uint8_t *x = malloc((size_t)n_rows * ldx);
    int8_t *w = malloc(n_w), *by_input = aligned_alloc(64, s2s_by_input_bytes(k, n_tiles));
    int32_t *sum = calloc(width, sizeof *sum);
    float *x_scale = make_floats((size_t)n_rows, NORMAL), *w_scale = make_floats(width, NORMAL);
    float *bias = make_floats(width, NORMAL), *residual = make_floats(n, NORMAL);
    for (size_t i = 0; i < n_w; i++) {
        const size_t tile = i / (quads * 64), input = i % (quads * 64) / 64 * 4 + i % 4;
        w[i] = (int8_t)(input >= (size_t)k ? 0 : random_below(255) - 127);
        sum[tile * 16 + i % 64 / 4] += w[i];
    }
    lists l;
    lists_make(&l, (size_t)k);
    for (int32_t r = 0; r < n_rows; r++) {
        const int zeros = random_below(9);
        uint8_t *row = x + (size_t)r * ldx;
        memset(row, 128, ldx);
        for (int32_t i = 0; i < k; i++)
            if (random_below(8) >= zeros) row[i] = (uint8_t)(128 + random_below(128));
        l.n[r] = tested->find_nonzero_i8(row, k, k, l.at + (size_t)r * l.of.ld);
    }
    s2s_pack_by_input(w, k, n_tiles, by_input);
    s2s_matmul_i8 a = {.x = x,
                       .x_scale = x_scale,
                       .w = w,
                       .w_scale = w_scale,
                       .w_sum = sum,
                       .bias = random_below(2) ? bias : NULL,
                       .residual = random_below(2) ? residual : NULL,
                       .ldx = ldx,
                       .ldy = width + 1,
                       .ldr = width + 1,
                       .n_rows = n_rows,
                       .k = k,
                       .activation = random_below(2) ? S2S_IDENTITY : random_below(S2S_TANH + 1)};
    float *expected = sentinels(n), *y = sentinels(n);
    const int32_t n_groups = (n_tiles + 3) / 4, cut = random_below(n_groups + 1);
    a.y = expected;
    generic->matmul_i8(&a, 0, n_tiles);
    a.y = y;
    tested->matmul_sparse_i8(&a, &l.of, by_input, n_tiles, cut, n_groups);
    tested->matmul_sparse_i8(&a, &l.of, by_input, n_tiles, 0, cut);
    check_same(expected, y, n, "int8", k);
    free(x), free(w), free(by_input), free(sum), free(x_scale), free(w_scale), free(bias);
    free(residual), free(l.at), free(expected), free(y);
}

TEST(int8_products_equal_the_whole_ones)
{
    for (size_t i = 0; i < LENGTH(k_sweep); i++)
        for (size_t t = 0; t < LENGTH(tiles_sweep); t++)
            check_i8(1 + random_below(9), k_sweep[i], tiles_sweep[t]);
}

int main(void)
{
    FOR_EVERY_LEVEL
    {
        RUN(lists_equal_the_definition);
        RUN(rows_that_are_not_plain_have_no_list);
        RUN(float_products_equal_the_whole_ones);
        RUN(float_products_that_cancel_equal_the_whole_ones);
        RUN(int8_products_equal_the_whole_ones);
    }
    return harness_end();
}
