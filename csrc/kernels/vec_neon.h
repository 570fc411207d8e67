/* vec_neon.h: the operations of vec_generic.h, four q registers: lanes 4 i ... 4 i + 3 in q[i].
 *
 * Blocks: 32 registers, four to a tile.  r rows x t tiles need 4*r*t accumulators, and leave room for
 * one tile of weights and a broadcast: 4*r*t <= 24. */
#ifndef S2S_VEC_H
#define S2S_VEC_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "../base/compiler.h"

#define S2S_ROWS_MAX 6
#define S2S_BLOCK_TILES(r) ((r) == 1 ? 4 : (r) <= 3 ? 2 : 1)
#define S2S_I8_ROWS_MAX 4
#define S2S_I8_OFFSET 0

typedef float32x4x4_t v16;
typedef uint32x4x4_t v16m;
typedef int32x4x4_t v16i;

/* The four quarters by an expression in i. */
#define S2S_QUARTERS(type, expression)                                                             \
    type r;                                                                                        \
    for (int i = 0; i < 4; i++) r.val[i] = (expression);                                           \
    return r

S2S_INLINE v16 v16_set1(float x)
{
    S2S_QUARTERS(v16, vdupq_n_f32(x));
}
S2S_INLINE v16 v16_load(const float *p)
{
    S2S_QUARTERS(v16, vld1q_f32(p + 4 * i));
}
S2S_INLINE v16 v16_load_n_or(const float *p, int n, float rest)
{
    float room[16];
    for (int i = 0; i < 4; i++) vst1q_f32(room + 4 * i, vdupq_n_f32(rest));
    memcpy(room, p, (size_t)n * sizeof *p);
    return v16_load(room);
}
S2S_INLINE v16 v16_load_n(const float *p, int n)
{
    return v16_load_n_or(p, n, 0.0f);
}
S2S_INLINE v16 v16_load_bf16(const uint16_t *p)
{
    S2S_QUARTERS(v16, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
}
S2S_INLINE void v16_load_bf16_pair(const uint16_t *p, v16 *low, v16 *high)
{
    for (int i = 0; i < 4; i++) {
        const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(p + 8 * i));
        low->val[i] = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
        high->val[i] = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000u)));
    }
}
/* As s2s_bf16_from_f32, in the upper half of a lane; the lower one is rubbish. */
S2S_INLINE uint32x4_t v4_round_bf16(float32x4_t a)
{
    const uint32x4_t bits = vreinterpretq_u32_f32(a);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
    return vbslq_u32(vceqq_f32(a, a), rounded, vorrq_u32(bits, vdupq_n_u32(0x400000)));
}
S2S_INLINE void v16_store_bf16_pair(uint16_t *p, v16 low, v16 high)
{
    for (int i = 0; i < 4; i++) {
        const uint32x4_t l = vshrq_n_u32(v4_round_bf16(low.val[i]), 16);
        const uint32x4_t h = v4_round_bf16(high.val[i]);
        vst1q_u16(p + 8 * i, vreinterpretq_u16_u32(vbslq_u32(vdupq_n_u32(0xffff), l, h)));
    }
}
S2S_INLINE void v16_store(float *p, v16 a)
{
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.val[i]);
}
S2S_INLINE void v16_store_n(float *p, v16 a, int n)
{
    float room[16];
    v16_store(room, a);
    memcpy(p, room, (size_t)n * sizeof *p);
}
S2S_INLINE v16 v16_first_n(v16 a, int n)
{
    float room[16];
    v16_store(room, a);
    return v16_load_n(room, n);
}

S2S_INLINE v16 v16_add(v16 a, v16 b)
{
    S2S_QUARTERS(v16, vaddq_f32(a.val[i], b.val[i]));
}
S2S_INLINE v16 v16_sub(v16 a, v16 b)
{
    S2S_QUARTERS(v16, vsubq_f32(a.val[i], b.val[i]));
}
S2S_INLINE v16 v16_mul(v16 a, v16 b)
{
    S2S_QUARTERS(v16, vmulq_f32(a.val[i], b.val[i]));
}
S2S_INLINE v16 v16_div(v16 a, v16 b)
{
    S2S_QUARTERS(v16, vdivq_f32(a.val[i], b.val[i]));
}
S2S_INLINE v16 v16_fma(v16 a, v16 b, v16 c)
{
    S2S_QUARTERS(v16, vfmaq_f32(c.val[i], a.val[i], b.val[i]));
}
S2S_INLINE v16m v16_gt(v16 a, v16 b)
{
    S2S_QUARTERS(v16m, vcgtq_f32(a.val[i], b.val[i]));
}
S2S_INLINE v16m v16_eq(v16 a, v16 b)
{
    S2S_QUARTERS(v16m, vceqq_f32(a.val[i], b.val[i]));
}
S2S_INLINE v16 v16_select(v16m m, v16 a, v16 b)
{
    S2S_QUARTERS(v16, vbslq_f32(m.val[i], a.val[i], b.val[i]));
}
/* By comparison: FMAX and FMIN would return a NaN operand. */
S2S_INLINE v16 v16_max(v16 a, v16 b)
{
    return v16_select(v16_gt(a, b), a, b);
}
S2S_INLINE v16 v16_min(v16 a, v16 b)
{
    return v16_select(v16_gt(b, a), a, b);
}
S2S_INLINE unsigned v16_mask_bits(v16m m)
{
    static const uint32_t weights[4] = {1, 2, 4, 8};
    const uint32x4_t weight = vld1q_u32(weights);
    unsigned bits = 0;
    for (int i = 0; i < 4; i++)
        bits |= (unsigned)vaddvq_u32(vandq_u32(m.val[i], weight)) << (4 * i);
    return bits;
}
S2S_INLINE v16 v16_abs(v16 a)
{
    S2S_QUARTERS(v16, vabsq_f32(a.val[i]));
}
S2S_INLINE v16 v16_copysign(v16 a, v16 b)
{
    const uint32x4_t sign = vdupq_n_u32(0x80000000u);
    S2S_QUARTERS(v16, vbslq_f32(sign, b.val[i], a.val[i]));
}
S2S_INLINE v16 v16_neg(v16 a)
{
    S2S_QUARTERS(v16, vnegq_f32(a.val[i]));
}

