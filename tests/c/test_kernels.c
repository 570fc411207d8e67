/* Every level that this CPU has equals generic bit for bit, and generic is near a double reference
 * within a bound derived from the operation. */
#include "kernels/kernels.h"

#include <float.h>
#include <math.h>

#include "harness.h"

#define EPS ((double)FLT_EPSILON / 2) /* one rounding, relative */
#define SENTINEL 12345.0f

static const s2s_kernels *generic, *tested;

typedef enum { NORMAL, SPECIAL } data_kind;

/* NORMAL: [-1, 1).  SPECIAL: with denormals, zeros of both signs, infinities, NaN, very large. */
static float random_value(data_kind kind)
{
    static const float special[] = {0.0f,     -0.0f,   INFINITY, -INFINITY, NAN,
                                    1e-40f,   -1e-42f, FLT_MIN,  -FLT_MIN,  FLT_MAX,
                                    -FLT_MAX, 1e30f,   -1e30f,   88.7f,     -103.97f,
                                    1e-45f,   200.0f,  -200.0f,  1e-20f,    -1e-20f};
    if (kind == SPECIAL && random_below(3) == 0)
        return special[random_below(sizeof special / sizeof *special)];
    return random_float();
}

/* Exactly n floats on the heap, so that the sanitizer sees a step beyond. */
static float *make_floats(size_t n, data_kind kind)
{
    float *x = malloc(n > 0 ? n * sizeof *x : 1);
    for (size_t i = 0; i < n; i++) x[i] = random_value(kind);
    return x;
}

static float *copy_floats(const float *x, size_t n)
{
    float *y = malloc(n > 0 ? n * sizeof *y : 1);
    if (n > 0) memcpy(y, x, n * sizeof *y);
    return y;
}

static size_t round_up(size_t n)
{
    return (n + 15) / 16 * 16;
}

static void check_same(const float *a, const float *b, size_t n, const char *what, int detail)
{
    for (size_t i = 0; i < n; i++)
        if (!same_float(a[i], b[i])) {
            CHECK(0, "%s %s (%d), element %zu of %zu: %a, generic %a", tested->name, what, detail,
                  i, n, (double)b[i], (double)a[i]);
            return;
        }
    CHECK(1, "same");
}

