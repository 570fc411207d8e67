/* numbers.h: the smaller and the larger of two counts. */
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

#endif
