/* bench_kernels: the product shapes of a base model, on one core, beside what the core can do.
 *
 * The limits are measured in the same run: the rate of independent multiply-adds in registers (or tiles),
 * and the rate at which the core reads as many bytes from beyond its second-level cache.  The limit of a
 * shape is the larger of multiply-adds / peak and weight bytes / read rate.  As in a model's step, each
 * call has other weights than the one before, which have left the second-level cache since their last use,
 * and the same rows.  Times are CPU time, best of several, so that other processes disturb little.
 *
 *     bench_kernels [isa | auto] [f32 | bf16 | int8]
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "bench.h"
#include "kernels/kernels.h"

enum {
    MAX_ROWS = 128,
    MAX_K = 2048,
    MAX_N = 32000,
    W_BYTES = 512 * MAX_N * 4,
    WALK_BYTES = 32 << 20, /* small matrices lie in these */
    CALLS = 12,
    REPEATS = 9
};

static void *reserve(size_t n_bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, 4096, n_bytes) != 0) exit(1);
    memset(p, 1, n_bytes); /* the float 2.4e-38 */
    return p;
}

/* ---- Peaks: multiply-adds a second ---------------------------------------------------------- */

#if defined(__x86_64__)
#define TWELVE(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12)
#define CLEAR(v) "vpxor %%xmm" #v ", %%xmm" #v ", %%xmm" #v "\n\t"
#define FMA_YMM(v) "vfmadd231ps %%ymm0, %%ymm0, %%ymm" #v "\n\t"
#define FMA_ZMM(v) "vfmadd231ps %%zmm0, %%zmm0, %%zmm" #v "\n\t"
#define DOT_ZMM(v) "vpdpbusd %%zmm0, %%zmm0, %%zmm" #v "\n\t"
/* 12 chains: more than latency times units. */
#define LOOP(F)                                                                                    \
    __asm__ volatile(TWELVE(CLEAR) CLEAR(0) "1:\n\t" TWELVE(F) "dec %0\n\tjnz 1b\n\tvzeroupper"    \
                     : "+r"(n)::"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",    \
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "cc")

/* Tile registers 0 to 3 are the chains: 16 cycles each, latency 52. */
static void multiply_tiles(long n)
{
    S2S_ALIGN(64)
    uint8_t config[64] = {1}; /* palette; bytes of a row from 16 on, rows from 48 on */
    for (int i = 0; i < 8; i++) config[16 + 2 * i] = 64, config[48 + i] = 16;
    __asm__ volatile("ldtilecfg %1\n\t"
                     "1:\n\t"
                     "tdpbusd %%tmm6, %%tmm4, %%tmm0\n\ttdpbusd %%tmm7, %%tmm4, %%tmm1\n\t"
                     "tdpbusd %%tmm6, %%tmm5, %%tmm2\n\ttdpbusd %%tmm7, %%tmm5, %%tmm3\n\t"
                     "dec %0\n\tjnz 1b\n\ttilerelease"
                     : "+r"(n)
                     : "m"(config)
                     : "cc");
}

/* The unit that the products of a level use; 0: not known here, only the memory limit counts. */
static double peak_rate(const char *level, int int8)
{
    long n = 100000;
    double each = 0;
    const double start = now();
    if (!int8 && strcmp(level, "avx2") == 0) {
        each = 12 * 8;
        LOOP(FMA_YMM);
    } else if (!int8 && strncmp(level, "avx512", 6) == 0) {
        each = 12 * 16;
        LOOP(FMA_ZMM);
    } else if (int8 && strcmp(level, "avx512vnni") == 0) {
        each = 12 * 64;
        LOOP(DOT_ZMM);
    } else if (int8 && strcmp(level, "avx512amx") == 0) {
        each = 4 * 16 * 16 * 64;
        multiply_tiles(n);
    }
    return each * 100000 / (now() - start);
}
#else
static double peak_rate(const char *level, int int8)
{
    (void)level, (void)int8;
    return 0;
}
#endif

/* ---- Products ------------------------------------------------------------------------------- */

typedef enum product { F32, BF16, INT8 } product;
static const char *const kind_names[] = {"f32", "bf16", "int8"};
static const size_t kind_sizes[] = {4, 2, 1};

typedef struct buffers {
    void *x, *y, *column;
    char *w;
    size_t at; /* of the next weights */
} buffers;

static void *next_weights(buffers *b, size_t n_bytes)
{
    if (b->at + n_bytes > WALK_BYTES) b->at = 0;
    b->at += n_bytes;
    return b->w + b->at - n_bytes;
}

