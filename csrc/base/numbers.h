/* numbers.h: the smaller and the larger of two counts, a count within bounds. */
#ifndef S2S_NUMBERS_H
#define S2S_NUMBERS_H

#include <stdint.h>

static inline int32_t s2s_min(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int32_t s2s_max(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static inline int32_t s2s_clamp(int32_t x, int32_t low, int32_t high)
{
    return s2s_max(low, s2s_min(x, high));
}

#endif