S2S_INLINE float v16_fold_sum(v16 a)
{
    const float32x4_t q = vaddq_f32(vaddq_f32(a.val[0], a.val[2]), vaddq_f32(a.val[1], a.val[3]));
    const float32x2_t h = vadd_f32(vget_low_f32(q), vget_high_f32(q));
    return vget_lane_f32(h, 0) + vget_lane_f32(h, 1);
}
S2S_INLINE float32x4_t v16_fold_quarters(v16 a)
{
    return vaddq_f32(vaddq_f32(a.val[0], a.val[2]), vaddq_f32(a.val[1], a.val[3]));
}
/* The first pair of lanes + the second, of x and then of y. */
S2S_INLINE float32x4_t v4_fold_halves(float32x4_t x, float32x4_t y)
{
    return vaddq_f32(vcombine_f32(vget_low_f32(x), vget_low_f32(y)),
                     vcombine_f32(vget_high_f32(x), vget_high_f32(y)));
}
S2S_INLINE void v16_store_sums(float *p, v16 a, v16 b, v16 c, v16 d, float scale)
{
    const float32x4_t ab = v4_fold_halves(v16_fold_quarters(a), v16_fold_quarters(b));
    const float32x4_t cd = v4_fold_halves(v16_fold_quarters(c), v16_fold_quarters(d));
    vst1q_f32(p, vmulq_n_f32(vpaddq_f32(ab, cd), scale));
}
S2S_INLINE float v16_fold_max(v16 a)
{
    float l[16];
    v16_store(l, a);
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++) l[i] = l[i] > l[i + half] ? l[i] : l[i + half];
    return l[0];
}

S2S_INLINE v16i v16_bits(v16 a)
{
    S2S_QUARTERS(v16i, vreinterpretq_s32_f32(a.val[i]));
}
S2S_INLINE v16i v16i_set1(int32_t a)
{
    S2S_QUARTERS(v16i, vdupq_n_s32(a + 0 * i));
}
S2S_INLINE v16i v16i_shift_left_4(v16i a)
{
    S2S_QUARTERS(v16i, vshlq_n_s32(a.val[i], 4));
}
S2S_INLINE v16i v16i_sub(v16i a, v16i b)
{
    S2S_QUARTERS(v16i, vsubq_s32(a.val[i], b.val[i]));
}
S2S_INLINE v16i v16i_max(v16i a, v16i b)
{
    S2S_QUARTERS(v16i, vmaxq_s32(a.val[i], b.val[i]));
}
S2S_INLINE int32_t v16i_fold_max(v16i a)
{
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.val[0], a.val[1]), vmaxq_s32(a.val[2], a.val[3])));
}
S2S_INLINE v16i v16i_half(v16i a)
{
    S2S_QUARTERS(v16i, vshrq_n_s32(a.val[i], 1));
}
S2S_INLINE v16 v16i_pow2(v16i a)
{
    const int32x4_t bias = vdupq_n_s32(127);
    S2S_QUARTERS(v16, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(a.val[i], bias), 23)));
}
S2S_INLINE v16 v16_exponent(v16 a)
{
    S2S_QUARTERS(v16, vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(a.val[i]), 23)));
}

