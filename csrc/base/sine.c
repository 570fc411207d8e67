/* sine.c: see sine.h.  Double arithmetic alone, +, -, * and conversions, each rounded once: every platform
 * with IEEE numbers does it alike. */
#include "sine.h"

#include <stdint.h>

/* The angle less its nearest multiple of pi / 2, *quadrant of these.  pi / 2 is a sum of parts of 24 bits, so
 * that a multiple of each is exact up to 2^29 (Cody, Waite 1980, chapter 8); so are the first two
 * differences, and the third where much is lost. */
static double reduce(double angle, int32_t *quadrant)
{
    const double turns = angle * 0x1.45f306dc9c883p-1; /* 2 / pi */
    const int32_t n = (int32_t)(turns < 0 ? turns - 0.5 : turns + 0.5);
    const double k = (double)n;
    *quadrant = n & 3;
    return (((angle - k * 0x1.921fb4p+0) - k * 0x1.4442d0p-24) - k * 0x1.846988p-48) -
           k * 0x1.8cc51701b839ap-72;
}

/* Taylor's series for |x| <= pi / 4: what is left out is below 2^-54 of the result. */
static double sine_near_zero(double x)
{
    static const double c[] = {-0x1.5555555555555p-3,  0x1.1111111111111p-7,
                               -0x1.a01a01a01a01ap-13, 0x1.71de3a556c734p-19,
                               -0x1.ae64567f544e4p-26, 0x1.6124613a86d09p-33,
                               -0x1.ae7f3e733b81fp-41}; /* -1/3!, 1/5!, ... */
    const double square = x * x;
    double sum = 0.0;
    for (int i = 6; i >= 0; i--) sum = (sum + c[i]) * square;
    return x + x * sum;
}

static double cosine_near_zero(double x)
{
    static const double c[] = {-0x1p-1,
                               0x1.5555555555555p-5,
                               -0x1.6c16c16c16c17p-10,
                               0x1.a01a01a01a01ap-16,
                               -0x1.27e4fb7789f5cp-22,
                               0x1.1eed8eff8d898p-29,
                               -0x1.93974a8c07c9dp-37,
                               0x1.ae7f3e733b81fp-45}; /* -1/2!, 1/4!, ... */
    const double square = x * x;
    double sum = 0.0;
    for (int i = 7; i >= 0; i--) sum = (sum + c[i]) * square;
    return 1.0 + sum;
}

void s2s_sine_cosine(float angle, float *sine, float *cosine)
{
    int32_t quadrant;
    const double x = reduce((double)angle, &quadrant);
    const double s = sine_near_zero(x), c = cosine_near_zero(x);
    const double sines[] = {s, c, -s, -c}, cosines[] = {c, -s, -c, s};
    *sine = (float)sines[quadrant];
    *cosine = (float)cosines[quadrant];
}
