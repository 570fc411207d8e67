/* arena.h: one block of memory, handed out in 64-byte aligned pieces, freed at once.
 *
 * Concept.  Sizes are known before the work starts, so everything a session touches lies in one
 * reservation made at its creation; its pages become resident only when they are touched.  The same
 * layout code runs twice: over a counting arena (base == NULL) to learn the size, then over the real one.
 * Blocks of arenas that ended are kept for the next ones, since to get fresh pages costs as much as a short
 * sentence: so a new arena holds anything.
 * Ownership.  The arena owns the block; pieces are never freed singly.  Thread-safety: an arena belongs to
 * one thread, a store of blocks to all; it takes no locks, and so may be forked at any moment.
 */
#ifndef S2S_ARENA_H
#define S2S_ARENA_H

#include <stdatomic.h>
#include <stddef.h>

enum {
    S2S_SPARE_BLOCKS = 4,
    S2S_SPARE_RESIDENT_BYTES = 1 << 24 /* of a block, while nobody uses it */
};

/* Blocks that nobody uses, each starting with its size; zeros are an empty one. */
typedef struct s2s_block_store {
    _Atomic(void *) blocks[S2S_SPARE_BLOCKS];
} s2s_block_store;

typedef struct s2s_arena {
    unsigned char *base; /* NULL: counting only */
    size_t size, used;
    int overflow; /* a size computation overflowed or the block was too small */
} s2s_arena;

/* Reserves `size` bytes, from `store` if it has a block as large (NULL: it has none).  Returns 0 when out of
 * memory. */
int s2s_arena_init(s2s_arena *arena, size_t size, s2s_block_store *store);
/* Ends the counting: the arena hands out a block for what was counted, from the heap and not zeroed, whose
 * address is returned.  The block is the caller's, and free() releases it.  NULL on overflow or when out of memory. */
void *s2s_arena_from_heap(s2s_arena *counted);
/* Gives the block to `store`, or to the system if that is NULL or full. */
void s2s_arena_release(s2s_arena *arena, s2s_block_store *store);
/* Gives all blocks to the system. */
void s2s_block_store_clear(s2s_block_store *store);
/* Asks the system for large pages under a piece, if it is large: where memory is read here and there, as by
 * attention, small ones cost more than the reading.  For pieces that are filled densely, from the beginning
 * on, since a large page is resident as a whole. */
void s2s_arena_large_pages(void *piece, size_t n_bytes);
/* count * size bytes, 64-byte aligned; NULL while counting or on overflow. */
void *s2s_arena_take(s2s_arena *arena, size_t count, size_t size);

#endif
