/* arena.h: one block of memory, handed out in 64-byte aligned pieces, freed at once.
 *
 * Concept.  Sizes are known before the work starts, so everything a session touches lies in one
 * reservation made at its creation; its pages become resident only when they are touched.  The same
 * layout code runs twice: over a counting arena (base == NULL) to learn the size, then over the real one.
 * Ownership.  The arena owns the block; pieces are never freed singly.  Not thread-safe.
 */
#ifndef S2S_ARENA_H
#define S2S_ARENA_H

#include <stddef.h>

typedef struct s2s_arena {
    unsigned char *base; /* NULL: counting only */
    size_t size, used;
    int overflow; /* a size computation overflowed or the block was too small */
} s2s_arena;

/* Reserves `size` zeroed bytes.  Returns 0 when out of memory. */
int s2s_arena_init(s2s_arena *arena, size_t size);
void s2s_arena_release(s2s_arena *arena);
/* count * size bytes, 64-byte aligned, zeroed at first use; NULL while counting or on overflow. */
void *s2s_arena_take(s2s_arena *arena, size_t count, size_t size);

#endif
