#define _GNU_SOURCE
#include "cpu.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Register state that the operating system saves (extended control register 0). */
static unsigned long long os_saved_state(void)
{
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((unsigned long long)high << 32) | low;
}

/* Linux lets a process use the tile registers, 8 KiB for each thread, only once it has asked.  Asking again
 * is harmless, and children inherit the answer.  It refuses where a thread has an alternate signal stack
 * too small to save them on. */
static int os_permits_tiles(void)
{
#if defined(__linux__) && defined(__x86_64__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}

unsigned s2s_cpu_features(void)
{
    enum { FMA = 1u << 12, OSXSAVE = 1u << 27, AVX = 1u << 28, F16C = 1u << 29 }; /* 1, ecx */
    enum { AVX2 = 1u << 5, F = 1u << 16, DQ = 1u << 17, BW = 1u << 30 };          /* 7, ebx */
    const unsigned VL = 1u << 31, VNNI = 1u << 11;           /* 7, ebx; 7, ecx */
    const unsigned AMX_TILE = 1u << 24, AMX_INT8 = 1u << 25; /* 7, edx */
    const unsigned long long YMM = 0x06, ZMM = 0xe6; /* sse, avx; and opmask, zmm0-15, zmm16-31 */
    const unsigned long long TILES = 0x60000;        /* their configuration and their data */
    unsigned a, b, c, d, features = 0;

    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const unsigned basic = FMA | OSXSAVE | AVX | F16C;
    if ((c & basic) != basic) return 0;
    const unsigned long long saved = os_saved_state();
    if ((saved & YMM) != YMM || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!(b & AVX2)) return 0;
    features |= S2S_CPU_AVX2;
    const unsigned wide = F | DQ | BW | VL;
    if ((b & wide) != wide || (saved & ZMM) != ZMM) return features;
    features |= S2S_CPU_AVX512;
    if (!(c & VNNI)) return features;
    features |= S2S_CPU_AVX512VNNI;
    const unsigned amx = AMX_TILE | AMX_INT8;
    if ((d & amx) == amx && (saved & TILES) == TILES && os_permits_tiles())
        features |= S2S_CPU_AVX512AMX;
    return features;
}

#elif defined(__aarch64__)

unsigned s2s_cpu_features(void)
{
    return S2S_CPU_NEON; /* part of the architecture */
}

#else

unsigned s2s_cpu_features(void)
{
    return 0;
}

#endif
