/* The small kernels between products - RMS norm, gate, soft cap - of every level that this CPU has equal
 * generic bit for bit, and generic is near a double reference. */
#include "kernel_data.h"

static const int32_t lengths[] = {1, 2, 15, 16, 17, 31, 32, 33, 100, 1024};

static float *make_scaled(int32_t n, float scale)
{
    float *x = make_floats((size_t)n, NORMAL);
    for (int32_t i = 0; i < n; i++) x[i] *= scale;
    return x;
}

static int is_near(double a, double b)
{
    return fabs(a - b) <= 2e-6 * fabs(b) + 1e-30;
}

TEST(rms_norm_equals_generic)
{
    for (size_t l = 0; l < LENGTH(lengths); l++) {
        const int32_t n = lengths[l];
        const float eps = 1e-6f;
        float *x = make_scaled(n, 3.0f), *w = make_scaled(n, 1.0f);
        float *a = make_scaled(n, 0.0f), *b = copy_floats(x, (size_t)n);
        generic->rms_norm(x, w, n, eps, a);
        tested->rms_norm(b, w, n, eps, b); /* in place */
        double squares = 0;
        for (int32_t i = 0; i < n; i++) squares += (double)x[i] * x[i];
        const double root = sqrt(squares / n + (double)eps);
        for (int32_t i = 0; i < n; i++) {
            CHECK(same_float(a[i], b[i]), "%s, n %d, element %d", tested->name, n, i);
            CHECK(is_near(a[i], x[i] / root * w[i]), "n %d, element %d", n, i);
        }
        free(x), free(w), free(a), free(b);
    }
}

TEST(gate_equals_generic)
{
    for (size_t l = 0; l < LENGTH(lengths); l++)
        for (int32_t activation = S2S_RELU; activation <= S2S_IDENTITY; activation++) {
            const int32_t n = lengths[l];
            float *x = make_scaled(n, 4.0f), *up = make_scaled(n, 2.0f);
            float *a = copy_floats(x, (size_t)n), *b = copy_floats(x, (size_t)n);
            generic->gate(a, up, n, activation);
            tested->gate(b, up, n, activation);
            for (int32_t i = 0; i < n; i++) {
                CHECK(same_float(a[i], b[i]), "%s, n %d, activation %d, element %d", tested->name,
                      n, activation, i);
                if (activation == S2S_RELU)
                    CHECK(a[i] == (x[i] > 0 ? x[i] : 0.0f) * up[i], "relu, element %d", i);
                if (activation == S2S_SILU)
                    CHECK(is_near(a[i], x[i] / (1 + exp(-(double)x[i])) * up[i]), "silu, %d", i);
            }
            free(x), free(up), free(a), free(b);
        }
}

TEST(soft_cap_equals_generic)
{
    static const float caps[] = {0.5f, 30.0f, 50.0f};
    for (size_t l = 0; l < LENGTH(lengths); l++)
        for (size_t c = 0; c < LENGTH(caps); c++) {
            const int32_t n = lengths[l];
            float *x = make_scaled(n, 100.0f);
            x[0] = -INFINITY; /* a token that is ruled out becomes -cap, no NaN */
            float *a = copy_floats(x, (size_t)n), *b = copy_floats(x, (size_t)n);
            generic->soft_cap(a, n, caps[c]);
            tested->soft_cap(b, n, caps[c]);
            for (int32_t i = 0; i < n; i++) {
                CHECK(same_float(a[i], b[i]), "%s, n %d, element %d", tested->name, n, i);
                CHECK(is_near(a[i], caps[c] * tanh((double)x[i] / caps[c])), "%g of %g gives %g",
                      (double)caps[c], (double)x[i], (double)a[i]);
            }
            free(x), free(a), free(b);
        }
}

int main(void)
{
    FOR_EVERY_LEVEL
    {
        RUN(rms_norm_equals_generic);
        RUN(gate_equals_generic);
        RUN(soft_cap_equals_generic);
    }
    return harness_end();
}