static float bf16_value(uint16_t u)
{
    const uint32_t bits = (uint32_t)u << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

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

/* ---- Products ------------------------------------------------------------------------------ */

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
#define LENGTH(array) (sizeof(array) / sizeof *(array))

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

/* ---- Vectors ------------------------------------------------------------------------------- */

static const int32_t lengths[] = {1,  2,  3,  7,  8,  9,  15,  16,  17,
                                  31, 32, 33, 47, 48, 64, 100, 511, 1000};

TEST(embed_equals_generic_and_the_definition)
{
    const int32_t widths[] = {1, 15, 16, 17, 64};
    for (size_t i = 0; i < LENGTH(widths); i++)
        for (int32_t id = 0; id < 48; id += 5)
            for (int with_position = 0; with_position < 2; with_position++) {
                const size_t d = (size_t)widths[i], n_w = 3 * d * 16;
                const data_kind kind = id % 2 ? SPECIAL : NORMAL;
                float *w = make_floats(n_w, kind), *position = make_floats(d, kind);
                uint16_t *narrow = malloc(n_w * sizeof *narrow);
                for (size_t j = 0; j < n_w; j++) narrow[j] = s2s_bf16_from_f32(w[j]);
                float *y = make_floats(2 * d, NORMAL), *expected = y + d;
                const float *add = with_position ? position : NULL;
                const size_t column = (size_t)(id / 16) * d * 16 + (size_t)(id % 16);

                tested->embed_f32(w, widths[i], id, 1.7f, add, y);
                for (size_t j = 0; j < d; j++) {
                    volatile float scaled = 1.7f * w[column + j * 16]; /* rounded by itself */
                    expected[j] = add ? scaled + add[j] : scaled;
                }
                check_same(expected, y, d, "embed_f32", id);
                tested->embed_bf16(narrow, widths[i], id, 1.7f, add, y);
                for (size_t j = 0; j < d; j++) {
                    volatile float scaled = 1.7f * bf16_value(narrow[column + j * 16]);
                    expected[j] = add ? scaled + add[j] : scaled;
                }
                check_same(expected, y, d, "embed_bf16", id);
                free(w), free(position), free(narrow), free(y);
            }
}

TEST(layer_norm_equals_generic)
{
    for (size_t i = 0; i < LENGTH(lengths); i++)
        for (int kind = NORMAL; kind <= SPECIAL; kind++) {
            const size_t n = (size_t)lengths[i];
            float *x = make_floats(n, kind), *weight = make_floats(n, NORMAL),
                  *bias = make_floats(n, NORMAL);
            float *expected = make_floats(n, NORMAL), *in_place = copy_floats(x, n);
            if (kind == NORMAL) /* a mean far from 0 */
                for (size_t j = 0; j < n; j++) in_place[j] = x[j] += 3.0f;
            generic->layer_norm(x, weight, bias, lengths[i], 1e-5f, expected);
            tested->layer_norm(in_place, weight, bias, lengths[i], 1e-5f, in_place);
            check_same(expected, in_place, n, "layer_norm", (int)n);
            if (kind == NORMAL) {
                double mean = 0, variance = 0;
                for (size_t j = 0; j < n; j++) mean += (double)x[j] / (double)n;
                for (size_t j = 0; j < n; j++)
                    variance += ((double)x[j] - mean) * ((double)x[j] - mean) / (double)n;
                const double deviation = sqrt(variance + (double)1e-5f);
                for (size_t j = 0; j < n; j++) {
                    const double want =
                        ((double)x[j] - mean) / deviation * (double)weight[j] + (double)bias[j];
                    /* the mean is good to n/16 + 6 roundings of 4, the rest to a few */
                    const double bound = ((double)n / 16 + 6) * EPS * 4 / deviation + 16 * EPS;
                    CHECK(fabs((double)expected[j] - want) <= bound, "layer_norm %zu: %g, want %g",
                          n, (double)expected[j], want);
                }
            }
            free(x), free(weight), free(bias), free(expected), free(in_place);
        }
}

TEST(divide_shift_equal_the_definition)
{
    for (size_t i = 0; i < LENGTH(lengths); i++)
        for (int kind = NORMAL; kind <= SPECIAL; kind++) {
            const size_t n = (size_t)lengths[i];
            float *y = make_floats(n, kind), *expected = copy_floats(y, n);
            const float by = random_value(kind);
            for (size_t j = 0; j < n; j++) expected[j] /= by;
            tested->divide(y, lengths[i], by);
            check_same(expected, y, n, "divide", (int)n);
            for (size_t j = 0; j < n; j++) expected[j] += by;
            tested->shift(y, lengths[i], by);
            check_same(expected, y, n, "shift", (int)n);
            tested->divide(y, 0, by), tested->shift(y, 0, by);
            check_same(expected, y, n, "nothing", 0);
            free(y), free(expected);
        }
}

TEST(softmax_equals_generic)
{
    for (size_t i = 0; i < LENGTH(lengths); i++)
        for (int kind = NORMAL; kind <= SPECIAL; kind++) {
            const size_t n = (size_t)lengths[i], room = round_up(n);
            float *x = make_floats(room, kind), *expected = copy_floats(x, room);
            float *before = copy_floats(x, n);
            generic->softmax(expected, lengths[i]);
            tested->softmax(x, lengths[i]);
            check_same(expected, x, room, "softmax", (int)n);
            for (size_t j = n; j < room; j++) CHECK(same_float(x[j], 0.0f), "element beyond n");
            if (kind == NORMAL) {
                double sum = 0, total = 0;
                for (size_t j = 0; j < n; j++) sum += exp((double)before[j]);
                for (size_t j = 0; j < n; j++) {
                    const double want = exp((double)before[j]) / sum;
                    total += (double)x[j];
                    /* subtraction, exp, n/16 + 4 additions, division */
                    CHECK(fabs((double)x[j] - want) <= want * EPS * ((double)n / 16 + 12),
                          "softmax %g, want %g", (double)x[j], want);
                }
                CHECK(fabs(total - 1) <= EPS * ((double)n / 16 + 12), "sums to %.9g", total);
            }
            free(x), free(expected), free(before);
        }
    tested->softmax(NULL, 0);
}

TEST(softmax_gives_masked_elements_no_weight)
{
    float x[16] = {1.0f, -INFINITY, 1.0f};
    tested->softmax(x, 3);
    CHECK(same_float(x[0], 0.5f) && same_float(x[1], 0.0f) && same_float(x[2], 0.5f), "%g %g %g",
          (double)x[0], (double)x[1], (double)x[2]);
}

TEST(reductions_equal_generic)
{
    const int32_t some[] = {1,  2,   3,   7,   8,   9,    15,   16,   17,   31,
                            33, 100, 511, 512, 513, 1000, 4096, 8192, 8193, 20000};
    for (size_t i = 0; i < LENGTH(some); i++)
        for (int repeat = 0; repeat < 20; repeat++) {
            const int32_t n = some[i];
            const data_kind kind = repeat % 2 ? SPECIAL : NORMAL;
            float *x = make_floats((size_t)n, kind);
            if (repeat % 4 == 0) /* equal largest elements */
                for (int j = 0; j < 3; j++) x[random_below(n)] = 2.0f;
            if (repeat % 5 == 3) /* only -inf and NaN */
                for (int32_t j = 0; j < n; j++) x[j] = random_below(2) ? -INFINITY : NAN;
            if (repeat == 13)
                for (int32_t j = 0; j < n; j++) x[j] = -INFINITY;

            float largest = -INFINITY;
            int32_t place = -1;
            double sum = 0;
            int n_inf = 0, n_nan = 0;
            for (int32_t j = 0; j < n; j++) {
                n_inf += isinf(x[j]) && x[j] > 0;
                n_nan += isnan(x[j]);
                if (x[j] > largest || (place < 0 && x[j] == largest)) largest = x[j], place = j;
            }
            if (place < 0) place = 0;
            for (int32_t j = 0; j < n; j++) sum += exp((double)x[j] - (double)largest);

            const float most = tested->max(x, n);
            CHECK(most == largest, "max of %d: %g, want %g", n, (double)most, (double)largest);
            CHECK(same_float(most, generic->max(x, n)), "max bits");
            CHECK(tested->argmax(x, n) == place, "%s argmax of %d: %d, want %d", tested->name, n,
                  tested->argmax(x, n), place);
            const float lse = tested->log_sum_exp(x, n);
            CHECK(same_float(lse, generic->log_sum_exp(x, n)), "%s log_sum_exp of %d: %a",
                  tested->name, n, (double)lse);
            if (n_nan > 0)
                CHECK(isnan(lse), "log_sum_exp with NaN: %g", (double)lse);
            else if (n_inf > 0)
                CHECK(lse == INFINITY, "log_sum_exp with inf: %g", (double)lse);
            else if (largest == -INFINITY)
                CHECK(lse == -INFINITY, "of nothing: %g", (double)lse);
            else {
                const double want = (double)largest + log(sum);
                const double bound = EPS * (fabs(want) + n / 16.0 + 12 + fabs((double)largest));
                CHECK(fabs((double)lse - want) <= bound, "log_sum_exp of %d: %.9g, want %.9g", n,
                      (double)lse, want);
            }

            const float with_nan = tested->max_or_nan(x, n);
            CHECK(n_nan > 0 ? isnan(with_nan) : with_nan == largest, "max_or_nan %g",
                  (double)with_nan);
            float maxima_of[S2S_MAXIMA], want_maxima[S2S_MAXIMA];
            for (int32_t j = 0; j < S2S_MAXIMA; j++) want_maxima[j] = -INFINITY;
            for (int32_t j = 0; j < n; j++)
                if (x[j] > want_maxima[j % S2S_MAXIMA]) want_maxima[j % S2S_MAXIMA] = x[j];
            CHECK(tested->maxima(x, n, maxima_of) == largest, "max of the maxima of %d", n);
            for (int32_t j = 0; j < S2S_MAXIMA; j++)
                CHECK(maxima_of[j] == want_maxima[j], "maximum %d of %d: %g, want %g", j, n,
                      (double)maxima_of[j], (double)want_maxima[j]);
            /* block by block, as logits come: the same bits */
            float maxima[40], sums[40];
            int32_t n_blocks = 0;
            for (int32_t j = 0; j < n; j += S2S_LOGITS_BLOCK, n_blocks++) {
                const int32_t n_here = n - j < S2S_LOGITS_BLOCK ? n - j : S2S_LOGITS_BLOCK;
                maxima[n_blocks] = tested->max(x + j, n_here);
                sums[n_blocks] = tested->sum_exp(x + j, n_here, maxima[n_blocks]);
            }
            CHECK(same_float(tested->log_sum_exp_blocks(maxima, sums, n_blocks), lse),
                  "log_sum_exp of %d blocks", n_blocks);

            const int32_t capacity = random_below(n + 2);
            int32_t *indices = malloc((size_t)(capacity + 1) * sizeof *indices);
            const float threshold = random_value(kind);
            indices[capacity] = -7;
            const int32_t n_found = tested->find_above(x, n, threshold, indices, capacity);
            int32_t n_want = 0;
            for (int32_t j = 0; j < n; j++)
                if (x[j] > threshold) {
                    if (n_want < capacity)
                        CHECK(indices[n_want] == j, "index %d, want %d", indices[n_want], j);
                    n_want++;
                }
            CHECK(n_found == n_want, "found %d, want %d", n_found, n_want);
            CHECK(indices[capacity] == -7, "wrote beyond the capacity");
            free(indices);
            free(x);
        }
    CHECK(tested->find_above(NULL, 0, 0.0f, NULL, 0) == 0, "find_above of nothing");
}

/* ---- Attention ----------------------------------------------------------------------------- */

typedef struct attention_case {
    s2s_attention a;
    size_t n_q, n_keys, n_values, n_scores, n_out;
} attention_case;

/* Widths of 16 and more, gaps in every stride, cells in any order or none. */
static attention_case attention_make(int32_t n, int32_t d, int32_t shape, int with_cells,
                                     data_kind kind)
{
    static const int32_t shapes[][3] = {{1, 1, 1}, {1, 3, 1}, {3, 2, 1}, {2, 4, 2}, {5, 2, 2}};
    const int32_t n_rows = shapes[shape][0], n_heads = shapes[shape][1];
    const int32_t heads_per_kv = shapes[shape][2];
    const size_t n_kv = (size_t)(n_heads / heads_per_kv);
    const int32_t d_value = shape == 3 ? d + 16 : d, n_cells = with_cells ? n + 3 : n;
    const size_t gap = shape > 1 ? 32 : 0;
    attention_case c = {.a = {.ld_q = (size_t)(n_heads * d) + gap,
                              .ld_keys = n_kv * (size_t)d + gap,
                              .ld_values = n_kv * (size_t)d_value + gap,
                              .ld_scores = round_up((size_t)n) + gap,
                              .ld_out = (size_t)(n_heads * d_value) + gap,
                              .n_rows = n_rows,
                              .n_heads = n_heads,
                              .heads_per_kv = heads_per_kv,
                              .n = n,
                              .d_key = d,
                              .d_value = d_value,
                              .scale = 0.3f}};
    c.n_q = (size_t)n_rows * c.a.ld_q - gap;
    c.n_keys = n_cells > 0 ? (size_t)n_cells * c.a.ld_keys - gap : 0;
    c.n_values = n_cells > 0 ? (size_t)n_cells * c.a.ld_values - gap : 0;
    c.n_scores = (size_t)(n_rows * n_heads) * c.a.ld_scores - gap;
    c.n_out = (size_t)n_rows * c.a.ld_out - gap;
    c.a.q = make_floats(c.n_q, kind);
    c.a.keys = make_floats(c.n_keys, kind);
    c.a.values = make_floats(c.n_values, kind);
    c.a.scores = make_floats(c.n_scores, NORMAL);
    c.a.out = make_floats(c.n_out, NORMAL);
    if (with_cells) {
        uint32_t *cells = malloc((size_t)(n + 1) * sizeof *cells);
        for (int32_t j = 0; j < n; j++) cells[j] = (uint32_t)random_below(n_cells);
        c.a.cells = cells;
    }
    return c;
}

static void attention_free(attention_case *c)
{
    free((void *)c->a.q), free((void *)c->a.keys), free((void *)c->a.values);
    free((void *)c->a.cells), free(c->a.scores), free(c->a.out);
}

/* The rows of a matrix, without what lies between them. */
static void check_rows(const float *a, const float *b, int32_t n_rows, size_t ld, size_t n,
                       const char *what, int detail)
{
    for (int32_t row = 0; row < n_rows; row++)
        check_same(a + (size_t)row * ld, b + (size_t)row * ld, n, what, detail);
}

/* Scores and context of every query against a double reference. */
static void check_attention(const s2s_attention *a)
{
    const float *keys = a->keys, *values = a->values;
    for (int32_t i = 0; i < a->n_rows * a->n_heads; i++) {
        const int32_t row = i / a->n_heads, head = i % a->n_heads;
        const size_t kv = (size_t)(head / a->heads_per_kv);
        const float *q = a->q + (size_t)row * a->ld_q + (size_t)(head * a->d_key);
        const float *p = a->scores + (size_t)i * a->ld_scores;
        const float *out = a->out + (size_t)row * a->ld_out + (size_t)(head * a->d_value);
        for (int32_t j = 0; j < a->n; j++) {
            const size_t cell = a->cells ? a->cells[j] : (size_t)j;
            const float *key = keys + cell * a->ld_keys + kv * (size_t)a->d_key;
            double sum = 0, size = 0;
            for (int32_t c = 0; c < a->d_key; c++) {
                sum += (double)q[c] * (double)key[c];
                size += fabs((double)q[c] * (double)key[c]);
            }
            const double want = sum * (double)a->scale;
            CHECK(fabs((double)p[j] - want) <= EPS * size * (a->d_key / 16 + 6),
                  "score %g, want %g", (double)p[j], want);
        }
        for (int32_t c = 0; c < a->d_value; c++) {
            double sum = 0, size = 0;
            for (int32_t j = 0; j < a->n; j++) {
                const size_t cell = a->cells ? a->cells[j] : (size_t)j;
                const float v = values[cell * a->ld_values + kv * (size_t)a->d_value + (size_t)c];
                sum += (double)p[j] * (double)v;
                size += fabs((double)p[j] * (double)v);
            }
            CHECK(fabs((double)out[c] - sum) <= EPS * size * a->n, "context %g, want %g",
                  (double)out[c], sum);
        }
    }
}

/* Where cache_bf16 puts element i of a head of d. */
static size_t bf16_place(size_t i, size_t d)
{
    const size_t block = i / 32 * 32, within = i % 32;
    if (block + 32 > d) return i;
    return block + (within < 16 ? 2 * within : 2 * (within - 16) + 1);
}

/* cells of heads of d in bfloat16, and in place what these are as float32 */
static uint16_t *narrow_cache(float *x, size_t n, size_t d)
{
    uint16_t *narrow = malloc(n > 0 ? n * sizeof *narrow : 1);
    for (size_t from = 0; from < n; from += d) {
        tested->cache_bf16(x + from, 1, (int32_t)d, narrow + from);
        for (size_t i = 0; i < d; i++) {
            const uint16_t got = narrow[from + bf16_place(i, d)];
            CHECK(got == s2s_bf16_from_f32(x[from + i]), "%s bfloat16 of %a: %x", tested->name,
                  (double)x[from + i], got);
            x[from + i] = bf16_value(got);
        }
    }
    return narrow;
}

TEST(attention_equals_generic)
{
    const int32_t positions[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 50};
    const int32_t widths[] = {16, 32, 48, 64, 80, 128, 144};
    for (size_t i = 0; i < LENGTH(positions); i++)
        for (size_t w = 0; w < LENGTH(widths); w++)
            for (int mode = 0; mode < 4 * 5; mode++) {
                const int32_t n = positions[i], d = widths[w];
                const data_kind kind = mode & 1 ? SPECIAL : NORMAL;
                attention_case c = attention_make(n, d, mode / 4, mode & 2, kind);
                s2s_attention a = c.a, want = c.a;
                const int32_t n_queries = a.n_rows * a.n_heads;
                const size_t out_width = (size_t)(a.n_heads * a.d_value);
                want.scores = copy_floats(a.scores, c.n_scores);
                want.out = copy_floats(a.out, c.n_out);
                for (int narrow = 0; narrow < 2; narrow++) {
                    uint16_t *keys = NULL, *values = NULL;
                    if (narrow) { /* as float32 of the rounded cache; gaps are a whole head */
                        if (a.ld_keys % (size_t)d != 0 || a.ld_values % (size_t)a.d_value != 0)
                            break;
                        a.keys = keys = narrow_cache((float *)c.a.keys, c.n_keys, (size_t)d);
                        a.values = values =
                            narrow_cache((float *)c.a.values, c.n_values, (size_t)a.d_value);
                    }
                    generic->attention_scores(&want);
                    (narrow ? tested->attention_scores_bf16 : tested->attention_scores)(&a);
                    check_rows(want.scores, a.scores, n_queries, a.ld_scores, (size_t)n,
                               narrow ? "attention_scores_bf16" : "attention_scores", d);
                    generic->attention_context(&want);
                    (narrow ? tested->attention_context_bf16 : tested->attention_context)(&a);
                    check_rows(want.out, a.out, a.n_rows, a.ld_out, out_width,
                               narrow ? "attention_context_bf16" : "attention_context", d);
                    if (kind == NORMAL) check_attention(&want);
                    free(keys), free(values);
                }
                free(want.scores), free(want.out);
                attention_free(&c);
            }
}

/* ---- Levels -------------------------------------------------------------------------------- */

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
    generic = s2s_kernels_get(S2S_ISA_GENERIC);
    for (s2s_isa isa = S2S_ISA_GENERIC; isa <= S2S_ISA_NEON; isa++) {
        tested = s2s_kernels_get(isa);
        printf("%s%s ", s2s_isa_name(isa), tested != NULL ? "" : " (skipped)");
        if (tested == NULL) continue;
        harness_seed = 1;
        RUN(matmul_equals_generic);
        RUN(large_matmul_equals_generic);
        RUN(matmul_is_near_the_reference);
        RUN(matmul_rows_do_not_depend_on_their_neighbours);
        RUN(matmul_residual_may_be_the_result);
        RUN(embed_equals_generic_and_the_definition);
        RUN(layer_norm_equals_generic);
        RUN(divide_shift_equal_the_definition);
        RUN(softmax_equals_generic);
        RUN(softmax_gives_masked_elements_no_weight);
        RUN(reductions_equal_generic);
        RUN(attention_equals_generic);
    }
    return harness_end();
}
