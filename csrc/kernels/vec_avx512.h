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
#define S2S_I8_ROWS_MAX 12
#define S2S_I8_OFFSET 128

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
S2S_INLINE v16 v16_load_n_or(const float *p, int n, float rest)
{
    return _mm512_mask_loadu_ps(_mm512_set1_ps(rest), v16_mask_n(n), p);
}
S2S_INLINE v16 v16_load_bf16(const uint16_t *p)
{
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
S2S_INLINE void v16_load_bf16_pair(const uint16_t *p, v16 *low, v16 *high)
{
    const __m512i both = _mm512_loadu_si512(p);
    *low = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    *high = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(-65536)));
}
/* As s2s_bf16_from_f32, in the upper half of a lane; the lower one is rubbish. */
S2S_INLINE __m512i v16_round_bf16(v16 a)
{
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    return _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), bits,
                                _mm512_set1_epi32(0x400000));
}
S2S_INLINE void v16_store_bf16_pair(uint16_t *p, v16 low, v16 high)
{
    const __m512i l = _mm512_srli_epi32(v16_round_bf16(low), 16), h = v16_round_bf16(high);
    _mm512_storeu_si512(p, _mm512_mask_blend_epi16(0xaaaaaaaau, l, h));
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
S2S_INLINE void v16_store_sums(float *p, v16 a, v16 b, v16 c, v16 d, float scale)
{
    const v16 ab =
        _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    const v16 cd =
        _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    v16 s = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1));
    const __m512i first =
        _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12)); /* the upper lanes do not matter */
    s = _mm512_permutexvar_ps(first, s);
    _mm_storeu_ps(p, _mm_mul_ps(_mm512_castps512_ps128(s), _mm_set1_ps(scale)));
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
S2S_INLINE v16i v16i_set1(int32_t a)
{
    return _mm512_set1_epi32(a);
}
S2S_INLINE v16i v16i_shift_left_4(v16i a)
{
    return _mm512_slli_epi32(a, 4);
}
S2S_INLINE v16i v16i_sub(v16i a, v16i b)
{
    return _mm512_sub_epi32(a, b);
}
S2S_INLINE v16i v16i_max(v16i a, v16i b)
{
    return _mm512_max_epi32(a, b);
}
S2S_INLINE int32_t v16i_fold_max(v16i a)
{
    const __m256i h = _mm256_max_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i q = _mm_max_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    q = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
S2S_INLINE v16i v16i_half(v16i a)
{
    return _mm512_srai_epi32(a, 1);
}
S2S_INLINE v16 v16i_pow2(v16i a)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(a, _mm512_set1_epi32(127)), 23));
}

S2S_INLINE v16 v16_exponent(v16 a)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 23));
}

#define S2S_VEC_HAS_SCALE
/* a * 2^n of whole n, rounded once. */
S2S_INLINE v16 v16_scale(v16 a, v16 n)
{
    return _mm512_scalef_ps(a, n);
}

S2S_INLINE v16i v16i_load(const int32_t *p)
{
    return _mm512_loadu_si512(p);
}
S2S_INLINE void v16i_store(int32_t *p, v16i a)
{
    _mm512_storeu_si512(p, a);
}
S2S_INLINE v16i v16i_add(v16i a, v16i b)
{
    return _mm512_add_epi32(a, b);
}
S2S_INLINE v16i v16i_mul(v16i a, v16i b)
{
    return _mm512_mullo_epi32(a, b);
}
S2S_INLINE v16i v16i_load_u4(const uint8_t *p)
{
    const __m128i bytes = _mm_and_si128(_mm_loadu_si128((const __m128i *)p), _mm_set1_epi8(15));
    return _mm512_cvtepu8_epi32(bytes);
}
S2S_INLINE v16 v16_from_i32(v16i a)
{
    return _mm512_cvtepi32_ps(a);
}
S2S_INLINE v16 v16_load_quads(const int8_t *p, size_t stride)
{
    int32_t quads[4];
    for (size_t i = 0; i < 4; i++) __builtin_memcpy(&quads[i], p + i * stride, sizeof quads[i]);
    const __m128i bytes = _mm_setr_epi32(quads[0], quads[1], quads[2], quads[3]);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
S2S_INLINE void v16_store_u8(uint8_t *p, v16 a)
{
    const __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(128));
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(q));
}

