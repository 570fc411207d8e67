/* Products of every level that this CPU has equal generic bit for bit, and generic is
 * near a double reference within a bound derived from the operation. */
#include "kernel_data.h"

static double activate(double x, int32_t activation)
{
    switch (activation) {
    case S2S_RELU:
        return x > 0 ? x : 0;
    case S2S_SILU:
        return x / (1 + exp(-x));
    case S2S_GELU:
        return 0.5 * x * (1 + erf(x * sqrt(0.5)));
    case S2S_TANH:
        return tanh(x);
    case S2S_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    default:
        return x;
    }
}

typedef struct product {
    s2s_matmul a;
    float *x, *bias, *residual;
    void *w;
    int32_t n_tiles;
    int bf16;
} product;

static void product_make(product *p, int32_t n_rows, int32_t k, int32_t n_tiles, int bf16,
                         data_kind kind)
{
    const size_t n_w = (size_t)n_tiles * (size_t)k * 16, width = (size_t)n_tiles * 16;
    const size_t ldx = (size_t)k + 3, ldr = width + 5;
    float *w = make_floats(n_w, kind);
    p->n_tiles = n_tiles;
    p->bf16 = bf16;
    p->x = make_floats((size_t)n_rows * ldx, kind);
    p->bias = make_floats(width, kind);
    p->residual = make_floats((size_t)n_rows * ldr, kind);
    p->w = w;
    if (bf16) {
        uint16_t *narrow = malloc(n_w > 0 ? n_w * sizeof *narrow : 1);
        for (size_t i = 0; i < n_w; i++) narrow[i] = s2s_bf16_from_f32(w[i]);
        free(w);
        p->w = narrow;
    }
    p->a = (s2s_matmul){.x = p->x,
                        .w = p->w,
                        .ldx = ldx,
                        .ldr = ldr,
                        .ldy = width + 1,
                        .k = k,
                        .n_rows = n_rows,
                        .activation = S2S_IDENTITY};
}

static void product_free(product *p)
{
    free(p->x);
    free(p->w);
    free(p->bias);
    free(p->residual);
}

static float *product_run(const product *p, const s2s_kernels *kernels, int32_t begin, int32_t end)
{
    s2s_matmul a = p->a;
    const size_t n = (size_t)a.n_rows * a.ldy;
    float *y = malloc(n > 0 ? n * sizeof *y : 1);
    for (size_t i = 0; i < n; i++) y[i] = SENTINEL;
    a.y = y;
    (p->bf16 ? kernels->matmul_bf16 : kernels->matmul_f32)(&a, begin, end);
    return y;
}

static double weight_at(const product *p, int32_t out, int32_t i)
{
    const size_t at = ((size_t)(out / 16) * (size_t)p->a.k + (size_t)i) * 16 + (size_t)(out % 16);
    return p->bf16 ? (double)bf16_value(((uint16_t *)p->w)[at]) : (double)((float *)p->w)[at];
}

/* A sum of k fused products has at most k roundings, each of a partial sum below `size`. */
static void product_check_reference(const product *p, const float *y)
{
    const s2s_matmul *a = &p->a;
    for (int32_t r = 0; r < a->n_rows; r++)
        for (int32_t out = 0; out < p->n_tiles * 16; out++) {
            double sum = 0, size = 0;
            for (int32_t i = 0; i < a->k; i++) {
                const double term =
                    (double)a->x[(size_t)r * a->ldx + (size_t)i] * weight_at(p, out, i);
                sum += term;
                size += fabs(term);
            }
            if (a->bias) sum += (double)a->bias[out], size += fabs((double)a->bias[out]);
            double bound = (a->k + 1) * EPS * size;
            const double before = sum;
            sum = activate(sum, a->activation);
            /* no activation is steeper than 1.2; its own error is some ulp of its argument */
            if (a->activation != S2S_IDENTITY)
                bound = 1.2 * bound + 8 * EPS * (fabs(before) + 1e-3);
            if (a->residual) {
                sum += (double)a->residual[(size_t)r * a->ldr + (size_t)out];
                bound += EPS * fabs(sum);
            }
            const double error = fabs((double)y[(size_t)r * a->ldy + (size_t)out] - sum);
            CHECK(error <= bound + 1e-44, "%s k=%d activation %d: %g, expected %g, bound %g",
                  tested->name, a->k, a->activation, (double)y[(size_t)r * a->ldy + (size_t)out],
                  sum, bound);
        }
}

static const int32_t n_rows_sweep[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 17, 25};
static const int32_t k_sweep[] = {0, 1, 2, 15, 16, 17, 33};
static const int32_t tiles_sweep[] = {1, 2, 3, 4, 5, 8, 9, 15};

TEST(matmul_equals_generic)
{
    for (size_t r = 0; r < LENGTH(n_rows_sweep); r++)
        for (size_t i = 0; i < LENGTH(k_sweep); i++)
            for (size_t t = 0; t < LENGTH(tiles_sweep); t++)
                for (int bf16 = 0; bf16 < 2; bf16++) {
                    product p;
                    const data_kind kind = (r + i + t) % 4 == 0 ? SPECIAL : NORMAL;
                    product_make(&p, n_rows_sweep[r], k_sweep[i], tiles_sweep[t], bf16, kind);
                    p.a.activation = random_below(2) ? S2S_IDENTITY : random_below(S2S_TANH + 1);
                    if (random_below(2)) p.a.bias = p.bias;
                    if (random_below(2)) p.a.residual = p.residual;
                    float *expected = product_run(&p, generic, 0, p.n_tiles);
                    float *y = product_run(&p, tested, 0, p.n_tiles);
                    const size_t n = (size_t)p.a.n_rows * p.a.ldy;
                    check_same(expected, y, n, "matmul", p.a.k);
                    for (int32_t row = 0; row < p.a.n_rows; row++)
                        CHECK(y[((size_t)row + 1) * p.a.ldy - 1] == SENTINEL, "beyond the tiles");
                    free(y);

                    /* any cut of the tiles gives the same, and touches no others */
                    const int32_t cut = random_below(p.n_tiles + 1);
                    y = product_run(&p, tested, cut, p.n_tiles);
                    for (size_t j = 0; j < n; j++) {
                        const size_t column = j % p.a.ldy;
                        const float want = column < (size_t)cut * 16 ? SENTINEL : expected[j];
                        if (!same_float(want, y[j])) CHECK(0, "cut %d, column %zu", cut, column);
                    }
                    free(y);
                    free(expected);
                    product_free(&p);
                }
}

