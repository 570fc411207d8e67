/* bench_attention: nanoseconds per query and position of attention, on one core, where keys and values lie
 * in a near cache and where they come from beyond it, beside the rate at which the core reads.
 *
 *     bench_attention [isa]
 *
 * A step is emulated: many rows, each with its own positions in order, as the cache has them.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"
#include "kernels/kernels.h"

enum { REPEATS = 9 };

static void *reserve(size_t n_bytes)
{
    const size_t huge = (size_t)2 << 20;
    void *p = NULL;
    if (posix_memalign(&p, huge, (n_bytes + huge - 1) / huge * huge) != 0) exit(1);
    if (getenv("HUGE")) madvise(p, (n_bytes + huge - 1) / huge * huge, MADV_HUGEPAGE);
    for (size_t i = 0; i < n_bytes / sizeof(uint16_t); i++) ((uint16_t *)p)[i] = 0x3c00;
    return p;
}

int main(int argc, char **argv)
{
    s2s_isa isa = S2S_ISA_AUTO;
    for (int i = S2S_ISA_GENERIC; argc > 1 && i <= S2S_ISA_NEON; i++)
        if (strcmp(argv[1], s2s_isa_name((s2s_isa)i)) == 0) isa = (s2s_isa)i;
    const s2s_kernels *k = s2s_kernels_get(isa);
    if (k == NULL) {
        fprintf(stderr, "this CPU has no %s\n", argv[1]);
        return 1;
    }

    enum { HEADS = 8, MAX_N = 512, MAX_ROWS = 8 };
    const int32_t lengths[] = {16, 24, 64, 512}, widths[] = {32, 64}, groups[] = {1, 4};
    const size_t room = (size_t)32 << 20;
    char *cache = reserve(room);
    float *q = reserve(MAX_ROWS * HEADS * 64 * 4), *out = reserve(MAX_ROWS * HEADS * 64 * 4);
    float *scores = reserve(MAX_ROWS * HEADS * MAX_N * 4);
    uint32_t *cells = reserve(MAX_N * 4);
    for (uint32_t j = 0; j < MAX_N; j++) cells[j] = j;

    printf("%s\n%6s %6s %6s %6s %6s %9s %9s %9s %9s %9s\n", k->name, "dtype", "d", "n", "rows",
           "from", "scores", "softmax", "context", "ns all", "GB/s");
    for (int bf16 = 1; bf16 >= 0; bf16--)
        for (size_t w = 0; w < 2; w++)
            for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
                for (size_t g = 0; g < 2; g++)
                    for (int far = 0; far < 2; far++) {
                        const int32_t d = widths[w], n = lengths[l], n_rows = groups[g];
                        const size_t cell = (size_t)(HEADS * d) * (bf16 ? 2 : 4);
                        const size_t half = cell * (size_t)n;
                        const size_t n_calls = far ? ((size_t)16 << 20) / (2 * half) : 200;
                        s2s_attention a = {.q = q,
                                           .scores = scores,
                                           .out = out,
                                           .cells = far ? cells : cells,
                                           .ld_q = (size_t)(HEADS * d),
                                           .ld_keys = (size_t)(HEADS * d),
                                           .ld_values = (size_t)(HEADS * d),
                                           .ld_scores = MAX_N,
                                           .ld_out = (size_t)(HEADS * d),
                                           .n_rows = n_rows,
                                           .n_heads = HEADS,
                                           .heads_per_kv = 1,
                                           .n = n,
                                           .d_key = d,
                                           .d_value = d,
                                           .scale = 0.125f};
                        double best[3] = {1e9, 1e9, 1e9}, all = 1e9;
                        for (int r = 0; r < REPEATS; r++) {
                            double t[3] = {0};
                            for (size_t i = 0; i < n_calls; i++) {
                                const char *here = cache + (far ? i * 2 * half : 0);
                                a.keys = here;
                                a.values = here + half;
                                const double t0 = now();
                                (bf16 ? k->attention_scores_bf16 : k->attention_scores)(&a);
                                const double t1 = now();
                                for (int32_t h = 0; h < n_rows * HEADS; h++)
                                    k->softmax(scores + (size_t)h * MAX_N, n);
                                const double t2 = now();
                                (bf16 ? k->attention_context_bf16 : k->attention_context)(&a);
                                const double t3 = now();
                                t[0] += t1 - t0, t[1] += t2 - t1, t[2] += t3 - t2;
                            }
                            for (int c = 0; c < 3; c++)
                                if (t[c] < best[c]) best[c] = t[c];
                            const double t0 = now();
                            for (size_t i = 0; i < n_calls; i++) {
                                const char *here = cache + (far ? i * 2 * half : 0);
                                a.keys = here;
                                a.values = here + half;
                                (bf16 ? k->attention_scores_bf16 : k->attention_scores)(&a);
                                for (int32_t h = 0; h < n_rows * HEADS; h++)
                                    k->softmax(scores + (size_t)h * MAX_N, n);
                                (bf16 ? k->attention_context_bf16 : k->attention_context)(&a);
                            }
                            const double t1 = now() - t0;
                            if (t1 < all) all = t1;
                        }
                        const double per = 1e9 / ((double)n_calls * n * n_rows * HEADS);
                        printf("%6s %6d %6d %6d %6s %9.2f %9.2f %9.2f %9.2f %9.1f\n",
                               bf16 ? "bf16" : "f32", d, n, n_rows, far ? "far" : "near",
                               best[0] * per, best[1] * per, best[2] * per, all * per,
                               (double)n_calls * 2 * (double)half / all * 1e-9);
                    }
    read_seconds((const float *)cache, room);
    printf("reading: %.1f GB/s\n",
           (double)(16 << 20) / read_seconds((float *)cache, 16 << 20) * 1e-9);
    return 0;
}