#define S2S_VEC_HAS_STORE_U8_X4
/* Packing works within quarters of a register: of 4 bytes each, the first of a, of b, of c, of d, then the
 * second ones. */
S2S_INLINE void v16_store_u8_x4(uint8_t *p, v16 a, v16 b, v16 c, v16 d)
{
    const __m512i ab = _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
    const __m512i cd = _mm512_packs_epi32(_mm512_cvtps_epi32(c), _mm512_cvtps_epi32(d));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(ab, cd));
    _mm512_storeu_si512(p, _mm512_xor_si512(bytes, _mm512_set1_epi8(-128)));
}

#if defined(__AVX512VNNI__)
typedef __m512i v16w, v16x;

S2S_INLINE v16w v16w_of(__m512i w)
{
    return w;
}
S2S_INLINE v16w v16w_load(const int8_t *p)
{
    return _mm512_loadu_si512(p);
}
S2S_INLINE v16x v16x_load(const uint8_t *p)
{
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}
typedef __m512i v16u, v16s;
S2S_INLINE void v16u_load_i4(const uint8_t *p, v16u *low, v16u *whole)
{
    *whole = _mm512_loadu_si512(p);
    *low = _mm512_and_si512(*whole, _mm512_set1_epi8(15));
}
S2S_INLINE v16s v16s_load(const int8_t *p)
{
    return v16x_load((const uint8_t *)p);
}
S2S_INLINE v16i v16i_dot_u(v16i sum, v16u w, v16s x)
{
    return _mm512_dpbusd_epi32(sum, w, x);
}
S2S_INLINE void v16w_load_i4s(const uint8_t *p, v16w *low, v16w *high)
{
    const __m512i w = _mm512_loadu_si512(p), half = _mm512_set1_epi8(-16);
    *low = _mm512_and_si512(_mm512_slli_epi16(w, 4), half);
    *high = _mm512_and_si512(w, half);
}
S2S_INLINE v16i v16i_i4_sum(v16i a)
{
    return _mm512_srai_epi32(a, 4);
}
S2S_INLINE v16i v16i_dot(v16i sum, v16x x, v16w w)
{
    return _mm512_dpbusd_epi32(sum, x, w);
}
#else
/* Inputs 0 and 2, and 1 and 3, as 16-bit halves of a lane: their products cannot saturate. */
typedef struct v16w {
    __m512i even, odd;
} v16w;
typedef v16w v16x;

S2S_INLINE v16w v16w_of(__m512i w)
{
    return (v16w){_mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8), _mm512_srai_epi16(w, 8)};
}
S2S_INLINE v16w v16w_load(const int8_t *p)
{
    return v16w_of(_mm512_loadu_si512(p));
}
typedef v16w v16u;
typedef v16x v16s;
S2S_INLINE void v16u_load_i4(const uint8_t *p, v16u *low, v16u *whole)
{
    const __m512i w = _mm512_loadu_si512(p), half = _mm512_set1_epi16(15);
    const __m512i even = _mm512_and_si512(w, _mm512_set1_epi16(255)), odd = _mm512_srli_epi16(w, 8);
    *low = (v16u){_mm512_and_si512(even, half), _mm512_and_si512(odd, half)};
    *whole = (v16u){even, odd};
}
S2S_INLINE v16s v16s_load(const int8_t *p)
{
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    const __m512i x = _mm512_set1_epi32(four);
    return (v16s){_mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8), _mm512_srai_epi16(x, 8)};
}
S2S_INLINE void v16w_load_i4s(const uint8_t *p, v16w *low, v16w *high)
{
    const __m512i w = _mm512_loadu_si512(p);
    *low = (v16w){_mm512_srai_epi16(_mm512_slli_epi16(w, 12), 12),
                  _mm512_srai_epi16(_mm512_slli_epi16(w, 4), 12)};
    *high = (v16w){_mm512_srai_epi16(_mm512_slli_epi16(w, 8), 12), _mm512_srai_epi16(w, 12)};
}
S2S_INLINE v16i v16i_i4_sum(v16i a)
{
    return a;
}
S2S_INLINE v16x v16x_load(const uint8_t *p)
{
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    const int32_t even = four & 0x00ff00ff, odd = four >> 8 & 0x00ff00ff;
    return (v16x){_mm512_set1_epi32(even), _mm512_set1_epi32(odd)};
}
S2S_INLINE v16i v16i_dot(v16i sum, v16x x, v16w w)
{
    const __m512i even = _mm512_madd_epi16(x.even, w.even), odd = _mm512_madd_epi16(x.odd, w.odd);
    return _mm512_add_epi32(sum, _mm512_add_epi32(even, odd));
}
S2S_INLINE v16i v16i_dot_u(v16i sum, v16u w, v16s x)
{
    return v16i_dot(sum, x, w);
}
#endif

