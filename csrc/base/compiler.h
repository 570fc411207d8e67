/* compiler.h: what differs between compilers, in one place.
 *
 * The core needs C11 with GCC or Clang extensions, IEEE-754 binary32 evaluated as such, and no
 * contraction of a * b + c (compile with -ffp-contract=off): otherwise bits differ between builds.
 */
#ifndef S2S_COMPILER_H
#define S2S_COMPILER_H

#include <float.h>

#if !defined(__GNUC__)
#error "s2s-infer needs GCC or Clang"
#endif
#if FLT_EVAL_METHOD != 0
#error "s2s-infer needs float arithmetic without excess precision"
#endif
#if defined(__FAST_MATH__)
#error "s2s-infer must be compiled without -ffast-math"
#endif

#define S2S_INLINE static inline __attribute__((always_inline))
#define S2S_NOINLINE static __attribute__((noinline))
#define S2S_UNUSED __attribute__((unused))
#define S2S_RESTRICT restrict
#define S2S_ALIGN(n_bytes) __attribute__((aligned(n_bytes)))
#define S2S_LIKELY(x) __builtin_expect(!!(x), 1)
#define S2S_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Cache line; alignment of every piece of an arena and of every weight tile. */
#define S2S_CACHE_LINE 64

/* Tells the CPU that this is a spin loop. */
S2S_INLINE void s2s_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* `yield` is a no-op on most cores */
#else
    __asm__ volatile("" ::: "memory");
#endif
}

#endif