static void run(const s2s_kernels *kernels, product kind, const buffers *b, const void *w,
                int32_t n_rows, int32_t k, int32_t n)
{
    if (kind == INT8) {
        const s2s_matmul_i8 a = {.x = b->x,
                                 .x_scale = b->column,
                                 .w = w,
                                 .w_scale = b->column,
                                 .w_sum = b->column,
                                 .bias = b->column,
                                 .y = b->y,
                                 .ldx = MAX_K, /* as in a model: that of the widest input */
                                 .ldy = (size_t)n,
                                 .n_rows = n_rows,
                                 .k = k,
                                 .activation = S2S_IDENTITY};
        kernels->matmul_i8(&a, 0, n / S2S_TILE);
        return;
    }
    const s2s_matmul a = {.x = b->x,
                          .w = w,
                          .bias = b->column,
                          .y = b->y,
                          .ldx = (size_t)k,
                          .ldy = (size_t)n,
                          .n_rows = n_rows,
                          .k = k,
                          .activation = S2S_IDENTITY};
    (kind == BF16 ? kernels->matmul_bf16 : kernels->matmul_f32)(&a, 0, n / S2S_TILE);
}

static void bench(const s2s_kernels *kernels, product kind, buffers *b)
{
    static const int32_t rows[] = {1, 4, 8, 16, 32, 64, 128};
    static const int32_t sizes[][2] = {{512, 512}, {2048, 512}, {512, 2048}, {512, 32000}};
    double peak = 0;
    for (int i = 0; i < REPEATS; i++) {
        const double p = peak_rate(kernels->name, kind == INT8);
        if (p > peak) peak = p;
    }
    printf("%s %s: peak %.0f G multiply-adds/s\n", kernels->name, kind_names[kind], peak * 1e-9);
    printf("%6s %6s %6s %10s %8s %8s %8s %8s\n", "k", "n", "rows", "us", "GMA/s", "of peak", "GB/s",
           "of limit");
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const int32_t k = sizes[s][0], n = sizes[s][1];
        const size_t n_bytes = (size_t)k * (size_t)n * kind_sizes[kind];
        const int n_calls = n_bytes * CALLS <= WALK_BYTES ? CALLS : 1;
        double memory = 1e9;
        for (int i = 0; i < REPEATS; i++) {
            double t = 0;
            for (int c = 0; c < n_calls; c++)
                t += read_seconds((float *)next_weights(b, n_bytes), n_bytes);
            if (t / n_calls < memory) memory = t / n_calls;
        }
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            const double n_fma = (double)rows[r] * k * n;
            double best = 1e9;
            for (int i = 0; i < (n_fma > 1e9 ? 3 : REPEATS); i++) {
                const double start = now();
                for (int c = 0; c < n_calls; c++)
                    run(kernels, kind, b, next_weights(b, n_bytes), rows[r], k, n);
                const double t = (now() - start) / n_calls;
                if (t < best) best = t;
            }
            const double compute = peak > 0 ? n_fma / peak : 0;
            printf("%6d %6d %6d %10.1f %8.1f %7.0f%% %8.1f %7.0f%%\n", k, n, rows[r], best * 1e6,
                   n_fma / best * 1e-9, 100 * compute / best, (double)n_bytes / best * 1e-9,
                   100 * (compute > memory ? compute : memory) / best);
        }
    }
}

int main(int argc, char **argv)
{
    s2s_isa isa = S2S_ISA_AUTO;
    for (int i = S2S_ISA_GENERIC; argc > 1 && s2s_isa_name((s2s_isa)i) != NULL; i++)
        if (strcmp(argv[1], s2s_isa_name((s2s_isa)i)) == 0) isa = (s2s_isa)i;
    const s2s_kernels *kernels = s2s_kernels_get(isa);
    if (kernels == NULL) {
        fprintf(stderr, "this CPU has no %s\n", argv[1]);
        return 1;
    }
    buffers b = {.x = reserve((size_t)MAX_ROWS * MAX_K * sizeof(float)),
                 .y = reserve((size_t)MAX_ROWS * MAX_N * sizeof(float)),
                 .w = reserve(W_BYTES),
                 .column = reserve(MAX_N * sizeof(float))};
    for (int i = 0; i < 3; i++)
        if (argc < 3 || strcmp(argv[2], kind_names[i]) == 0) bench(kernels, (product)i, &b);
    free(b.x), free(b.y), free(b.w), free(b.column);
    return 0;
}
