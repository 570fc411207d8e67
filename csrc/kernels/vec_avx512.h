/* vec_avx512.h: the operations of vec_generic.h, one zmm register.
 *
 * Blocks: 32 registers.  r rows x t tiles need r*t accumulators, t weights and one broadcast; the two
 * units with latency 4 want 8 or more accumulators.  12 x 2 uses 27, 4 x 4 21, 2 x 8 25.  12 rows and not
 * 8 so that the weights, which come from a farther cache, are loaded less often per multiply-add. */
#ifndef S2S_VEC_H
#define S2S_VEC_H

#include <immintrin.h>
#include <stdint.h>

#include "../base/compiler.h"

#define S2S_ROWS_MAX 12
#define S2S_BLOCK_TILES(r) ((r) <= 2 ? 8 : (r) <= 4 ? 4 : 2)

typedef __m512 v16;
typedef __mmask16 v16m;
typedef __m512i v16i;

S2S_INLINE v16 v16_set1(float x)
{
    return _mm512_set1_ps(x);
}
S2S_INLINE v16 v16_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
S2S_INLINE __mmask16 v16_mask_n(int n)
{
    return (__mmask16)((1u << n) - 1u);
}
S2S_INLINE v16 v16_load_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(v16_mask_n(n), p);
}
S2S_INLINE v16 v16_load_bf16(const uint16_t *p)
{
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
S2S_INLINE void v16_store(float *p, v16 a)
{
    _mm512_storeu_ps(p, a);
}
S2S_INLINE void v16_store_n(float *p, v16 a, int n)
{
    _mm512_mask_storeu_ps(p, v16_mask_n(n), a);
}
S2S_INLINE v16 v16_first_n(v16 a, int n)
{
    return _mm512_maskz_mov_ps(v16_mask_n(n), a);
}

S2S_INLINE v16 v16_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}
S2S_INLINE v16 v16_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}
S2S_INLINE v16 v16_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}
S2S_INLINE v16 v16_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}
S2S_INLINE v16 v16_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}
S2S_INLINE v16 v16_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}
S2S_INLINE v16 v16_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}
S2S_INLINE v16 v16_abs(v16 a)
{
    return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a);
}
S2S_INLINE v16 v16_copysign(v16 a, v16 b)
{
    const __m512i sign = _mm512_set1_epi32(INT32_MIN); /* sign ? b : a, bit by bit */
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(sign, _mm512_castps_si512(b), _mm512_castps_si512(a), 0xca));
}
S2S_INLINE v16 v16_neg(v16 a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}

S2S_INLINE v16m v16_gt(v16 a, v16 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
S2S_INLINE v16m v16_eq(v16 a, v16 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
S2S_INLINE unsigned v16_mask_bits(v16m m)
{
    return m;
}
S2S_INLINE v16 v16_select(v16m m, v16 a, v16 b)
{
    return _mm512_mask_mov_ps(b, m, a);
}

S2S_INLINE float v16_fold_sum(v16 a)
{
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
S2S_INLINE float v16_fold_max(v16 a)
{
    const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

S2S_INLINE v16i v16_bits(v16 a)
{
    return _mm512_castps_si512(a);
}
S2S_INLINE v16i v16i_sub(v16i a, v16i b)
{
    return _mm512_sub_epi32(a, b);
}
S2S_INLINE v16i v16i_half(v16i a)
{
    return _mm512_srai_epi32(a, 1);
}
S2S_INLINE v16 v16i_pow2(v16i a)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(a, _mm512_set1_epi32(127)), 23));
}

#endif