S2S_INLINE v16i v16i_load(const int32_t *p)
{
    S2S_QUARTERS(v16i, vld1q_s32(p + 4 * i));
}
S2S_INLINE void v16i_store(int32_t *p, v16i a)
{
    for (int i = 0; i < 4; i++) vst1q_s32(p + 4 * i, a.val[i]);
}
S2S_INLINE v16i v16i_add(v16i a, v16i b)
{
    S2S_QUARTERS(v16i, vaddq_s32(a.val[i], b.val[i]));
}
S2S_INLINE v16i v16i_mul(v16i x, v16i y)
{
    S2S_QUARTERS(v16i, vmulq_s32(x.val[i], y.val[i]));
}
S2S_INLINE v16i v16i_load_u4(const uint8_t *p)
{
    int32_t steps[16];
    for (int i = 0; i < 16; i++) steps[i] = p[i] & 15;
    return v16i_load(steps);
}
S2S_INLINE v16 v16_from_i32(v16i a)
{
    S2S_QUARTERS(v16, vcvtq_f32_s32(a.val[i]));
}
S2S_INLINE v16 v16_load_quads(const int8_t *p, size_t stride)
{
    int8_t bytes[16];
    for (size_t i = 0; i < 4; i++) memcpy(bytes + 4 * i, p + i * stride, 4);
    const int8x16_t all = vld1q_s8(bytes);
    const int16x8_t low = vmovl_s8(vget_low_s8(all)), high = vmovl_s8(vget_high_s8(all));
    const int32x4x4_t wide = {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
                               vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))}};
    return v16_from_i32(wide);
}
S2S_INLINE void v16_store_u8(uint8_t *p, v16 a)
{
    int16x4_t words[4];
    for (int i = 0; i < 4; i++) words[i] = vmovn_s32(vcvtnq_s32_f32(a.val[i]));
    const int8x16_t bytes = vcombine_s8(vmovn_s16(vcombine_s16(words[0], words[1])),
                                        vmovn_s16(vcombine_s16(words[2], words[3])));
    vst1q_u8(p, veorq_u8(vreinterpretq_u8_s8(bytes), vdupq_n_u8(128)));
}

typedef int8x16x4_t v16w;
typedef int8x16_t v16x; /* without the 128, as int8 */

S2S_INLINE v16w v16w_load(const int8_t *p)
{
    S2S_QUARTERS(v16w, vld1q_s8(p + 16 * i));
}
typedef uint8x16x4_t v16u;
typedef int8x16_t v16s;
S2S_INLINE void v16u_load_i4(const uint8_t *p, v16u *low, v16u *whole)
{
    for (int i = 0; i < 4; i++) {
        whole->val[i] = vld1q_u8(p + 16 * i);
        low->val[i] = vandq_u8(whole->val[i], vdupq_n_u8(15));
    }
}
S2S_INLINE v16s v16s_load(const int8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vreinterpretq_s8_u32(vdupq_n_u32(four));
}
/* Products of at most 255 * 127 fit in 16 bits, sums of two do not. */
S2S_INLINE v16i v16i_dot_u(v16i sum, v16u w, v16s x)
{
    const int16x8_t inputs = vmovl_s8(vget_low_s8(x)); /* both halves are the same four twice */
    for (int i = 0; i < 4; i++) {
        const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(w.val[i])));
        const int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(w.val[i])));
        const int32x4_t a = vpaddlq_s16(vmulq_s16(low, inputs));
        const int32x4_t b = vpaddlq_s16(vmulq_s16(high, inputs));
        sum.val[i] = vaddq_s32(sum.val[i], vpaddq_s32(a, b));
    }
    return sum;
}
S2S_INLINE void v16w_load_i4s(const uint8_t *p, v16w *low, v16w *high)
{
    for (int i = 0; i < 4; i++) {
        const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(p + 16 * i));
        low->val[i] = vshrq_n_s8(vshlq_n_s8(w, 4), 4);
        high->val[i] = vshrq_n_s8(w, 4);
    }
}
S2S_INLINE void v16w_unpack_i4(const uint8_t *p, const uint8_t *steps, int8_t *low, int8_t *high)
{
    v16w a, b;
    int8_t step[64];
    v16w_load_i4s(p, &a, &b);
    for (int i = 0; i < 64; i++) step[i] = (int8_t)(steps[i / 4] & 15);
    for (int i = 0; i < 4; i++) {
        const int8x16_t by = vld1q_s8(step + 16 * i);
        vst1q_s8(low + 16 * i, vmulq_s8(a.val[i], by));
        vst1q_s8(high + 16 * i, vmulq_s8(b.val[i], by));
    }
}
S2S_INLINE v16i v16i_i4_sum(v16i x)
{
    return x;
}
S2S_INLINE v16x v16x_load(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vreinterpretq_s8_u32(vdupq_n_u32(four ^ 0x80808080u));
}
/* Two products of at most 127 * 128 fit in 16 bits. */
S2S_INLINE v16i v16i_dot(v16i sum, v16x x, v16w w)
{
    for (int i = 0; i < 4; i++) {
        const int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(w.val[i]));
        const int16x8_t high = vmull_high_s8(x, w.val[i]);
        sum.val[i] = vpadalq_s16(sum.val[i], vpaddq_s16(low, high));
    }
    return sum;
}

#undef S2S_QUARTERS
#endif
