/* The int8 kernels of every level that this CPU has equal generic bit for bit, and generic equals the
 * definition computed in 64-bit integers. */
#include "kernel_data.h"

static void *make(size_t n, size_t size)
{
    return malloc(n > 0 ? n * size : 1);
}

static int same_floats(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!same_float(a[i], b[i])) return 0;
    return 1;
}

typedef struct product {
    s2s_matmul_i8 a;
    uint8_t *x;
    int8_t *w;
    float *x_scale, *w_scale, *bias, *residual;
    int32_t *w_sum;
    int32_t n_tiles;
} product;

/* extreme: only the largest and smallest values, where a level that saturates would differ. */
static void product_make(product *p, int32_t n_rows, int32_t k, int32_t n_tiles, int extreme)
{
    const size_t quads = ((size_t)k + 3) / 4, width = (size_t)n_tiles * 16, rows = (size_t)n_rows;
    const size_t ldx = ((size_t)k + 63) / 64 * 64 + 4, ldr = width + 5,
                 n_w = (size_t)n_tiles * quads * 64;
    p->n_tiles = n_tiles;
    p->x = make(rows * ldx, 1);
    p->w = make(n_w, 1);
    p->x_scale = make_floats(rows, NORMAL);
    p->w_scale = make_floats(width, NORMAL);
    p->bias = make_floats(width, NORMAL);
    p->residual = make_floats(rows * ldr, NORMAL);
    p->w_sum = make(width, sizeof *p->w_sum);
    for (size_t i = 0; i < rows * ldx; i++)
        p->x[i] = (uint8_t)(extreme ? (random_below(8) ? 255 : 1) : 1 + random_below(255));
    for (size_t i = 0; i < n_w; i++)
        p->w[i] = (int8_t)(extreme ? (random_below(8) ? 127 : -127) : random_below(255) - 127);
    memset(p->w_sum, 0, width * sizeof *p->w_sum);
    for (size_t i = 0; i < n_w; i++) {
        const size_t tile = i / (quads * 64), input = i % (quads * 64) / 64 * 4 + i % 4;
        if (input >= (size_t)k) p->w[i] = 0;
        p->w_sum[tile * 16 + i % 64 / 4] += p->w[i];
    }
    p->a = (s2s_matmul_i8){.x = p->x,
                           .x_scale = p->x_scale,
                           .w = p->w,
                           .w_scale = p->w_scale,
                           .w_sum = p->w_sum,
                           .ldx = ldx,
                           .ldr = ldr,
                           .ldy = width + 1,
                           .k = k,
                           .n_rows = n_rows,
                           .activation = S2S_IDENTITY};
}

static void product_free(product *p)
{
    free(p->x), free(p->w), free(p->x_scale), free(p->w_scale), free(p->bias), free(p->residual),
        free(p->w_sum);
}

static float *product_run(const product *p, const s2s_kernels *kernels, int32_t begin, int32_t end)
{
    s2s_matmul_i8 a = p->a;
    const size_t n = (size_t)a.n_rows * a.ldy;
    float *y = make(n, sizeof *y);
    for (size_t i = 0; i < n; i++) y[i] = SENTINEL;
    a.y = y;
    kernels->matmul_i8(&a, begin, end);
    return y;
}

static const int32_t n_rows_sweep[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13,
                                       15, 16, 17, 23, 24, 25, 31, 32, 33, 34, 48, 61, 64, 65};
static const int32_t k_sweep[] = {0,  1,  3,  4,  5,  8,  12,  16,  17,  31, 32,
                                  33, 36, 63, 64, 65, 70, 128, 130, 192, 257};
static const int32_t tiles_sweep[] = {1, 2, 3, 4, 5, 8, 9};

