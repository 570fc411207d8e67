/* cpu.h: which SIMD levels this CPU and this operating system offer (cpuid and xgetbv). */
#ifndef S2S_CPU_H
#define S2S_CPU_H

/* Bits of s2s_cpu_features(). */
enum {
    S2S_CPU_AVX2 = 1,
    S2S_CPU_AVX512 = 2,
    S2S_CPU_AVX512VNNI = 4,
    S2S_CPU_AVX512AMX =
        8, /* the process may use tile registers: asking for the bits asks Linux for it */
    S2S_CPU_NEON = 16
};

unsigned s2s_cpu_features(void);

#endif
