/* vec_avx2.h: the operations of vec_generic.h, two ymm registers: lanes 0-7 in a, 8-15 in b.
 *
 * Blocks: 16 registers, two to a tile.  r rows x t tiles need 2*r*t accumulators, and leave room for
 * one tile of weights and a broadcast: 2*r*t <= 12. */
#ifndef S2S_VEC_H
#define S2S_VEC_H

#include <immintrin.h>
#include <stdint.h>

#include "../base/compiler.h"

#define S2S_ROWS_MAX 6
#define S2S_BLOCK_TILES(r) ((r) == 1 ? 4 : (r) <= 3 ? 2 : 1)
#define S2S_I8_ROWS_MAX 4
#define S2S_I8_OFFSET 128

typedef struct v16 {
    __m256 a, b;
} v16;
typedef v16 v16m; /* lanes all ones or all zeros */
typedef struct v16i {
    __m256i a, b;
} v16i;

/* Both halves by one two-operand intrinsic. */
#define S2S_HALVES(intrinsic, x, y)                                                                \
    (v16)                                                                                          \
    {                                                                                              \
        intrinsic((x).a, (y).a), intrinsic((x).b, (y).b)                                           \
    }

S2S_INLINE v16 v16_set1(float x)
{
    const __m256 h = _mm256_set1_ps(x);
    return (v16){h, h};
}
S2S_INLINE v16 v16_load(const float *p)
{
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
/* Lanes below n all ones. */
S2S_INLINE v16i v16_lanes_below(int n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (v16i){_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane),
                  _mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane)};
}
S2S_INLINE v16 v16_load_n(const float *p, int n)
{
    const v16i m = v16_lanes_below(n);
    return (v16){_mm256_maskload_ps(p, m.a), _mm256_maskload_ps(p + 8, m.b)};
}
S2S_INLINE v16 v16_load_n_or(const float *p, int n, float rest)
{
    const v16i m = v16_lanes_below(n);
    const v16 x = v16_load_n(p, n);
    return (v16){_mm256_blendv_ps(_mm256_set1_ps(rest), x.a, _mm256_castsi256_ps(m.a)),
                 _mm256_blendv_ps(_mm256_set1_ps(rest), x.b, _mm256_castsi256_ps(m.b))};
}
S2S_INLINE v16 v16_load_bf16(const uint16_t *p)
{
    const __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    const __m256i b = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8)));
    return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}