/* Beyond the sizes at which the loops over rows and k are cut. */
TEST(large_matmul_equals_generic)
{
    const struct {
        int32_t n_rows, k, n_tiles;
    } sizes[] = {{13, 256, 3}, {13, 257, 3},  {12, 600, 5},  {72, 520, 2},
                 {73, 511, 3}, {145, 300, 2}, {145, 3700, 1}};
    for (size_t i = 0; i < LENGTH(sizes); i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            product p;
            product_make(&p, sizes[i].n_rows, sizes[i].k, sizes[i].n_tiles, bf16, NORMAL);
            p.a.bias = p.bias;
            p.a.residual = p.residual;
            float *expected = product_run(&p, generic, 0, p.n_tiles);
            float *y = product_run(&p, tested, 0, p.n_tiles);
            check_same(expected, y, (size_t)p.a.n_rows * p.a.ldy, "large matmul", p.a.k);
            free(y);
            free(expected);
            product_free(&p);
        }
}

TEST(matmul_is_near_the_reference)
{
    for (int32_t activation = S2S_RELU; activation <= S2S_TANH; activation++)
        for (int options = 0; options < 8; options++) {
            product p;
            product_make(&p, 19, 300, 3, options & 1, NORMAL);
            p.a.activation = activation;
            if (options & 2) p.a.bias = p.bias;
            if (options & 4) p.a.residual = p.residual;
            float *y = product_run(&p, tested, 0, p.n_tiles);
            product_check_reference(&p, y);
            free(y);
            product_free(&p);
        }
}

TEST(matmul_rows_do_not_depend_on_their_neighbours)
{
    product p;
    product_make(&p, 20, 67, 5, 0, NORMAL);
    p.a.bias = p.bias;
    float *all = product_run(&p, tested, 0, p.n_tiles);
    for (int32_t first = 0; first < 20; first++) {
        product part = p;
        part.a.x += (size_t)first * part.a.ldx;
        part.a.n_rows = 1 + random_below(20 - first);
        float *y = product_run(&part, tested, 0, p.n_tiles);
        check_same(all + (size_t)first * p.a.ldy, y, (size_t)part.a.n_rows * p.a.ldy, "rows",
                   first);
        free(y);
    }
    free(all);
    product_free(&p);
}

TEST(matmul_residual_may_be_the_result)
{
    product p;
    product_make(&p, 11, 33, 6, 0, NORMAL);
    p.a.residual = p.residual;
    p.a.activation = S2S_GELU;
    float *expected = product_run(&p, tested, 0, p.n_tiles);
    p.a.y = p.residual;
    p.a.ldy = p.a.ldr;
    tested->matmul_f32(&p.a, 0, p.n_tiles);
    for (size_t row = 0; row < 11; row++)
        check_same(expected + row * (6 * 16 + 1), p.residual + row * p.a.ldr, 6 * 16, "alias",
                   (int)row);
    free(expected);
    product_free(&p);
}

TEST(levels_are_named_and_found)
{
    const struct {
        s2s_isa isa;
        const char *name;
    } all[] = {{S2S_ISA_AUTO, "auto"},          {S2S_ISA_GENERIC, "generic"},
               {S2S_ISA_AVX2, "avx2"},          {S2S_ISA_AVX512, "avx512"},
               {S2S_ISA_NEON, "neon"},          {S2S_ISA_AVX512VNNI, "avx512vnni"},
               {S2S_ISA_AVX512AMX, "avx512amx"}};
    for (size_t i = 0; i < LENGTH(all); i++) {
        CHECK(strcmp(s2s_isa_name(all[i].isa), all[i].name) == 0, "%s", all[i].name);
        CHECK(s2s_isa_supported(all[i].isa) == (s2s_kernels_get(all[i].isa) != NULL), "supported");
    }
    CHECK(s2s_isa_name((s2s_isa)99) == NULL && s2s_kernels_get((s2s_isa)99) == NULL, "unknown");
    CHECK(s2s_isa_supported(S2S_ISA_GENERIC), "generic is everywhere");
    CHECK(s2s_kernels_get(S2S_ISA_AUTO) == s2s_kernels_get(s2s_isa_best()), "auto is the best");
    CHECK(!s2s_isa_supported(S2S_ISA_NEON) || !s2s_isa_supported(S2S_ISA_AVX2),
          "two architectures");
}

int main(void)
{
    RUN(levels_are_named_and_found);
    FOR_EVERY_LEVEL
    {
        RUN(matmul_equals_generic);
        RUN(large_matmul_equals_generic);
        RUN(matmul_is_near_the_reference);
        RUN(matmul_rows_do_not_depend_on_their_neighbours);
        RUN(matmul_residual_may_be_the_result);
    }
    return harness_end();
}