TEST(matmul_equals_generic)
{
    for (size_t r = 0; r < LENGTH(n_rows_sweep); r++)
        for (size_t i = 0; i < LENGTH(k_sweep); i++)
            for (size_t t = 0; t < LENGTH(tiles_sweep); t++) {
                product p;
                product_make(&p, n_rows_sweep[r], k_sweep[i], tiles_sweep[t], (r + i + t) % 2);
                p.a.activation = random_below(2) ? S2S_IDENTITY : random_below(S2S_TANH + 1);
                if (random_below(2)) p.a.bias = p.bias;
                if (random_below(2)) p.a.residual = p.residual;
                const size_t n = (size_t)p.a.n_rows * p.a.ldy;
                float *expected = product_run(&p, generic, 0, p.n_tiles);
                float *y = product_run(&p, tested, 0, p.n_tiles);
                CHECK(same_floats(expected, y, n), "%s: %d rows, k %d, %d tiles", tested->name,
                      p.a.n_rows, p.a.k, p.n_tiles);
                free(y);
                /* any cut of the tiles gives the same, and touches no others */
                const int32_t cut = random_below(p.n_tiles + 1);
                y = product_run(&p, tested, cut, p.n_tiles);
                for (size_t j = 0; j < n; j++) {
                    const size_t column = j % p.a.ldy;
                    const float want = column < (size_t)cut * 16 ? SENTINEL : expected[j];
                    if (!same_float(want, y[j])) CHECK(0, "cut %d, column %zu", cut, column);
                }
                free(y), free(expected);
                product_free(&p);
            }
}

/* Beyond the size at which rows are cut, and at the largest k with the largest values. */
TEST(large_matmul_equals_generic)
{
    const struct {
        int32_t n_rows, k, n_tiles;
    } sizes[] = {{90, 8192, 3}, {200, 3001, 2}, {2, S2S_INT8_MAX_K, 2}, {13, S2S_INT8_MAX_K, 1}};
    for (size_t i = 0; i < LENGTH(sizes); i++) {
        product p;
        product_make(&p, sizes[i].n_rows, sizes[i].k, sizes[i].n_tiles, 1);
        float *expected = product_run(&p, generic, 0, p.n_tiles);
        float *y = product_run(&p, tested, 0, p.n_tiles);
        CHECK(same_floats(expected, y, (size_t)p.a.n_rows * p.a.ldy), "%s: k %d", tested->name,
              p.a.k);
        free(y), free(expected);
        product_free(&p);
    }
}

TEST(matmul_equals_the_definition)
{
    for (int options = 0; options < 8; options++) {
        product p;
        product_make(&p, 7, 301, 3, options & 1);
        if (options & 2) p.a.bias = p.bias;
        if (options & 4) p.a.residual = p.residual;
        float *y = product_run(&p, tested, 0, p.n_tiles);
        for (size_t row = 0; row < 7; row++)
            for (size_t out = 0; out < 48; out++) {
                int64_t sum = 0;
                for (size_t i = 0; i < 301; i++)
                    sum += (p.x[row * p.a.ldx + i] - 128) *
                           p.w[((out / 16 * 76 + i / 4) * 16 + out % 16) * 4 + i % 4];
                const float scale = p.x_scale[row] * p.w_scale[out];
                volatile float want =
                    p.a.bias != NULL ? fmaf((float)sum, scale, p.bias[out]) : (float)sum * scale;
                if (p.a.residual != NULL) want = want + p.residual[row * p.a.ldr + out];
                CHECK(same_float(want, y[row * p.a.ldy + out]), "[%zu, %zu]: %a, want %a", row, out,
                      (double)y[row * p.a.ldy + out], (double)want);
            }
        free(y);
        product_free(&p);
    }
}

TEST(matmul_rows_do_not_depend_on_their_neighbours)
{
    product p;
    product_make(&p, 40, 67, 5, 0);
    p.a.bias = p.bias;
    float *all = product_run(&p, tested, 0, p.n_tiles);
    for (int32_t first = 0; first < 40; first++) {
        product part = p;
        part.a.x += (size_t)first * part.a.ldx;
        part.a.x_scale += first;
        part.a.n_rows = 1 + random_below(40 - first);
        float *y = product_run(&part, tested, 0, p.n_tiles);
        CHECK(same_floats(all + (size_t)first * p.a.ldy, y, (size_t)part.a.n_rows * p.a.ldy),
              "%d rows from %d", part.a.n_rows, first);
        free(y);
    }
    free(all);
    product_free(&p);
}

