/* Kernels of vectors - embeddings, norms, softmax, reductions - of every level that this CPU has equal generic bit for bit, and generic is
 * near a double reference within a bound derived from the operation. */
#include "kernel_data.h"

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
            enum { ROWS = 6 }; /* alone each, and all at once */
            const size_t n = (size_t)lengths[i], ld = n + 3, n_all = (ROWS - 1) * ld + n;
            float *x = make_floats(n_all, kind), *weight = make_floats(n, NORMAL),
                  *bias = make_floats(n, NORMAL);
            if (kind == NORMAL) /* a mean far from 0 */
                for (size_t j = 0; j < n_all; j++) x[j] += 3.0f;
            float *expected = copy_floats(x, n_all), *in_place = copy_floats(x, n_all);
            for (size_t row = 0; row < ROWS * ld; row += ld)
                generic->layer_norm(x + row, 0, 1, weight, bias, lengths[i], 1e-5f, expected + row);
            tested->layer_norm(in_place, ld, ROWS, weight, bias, lengths[i], 1e-5f, in_place);
            check_same(expected, in_place, n_all, "layer_norm", (int)n);
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

int main(void)
{
    FOR_EVERY_LEVEL
    {
        RUN(embed_equals_generic_and_the_definition);
        RUN(layer_norm_equals_generic);
        RUN(divide_shift_equal_the_definition);
        RUN(softmax_equals_generic);
        RUN(softmax_gives_masked_elements_no_weight);
        RUN(reductions_equal_generic);
    }
    return harness_end();
}
