/* probe.c: what this machine's cores can do, for limits.py, which compiles and runs it.
 *
 *     cc -O3 -march=native -ffp-contract=fast -pthread probe.c -o probe && ./probe N_THREADS SECONDS
 *
 * Prints lines "name value": bytes a second of reading a buffer of each size over and over, split among
 * the threads, as weights are; and operations a second (a multiply-add is two) from registers.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/syscall.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

#define N_REPEATS 3 /* the best counts: others use the machine too */
#define MAX_BYTES ((size_t)256 << 20)

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* of this thread: a busy machine counts less */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct probe {
    double (*run)(struct probe *); /* amount of work of one call */
    char *data;                    /* this thread's part of the buffer */
    size_t n_bytes;
    double rate; /* work a second */
    pthread_barrier_t *start;
} probe;

static volatile int32_t sink;
static double seconds_each = 0.15; /* of each measurement */

static double read_buffer(probe *p)
{
    const ivec *x = (const ivec *)p->data;
    const size_t n = p->n_bytes / sizeof(ivec) / 8 * 8;
    ivec sum[8] = {0};
    size_t n_passes = ((size_t)4 << 20) / (p->n_bytes + 1) + 1;
    for (size_t pass = 0; pass < n_passes; pass++) {
        for (size_t i = 0; i < n; i += 8)
            for (int j = 0; j < 8; j++) sum[j] += x[i + (size_t)j];
        __asm__ volatile("" ::: "memory");
    }
    for (int j = 1; j < 8; j++) sum[0] += sum[j];
    sink = sum[0][0];
    return (double)(n_passes * n * sizeof(ivec));
}

enum { N_ACCUMULATORS = 12, N_ITERATIONS = 200000 };

static double multiply_f32(probe *p)
{
    vec a[N_ACCUMULATORS], x, y;
    (void)p;
    for (int j = 0; j < LANES; j++) x[j] = 0.999f, y[j] = 0.001f;
    for (int i = 0; i < N_ACCUMULATORS; i++) a[i] = x;
    for (int n = 0; n < N_ITERATIONS; n++) {
        for (int i = 0; i < N_ACCUMULATORS; i++) a[i] = a[i] * x + y;
        __asm__ volatile("" : "+x"(x));
    }
    for (int i = 1; i < N_ACCUMULATORS; i++) a[0] += a[i];
    sink = (int32_t)a[0][0];
    return 2.0 * LANES * N_ACCUMULATORS * N_ITERATIONS;
}

#if defined(__AVX512VNNI__)
static double multiply_i8(probe *p)
{
    __m512i a[N_ACCUMULATORS], x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2);
    (void)p;
    for (int i = 0; i < N_ACCUMULATORS; i++) a[i] = x;
    for (int n = 0; n < N_ITERATIONS; n++) {
        for (int i = 0; i < N_ACCUMULATORS; i++) a[i] = _mm512_dpbusd_epi32(a[i], x, y);
        __asm__ volatile("" : "+x"(x));
    }
    for (int i = 1; i < N_ACCUMULATORS; i++) a[0] = _mm512_add_epi32(a[0], a[i]);
    sink = _mm512_reduce_add_epi32(a[0]);
    return 2.0 * 64 * N_ACCUMULATORS * N_ITERATIONS;
}
#define INT8_NAME "int8_vnni512"
#elif defined(__AVX2__)
static double multiply_i8(probe *p) /* exact sums without VNNI: widen to 16 bits, multiply pairs */
{
    __m256i a[N_ACCUMULATORS], x = _mm256_set1_epi16(1), y = _mm256_set1_epi16(2);
    (void)p;
    for (int i = 0; i < N_ACCUMULATORS; i++) a[i] = x;
    for (int n = 0; n < N_ITERATIONS; n++) {
        for (int i = 0; i < N_ACCUMULATORS; i++)
            a[i] = _mm256_add_epi32(a[i], _mm256_madd_epi16(x, y));
        __asm__ volatile("" : "+x"(x));
    }
    for (int i = 1; i < N_ACCUMULATORS; i++) a[0] = _mm256_add_epi32(a[0], a[i]);
    sink = _mm256_extract_epi32(a[0], 0);
    return 2.0 * 16 * N_ACCUMULATORS * N_ITERATIONS;
}
#define INT8_NAME "int8_avx2"
#elif defined(__ARM_FEATURE_DOTPROD)
static double multiply_i8(probe *p)
{
    int32x4_t a[N_ACCUMULATORS];
    int8x16_t x = vdupq_n_s8(1), y = vdupq_n_s8(2);
    (void)p;
    for (int i = 0; i < N_ACCUMULATORS; i++) a[i] = vdupq_n_s32(0);
    for (int n = 0; n < N_ITERATIONS; n++) {
        for (int i = 0; i < N_ACCUMULATORS; i++) a[i] = vdotq_s32(a[i], x, y);
        __asm__ volatile("" : "+w"(x));
    }
    for (int i = 1; i < N_ACCUMULATORS; i++) a[0] = vaddq_s32(a[0], a[i]);
    sink = vaddvq_s32(a[0]);
    return 2.0 * 16 * N_ACCUMULATORS * N_ITERATIONS;
}
#define INT8_NAME "int8_dotprod"
#endif