S2S_INLINE void v16_load_bf16_pair(const uint16_t *p, v16 *low, v16 *high)
{
    const __m256i a = _mm256_loadu_si256((const __m256i *)p);
    const __m256i b = _mm256_loadu_si256((const __m256i *)(p + 16));
    const __m256i upper = _mm256_set1_epi32(-65536);
    *low = (v16){_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
    *high = (v16){_mm256_castsi256_ps(_mm256_and_si256(a, upper)),
                  _mm256_castsi256_ps(_mm256_and_si256(b, upper))};
}
/* As s2s_bf16_from_f32, in the upper half of a lane; the lower one is rubbish. */
S2S_INLINE __m256i v8_round_bf16(__m256 x)
{
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, quiet, is_nan);
}
S2S_INLINE void v16_store_bf16_pair(uint16_t *p, v16 low, v16 high)
{
    const __m256i a = _mm256_blend_epi16(_mm256_srli_epi32(v8_round_bf16(low.a), 16),
                                         v8_round_bf16(high.a), 0xaa);
    const __m256i b = _mm256_blend_epi16(_mm256_srli_epi32(v8_round_bf16(low.b), 16),
                                         v8_round_bf16(high.b), 0xaa);
    _mm256_storeu_si256((__m256i *)p, a);
    _mm256_storeu_si256((__m256i *)(p + 16), b);
}
S2S_INLINE void v16_store(float *p, v16 x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
S2S_INLINE void v16_store_n(float *p, v16 x, int n)
{
    const v16i m = v16_lanes_below(n);
    _mm256_maskstore_ps(p, m.a, x.a);
    _mm256_maskstore_ps(p + 8, m.b, x.b);
}
S2S_INLINE v16 v16_first_n(v16 x, int n)
{
    const v16i m = v16_lanes_below(n);
    return (v16){_mm256_and_ps(x.a, _mm256_castsi256_ps(m.a)),
                 _mm256_and_ps(x.b, _mm256_castsi256_ps(m.b))};
}

S2S_INLINE v16 v16_add(v16 x, v16 y)
{
    return S2S_HALVES(_mm256_add_ps, x, y);
}
S2S_INLINE v16 v16_sub(v16 x, v16 y)
{
    return S2S_HALVES(_mm256_sub_ps, x, y);
}
S2S_INLINE v16 v16_mul(v16 x, v16 y)
{
    return S2S_HALVES(_mm256_mul_ps, x, y);
}
S2S_INLINE v16 v16_div(v16 x, v16 y)
{
    return S2S_HALVES(_mm256_div_ps, x, y);
}
S2S_INLINE v16 v16_fma(v16 x, v16 y, v16 z)
{
    return (v16){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
S2S_INLINE v16 v16_max(v16 x, v16 y)
{
    return S2S_HALVES(_mm256_max_ps, x, y);
}
S2S_INLINE v16 v16_min(v16 x, v16 y)
{
    return S2S_HALVES(_mm256_min_ps, x, y);
}
S2S_INLINE v16 v16_abs(v16 x)
{
    const v16 sign = v16_set1(-0.0f);
    return S2S_HALVES(_mm256_andnot_ps, sign, x);
}
S2S_INLINE v16 v16_copysign(v16 x, v16 y)
{
    const v16 sign = v16_set1(-0.0f);
    const v16 size = v16_abs(x);
    const v16 its = S2S_HALVES(_mm256_and_ps, sign, y);
    return S2S_HALVES(_mm256_or_ps, size, its);
}
S2S_INLINE v16 v16_neg(v16 x)
{
    const v16 sign = v16_set1(-0.0f);
    return S2S_HALVES(_mm256_xor_ps, sign, x);
}

S2S_INLINE v16m v16_gt(v16 x, v16 y)
{
    return (v16){_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ)};
}
S2S_INLINE v16m v16_eq(v16 x, v16 y)
{
    return (v16){_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)};
}
S2S_INLINE unsigned v16_mask_bits(v16m m)
{
    return (unsigned)_mm256_movemask_ps(m.a) | (unsigned)_mm256_movemask_ps(m.b) << 8;
}
S2S_INLINE v16 v16_select(v16m m, v16 x, v16 y)
{
    return (v16){_mm256_blendv_ps(y.a, x.a, m.a), _mm256_blendv_ps(y.b, x.b, m.b)};
}

S2S_INLINE float v16_fold_sum(v16 x)
{
    const __m256 h = _mm256_add_ps(x.a, x.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
S2S_INLINE void v16_store_sums(float *p, v16 w, v16 x, v16 y, v16 z, float scale)
{
    const __m256 h0 = _mm256_add_ps(w.a, w.b), h1 = _mm256_add_ps(x.a, x.b);
    const __m256 h2 = _mm256_add_ps(y.a, y.b), h3 = _mm256_add_ps(z.a, z.b);
    const __m256 wx =
        _mm256_add_ps(_mm256_permute2f128_ps(h0, h1, 0x20), _mm256_permute2f128_ps(h0, h1, 0x31));
    const __m256 yz =
        _mm256_add_ps(_mm256_permute2f128_ps(h2, h3, 0x20), _mm256_permute2f128_ps(h2, h3, 0x31));
    /* In one half w w y y, in the other x x z z; then w y and x z. */
    const __m256 pairs =
        _mm256_add_ps(_mm256_shuffle_ps(wx, yz, 0x44), _mm256_shuffle_ps(wx, yz, 0xee));
    const __m256 sums =
        _mm256_add_ps(_mm256_shuffle_ps(pairs, pairs, 0x08), _mm256_shuffle_ps(pairs, pairs, 0x0d));
    const __m128 all =
        _mm_unpacklo_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
    _mm_storeu_ps(p, _mm_mul_ps(all, _mm_set1_ps(scale)));
}
S2S_INLINE float v16_fold_max(v16 x)
{
    const __m256 h = _mm256_max_ps(x.a, x.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

S2S_INLINE v16i v16_bits(v16 x)
{
    return (v16i){_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}
S2S_INLINE v16i v16i_set1(int32_t x)
{
    return (v16i){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
S2S_INLINE v16i v16i_shift_left_4(v16i x)
{
    return (v16i){_mm256_slli_epi32(x.a, 4), _mm256_slli_epi32(x.b, 4)};
}
S2S_INLINE v16i v16i_sub(v16i x, v16i y)
{
    return (v16i){_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}
S2S_INLINE v16i v16i_max(v16i x, v16i y)
{
    return (v16i){_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)};
}
S2S_INLINE int32_t v16i_fold_max(v16i x)
{
    const __m256i h = _mm256_max_epi32(x.a, x.b);
    __m128i q = _mm_max_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    q = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
S2S_INLINE v16i v16i_half(v16i x)
{
    return (v16i){_mm256_srai_epi32(x.a, 1), _mm256_srai_epi32(x.b, 1)};
}
S2S_INLINE v16 v16i_pow2(v16i x)
{
    const __m256i bias = _mm256_set1_epi32(127);
    return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(x.a, bias), 23)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(x.b, bias), 23))};
}
S2S_INLINE v16 v16_exponent(v16 x)
{
    return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x.a), 23)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x.b), 23))};
}

