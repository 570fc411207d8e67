/* What the operations share: vectorizer hints, the exponential, dropout masks.
 *
 * Dropout masks are never stored: keep(i) is a hash of (seed, flat index i), the same as in the
 * numpy reference, so the backward pass recomputes it. */
#ifndef TRAIN_COMMON_H
#define TRAIN_COMMON_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define SIMD _Pragma("omp simd")
#define PRAGMA(x) _Pragma(#x)
#define SIMD_SUM(...) PRAGMA(omp simd reduction(+ : __VA_ARGS__))

/* e**x, relative error below 2e-7 on [-87, 88]; smaller x give about 1e-38, larger 1e38. */
ALWAYS_INLINE float fast_exp(float x)
{
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    float p = 1.98756915e-4f;
    p = p * r + 1.39819995e-3f;
    p = p * r + 8.33345190e-3f;
    p = p * r + 4.16657962e-2f;
    p = p * r + 1.66666657e-1f;
    p = p * r + 5.00000000e-1f;
    p = p * r * r + r + 1.0f;
    union {
        int32_t i;
        float f;
    } two_n = {.i = ((int32_t)n + 127) << 23};
    return p * two_n.f;
}

typedef struct {
    uint32_t low, high, threshold;
    float scale;
} dropout;

ALWAYS_INLINE dropout dropout_make(double p, uint64_t seed)
{
    return (dropout){(uint32_t)seed, (uint32_t)(seed >> 32), (uint32_t)lrint(p * 16777216.0),
                     (float)(1.0 / (1.0 - p))};
}

/* 0 or 1/(1-p) for the element at this flat index. */
ALWAYS_INLINE float dropout_factor(dropout d, uint32_t index)
{
    uint32_t h = index * 0x9E3779B1u + d.low;
    h ^= h >> 16;
    h *= 0x7FEB352Du;
    h += d.high;
    h ^= h >> 15;
    h *= 0x846CA68Bu;
    h ^= h >> 16;
    return (h >> 8) >= d.threshold ? d.scale : 0.0f;
}

#endif
