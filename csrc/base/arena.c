#define _GNU_SOURCE
#include "arena.h"

#include <stdint.h>
#include <sys/mman.h>

#include "compiler.h"

#ifndef MAP_NORESERVE /* not everywhere; where it lacks, the reservation is merely accounted for */
#define MAP_NORESERVE 0
#endif

int s2s_arena_init(s2s_arena *arena, size_t size)
{
    *arena = (s2s_arena){0};
    if (size == 0) size = S2S_CACHE_LINE; /* an empty arena is not a counting one */
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return 0;
    arena->base = base;
    arena->size = size;
    return 1;
}

void s2s_arena_release(s2s_arena *arena)
{
    if (arena->base != NULL) munmap(arena->base, arena->size);
    *arena = (s2s_arena){0};
}

void *s2s_arena_take(s2s_arena *arena, size_t count, size_t size)
{
    size_t n_bytes;
    if (__builtin_mul_overflow(count, size, &n_bytes) ||
        __builtin_add_overflow(n_bytes, (size_t)(S2S_CACHE_LINE - 1), &n_bytes)) {
        arena->overflow = 1;
        return NULL;
    }
    n_bytes &= ~(size_t)(S2S_CACHE_LINE - 1);
    size_t end;
    if (__builtin_add_overflow(arena->used, n_bytes, &end) ||
        (arena->base != NULL && end > arena->size)) {
        arena->overflow = 1;
        return NULL;
    }
    void *piece = arena->base != NULL ? arena->base + arena->used : NULL;
    arena->used = end;
    return piece;
}
