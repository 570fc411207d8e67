/* Matrix products for training: C[n,m] = op(A)[n,k] . op(B)[k,m] + bias, operands rounded to
 * bfloat16 while they are packed, sums in float32.
 *
 * Both operands are packed into 1 KiB blocks of one shape, that of an AMX tile:
 *     A block  [16 rows][16 pairs of k]      B block  [16 pairs of k][16 columns]
 * where a "pair" is two bfloat16 of consecutive k in one 32-bit lane. An operand whose k axis is
 * contiguous in memory gives A blocks directly and B blocks after a 16x16 transpose of 32-bit
 * lanes; an operand whose k axis is strided gives the converse. So the three products of training
 * (x.W, dy.W^T, x^T.dy) need no transposed copy in float32. Blocks are zero-padded, so n, m and k
 * may have any size.
 *
 * Units: AMX (tdpbf16ps) where the kernel grants it, else AVX512_BF16 (vdpbf16ps) on the same
 * blocks. Without either, gemm_unit() returns 0 and the caller uses another product.
 * Thread-safety: work buffers and tile state are per thread; fork-safe (no threads, no locks). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { UNIT_NONE = 0, UNIT_AVX512_BF16 = 1, UNIT_AMX_BF16 = 2 };

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__linux__)
#include <immintrin.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LANES 16           /* rows or columns of a block, and pairs of k in it */
#define KB 32              /* k per block */
#define BLOCK (LANES * KB) /* bfloat16 elements of a block: 1 KiB */
#define KC 12              /* k blocks per pass: a pair of A panels is 24 KiB, half of L1 */
#define NC 512             /* rows of A per pass: 512 * 384 * 2 bytes = 384 KiB, inside L2 */
#define MC 16              /* pairs of B panels per pass: 16 * 24 KiB, inside L2 */

typedef struct {
    void *data;
    size_t size;
} buffer;
static __thread buffer buffer_a, buffer_b, buffer_bias;

/* NULL when memory is short; the content is not kept. */
static void *buffer_reserve(buffer *b, size_t size)
{
    if (b->size < size) {
        free(b->data);
        size = (size + size / 4 + 4095) & ~(size_t)4095;
        b->data = aligned_alloc(4096, size);
        b->size = b->data ? size : 0;
    }
    return b->data;
}

/* ---- packing ---- */

static inline __mmask16 lanes_mask(long left)
{
    return left >= LANES ? (__mmask16)0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
}

static inline void transpose16(__m512i r[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

/* 16 outer rows of a k-contiguous operand: lane p of r[i] is the pair (k0+2p, k0+2p+1) of row i. */
static inline void load_contiguous(const float *src, long ld, long n_outer, long n_k, __m512i r[16])
{
    if (n_outer >= LANES && n_k >= KB) {
        for (int i = 0; i < LANES; i++)
            r[i] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(src + i * ld + 16),
                                                _mm512_loadu_ps(src + i * ld));
        return;
    }
    __mmask16 low = lanes_mask(n_k), high = lanes_mask(n_k - 16);
    for (int i = 0; i < LANES; i++)
        r[i] = i < n_outer
                   ? (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, src + i * ld + 16),
                                                  _mm512_maskz_loadu_ps(low, src + i * ld))
                   : _mm512_setzero_si512();
}

/* 16 outer columns of a k-strided operand: lane j of r[p] is the pair (k0+2p, k0+2p+1) of column j. */
static inline void load_strided(const float *src, long ld, long n_outer, long n_k, __m512i r[16])
{
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __mmask16 mask = lanes_mask(n_outer);
    for (int p = 0; p < LANES; p++) {
        __mmask16 even = 2 * p < n_k ? mask : 0, odd = 2 * p + 1 < n_k ? mask : 0;
        const float *row = src + 2 * p * ld;
        __m512 second = _mm512_maskz_loadu_ps(odd, row + ld);
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, _mm512_maskz_loadu_ps(even, row));
        r[p] = _mm512_permutexvar_epi16(interleave, both);
    }
}

/* Packs outer [o0, o0+n_panels*16) of an operand with n_outer x n_k elements, k blocks [kb0, kb1).
 * Element (outer o, k) stands at src[o*ld + k] when contiguous, else at src[k*ld + o].
 * dst: [n_panels][kb1-kb0] blocks. as_rows: A blocks, else B blocks. */