static const int32_t lengths[] = {1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 64, 100, 511};

TEST(quantize_equals_the_definition)
{
    for (size_t i = 0; i < LENGTH(lengths); i++)
        for (int repeat = 0; repeat < 40; repeat++) {
            const size_t n = (size_t)lengths[i], room = (n + 15) / 16 * 16;
            const float size = ldexpf(1.0f, random_below(250) - 140);
            float *x = make_floats(n, NORMAL), scale = -1.0f, most = 0.0f;
            uint8_t *q = make(room, 1), *expected = make(room, 1);
            for (size_t j = 0; j < n; j++) x[j] *= size;
            if (repeat % 8 == 1) x[random_below((int32_t)n)] = FLT_MAX;
            if (repeat % 8 == 2) memset(x, 0, n * sizeof *x);
            if (repeat % 8 == 3) /* halves of a step: to even */
                for (size_t j = 0; j < n; j++)
                    x[j] = j ? (float)random_below(255) - 127.5f : 127.0f;
            for (size_t j = 0; j < n; j++) most = fmaxf(most, fabsf(x[j]));
            memset(expected, 128, room);
            const float by = 127.0f / most;
            if (most >= 0x1p-100f)
                for (size_t j = 0; j < n; j++) {
                    volatile float scaled = x[j] * by;
                    expected[j] = (uint8_t)(128 + (int)rintf(scaled));
                }
            tested->quantize(x, (int32_t)n, q, &scale);
            CHECK(memcmp(q, expected, room) == 0, "%s quantize of %zu", tested->name, n);
            CHECK(same_float(scale, most >= 0x1p-100f ? most / 127.0f : 1.0f), "scale %a",
                  (double)scale);

            const float not_finite[] = {NAN, INFINITY, -INFINITY};
            x[random_below((int32_t)n)] = not_finite[repeat % 3];
            memset(expected, 128, room);
            tested->quantize(x, (int32_t)n, q, &scale);
            CHECK(isnan(scale) && memcmp(q, expected, room) == 0, "%s not finite", tested->name);
            free(x), free(q), free(expected);
        }
    float scale = 0.0f;
    tested->quantize(NULL, 0, NULL, &scale);
    CHECK(same_float(scale, 1.0f), "of nothing");
}

TEST(embed_equals_the_definition)
{
    const int32_t widths[] = {1, 4, 15, 16, 18, 64};
    for (size_t i = 0; i < LENGTH(widths); i++)
        for (int32_t id = 0; id < 48; id += 5)
            for (int with_position = 0; with_position < 2; with_position++) {
                const size_t d = (size_t)widths[i], quads = (d + 3) / 4;
                product p;
                product_make(&p, 1, widths[i], 3, 0);
                float *position = make_floats(d, NORMAL), *y = make_floats(d, NORMAL);
                tested->embed_i8(p.w, p.w_scale, widths[i], id, 1.7f,
                                 with_position ? position : NULL, y);
                for (size_t j = 0; j < d; j++) {
                    const size_t at =
                        ((size_t)id / 16 * quads + j / 4) * 64 + (size_t)id % 16 * 4 + j % 4;
                    volatile float want = (float)p.w[at] * p.w_scale[id];
                    want = 1.7f * want;
                    if (with_position) want = want + position[j];
                    CHECK(same_float(want, y[j]), "embed_i8 %d, %zu", id, j);
                }
                free(position), free(y);
                product_free(&p);
            }
}

int main(void)
{
    FOR_EVERY_LEVEL
    {
        RUN(matmul_equals_generic);
        RUN(large_matmul_equals_generic);
        RUN(matmul_equals_the_definition);
        RUN(matmul_rows_do_not_depend_on_their_neighbours);
        RUN(quantize_equals_the_definition);
        RUN(embed_equals_the_definition);
    }
    return harness_end();
}
