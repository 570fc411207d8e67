/* kernel_data.h: what the tests of kernels share: the two levels that are compared, data, comparing.
 */
#ifndef KERNEL_DATA_H
#define KERNEL_DATA_H

#include <float.h>
#include <math.h>

#include "harness.h"
#include "kernels/kernels.h"

#define EPS ((double)FLT_EPSILON / 2) /* one rounding, relative */
#define SENTINEL 12345.0f
#define LENGTH(array) (sizeof(array) / sizeof *(array))

static const s2s_kernels *generic, *tested;

typedef enum { NORMAL, SPECIAL } data_kind;

/* NORMAL: [-1, 1).  SPECIAL: with denormals, zeros of both signs, infinities, NaN, very large. */
static inline float random_value(data_kind kind)
{
    static const float special[] = {0.0f,     -0.0f,   INFINITY, -INFINITY, NAN,
                                    1e-40f,   -1e-42f, FLT_MIN,  -FLT_MIN,  FLT_MAX,
                                    -FLT_MAX, 1e30f,   -1e30f,   88.7f,     -103.97f,
                                    1e-45f,   200.0f,  -200.0f,  1e-20f,    -1e-20f};
    if (kind == SPECIAL && random_below(3) == 0)
        return special[random_below(sizeof special / sizeof *special)];
    return random_float();
}

/* Exactly n floats on the heap, so that the sanitizer sees a step beyond. */
static inline float *make_floats(size_t n, data_kind kind)
{
    float *x = malloc(n > 0 ? n * sizeof *x : 1);
    for (size_t i = 0; i < n; i++) x[i] = random_value(kind);
    return x;
}

static inline float *copy_floats(const float *x, size_t n)
{
    float *y = malloc(n > 0 ? n * sizeof *y : 1);
    if (n > 0) memcpy(y, x, n * sizeof *y);
    return y;
}

static inline void check_same(const float *a, const float *b, size_t n, const char *what,
                              int detail)
{
    for (size_t i = 0; i < n; i++)
        if (!same_float(a[i], b[i])) {
            CHECK(0, "%s %s (%d), element %zu of %zu: %a, generic %a", tested->name, what, detail,
                  i, n, (double)b[i], (double)a[i]);
            return;
        }
    CHECK(1, "same");
}

static inline float bf16_value(uint16_t u)
{
    const uint32_t bits = (uint32_t)u << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline size_t round_up(size_t n)
{
    return (n + 15) / 16 * 16;
}

/* Runs what follows for each level that this CPU has, with the same random numbers. */
#define FOR_EVERY_LEVEL                                                                            \
    for (s2s_isa isa = (generic = s2s_kernels_get(S2S_ISA_GENERIC), S2S_ISA_GENERIC);              \
         isa <= S2S_ISA_NEON; isa++)                                                               \
        if (choose_level(isa))

static inline int choose_level(s2s_isa isa)
{
    tested = s2s_kernels_get(isa);
    printf("%s%s ", s2s_isa_name(isa), tested != NULL ? "" : " (skipped)");
    harness_seed = 1;
    return tested != NULL;
}

#endif