static void pack(const float *src, long ld, int contiguous, int as_rows, long n_outer, long n_k,
                 long o0, long n_panels, long kb0, long kb1, uint16_t *dst)
{
    long n_kb = kb1 - kb0;
    long n_first = contiguous ? n_panels : n_kb, n_second = contiguous ? n_kb : n_panels;
    for (long first = 0; first < n_first; first++)
        for (long second = 0; second < n_second; second++) {
            long panel = contiguous ? first : second, kb = contiguous ? second : first;
            long outer = o0 + panel * LANES, k = (kb0 + kb) * KB;
            uint16_t *block = dst + (panel * n_kb + kb) * BLOCK;
            __m512i r[16];
            if (outer >= n_outer) {
                memset(block, 0, BLOCK * sizeof *block);
                continue;
            }
            if (contiguous)
                load_contiguous(src + outer * ld + k, ld, n_outer - outer, n_k - k, r);
            else
                load_strided(src + k * ld + outer, ld, n_outer - outer, n_k - k, r);
            if (contiguous != as_rows) transpose16(r);
            for (int i = 0; i < LANES; i++) _mm512_store_si512(block + i * KB, r[i]);
        }
}

/* ---- 32x32 block of C: two A panels times two B panels over n_kb blocks of k ---- */
typedef void kernel(const uint16_t *a, const uint16_t *b, long panel_stride, long n_kb,
                    const float *init, long ld_init, float *c, long ldc);

static void kernel_avx512(const uint16_t *a, const uint16_t *b, long panel_stride, long n_kb,
                          const float *init, long ld_init, float *c, long ldc)
{
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            const uint16_t *pa = a + i * panel_stride, *pb = b + j * panel_stride;
            __m512 acc[LANES];
#pragma GCC unroll 16
            for (int r = 0; r < LANES; r++)
                acc[r] = _mm512_loadu_ps(init + (i * LANES + r) * ld_init + j * LANES);
            for (long kb = 0; kb < n_kb; kb++, pa += BLOCK, pb += BLOCK)
                for (int p = 0; p < LANES; p++) {
                    __m512bh right = (__m512bh)_mm512_load_si512(pb + p * KB);
#pragma GCC unroll 16
                    for (int r = 0; r < LANES; r++) {
                        int32_t pair;
                        memcpy(&pair, pa + r * KB + 2 * p, sizeof pair);
                        acc[r] = _mm512_dpbf16_ps(acc[r], (__m512bh)_mm512_set1_epi32(pair), right);
                    }
                }
#pragma GCC unroll 16
            for (int r = 0; r < LANES; r++)
                _mm512_storeu_ps(c + (i * LANES + r) * ldc + j * LANES, acc[r]);
        }
}

#if defined(__AMX_BF16__)
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

/* gcc's tile intrinsics do not tell the compiler which memory they touch. */
#define compiler_barrier() __asm__ volatile("" ::: "memory")

