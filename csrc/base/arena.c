#define _GNU_SOURCE
#include "arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "compiler.h"

#ifndef MAP_NORESERVE /* not everywhere; where it lacks, the reservation is merely accounted for */
#define MAP_NORESERVE 0
#endif

/* Sizes are multiples of it, so that a block fits calls that differ a little, and of any system's pages. */
enum { BLOCK_UNIT = 1 << 20 };

/* A block of at least `size` bytes.  One that is too small goes back to the system: calls that follow one
 * another tend to be of one kind, and would find it too small again. */
static unsigned char *take_spare(s2s_block_store *store, size_t *size)
{
    for (int i = 0; i < S2S_SPARE_BLOCKS; i++) {
        if (atomic_load_explicit(&store->blocks[i], memory_order_relaxed) == NULL) continue;
        unsigned char *block = atomic_exchange(&store->blocks[i], NULL);
        if (block == NULL) continue;
        size_t n_bytes;
        memcpy(&n_bytes, block, sizeof n_bytes);
        if (n_bytes >= *size) {
            *size = n_bytes;
            return block;
        }
        munmap(block, n_bytes);
    }
    return NULL;
}

int s2s_arena_init(s2s_arena *arena, size_t size, s2s_block_store *store)
{
    *arena = (s2s_arena){0};
    if (__builtin_add_overflow(size, (size_t)(BLOCK_UNIT - 1), &size)) return 0;
    size = size / BLOCK_UNIT * BLOCK_UNIT;
    if (size == 0) size = BLOCK_UNIT; /* an empty arena is not a counting one */
    void *base = store != NULL ? take_spare(store, &size) : NULL;
    if (base == NULL)
        base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                    -1, 0);
    if (base == MAP_FAILED) return 0;
    arena->base = base;
    arena->size = size;
    return 1;
}

void *s2s_arena_from_heap(s2s_arena *counted)
{
    void *block = counted->overflow ? NULL : aligned_alloc(S2S_CACHE_LINE, counted->used);
    if (block != NULL) *counted = (s2s_arena){.base = block, .size = counted->used};
    return block;
}

void s2s_arena_release(s2s_arena *arena, s2s_block_store *store)
{
    unsigned char *block = arena->base;
    const size_t size = arena->size;
    *arena = (s2s_arena){0};
    if (block == NULL) return;
    if (store != NULL) {
        memcpy(block, &size, sizeof size);
        if (size > S2S_SPARE_RESIDENT_BYTES)
            madvise(block + S2S_SPARE_RESIDENT_BYTES, size - S2S_SPARE_RESIDENT_BYTES,
                    MADV_DONTNEED);
        for (int i = 0; i < S2S_SPARE_BLOCKS; i++) {
            void *expected = NULL;
            if (atomic_compare_exchange_strong(&store->blocks[i], &expected, block)) return;
        }
    }
    munmap(block, size);
}

void s2s_block_store_clear(s2s_block_store *store)
{
    size_t more_than_any = SIZE_MAX;
    take_spare(store, &more_than_any);
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

void s2s_arena_large_pages(void *piece, size_t n_bytes)
{
#ifdef MADV_HUGEPAGE
    enum { LARGE_PAGE = 1 << 21 };
    const size_t before =
        (size_t)-(uintptr_t)piece % LARGE_PAGE; /* to its first whole large page */
    if (piece == NULL || n_bytes < before + LARGE_PAGE) return;
    madvise((unsigned char *)piece + before, (n_bytes - before) / LARGE_PAGE * LARGE_PAGE,
            MADV_HUGEPAGE);
#else
    (void)piece, (void)n_bytes;
#endif
}