#define S2S_VEC_HAS_ZIP
#define S2S_VEC_HAS_PUT_INDICES
S2S_INLINE int32_t v16_put_indices(uint16_t *to, int32_t first, unsigned bits)
{
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i all = _mm512_add_epi32(_mm512_set1_epi32(first), lanes);
    const __m512i some = _mm512_maskz_compress_epi32((__mmask16)bits, all);
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(some));
    return __builtin_popcount(bits);
}
S2S_INLINE void v16w_zip(const int8_t *a, const int8_t *b, const int8_t *c, const int8_t *d,
                         v16w *to)
{
    const __m512i x = _mm512_loadu_si512(a), y = _mm512_loadu_si512(b);
    const __m512i z = _mm512_loadu_si512(c), w = _mm512_loadu_si512(d);
    const __m512i xy = _mm512_unpacklo_epi8(x, y), zw = _mm512_unpacklo_epi8(z, w);
    to[0] = v16w_of(_mm512_unpacklo_epi16(xy, zw));
    to[1] = v16w_of(_mm512_unpackhi_epi16(xy, zw));
    const __m512i xy_high = _mm512_unpackhi_epi8(x, y), zw_high = _mm512_unpackhi_epi8(z, w);
    to[2] = v16w_of(_mm512_unpacklo_epi16(xy_high, zw_high));
    to[3] = v16w_of(_mm512_unpackhi_epi16(xy_high, zw_high));
}
S2S_INLINE uint64_t v64_nonzero(const uint8_t *p)
{
    return _mm512_cmpneq_epi8_mask(_mm512_loadu_si512(p), _mm512_set1_epi8(-128));
}

/* Bytes a of even and b of odd places, in 16 bits each. */
S2S_INLINE __m512i v16_join_bytes(__m512i a, __m512i b)
{
    return _mm512_or_si512(_mm512_and_si512(a, _mm512_set1_epi16(255)), _mm512_slli_epi16(b, 8));
}
S2S_INLINE void v16w_unpack_i4(const uint8_t *p, const uint8_t *steps, int8_t *low, int8_t *high)
{
    const __m512i w = _mm512_loadu_si512(p), wide = v16i_load_u4(steps);
    const __m512i step = _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16));
    const __m512i a = _mm512_srai_epi16(_mm512_slli_epi16(w, 12), 12);
    const __m512i b = _mm512_srai_epi16(_mm512_slli_epi16(w, 4), 12);
    const __m512i c = _mm512_srai_epi16(_mm512_slli_epi16(w, 8), 12);
    const __m512i d = _mm512_srai_epi16(w, 12);
    _mm512_storeu_si512(low,
                        v16_join_bytes(_mm512_mullo_epi16(a, step), _mm512_mullo_epi16(b, step)));
    _mm512_storeu_si512(high,
                        v16_join_bytes(_mm512_mullo_epi16(c, step), _mm512_mullo_epi16(d, step)));
}

#endif