static void kernel_amx(const uint16_t *a, const uint16_t *b, long panel_stride, long n_kb,
                       const float *init, long ld_init, float *c, long ldc)
{
    const uint16_t *a1 = a + panel_stride, *b1 = b + panel_stride;
    compiler_barrier();
    _tile_loadd(0, init, ld_init * 4);
    _tile_loadd(1, init + LANES, ld_init * 4);
    _tile_loadd(2, init + LANES * ld_init, ld_init * 4);
    _tile_loadd(3, init + LANES * ld_init + LANES, ld_init * 4);
    for (long i = 0; i < n_kb * BLOCK; i += BLOCK) {
        _tile_loadd(4, a + i, 64);
        _tile_loadd(6, b + i, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b1 + i, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a1 + i, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, ldc * 4);
    _tile_stored(1, c + LANES, ldc * 4);
    _tile_stored(2, c + LANES * ldc, ldc * 4);
    _tile_stored(3, c + LANES * ldc + LANES, ldc * 4);
    compiler_barrier();
}

static __thread int amx_state; /* 0 not asked, 1 granted, -1 refused */

/* A forked child asks again: Linux does not promise it its parent's tile registers. */
static void amx_forget(void)
{
    amx_state = 0;
}

__attribute__((constructor)) static void amx_watch_forks(void)
{
    pthread_atfork(NULL, NULL, amx_forget);
}

static int amx_ready(void)
{
    if (amx_state == 0)
        amx_state = __builtin_cpu_supports("avx512f") &&
                            syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0
                        ? 1
                        : -1;
    return amx_state == 1;
}

/* For each product: another library that uses tiles in this thread may have released ours. */
static void amx_configure(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes_per_row[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes_per_row[i] = 64;
        config.rows[i] = LANES;
    }
    compiler_barrier();
    _tile_loadconfig(&config);
}
#else
static int amx_ready(void)
{
    return 0;
}
#define amx_configure()
#define kernel_amx kernel_avx512
#endif

static int unit_limit = UNIT_AMX_BF16;

/* The unit used: UNIT_*. limit: the best one allowed from now on (tests compare the units). */
int gemm_unit(int limit)
{
    unit_limit = limit;
    return limit >= UNIT_AMX_BF16 && amx_ready() ? UNIT_AMX_BF16
           : limit >= UNIT_AVX512_BF16           ? UNIT_AVX512_BF16
                                                 : UNIT_NONE;
}

/* c[n,m] (row stride ldc) = op(a)[n,k] . op(b)[k,m] + bias[m] (bias may be NULL), or += when accumulate.
 * Element (i,k) of a: a[i*lda + k], a_transposed: a[k*lda + i]. Element (k,j) of b: b[k*ldb + j],
 * b_transposed: b[j*ldb + k]. Returns 0, or -1 when memory is short. */
int gemm_bf16(const float *a, long lda, int a_transposed, const float *b, long ldb,
              int b_transposed, float *c, long ldc, long n, long m, long k, const float *bias,
              int accumulate)
{
    long m_panels = (m + 31) / 32 * 2, n_kb = (k + KB - 1) / KB;
    if (n == 0 || m == 0) return 0;
    const int use_amx = unit_limit >= UNIT_AMX_BF16 && amx_ready();
    kernel *run = use_amx ? kernel_amx : kernel_avx512;
    if (use_amx) amx_configure();
    uint16_t *pb = buffer_reserve(&buffer_b, (size_t)(m_panels * n_kb) * BLOCK * 2 + 64);
    uint16_t *pa = buffer_reserve(&buffer_a, (size_t)(NC / LANES) * KC * BLOCK * 2);
    float *init = buffer_reserve(&buffer_bias, (size_t)m_panels * LANES * sizeof *init);
    if (!pa || !pb || !init) return -1;
    memset(init, 0, (size_t)m_panels * LANES * sizeof *init);
    if (bias) memcpy(init, bias, (size_t)m * sizeof *init);
    for (long kb0 = 0; kb0 < n_kb || kb0 == 0; kb0 += KC) {
        long kb1 = kb0 + KC < n_kb ? kb0 + KC : n_kb, kbs = kb1 - kb0;
        pack(b, ldb, b_transposed, 0, m, k, 0, m_panels, kb0, kb1, pb);
        for (long i0 = 0; i0 < n; i0 += NC) {
            long rows = n - i0 < NC ? n - i0 : NC, a_panels = (rows + 31) / 32 * 2;
            pack(a, lda, !a_transposed, 1, n, k, i0, a_panels, kb0, kb1, pa);
            /* along the rows of C: a column of it would touch one page per row */
            for (long jp0 = 0; jp0 < m_panels; jp0 += 2 * MC)
                for (long at = 0; at < a_panels / 2 * MC; at++) {
                    long ip = at / MC * 2, jp = jp0 + at % MC * 2;
                    if (jp >= m_panels) continue;
                    long i = i0 + ip * LANES, j = jp * LANES;
                    const uint16_t *block_a = pa + ip * kbs * BLOCK;
                    const uint16_t *block_b = pb + jp * kbs * BLOCK;
                    int first = kb0 == 0 && !accumulate;
                    float *out = c + i * ldc + j;
                    if (i + 32 <= n && j + 32 <= m) {
                        run(block_a, block_b, kbs * BLOCK, kbs, first ? init + j : out,
                            first ? 0 : ldc, out, ldc);
                        continue;
                    }
                    float edge[32 * 32] __attribute__((aligned(64)));
                    long r_end = n - i < 32 ? n - i : 32, c_end = m - j < 32 ? m - j : 32;
                    memset(edge, 0, sizeof edge);
                    for (long r = 0; r < r_end; r++)
                        memcpy(edge + r * 32, first ? init + j : out + r * ldc, c_end * 4);
                    run(block_a, block_b, kbs * BLOCK, kbs, edge, 32, edge, 32);
                    for (long r = 0; r < r_end; r++)
                        memcpy(out + r * ldc, edge + r * 32, c_end * 4);
                }
        }
    }
    return 0;
}

#else /* no bfloat16 unit at build time */

int gemm_unit(int limit)
{
    (void)limit;
    return UNIT_NONE;
}

int gemm_bf16(const float *a, long lda, int a_transposed, const float *b, long ldb,
              int b_transposed, float *c, long ldc, long n, long m, long k, const float *bias,
              int accumulate)
{
    (void)a, (void)lda, (void)a_transposed, (void)b, (void)ldb, (void)b_transposed, (void)c;
    (void)ldc, (void)n, (void)m, (void)k, (void)bias, (void)accumulate;
    return -1;
}
#endif
