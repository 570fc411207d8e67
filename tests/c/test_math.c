/* exp, tanh, erf, log and the activations against double libm, over the floats of the whole range:
 * every 1009th bit pattern, or all of them with S2S_EXHAUSTIVE=1 (minutes).  The other levels give the
 * bits of generic (test_kernels.c), so generic is enough; an exhaustive run may compile this file with
 * -DLEVEL_HEADER='"kernels/vec_avx512.h"' to be quicker. */
#include "s2s.h"

#include <float.h>
#include <math.h>

#ifdef LEVEL_HEADER
#include LEVEL_HEADER
#else
#include "kernels/vec_generic.h"
#endif

#include "kernels/math_impl.h"

#include "harness.h"

static uint32_t stride = 1009;

/* Distance to want in units of the last place of a float of that size. */
static double ulps(float got, double want)
{
    if ((double)got == want) return 0.0;
    int exponent;
    frexp(want, &exponent);
    if (exponent < -125) exponent = -125; /* denormals share one unit */
    return fabs((double)got - want) / ldexp(1.0, exponent - 24);
}

typedef v16 (*vector_fn)(v16);
typedef double (*scalar_fn)(double);

static v16 vector_exp(v16 x)
{
    return v16_exp(x);
}
static v16 vector_tanh(v16 x)
{
    return v16_tanh(x);
}
static v16 vector_erf(v16 x)
{
    return v16_erf(x);
}

static void check_function(const char *name, vector_fn function, scalar_fn reference, double bound)
{
    double worst = 0.0;
    float worst_at = 0.0f;
    for (uint64_t first = 0; first < (UINT64_C(1) << 32); first += (uint64_t)stride * 16) {
        float x[16], y[16];
        for (int i = 0; i < 16; i++) {
            const uint32_t bits = (uint32_t)(first + (uint64_t)stride * (uint64_t)i);
            memcpy(&x[i], &bits, sizeof bits);
        }
        v16_store(y, function(v16_load(x)));
        for (int i = 0; i < 16; i++) {
            const double want = reference((double)x[i]);
            if (isnan(x[i])) {
                if (!isnan(y[i])) CHECK(0, "%s(NaN) = %g", name, (double)y[i]);
            } else if (want > 0x1.ffffffp127) { /* beyond half way to 2^128 */
                if (y[i] != INFINITY) CHECK(0, "%s(%a) = %g", name, (double)x[i], (double)y[i]);
            } else if (!(ulps(y[i], want) <= worst)) {
                worst = ulps(y[i], want);
                worst_at = x[i];
            }
        }
    }
    CHECK(worst <= bound, "%s(%a): %.3f ulp", name, (double)worst_at, worst);
    printf("%s %.3f ulp, ", name, worst);
}

static float first_lane(v16 v)
{
    float l[16];
    v16_store(l, v);
    return l[0];
}

TEST(exp_is_accurate)
{
    check_function("exp", vector_exp, exp, 1.0);
    CHECK(same_float(first_lane(v16_exp(v16_set1(-INFINITY))), 0.0f), "exp(-inf)");
    CHECK(first_lane(v16_exp(v16_set1(INFINITY))) == INFINITY, "exp(inf)");
    CHECK(first_lane(v16_exp(v16_set1(0.0f))) == 1.0f, "exp(0)");
    CHECK(first_lane(v16_exp(v16_set1(-0.0f))) == 1.0f, "exp(-0)");
}

TEST(tanh_is_accurate)
{
    check_function("tanh", vector_tanh, tanh, 2.0);
    CHECK(first_lane(v16_tanh(v16_set1(INFINITY))) == 1.0f, "tanh(inf)");
    CHECK(first_lane(v16_tanh(v16_set1(-INFINITY))) == -1.0f, "tanh(-inf)");
    CHECK(first_lane(v16_tanh(v16_set1(0.0f))) == 0.0f, "tanh(0)");
}

TEST(erf_is_accurate)
{
    check_function("erf", vector_erf, erf, 2.0);
    CHECK(first_lane(v16_erf(v16_set1(INFINITY))) == 1.0f, "erf(inf)");
    CHECK(first_lane(v16_erf(v16_set1(-INFINITY))) == -1.0f, "erf(-inf)");
}

/* double: far better than a float needs */
TEST(log_is_accurate)
{
    double worst = 0.0;
    for (uint64_t u = 1; u < 0x7f800000u; u += stride) {
        const uint32_t bits = (uint32_t)u;
        float x;
        memcpy(&x, &bits, sizeof x);
        const double want = log((double)x), error = fabs(s2s_log(x) - want);
        if (error / fmax(fabs(want), 1e-30) > worst) worst = error / fmax(fabs(want), 1e-30);
    }
    CHECK(worst < 1e-13, "log: relative error %g", worst);
    printf("log %.1e relative, ", worst);
    CHECK(s2s_log(1.0f) == 0.0, "log 1");
    CHECK(s2s_log(0.0f) == -(double)INFINITY && s2s_log(-0.0f) == -(double)INFINITY, "log 0");
    CHECK(s2s_log(INFINITY) == (double)INFINITY, "log inf");
    CHECK(isnan(s2s_log(-1.0f)) && isnan(s2s_log(NAN)) && isnan(s2s_log(-INFINITY)), "log NaN");
}

/* Absolute errors: 1 + erf cancels far below 0, in the definition and in every implementation of it. */
TEST(activations_follow_their_definitions)
{
    for (float x = -20.0f; x <= 20.0f; x += 1.0f / 512) {
        const double d = (double)x, size = fabs(d) + 1e-3;
        const double cube = d + 0.044715 * d * d * d;
        const double want[] = {d > 0 ? d : 0,
                               d / (1 + exp(-d)),
                               0.5 * d * (1 + erf(d * sqrt(0.5))),
                               0.5 * d * (1 + tanh(sqrt(2 / 3.14159265358979323846) * cube)),
                               d,
                               tanh(d)};
        for (int32_t activation = S2S_RELU; activation <= S2S_TANH; activation++) {
            const float got = first_lane(v16_activate(v16_set1(x), activation));
            CHECK(fabs((double)got - want[activation]) <= 3e-7 * size,
                  "activation %d of %a: %.9g, want %.9g", activation, d, (double)got,
                  want[activation]);
        }
    }
    for (int32_t activation = S2S_RELU; activation <= S2S_TANH; activation++) {
        const float nan = first_lane(v16_activate(v16_set1(NAN), activation));
        const float inf = first_lane(v16_activate(v16_set1(INFINITY), activation));
        CHECK(isnan(nan), "activation %d of NaN", activation);
        CHECK(inf == (activation == S2S_TANH ? 1.0f : INFINITY), "activation %d of inf: %g",
              activation, (double)inf);
    }
}

int main(void)
{
    const char *exhaustive = getenv("S2S_EXHAUSTIVE");
    if (exhaustive != NULL && strcmp(exhaustive, "0") != 0) stride = 1;
    RUN(exp_is_accurate);
    RUN(tanh_is_accurate);
    RUN(erf_is_accurate);
    RUN(log_is_accurate);
    RUN(activations_follow_their_definitions);
    return harness_end();
}