S2S_INLINE v16i v16i_load(const int32_t *p)
{
    return (v16i){_mm256_loadu_si256((const __m256i *)p),
                  _mm256_loadu_si256((const __m256i *)(p + 8))};
}
S2S_INLINE void v16i_store(int32_t *p, v16i x)
{
    _mm256_storeu_si256((__m256i *)p, x.a);
    _mm256_storeu_si256((__m256i *)(p + 8), x.b);
}
S2S_INLINE v16i v16i_add(v16i x, v16i y)
{
    return (v16i){_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
S2S_INLINE v16i v16i_mul(v16i x, v16i y)
{
    return (v16i){_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)};
}
S2S_INLINE v16i v16i_load_u4(const uint8_t *p)
{
    const __m128i bytes = _mm_and_si128(_mm_loadu_si128((const __m128i *)p), _mm_set1_epi8(15));
    return (v16i){_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
}
S2S_INLINE v16 v16_from_i32(v16i x)
{
    return (v16){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
S2S_INLINE v16 v16_load_quads(const int8_t *p, size_t stride)
{
    int32_t quads[4];
    for (size_t i = 0; i < 4; i++) __builtin_memcpy(&quads[i], p + i * stride, sizeof quads[i]);
    const __m128i low = _mm_setr_epi32(quads[0], quads[1], 0, 0);
    const __m128i high = _mm_setr_epi32(quads[2], quads[3], 0, 0);
    return (v16){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)),
                 _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))};
}
S2S_INLINE void v16_store_u8(uint8_t *p, v16 x)
{
    /* Packing works within halves of a register: quarters a0 b0 a1 b1 come out. */
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128((__m128i *)p, _mm_xor_si128(bytes, _mm_set1_epi8(-128)));
}

/* Inputs 0 and 2, and 1 and 3, as 16-bit halves of a lane: their products cannot saturate. */
typedef struct v16w {
    v16i even, odd;
} v16w;
typedef struct v16x {
    __m256i even, odd;
} v16x;

