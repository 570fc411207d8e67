/* math_impl.h: exp, tanh, erf, log and the activations, over whatever v16 the including file chose.
 *
 * Polynomials are minimax fits (Remez exchange, weighted for relative error of the result) rounded to
 * float; errors are in units in the last place (ulp) of the result, as tests/c/test_math.c measures them.  A
 * NaN gives a NaN.
 */
#ifndef S2S_MATH_IMPL_H
#define S2S_MATH_IMPL_H

#ifdef S2S_VEC_IS_GENERIC /* 16 lanes written out are too much code to repeat */
#define S2S_INLINE_EXP S2S_NOINLINE
#else
#define S2S_INLINE_EXP S2S_INLINE
#endif

/* e^x, within 1 ulp (denormal results: 1 of theirs).  exp(-inf) = 0; overflow gives inf.
 * e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2. */
S2S_INLINE_EXP v16 v16_exp(v16 x)
{
    const v16 round = v16_set1(0x1.8p23f); /* added, it leaves n in the low bits */
    x = v16_max(v16_set1(-105.0f), v16_min(v16_set1(89.0f), x));
    const v16 shifted = v16_fma(x, v16_set1(0x1.715476p+0f), round);
    const v16 n = v16_sub(shifted, round);
    v16 r = v16_fma(n, v16_set1(-0x1.62e4p-1f), x); /* ln 2 in two parts: exact, then the rest */
    r = v16_fma(n, v16_set1(-0x1.7f7d1cp-20f), r);

    v16 p = v16_set1(0x1.6a1a7p-10f);
    p = v16_fma(p, r, v16_set1(0x1.123fc6p-7f));
    p = v16_fma(p, r, v16_set1(0x1.555916p-5f));
    p = v16_fma(p, r, v16_set1(0x1.55548ap-3f));
    p = v16_fma(p, r, v16_set1(0x1.fffffcp-2f));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_fma(p, r, v16_set1(1.0f));

#ifdef S2S_VEC_HAS_SCALE
    return v16_scale(p, n);
#else
    /* Two factors, since 2^n alone may be no normal float; only the last product can round. */
    const v16i i = v16i_sub(v16_bits(shifted), v16_bits(round));
    const v16i half = v16i_half(i);
    return v16_mul(v16_mul(p, v16i_pow2(half)), v16i_pow2(v16i_sub(i, half)));
#endif
}

/* tanh x, within 2 ulp: x + x^3 p(x^2) below 0.625, 1 - 2 / (e^2|x| + 1) above. */
S2S_NOINLINE v16 v16_tanh(v16 x)
{
    const v16 one = v16_set1(1.0f), two = v16_set1(2.0f), size = v16_abs(x);
    const v16 u = v16_mul(x, x);
    v16 p = v16_set1(-0x1.72fe44p-8f);
    p = v16_fma(p, u, v16_set1(0x1.518be0p-6f));
    p = v16_fma(p, u, v16_set1(-0x1.b8268ep-5f));
    p = v16_fma(p, u, v16_set1(0x1.110692p-3f));
    p = v16_fma(p, u, v16_set1(-0x1.555530p-2f));
    const v16 small = v16_fma(v16_mul(p, u), x, x);
    const v16 e = v16_exp(v16_add(size, size));
    const v16 large = v16_copysign(v16_sub(one, v16_div(two, v16_add(e, one))), x);
    return v16_select(v16_gt(size, v16_set1(0.625f)), large, small);
}

/* erf x, within 2 ulp: x + x p(x^2) below 1, 1 - e^-q(|x|) above; from 4 on it is 1. */
S2S_NOINLINE v16 v16_erf(v16 x)
{
    const v16 one = v16_set1(1.0f), u = v16_mul(x, x);
    v16 p = v16_set1(0x1.4ae4c6p-14f);
    p = v16_fma(p, u, v16_set1(-0x1.a485f8p-11f));
    p = v16_fma(p, u, v16_set1(0x1.5419fap-8f));
    p = v16_fma(p, u, v16_set1(-0x1.b7fbb6p-6f));
    p = v16_fma(p, u, v16_set1(0x1.ce2d20p-4f));
    p = v16_fma(p, u, v16_set1(-0x1.81273ep-2f));
    p = v16_fma(p, u, v16_set1(0x1.06eba8p-3f));
    const v16 small = v16_fma(p, x, x);

    const v16 size = v16_min(v16_set1(4.0f), v16_abs(x));
    v16 q = v16_set1(-0x1.852d48p-13f);
    q = v16_fma(q, size, v16_set1(0x1.814cdap-9f));
    q = v16_fma(q, size, v16_set1(-0x1.654222p-6f));
    q = v16_fma(q, size, v16_set1(0x1.a60a82p-4f));
    q = v16_fma(q, size, v16_set1(0x1.46c584p-1f));
    q = v16_fma(q, size, v16_set1(0x1.2085b2p+0f));
    q = v16_fma(q, size, v16_set1(0x1.72e6e6p-12f));
    const v16 large = v16_copysign(v16_sub(one, v16_exp(v16_neg(q))), x);
    return v16_select(v16_gt(size, one), large, small);
}

/* ln x of a float, in double: good to some 1e-13, so that one rounding to float remains.
 * x = 2^e f with f in [sqrt 1/2, sqrt 2); ln f = 2 artanh s, s = (f - 1) / (f + 1). */
S2S_NOINLINE double s2s_log(float x)
{
    if (!(x > 0.0f)) return x == 0.0f ? -(double)INFINITY : (double)NAN;
    if (x == INFINITY) return (double)INFINITY;
    double f = (double)x; /* every float, denormal or not, is a normal double */
    uint64_t bits;
    memcpy(&bits, &f, sizeof bits);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffu) | (UINT64_C(1023) << 52);
    memcpy(&f, &bits, sizeof f);
    if (f > 1.4142135623730951) {
        f *= 0.5;
        e++;
    }
    const double s = (f - 1.0) / (f + 1.0), s2 = s * s; /* s2 < 0.03: the series ends quickly */
    double sum = 0.0;
    for (int i = 17; i >= 1; i -= 2) sum = sum * s2 + 1.0 / i;
    return (double)e * 0.69314718055994530942 + 2.0 * s * sum;
}

S2S_NOINLINE v16 v16_activate_smooth(v16 x, int32_t activation)
{
    const v16 one = v16_set1(1.0f), half = v16_set1(0.5f);
    switch (activation) {
    case S2S_SILU:
        return v16_div(x, v16_add(one, v16_exp(v16_neg(x))));
    case S2S_GELU: {
        const v16 e = v16_erf(v16_mul(x, v16_set1(0.70710678118654752f)));
        return v16_mul(v16_mul(half, x), v16_add(one, e));
    }
    case S2S_GELU_TANH: {
        const v16 cube = v16_mul(v16_mul(x, x), x);
        const v16 inner = v16_fma(cube, v16_set1(0.044715f), x);
        const v16 t = v16_tanh(v16_mul(inner, v16_set1(0.79788456080286536f)));
        return v16_mul(v16_mul(half, x), v16_add(one, t));
    }
    case S2S_TANH:
        return v16_tanh(x);
    default:
        return x;
    }
}

S2S_INLINE v16 v16_activate(v16 x, int32_t activation)
{
    if (activation == S2S_IDENTITY) return x;
    if (activation == S2S_RELU) return v16_max(v16_set1(0.0f), x); /* a NaN stays one */
    return v16_activate_smooth(x, activation);
}

#endif
