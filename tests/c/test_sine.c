/* Unit tests of csrc/base/sine.c, beside the long double functions of the C library. */
#include <float.h>
#include <math.h>

#include "../../csrc/base/sine.h"
#include "harness.h"

/* Distance of `found` from `exact` in units of the last place of a float. */
static double ulps(float found, long double exact)
{
    int exponent;
    frexpl(exact, &exponent);
    const int least = FLT_MIN_EXP > exponent ? FLT_MIN_EXP : exponent;
    return (double)fabsl(((long double)found - exact) * ldexpl(1.0L, FLT_MANT_DIG - least));
}

static double worst;

static void check_angle(float angle)
{
    float sine, cosine;
    s2s_sine_cosine(angle, &sine, &cosine);
    const double s = ulps(sine, sinl((long double)angle)),
                 c = ulps(cosine, cosl((long double)angle));
    CHECK(s <= 0.501, "sin(%a) is %a, off by %g", (double)angle, (double)sine, s);
    CHECK(c <= 0.501, "cos(%a) is %a, off by %g", (double)angle, (double)cosine, c);
    if (s > worst) worst = s;
    if (c > worst) worst = c;
}

/* Positions times the usual rates: those of 10000^(-i / 32), and of others. */
TEST(rotary_angles)
{
    static const double bases[] = {10000.0, 500000.0, 1e6, 500.0};
    for (int b = 0; b < 4; b++)
        for (int i = 0; i < 32; i++) {
            const float rate = (float)pow(bases[b], -i / 32.0);
            for (int32_t p = 0; p < 1000000; p += p < 3000 ? 1 : 1 + random_below(3000))
                check_angle((float)p * rate);
        }
}

TEST(any_angle)
{
    for (int i = 0; i < 2000000; i++) {
        const uint32_t bits = (uint32_t)random_bits();
        float angle;
        memcpy(&angle, &bits, sizeof bits);
        if (fabsf(angle) <= S2S_MAX_ANGLE) check_angle(angle);
    }
}

/* Floats next to multiples of pi / 2, where most digits are lost. */
TEST(near_multiples_of_a_quarter_turn)
{
    for (int64_t k = 1; k < INT64_C(1) << 28; k += 1 + k / 4000) {
        float angle = (float)((long double)k * 1.57079632679489661923132169163975144L);
        for (int step = 0; step < 3; step++, angle = nextafterf(angle, INFINITY)) {
            check_angle(angle);
            check_angle(-angle);
        }
    }
    /* the float whose distance from a multiple is smallest for its size */
    check_angle(0x1.6ac5b2p+2f * 0x1p20f);
    check_angle(16367173.0f * 0x1p4f);
}

static void mix(uint64_t *hash, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    *hash = (*hash ^ bits) * UINT64_C(0x100000001b3);
}

/* The same bits on every platform. */
TEST(bits)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (int32_t p = 0; p < 200000; p++) {
        float sine, cosine;
        s2s_sine_cosine((float)p * 0.7498942f, &sine, &cosine);
        mix(&hash, sine);
        mix(&hash, cosine);
    }
    CHECK(hash == UINT64_C(0x330c083f670e88f1), "%llx", (unsigned long long)hash);
    float sine, cosine;
    s2s_sine_cosine(-0.0f, &sine, &cosine);
    CHECK(sine == 0.0f && cosine == 1.0f, "%g %g", (double)sine, (double)cosine);
}

int main(void)
{
    RUN(rotary_angles);
    RUN(any_angle);
    RUN(near_multiples_of_a_quarter_turn);
    RUN(bits);
    printf("worst: %.7f units of the last place\n", worst);
    return harness_end();
}
