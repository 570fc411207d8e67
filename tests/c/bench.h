/* bench.h: CPU time, and the rate at which a core reads, for the benchmarks in C. */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <time.h>

/* Seconds of this thread. */
static inline double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static volatile float sink;

/* Seconds that reading n_bytes takes once. */
static inline double read_seconds(const float *p, size_t n_bytes)
{
    const double start = now();
    float sum[32] = {0};
    for (size_t i = 0; i < n_bytes / sizeof *p; i += 32)
        for (int c = 0; c < 32; c++) sum[c] += p[i + (size_t)c];
    const double end = now();
    for (int c = 0; c < 32; c++) sink += sum[c];
    return end - start;
}

#endif
