#include "base/arena.h"

#include "failing_alloc.h"
#include "harness.h"

/* The layout code of a user: the same over a counting and a real arena. */
static void take_all(s2s_arena *arena, void *pieces[4])
{
    pieces[0] = s2s_arena_take(arena, 3, sizeof(float));
    pieces[1] = s2s_arena_take(arena, 0, 8);
    pieces[2] = s2s_arena_take(arena, 65, 1);
    pieces[3] = s2s_arena_take(arena, 1000, 64);
}

TEST(counting_gives_the_size_that_the_real_arena_needs)
{
    void *pieces[4];
    s2s_arena count = {0}, arena;
    take_all(&count, pieces);
    for (int i = 0; i < 4; i++) CHECK(pieces[i] == NULL, "counting returned memory");
    CHECK(count.used == 64 + 0 + 128 + 64000, "counted %zu", count.used);
    CHECK(!count.overflow, "overflow");

    CHECK(s2s_arena_init(&arena, count.used, NULL), "init");
    take_all(&arena, pieces);
    CHECK(arena.used == count.used && !arena.overflow, "used %zu", arena.used);
    unsigned char *end = arena.base + arena.size;
    for (int i = 0; i < 4; i++) CHECK((uintptr_t)pieces[i] % 64 == 0, "piece %d is misaligned", i);
    CHECK((unsigned char *)pieces[3] + 64000 <= end, "last piece ends beyond the block");
    memset(arena.base, 1, count.used);
    CHECK(s2s_arena_take(&arena, arena.size - arena.used + 1, 1) == NULL && arena.overflow,
          "took beyond the end");
    CHECK(arena.used == count.used, "a refused piece was counted");
    s2s_arena_release(&arena, NULL);
    CHECK(arena.base == NULL, "released");
    s2s_arena_release(&arena, NULL); /* twice is allowed */
}

TEST(overflow_is_noticed)
{
    const size_t cases[][2] = {{SIZE_MAX, 2},
                               {SIZE_MAX, 1},
                               {SIZE_MAX / 2 + 1, 2},
                               {SIZE_MAX - 62, 1},
                               {(size_t)1 << 33, (size_t)1 << 33}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        s2s_arena arena = {0};
        CHECK(s2s_arena_take(&arena, cases[i][0], cases[i][1]) == NULL, "case %zu", i);
        CHECK(arena.overflow && arena.used == 0, "case %zu: no overflow", i);
    }
    s2s_arena arena = {0};
    s2s_arena_take(&arena, SIZE_MAX / 64 - 1, 64);
    CHECK(!arena.overflow, "the largest size that fits");
    s2s_arena_take(&arena, 2, 64);
    CHECK(arena.overflow, "a sum beyond SIZE_MAX");
}

TEST(an_empty_arena_is_not_a_counting_one)
{
    s2s_arena arena;
    CHECK(s2s_arena_init(&arena, 0, NULL), "init");
    CHECK(s2s_arena_take(&arena, 0, 4) != NULL, "an empty piece has an address");
    s2s_arena_release(&arena, NULL);
}

TEST(out_of_memory_is_reported)
{
    s2s_arena arena;
    allocation_fail_at(0);
    CHECK(!s2s_arena_init(&arena, 100, NULL), "mmap failed");
    allocation_fail_at(-1);
    CHECK(arena.base == NULL, "base of a failed arena");
    s2s_arena_release(&arena, NULL);
    CHECK(!s2s_arena_init(&arena, SIZE_MAX / 2, NULL), "more than any address space");
}

TEST(a_counting_arena_gets_its_block_from_the_heap)
{
    void *pieces[4];
    s2s_arena arena = {0}, too_large = {.used = 64, .overflow = 1};
    take_all(&arena, pieces);
    const size_t counted = arena.used;
    allocation_fail_at(0);
    CHECK(s2s_arena_from_heap(&arena) == NULL && arena.base == NULL, "out of memory");
    allocation_fail_at(-1);
    CHECK(s2s_arena_from_heap(&too_large) == NULL, "a block for what overflowed");
    void *block = s2s_arena_from_heap(&arena);
    CHECK(block != NULL && (uintptr_t)block % 64 == 0, "a block that is aligned");
    take_all(&arena, pieces);
    CHECK(pieces[0] == block && arena.used == counted && !arena.overflow, "used %zu", arena.used);
    CHECK(s2s_arena_take(&arena, 1, 1) == NULL && arena.overflow, "took beyond the end");
    free(block);
}

TEST(blocks_are_used_again)
{
    s2s_block_store store = {0};
    s2s_arena arenas[S2S_SPARE_BLOCKS + 1], small, large;
    const size_t size = 3 << 20;
    for (int i = 0; i <= S2S_SPARE_BLOCKS; i++) {
        CHECK(s2s_arena_init(&arenas[i], size, &store), "init");
        memset(arenas[i].base, i + 1, size);
    }
    unsigned char *first = arenas[0].base;
    for (int i = 0; i <= S2S_SPARE_BLOCKS; i++) s2s_arena_release(&arenas[i], &store);

    allocation_fail_at(0); /* what follows needs no memory from the system */
    CHECK(s2s_arena_init(&small, size / 2, &store), "a spare block");
    allocation_fail_at(-1);
    CHECK(small.base == first && small.size == size, "the first one, whole");
    CHECK(s2s_arena_take(&small, 1, size) == (void *)first, "all of it");
    CHECK(s2s_arena_init(&large, size + 1, &store) && large.size > size, "none is as large");
    for (int i = 0; i < S2S_SPARE_BLOCKS; i++) CHECK(store.blocks[i] == NULL, "block %d", i);
    s2s_arena_release(&small, &store);
    s2s_arena_release(&large, &store);
    s2s_block_store_clear(&store);
    for (int i = 0; i < S2S_SPARE_BLOCKS; i++) CHECK(store.blocks[i] == NULL, "block %d", i);
}

TEST(a_spare_block_keeps_little_memory)
{
    s2s_block_store store = {0};
    s2s_arena arena;
    CHECK(s2s_arena_init(&arena, 2 * (size_t)S2S_SPARE_RESIDENT_BYTES, &store), "init");
    memset(arena.base, 1, arena.size);
    s2s_arena_release(&arena, &store);
    CHECK(s2s_arena_init(&arena, 1, &store), "again");
    CHECK(arena.base[S2S_SPARE_RESIDENT_BYTES - 1] == 1, "the part that is kept");
    CHECK(arena.base[S2S_SPARE_RESIDENT_BYTES] == 0, "the part that went back to the system");
    s2s_arena_release(&arena, &store);
    s2s_block_store_clear(&store);
}

int main(void)
{
    RUN(counting_gives_the_size_that_the_real_arena_needs);
    RUN(overflow_is_noticed);
    RUN(an_empty_arena_is_not_a_counting_one);
    RUN(out_of_memory_is_reported);
    RUN(a_counting_arena_gets_its_block_from_the_heap);
    RUN(blocks_are_used_again);
    RUN(a_spare_block_keeps_little_memory);
    return harness_end();
}
