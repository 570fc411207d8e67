/* Products of int4 weights equal those of int8 ones.  Four-bit copies and the bounds that they give: every level equals generic bit for bit, and no bound is
 * below the element that the int8 product gives. */
#include "kernels/kernels.h"

#include <float.h>
#include <math.h>

#include "harness.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static const s2s_kernels *generic, *tested;

static void *make(size_t n, size_t size)
{
    return calloc(n > 0 ? n : 1, size);
}

/* Rows and weights of an int8 product, and the copy. */
typedef struct problem {
    int32_t n_rows, n_tiles, k;
    size_t ldx, width;
    uint8_t *x, *w4;
    int8_t *w, *x_signed;
    float *x_scale, *x_norm, *w_scale, *bias, *unit, *error;
    int32_t *x_sum, *w_sum;
} problem;

typedef enum weight_kind { UNIFORM, NORMAL, EXTREME, OUTLIER, ZERO, SMALL, N_KINDS } weight_kind;

static int8_t make_weight(weight_kind kind)
{
    switch (kind) {
    case UNIFORM:
        return (int8_t)(random_below(256) - 128);
    case NORMAL: {
        int32_t sum = 0;
        for (int i = 0; i < 4; i++) sum += random_below(64) - 32;
        return (int8_t)sum;
    }
    case EXTREME:
        return random_below(2) ? 127 : -128;
    case OUTLIER:
        return (int8_t)(random_below(40) ? random_below(5) - 2 : 127);
    case SMALL:
        return (int8_t)(random_below(3) - 1);
    default:
        return 0;
    }
}

static void problem_make(problem *p, int32_t n_rows, int32_t k, int32_t n_tiles)
{
    const size_t n_quads = ((size_t)k + 3) / 4, n_lines = ((size_t)k + 7) / 8;
    const size_t rows = (size_t)n_rows, width = (size_t)n_tiles * 16;
    *p = (problem){.n_rows = n_rows, .n_tiles = n_tiles, .k = k, .width = width};
    p->ldx = ((size_t)k + 63) / 64 * 64 + 64;
    p->x = make(rows * p->ldx, 1), p->x_signed = make(rows * p->ldx, 1);
    p->w = make((size_t)n_tiles * n_quads * 64, 1);
    p->w4 = make((size_t)n_tiles * n_lines * 64, 1);
    p->x_scale = make(rows, sizeof(float)), p->x_norm = make(rows, sizeof(float));
    p->x_sum = make(rows, sizeof(int32_t));
    p->w_scale = make(width, sizeof(float)), p->bias = make(width, sizeof(float));
    p->unit = make(width, sizeof(float)), p->error = make(width, sizeof(float));
    p->w_sum = make(width, sizeof(int32_t));
    for (size_t out = 0; out < width; out++) {
        const weight_kind kind = (weight_kind)random_below(N_KINDS);
        for (size_t i = 0; i < (size_t)k; i++)
            p->w[((out / 16 * n_quads + i / 4) * 16 + out % 16) * 4 + i % 4] = make_weight(kind);
        p->w_scale[out] = ldexpf(fabsf(random_float()) + 0.1f, random_below(40) - 20);
        p->bias[out] = random_float();
    }
    for (size_t row = 0; row < rows; row++) {
        uint8_t *x = p->x + row * p->ldx;
        const int kind = random_below(4);
        int32_t sum = 0, squares = 0;
        for (size_t i = 0; i < p->ldx; i++)
            x[i] = (uint8_t)random_below(256); /* what follows, too */
        for (size_t i = 0; i < (size_t)k; i++) {
            x[i] = (uint8_t)(kind == 0 ? (random_below(2) ? 255 : 1) : 1 + random_below(255));
            if (kind == 1) /* along an output: the largest sums, and the largest errors */
                x[i] = (uint8_t)(p->w[(i / 4 * 16 + row % 16) * 4 + i % 4] < 0 ? 1 : 255);
            const int32_t q = x[i] - 128;
            p->x_signed[row * p->ldx + i] = (int8_t)q; /* 0 after the last */
            sum += q, squares += q * q;
        }
        for (size_t i = (size_t)k; i < (size_t)(k + 3) / 4 * 4; i++) x[i] = 128;
        p->x_sum[row] = sum;
        p->x_norm[row] = sqrtf((float)squares) * S2S_ABOVE * S2S_ABOVE;
        p->x_scale[row] = ldexpf(fabsf(random_float()) + 0.1f, random_below(40) - 20);
    }
}