S2S_INLINE v16w v16w_of(__m256i a, __m256i b)
{
    return (v16w){{_mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8),
                   _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8)},
                  {_mm256_srai_epi16(a, 8), _mm256_srai_epi16(b, 8)}};
}
S2S_INLINE v16w v16w_load(const int8_t *p)
{
    return v16w_of(_mm256_loadu_si256((const __m256i *)p),
                   _mm256_loadu_si256((const __m256i *)(p + 32)));
}
#define S2S_VEC_HAS_ZIP
/* Quads of half a row. */
S2S_INLINE void v16w_zip_half(const int8_t *a, const int8_t *b, const int8_t *c, const int8_t *d,
                              __m256i *to)
{
    const __m256i x = _mm256_loadu_si256((const __m256i *)a);
    const __m256i y = _mm256_loadu_si256((const __m256i *)b);
    const __m256i z = _mm256_loadu_si256((const __m256i *)c);
    const __m256i w = _mm256_loadu_si256((const __m256i *)d);
    const __m256i xy = _mm256_unpacklo_epi8(x, y), zw = _mm256_unpacklo_epi8(z, w);
    to[0] = _mm256_unpacklo_epi16(xy, zw);
    to[1] = _mm256_unpackhi_epi16(xy, zw);
    const __m256i xy_high = _mm256_unpackhi_epi8(x, y), zw_high = _mm256_unpackhi_epi8(z, w);
    to[2] = _mm256_unpacklo_epi16(xy_high, zw_high);
    to[3] = _mm256_unpackhi_epi16(xy_high, zw_high);
}
S2S_INLINE void v16w_zip(const int8_t *a, const int8_t *b, const int8_t *c, const int8_t *d,
                         v16w *to)
{
    __m256i low[4], high[4];
    v16w_zip_half(a, b, c, d, low);
    v16w_zip_half(a + 32, b + 32, c + 32, d + 32, high);
    for (int t = 0; t < 4; t++) to[t] = v16w_of(low[t], high[t]);
}
S2S_INLINE uint64_t v64_nonzero(const uint8_t *p)
{
    const __m256i zero = _mm256_set1_epi8(-128);
    const __m256i a = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)p), zero);
    const __m256i b = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(p + 32)), zero);
    const uint32_t low = (uint32_t)_mm256_movemask_epi8(a),
                   high = (uint32_t)_mm256_movemask_epi8(b);
    return ~((uint64_t)high << 32 | low);
}
typedef v16w v16u;
typedef v16x v16s;
S2S_INLINE void v16u_load_i4(const uint8_t *p, v16u *low, v16u *whole)
{
    const __m256i a = _mm256_loadu_si256((const __m256i *)p), half = _mm256_set1_epi16(15);
    const __m256i b = _mm256_loadu_si256((const __m256i *)(p + 32)), byte = _mm256_set1_epi16(255);
    whole->even = (v16i){_mm256_and_si256(a, byte), _mm256_and_si256(b, byte)};
    whole->odd = (v16i){_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8)};
    low->even = (v16i){_mm256_and_si256(a, half), _mm256_and_si256(b, half)};
    low->odd = (v16i){_mm256_and_si256(whole->odd.a, half), _mm256_and_si256(whole->odd.b, half)};
}
S2S_INLINE v16s v16s_load(const int8_t *p)
{
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    const __m256i x = _mm256_set1_epi32(four);
    return (v16s){_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), _mm256_srai_epi16(x, 8)};
}
S2S_INLINE v16i v16i_shift_i4(__m256i a, __m256i b, int left)
{
    return (v16i){_mm256_srai_epi16(_mm256_slli_epi16(a, left), 12),
                  _mm256_srai_epi16(_mm256_slli_epi16(b, left), 12)};
}
S2S_INLINE void v16w_load_i4s(const uint8_t *p, v16w *low, v16w *high)
{
    const __m256i a = _mm256_loadu_si256((const __m256i *)p);
    const __m256i b = _mm256_loadu_si256((const __m256i *)(p + 32));
    low->even = v16i_shift_i4(a, b, 12);
    low->odd = v16i_shift_i4(a, b, 4);
    high->even = v16i_shift_i4(a, b, 8);
    high->odd = v16i_shift_i4(a, b, 0);
}
S2S_INLINE void v16i_store_bytes(int8_t *p, v16i even, v16i odd, v16i step)
{
    const __m256i lower = _mm256_set1_epi16(255);
    const __m256i a = _mm256_and_si256(_mm256_mullo_epi16(even.a, step.a), lower);
    const __m256i b = _mm256_and_si256(_mm256_mullo_epi16(even.b, step.b), lower);
    const __m256i c = _mm256_slli_epi16(_mm256_mullo_epi16(odd.a, step.a), 8);
    const __m256i d = _mm256_slli_epi16(_mm256_mullo_epi16(odd.b, step.b), 8);
    _mm256_storeu_si256((__m256i *)p, _mm256_or_si256(a, c));
    _mm256_storeu_si256((__m256i *)(p + 32), _mm256_or_si256(b, d));
}
S2S_INLINE void v16w_unpack_i4(const uint8_t *p, const uint8_t *steps, int8_t *low, int8_t *high)
{
    v16w a, b;
    v16i step = v16i_load_u4(steps);
    v16w_load_i4s(p, &a, &b);
    step.a = _mm256_or_si256(step.a, _mm256_slli_epi32(step.a, 16));
    step.b = _mm256_or_si256(step.b, _mm256_slli_epi32(step.b, 16));
    v16i_store_bytes(low, a.even, a.odd, step);
    v16i_store_bytes(high, b.even, b.odd, step);
}
S2S_INLINE v16i v16i_i4_sum(v16i x)
{
    return x;
}
S2S_INLINE v16x v16x_load(const uint8_t *p)
{
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return (v16x){_mm256_set1_epi32(four & 0x00ff00ff), _mm256_set1_epi32(four >> 8 & 0x00ff00ff)};
}
S2S_INLINE v16i v16i_dot(v16i sum, v16x x, v16w w)
{
    const v16i even = {_mm256_madd_epi16(x.even, w.even.a), _mm256_madd_epi16(x.even, w.even.b)};
    const v16i odd = {_mm256_madd_epi16(x.odd, w.odd.a), _mm256_madd_epi16(x.odd, w.odd.b)};
    return v16i_add(sum, v16i_add(even, odd));
}

S2S_INLINE v16i v16i_dot_u(v16i sum, v16u w, v16s x)
{
    return v16i_dot(sum, x, w);
}

#undef S2S_HALVES
#endif
