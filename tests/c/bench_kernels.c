/* bench_kernels: every product shape that models use, on one core, beside what the core can do.
 *
 * The limits are measured in the same run: the rate of independent multiply-adds in registers, and the
 * rate at which the core reads as many bytes from beyond its second-level cache.  The limit of a shape is the larger
 * of multiply-adds / peak and weight bytes / read rate; before each call the weights are pushed out of
 * the second-level cache, as the other layers of a model do.  Times are CPU time, best of several, so
 * that other processes disturb little.
 *
 *     bench_kernels [isa] [f32 | bf16]
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"

enum { FLUSH_BYTES = 16 << 20, REPEATS = 7 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static float *reserve(size_t n_bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, 4096, n_bytes) != 0) exit(1);
    for (size_t i = 0; i < n_bytes / sizeof(float); i++) ((float *)p)[i] = 1e-3f;
    return p;
}

static volatile float sink;

static double read_seconds(const float *p, size_t n_bytes)
{
    const double start = now();
    float sum[32] = {0};
    for (size_t i = 0; i < n_bytes / sizeof *p; i += 32)
        for (int c = 0; c < 32; c++) sum[c] += p[i + (size_t)c];
    const double end = now();
    for (int c = 0; c < 32; c++) sink += sum[c];
    return end - start;
}

/* Multiply-adds a second in registers: 12 chains, more than latency times units. */
#if defined(__x86_64__)
#define FMA(r, v) "vfmadd231ps %%" r "0, %%" r "0, %%" r #v "\n\t"
#define CLEAR(v) "vxorps %%ymm" #v ", %%ymm" #v ", %%ymm" #v "\n\t"
#define TWELVE(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12)
#define FMA_YMM(v) FMA("ymm", v)
#define FMA_ZMM(v) FMA("zmm", v)
#define PEAK_LOOP(F)                                                                               \
    __asm__ volatile(TWELVE(CLEAR) CLEAR(0) "1:\n\t" TWELVE(F) "dec %0\n\tjnz 1b\n\tvzeroupper"    \
                     : "+r"(n)::"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",    \
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "cc")

static double peak_rate(const s2s_kernels *kernels)
{
    const int wide = strcmp(kernels->name, "avx512") == 0;
    long n = 1000000;
    if (!s2s_isa_supported(S2S_ISA_AVX2)) return 0;
    const double start = now();
    if (wide)
        PEAK_LOOP(FMA_ZMM);
    else
        PEAK_LOOP(FMA_YMM);
    return 1e6 * 12 * (wide ? 16 : 8) / (now() - start);
}
#else
static double peak_rate(const s2s_kernels *kernels) /* not known here: only memory limits */
{
    (void)kernels;
    return 0;
}
#endif

int main(int argc, char **argv)
{
    s2s_isa isa = S2S_ISA_AUTO;
    for (int i = S2S_ISA_GENERIC; argc > 1 && i <= S2S_ISA_NEON; i++)
        if (strcmp(argv[1], s2s_isa_name((s2s_isa)i)) == 0) isa = (s2s_isa)i;
    const s2s_kernels *kernels = s2s_kernels_get(isa);
    const int bf16 = argc > 2 && strcmp(argv[2], "bf16") == 0;
    if (kernels == NULL) {
        fprintf(stderr, "this CPU has no %s\n", argv[1]);
        return 1;
    }

    const int32_t rows[] = {1, 2, 4, 5, 8, 12, 32, 128, 512}, max_rows = 512, max_k = 2048;
    const struct {
        int32_t k, n;
    } sizes[] = {{256, 256},  {256, 768},  {256, 1024}, {512, 512},  {512, 1536},
                 {512, 2048}, {2048, 512}, {512, 8000}, {512, 32000}};
    enum { N_ROWS = sizeof rows / sizeof *rows, N_SIZES = sizeof sizes / sizeof *sizes };
    const int32_t max_n = 32000;
    float *x = reserve((size_t)max_rows * max_k * 4), *y = reserve((size_t)max_rows * max_n * 4);
    float *w = reserve((size_t)512 * max_n * 4), *flush = reserve(FLUSH_BYTES);

    double peak = 0;
    for (int i = 0; i < REPEATS; i++) {
        const double p = peak_rate(kernels);
        if (p > peak) peak = p;
    }
    printf("%s %s: peak %.1f G multiply-adds/s\n", kernels->name, bf16 ? "bf16" : "f32",
           peak * 1e-9);
    printf("%6s %6s %6s %11s %10s %8s %8s\n", "rows", "k", "n", "us", "GMA/s", "GB/s", "of limit");

    for (int s = 0; s < N_SIZES; s++) {
        const size_t n_w = (size_t)sizes[s].k * (size_t)sizes[s].n * (bf16 ? 2 : 4);
        double memory = 1e9;
        for (int i = 0; i < REPEATS; i++) {
            read_seconds(flush, FLUSH_BYTES);
            const double t = read_seconds(w, n_w);
            if (t < memory) memory = t;
        }
        printf("reads of %.1f MB: %.1f GB/s\n", (double)n_w * 1e-6, (double)n_w / memory * 1e-9);
        for (int r = 0; r < N_ROWS; r++) {
            const double n_fma = (double)rows[r] * sizes[s].k * sizes[s].n;
            const double n_bytes = (double)n_w;
            const s2s_matmul a = {.x = x,
                                  .w = w,
                                  .y = y,
                                  .ldx = (size_t)sizes[s].k,
                                  .ldy = (size_t)sizes[s].n,
                                  .n_rows = rows[r],
                                  .k = sizes[s].k,
                                  .activation = S2S_IDENTITY};
            double best = 1e9;
            for (int i = 0; i < (n_fma > 1e9 ? 2 : REPEATS); i++) {
                read_seconds(flush, FLUSH_BYTES);
                const double start = now();
                (bf16 ? kernels->matmul_bf16 : kernels->matmul_f32)(&a, 0, sizes[s].n / S2S_TILE);
                const double t = now() - start;
                if (t < best) best = t;
            }
            const double compute = peak > 0 ? n_fma / peak : 0;
            printf("%6d %6d %6d %11.1f %10.1f %8.1f %7.0f%%\n", rows[r], sizes[s].k, sizes[s].n,
                   best * 1e6, n_fma / best * 1e-9, n_bytes / best * 1e-9,
                   100 * (compute > memory ? compute : memory) / best);
        }
    }
    return 0;
}