static void problem_free(problem *p)
{
    free(p->x), free(p->w4), free(p->w), free(p->x_scale), free(p->x_norm), free(p->w_scale),
        free(p->bias), free(p->unit), free(p->error), free(p->x_sum), free(p->w_sum),
        free(p->x_signed);
}

static s2s_tile_i4 tile_of(const problem *p, int32_t tile)
{
    const size_t at = (size_t)tile * 16, n_lines = ((size_t)p->k + 7) / 8;
    return (s2s_tile_i4){p->w4 + (size_t)tile * n_lines * 64, p->unit + at, p->error + at,
                         p->w_sum + at};
}

static void copy_tiles(const problem *p, const s2s_kernels *kernels)
{
    const size_t n_quads = ((size_t)p->k + 3) / 4;
    for (int32_t tile = 0; tile < p->n_tiles; tile++) {
        const s2s_tile_i4 to = tile_of(p, tile);
        kernels->halve_i8(p->w + (size_t)tile * n_quads * 64, p->k, &to);
    }
}

static float *run_bound(const problem *p, const s2s_kernels *kernels, int with_bias, int32_t begin,
                        int32_t end)
{
    const size_t n = (size_t)p->n_rows * p->width;
    float *y = make(n, sizeof *y);
    for (size_t i = 0; i < n; i++) y[i] = 12345.0f;
    const s2s_bound_i4 a = {.x = p->x_signed,
                            .x_scale = p->x_scale,
                            .x_sum = p->x_sum,
                            .x_norm = p->x_norm,
                            .w = p->w4,
                            .unit = p->unit,
                            .error = p->error,
                            .w_scale = p->w_scale,
                            .bias = with_bias ? p->bias : NULL,
                            .y = y,
                            .ldx = p->ldx,
                            .ldy = p->width,
                            .n_rows = p->n_rows,
                            .k = p->k};
    kernels->bound_i4(&a, begin, end);
    return y;
}

static float *run_exact(const problem *p, int with_bias)
{
    float *y = make((size_t)p->n_rows * p->width, sizeof *y);
    const s2s_matmul_i8 a = {.x = p->x,
                             .x_scale = p->x_scale,
                             .w = p->w,
                             .w_scale = p->w_scale,
                             .w_sum = p->w_sum,
                             .bias = with_bias ? p->bias : NULL,
                             .y = y,
                             .ldx = p->ldx,
                             .ldy = p->width,
                             .n_rows = p->n_rows,
                             .k = p->k,
                             .activation = S2S_IDENTITY};
    generic->matmul_i8(&a, 0, p->n_tiles);
    return y;
}

