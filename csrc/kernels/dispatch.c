#include "../base/cpu.h"
#include "levels.h"

/* Ascending: the last one that the CPU supports is the best. */
static const struct level {
    s2s_isa isa;
    const char *name;
    unsigned feature;           /* s2s_cpu_features() bit it needs; 0: none */
    const s2s_kernels *kernels; /* NULL: not in this build */
} levels[] = {
    {S2S_ISA_GENERIC, "generic", 0, &s2s_kernels_generic},
#if defined(__x86_64__)
    {S2S_ISA_AVX2, "avx2", S2S_CPU_AVX2, &s2s_kernels_avx2},
    {S2S_ISA_AVX512, "avx512", S2S_CPU_AVX512, &s2s_kernels_avx512},
    {S2S_ISA_AVX512VNNI, "avx512vnni", S2S_CPU_AVX512VNNI, &s2s_kernels_avx512vnni},
    {S2S_ISA_AVX512AMX, "avx512amx", S2S_CPU_AVX512AMX, &s2s_kernels_avx512amx},
#else
    {S2S_ISA_AVX2, "avx2", S2S_CPU_AVX2, NULL},
    {S2S_ISA_AVX512, "avx512", S2S_CPU_AVX512, NULL},
    {S2S_ISA_AVX512VNNI, "avx512vnni", S2S_CPU_AVX512VNNI, NULL},
    {S2S_ISA_AVX512AMX, "avx512amx", S2S_CPU_AVX512AMX, NULL},
#endif
#if defined(__aarch64__)
    {S2S_ISA_NEON, "neon", S2S_CPU_NEON, &s2s_kernels_neon},
#else
    {S2S_ISA_NEON, "neon", S2S_CPU_NEON, NULL},
#endif
};
enum { N_LEVELS = sizeof levels / sizeof levels[0] };

static int usable(const struct level *level, unsigned features)
{
    return level->kernels != NULL && (features & level->feature) == level->feature;
}

static const struct level *find(s2s_isa isa)
{
    for (int i = 0; i < N_LEVELS; i++)
        if (levels[i].isa == isa) return &levels[i];
    return NULL;
}

const char *s2s_isa_name(s2s_isa isa)
{
    if (isa == S2S_ISA_AUTO) return "auto";
    const struct level *level = find(isa);
    return level != NULL ? level->name : NULL;
}

s2s_isa s2s_isa_best(void)
{
    const unsigned features = s2s_cpu_features();
    s2s_isa best = S2S_ISA_GENERIC;
    for (int i = 0; i < N_LEVELS; i++)
        if (usable(&levels[i], features)) best = levels[i].isa;
    return best;
}

int s2s_isa_supported(s2s_isa isa)
{
    return s2s_kernels_get(isa) != NULL;
}

const s2s_kernels *s2s_kernels_get(s2s_isa isa)
{
    const struct level *level = find(isa == S2S_ISA_AUTO ? s2s_isa_best() : isa);
    return level != NULL && usable(level, s2s_cpu_features()) ? level->kernels : NULL;
}