#if defined(__AMX_INT8__)
#define HAVE_AMX
/* Linux gives a process tile registers when it asks (arch_prctl ARCH_REQ_XCOMP_PERM, XTILEDATA). */
static int amx_allowed(void)
{
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

static double multiply_amx(probe *p)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t n_row_bytes[16];
        uint8_t n_rows[16];
    } config = {.palette = 1};
    static uint8_t ones[1024];
    (void)p;
    for (int i = 0; i < 8; i++) config.n_row_bytes[i] = 64, config.n_rows[i] = 16;
    __asm__ volatile("" ::"r"(&config) : "memory"); /* GCC 12 takes loadconfig to read one word */
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, ones, 64);
    _tile_loadd(5, ones, 64);
    _tile_loadd(6, ones, 64);
    _tile_loadd(7, ones, 64);
    for (int n = 0; n < N_ITERATIONS / 8; n++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_release();
    return 2.0 * 4 * 16 * 16 * 64 * (N_ITERATIONS / 8);
}
#endif

static void *measure(void *argument)
{
    probe *p = argument;
    p->run(p); /* warm up */
    pthread_barrier_wait(p->start);
    double begin = now(), work = 0, seconds;
    do {
        work += p->run(p);
    } while ((seconds = now() - begin) < seconds_each);
    p->rate = work / seconds;
    return NULL;
}

/* Work a second of n_threads at once, each with its part of n_bytes of `buffer`. */
static double rate(double (*run)(probe *), int n_threads, char *buffer, size_t n_bytes)
{
    double best = 0;
    for (int repeat = 0; repeat < N_REPEATS; repeat++) {
        probe probes[n_threads];
        pthread_t threads[n_threads];
        pthread_barrier_t start;
        pthread_barrier_init(&start, NULL, (unsigned)n_threads);
        for (int i = 0; i < n_threads; i++) {
            const size_t part = n_bytes / (size_t)n_threads / 4096 * 4096;
            probes[i] = (probe){run, buffer + (size_t)i * part, part, 0, &start};
            if (pthread_create(&threads[i], NULL, measure, &probes[i]) != 0) exit(1);
        }
        double sum = 0;
        for (int i = 0; i < n_threads; i++) {
            pthread_join(threads[i], NULL);
            sum += probes[i].rate;
        }
        pthread_barrier_destroy(&start);
        if (sum > best) best = sum;
    }
    return best;
}

int main(int argc, char **argv)
{
    const int n_threads = argc > 1 ? atoi(argv[1]) : 1;
    if (argc > 2) seconds_each = atof(argv[2]);
    if (n_threads < 1 || n_threads > 256) return 2;
    char *buffer = aligned_alloc(4096, MAX_BYTES);
    if (buffer == NULL) return 1;
    memset(buffer, 1, MAX_BYTES);
    for (size_t n_bytes = (size_t)1 << 20; n_bytes <= MAX_BYTES; n_bytes *= 2)
        printf("read_%zu %.4g\n", n_bytes, rate(read_buffer, n_threads, buffer, n_bytes));
    printf("float32 %.4g\n", rate(multiply_f32, n_threads, buffer, 0));
#ifdef INT8_NAME
    printf(INT8_NAME " %.4g\n", rate(multiply_i8, n_threads, buffer, 0));
#endif
#ifdef HAVE_AMX
    if (amx_allowed()) printf("int8_amx %.4g\n", rate(multiply_amx, n_threads, buffer, 0));
#endif
    free(buffer);
    return 0;
}