static const int32_t rows_sweep[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
static const int32_t k_sweep[] = {1, 3, 4, 5, 8, 9, 12, 16, 20, 31, 32, 36, 40, 64, 70, 130, 512};
static const int32_t tiles_sweep[] = {1, 2, 3, 5};

TEST(bounds_equal_generic_and_hold)
{
    for (size_t r = 0; r < LENGTH(rows_sweep); r++)
        for (size_t i = 0; i < LENGTH(k_sweep); i++)
            for (size_t t = 0; t < LENGTH(tiles_sweep); t++) {
                problem p;
                problem_make(&p, rows_sweep[r], k_sweep[i], tiles_sweep[t]);
                const int with_bias = random_below(2);
                const size_t n = (size_t)p.n_rows * p.width;
                copy_tiles(&p, generic);
                float *expected = run_bound(&p, generic, with_bias, 0, p.n_tiles);
                float *exact = run_exact(&p, with_bias);
                for (size_t j = 0; j < n; j++)
                    CHECK(expected[j] >= exact[j], "k %d, output %zu: %a is below %a", p.k,
                          j % p.width, (double)expected[j], (double)exact[j]);
                const int32_t cut = random_below(p.n_tiles + 1);
                float *y = run_bound(&p, tested, with_bias, cut, p.n_tiles);
                for (size_t j = 0; j < n; j++) {
                    const float want = j % p.width < (size_t)cut * 16 ? 12345.0f : expected[j];
                    CHECK(same_float(want, y[j]), "%s: %d rows, k %d, column %zu", tested->name,
                          p.n_rows, p.k, j % p.width);
                }
                free(y), free(exact), free(expected);
                problem_free(&p);
            }
}

TEST(bounds_hold_at_the_largest_size)
{
    problem p;
    problem_make(&p, 8, S2S_INT4_MAX_K, 6);
    copy_tiles(&p, generic);
    float *expected = run_bound(&p, generic, 0, 0, p.n_tiles);
    float *y = run_bound(&p, tested, 0, 0, p.n_tiles), *exact = run_exact(&p, 0);
    for (size_t j = 0; j < (size_t)p.n_rows * p.width; j++)
        CHECK(same_float(expected[j], y[j]) && y[j] >= exact[j], "%a, %a, exactly %a",
              (double)expected[j], (double)y[j], (double)exact[j]);
    free(y), free(exact), free(expected);
    problem_free(&p);
}

/* What the copy says of itself is so: sums, and the norm of what is left. */
TEST(copies_equal_generic_and_the_definition)
{
    for (size_t i = 0; i < LENGTH(k_sweep); i++) {
        problem p;
        problem_make(&p, 1, k_sweep[i], 4);
        const size_t n_lines = ((size_t)p.k + 7) / 8, n_quads = ((size_t)p.k + 3) / 4;
        const size_t n = (size_t)p.n_tiles * n_lines * 64;
        copy_tiles(&p, generic);
        uint8_t *w4 = make(n, 1);
        memcpy(w4, p.w4, n);
        memset(p.w4, 255, n);
        copy_tiles(&p, tested);
        CHECK(memcmp(w4, p.w4, n) == 0, "%s: k %d", tested->name, p.k);
        for (size_t out = 0; out < p.width; out++) {
            int64_t w_sum = 0;
            double left = 0, squares = 0;
            const double unit = (double)p.unit[out];
            for (size_t j = 0; j < n_quads * 4; j++) {
                const int w = p.w[((out / 16 * n_quads + j / 4) * 16 + out % 16) * 4 + j % 4];
                const uint8_t byte = w4[((out / 16 * n_lines + j / 8) * 16 + out % 16) * 4 + j % 4];
                const double near = unit * ((j % 8 < 4 ? (byte & 15) * 16 : byte) - 120);
                left += (w - near) * (w - near), squares += near * near, w_sum += w;
            }
            /* the norm of what is left, rounded up; and something for the rounding of sums */
            const double least = sqrt(left) + 0x1p-21 * sqrt(squares);
            const double most = sqrt(left + (double)n_quads * 4 / 16) + 0x1p-19 * sqrt(squares);
            CHECK(w_sum == p.w_sum[out], "sum of output %zu", out);
            CHECK((double)p.error[out] >= least && (double)p.error[out] <= most * 1.00001,
                  "error %a, not from %a to %a", (double)p.error[out], least, most);
        }
        free(w4);
        problem_free(&p);
    }
}

/* Rows times int4 weights equal rows times the same weights written out as int8. */
static void compare_products(int32_t n_rows, int32_t k, int32_t n_tiles, int32_t n_scratch)
{
    problem p;
    problem_make(&p, n_rows, k, n_tiles);
    const size_t n_quads = ((size_t)k + 3) / 4, n_pieces = ((size_t)k + 127) / 128;
    const size_t rows = (size_t)n_rows;
    uint8_t *w4 = make((size_t)n_tiles * n_pieces * 17 * 64, 1);
    int8_t *scratch = make(((size_t)n_scratch * n_quads + 1) * 64, 1);
    float *residual = make(rows * p.width, sizeof *residual);
    float *y = make(rows * p.width, sizeof *y), *expected = make(rows * p.width, sizeof *y);
    for (size_t j = 0; j < rows * p.width; j++) residual[j] = random_float();
    for (size_t out = 0; out < p.width; out++) {
        const int extreme = random_below(4) == 0;
        uint8_t *tile = w4 + out / 16 * n_pieces * 17 * 64;
        for (size_t i = 0; i < (size_t)k; i++) {
            uint8_t *piece = tile + i / 128 * 17 * 64;
            uint8_t *step = piece + i % 128 / 32 * 16 + out % 16;
            if (i % 32 == 0)
                *step = (uint8_t)(extreme ? 15 : random_below(256)); /* lower half counts */
            const int value = extreme ? (random_below(9) ? -8 : 7) : random_below(16) - 8;
            piece[64 + i % 128 / 8 * 64 + out % 16 * 4 + i % 4] |=
                (uint8_t)((value & 15) << (i % 8 < 4 ? 0 : 4));
            p.w[((out / 16 * n_quads + i / 4) * 16 + out % 16) * 4 + i % 4] =
                (int8_t)(value * (*step & 15));
        }
        p.w_sum[out] = 0;
        for (size_t i = 0; i < n_quads * 4; i++)
            p.w_sum[out] += p.w[((out / 16 * n_quads + i / 4) * 16 + out % 16) * 4 + i % 4];
    }
    s2s_matmul_i8 a = {.x = p.x,
                       .x_scale = p.x_scale,
                       .w = p.w,
                       .w_scale = p.w_scale,
                       .w_sum = p.w_sum,
                       .bias = random_below(2) ? p.bias : NULL,
                       .residual = random_below(2) ? residual : NULL,
                       .y = expected,
                       .ldx = p.ldx,
                       .ldy = p.width,
                       .ldr = p.width,
                       .n_rows = n_rows,
                       .k = k,
                       .activation = random_below(2) ? S2S_IDENTITY : S2S_RELU};
    generic->matmul_i8(&a, 0, n_tiles);
    a.w = (const int8_t *)w4;
    a.y = y;
    const int32_t cut = random_below(n_tiles + 1);
    tested->matmul_i4(&a, cut, n_tiles, scratch, n_scratch);
    for (size_t j = 0; j < rows * p.width; j++) {
        const float want = j % p.width < (size_t)cut * 16 ? 0.0f : expected[j];
        CHECK(same_float(want, y[j]), "%s: %d rows, k %d, column %zu of %zu", tested->name, n_rows,
              k, j % p.width, p.width);
    }
    free(w4), free(scratch), free(residual), free(y), free(expected);
    problem_free(&p);
}

TEST(products_equal_those_of_int8)
{
    static const int32_t many[] = {0, 1, 2, 3, 4, 5, 8, 13, 16, 33};
    for (size_t r = 0; r < LENGTH(many); r++)
        for (size_t i = 0; i < LENGTH(k_sweep); i++)
            for (size_t t = 0; t < LENGTH(tiles_sweep); t++)
                compare_products(many[r], k_sweep[i], tiles_sweep[t], 1 + random_below(4));
    compare_products(3, 65536, 1, 1);
    compare_products(5, 65536, 2, 1);
}

int main(void)
{
    generic = s2s_kernels_get(S2S_ISA_GENERIC);
    for (s2s_isa isa = S2S_ISA_GENERIC; isa <= S2S_ISA_NEON; isa++) {
        tested = s2s_kernels_get(isa);
        printf("%s%s ", s2s_isa_name(isa), tested != NULL ? "" : " (skipped)");
        if (tested == NULL) continue;
        harness_seed = 1;
        RUN(bounds_equal_generic_and_hold);
        RUN(bounds_hold_at_the_largest_size);
        RUN(copies_equal_generic_and_the_definition);
        RUN(products_equal_those_of_int8);
    }
    return harness_end();
}
