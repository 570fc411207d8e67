/* harness.h: the whole test framework of the C units.
 *
 * A test program has TEST(name) { ... CHECK(...); } functions and ends with
 *     int main(void) { RUN(name); ...; return harness_end(); }
 * A failed CHECK prints where and why, and the program goes on and exits with 1.  Threads may check.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_long harness_n_checks, harness_n_failed;
static int harness_n_tests;

#define TEST(name) static void name(void)
#define RUN(name) (harness_n_tests++, name())

/* CHECK(condition, "printf format", ...): the message tells the values. */
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        atomic_fetch_add(&harness_n_checks, 1);                                                    \
        if (!(condition) && atomic_fetch_add(&harness_n_failed, 1) < 20) {                         \
            fprintf(stderr, "%s:%d: %s: failed: %s: ", __FILE__, __LINE__, __func__, #condition);  \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
        }                                                                                          \
    } while (0)

/* A check whose condition says it all. */
#define EXPECT(condition) CHECK(condition, "not so")

static inline int harness_end(void)
{
    printf("%d tests, %ld checks, %ld failed\n", harness_n_tests, atomic_load(&harness_n_checks),
           atomic_load(&harness_n_failed));
    return atomic_load(&harness_n_failed) == 0 && atomic_load(&harness_n_checks) > 0 ? 0 : 1;
}

/* A small generator (Steele, Lea, Flood: SplitMix, OOPSLA 2014): the same numbers in every run. */
static uint64_t harness_seed = 1;

static inline uint64_t random_bits(void)
{
    uint64_t z = (harness_seed += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}
/* [0, n) */
static inline int32_t random_below(int32_t n)
{
    return (int32_t)(random_bits() % (uint64_t)n);
}
/* [-1, 1) */
static inline float random_float(void)
{
    return (float)((double)(random_bits() >> 40) / (double)(1 << 23) - 1.0);
}

/* Same bits, or both NaN. */
static inline int same_float(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b);
}

#endif
