#define _GNU_SOURCE
#include "base/compiler.h"
#include "base/pool.h"

#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "failing_alloc.h"
#include "harness.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

enum { MAX_ITEMS = 1000, MAX_WORKERS = 64 };

typedef struct counts {
    atomic_int item[MAX_ITEMS];
    atomic_int part[MAX_WORKERS]; /* ranges that worker w got */
    atomic_int smallest;
} counts;

static void count_items(void *context, int32_t begin, int32_t end, int32_t worker)
{
    counts *c = context;
    for (int32_t i = begin; i < end; i++) atomic_fetch_add(&c->item[i], 1);
    atomic_fetch_add(&c->part[worker], 1);
    int smallest = atomic_load(&c->smallest);
    while (end - begin < smallest)
        if (atomic_compare_exchange_weak(&c->smallest, &smallest, end - begin)) break;
}

static s2s_pool *make_pool(int32_t n_threads)
{
    s2s_pool *pool = NULL;
    s2s_error error;
    CHECK(s2s_pool_create(n_threads, &pool, &error) == S2S_OK, "%d threads", n_threads);
    CHECK(s2s_pool_n_threads(pool) == n_threads, "n_threads");
    return pool;
}

/* Runs n items; every item must be done once, in ranges of `grain` items or more. */
static void run_and_check(s2s_pool *pool, int32_t n_items, int32_t grain)
{
    static counts *c;
    if (c == NULL) c = malloc(sizeof *c);
    memset(c, 0, sizeof *c);
    atomic_store(&c->smallest, MAX_ITEMS);
    s2s_pool_run(pool, count_items, c, n_items, grain);
    for (int32_t i = 0; i < MAX_ITEMS; i++)
        CHECK(c->item[i] == (i < n_items), "item %d of %d done %d times", i, n_items, c->item[i]);
    const int32_t n_threads = s2s_pool_n_threads(pool);
    for (int w = n_threads; w < MAX_WORKERS; w++) CHECK(c->part[w] == 0, "worker %d", w);
    if (n_items > grain && grain > 0)
        CHECK(c->smallest >= grain, "%d items a thread, grain %d", c->smallest, grain);
}

TEST(every_item_is_done_once)
{
    const int32_t sizes[] = {-1, 0, 1, 2, 3, 7, 8, 9, 100, MAX_ITEMS};
    const int32_t threads[] = {1, 2, 3, 8, 33};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        s2s_pool *pool = make_pool(threads[t]);
        for (int repeat = 0; repeat < 20; repeat++)
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
                for (int32_t grain = 0; grain <= 8; grain += 4)
                    run_and_check(pool, sizes[s], grain);
        s2s_pool_free(pool);
    }
}

static void count_and_dawdle(void *context, int32_t begin, int32_t end, int32_t worker)
{
    if (worker > 0) nanosleep(&(struct timespec){0, 30000000}, NULL);
    count_items(context, begin, end, worker);
}

/* A worker that is held up keeps the others waiting for the chunk that it has begun, no more. */
TEST(a_late_worker_holds_nobody_up)
{
    s2s_pool *pool = make_pool(2);
    for (int repeat = 0; repeat < 3; repeat++) {
        static counts c;
        memset(&c, 0, sizeof c);
        s2s_pool_run(pool, count_and_dawdle, &c, 80, 1);
        for (int i = 0; i < 80; i++) CHECK(c.item[i] == 1, "item %d done %d times", i, c.item[i]);
        CHECK(c.part[1] <= 1, "the late worker did %d chunks", c.part[1]);
        CHECK(c.part[0] >= 7, "the caller did %d chunks of 8", c.part[0]);
    }
    s2s_pool_free(pool);
}

TEST(no_pool_runs_on_the_caller)
{
    run_and_check(NULL, 10, 1);
    CHECK(s2s_pool_n_threads(NULL) == 1, "n_threads of NULL");
    s2s_pool_free(NULL);
}

TEST(workers_sleep_and_wake_again)
{
    s2s_pool *pool = make_pool(4);
    for (int i = 0; i < 5; i++) {
        run_and_check(pool, 100, 1);
        nanosleep(&(struct timespec){0, 3000000}, NULL); /* far beyond the spin */
        if (i % 2) s2s_pool_wake(pool);
    }
    struct timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    nanosleep(&(struct timespec){0, 100000000}, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    const double used =
        (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) * 1e-9;
    CHECK(used < 0.05, "an idle pool used %.3f s of CPU in 0.1 s", used);
    s2s_pool_free(pool);
}

TEST(an_unused_pool_has_no_threads)
{
    allocation_fail_at(-1);
    s2s_pool *pool = make_pool(64);
    s2s_pool_wake(pool);
    CHECK(allocation_count() == 1, "%ld allocations or threads", allocation_count());
    run_and_check(pool, 1, 1);  /* one item */
    run_and_check(pool, 10, 8); /* too few for two threads */
    s2s_pool_free(pool);
}

static void *contend(void *pool)
{
    counts *c = calloc(1, sizeof *c);
    for (int repeat = 0; repeat < 300; repeat++) {
        const int32_t n = 1 + repeat % 200;
        for (int32_t i = 0; i < n; i++) atomic_store(&c->item[i], 0);
        if (repeat % 3 == 0) s2s_pool_wake(pool);
        s2s_pool_run(pool, count_items, c, n, 1);
        for (int32_t i = 0; i < n; i++)
            CHECK(c->item[i] == 1, "item %d of %d done %d times", i, n, c->item[i]);
    }
    free(c);
    return NULL;
}

TEST(threads_may_share_a_pool)
{
    s2s_pool *pool = make_pool(3);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, contend, pool);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    s2s_pool_free(pool);
}

/* The child uses the pool of its parent, frees it and reports by its exit status. */
S2S_UNUSED static void fork_and_use(s2s_pool *pool, int use)
{
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        atomic_store(&harness_n_failed, 0);
        alarm(20);
        if (use) {
            s2s_pool_wake(pool); /* those of the parent are not there */
            for (int i = 0; i < 50; i++) run_and_check(pool, 100, 1);
            fork_and_use(pool, use - 1);
        }
        s2s_pool_free(pool);
        _exit(atomic_load(&harness_n_failed) == 0 ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child ended with status %d", status);
}

S2S_UNUSED TEST(a_forked_child_builds_its_own_workers)
{
    s2s_pool *pool = make_pool(3);
    fork_and_use(pool, 1); /* before the first use */
    run_and_check(pool, 100, 1);
    fork_and_use(pool, 2); /* with workers, and a grandchild */
    fork_and_use(pool, 0); /* a child that only frees */
    run_and_check(pool, 100, 1);
    s2s_pool_free(pool);
}

S2S_UNUSED static void *keep_busy(void *argument)
{
    void **shared = argument;
    counts *c = calloc(1, sizeof *c);
    while (!atomic_load((atomic_int *)shared[1])) {
        s2s_pool_wake(shared[0]);
        s2s_pool_run(shared[0], count_items, c, 50, 1);
    }
    free(c);
    return NULL;
}

S2S_UNUSED TEST(fork_while_another_thread_holds_the_pool)
{
    atomic_int stop = 0;
    s2s_pool *pool = make_pool(3);
    void *shared[2] = {pool, &stop};
    pthread_t thread;
    pthread_create(&thread, NULL, keep_busy, shared);
    for (int i = 0; i < 20; i++) fork_and_use(pool, 1);
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    s2s_pool_free(pool);
}

TEST(every_failing_allocation_is_survived)
{
    for (long n = 0;; n++) {
        s2s_pool *pool = NULL;
        s2s_error error = {0};
        static counts c;
        memset(&c, 0, sizeof c);
        allocation_fail_at(n);
        const s2s_status status = s2s_pool_create(4, &pool, &error);
        if (status == S2S_OK) s2s_pool_run(pool, count_items, &c, 100, 1);
        const long n_made = allocation_count();
        allocation_fail_at(-1);
        if (status == S2S_OK) {
            for (int i = 0; i < 100; i++) CHECK(c.item[i] == 1, "item %d, failure %ld", i, n);
            run_and_check(pool, 100, 1);
        } else {
            CHECK(n == 0 && status == S2S_OUT_OF_MEMORY, "status %d, failure %ld", status, n);
            CHECK(error.status == status && strstr(error.message, "4 threads"), "%s",
                  error.message);
            CHECK(pool == NULL, "out of a failed create");
        }
        s2s_pool_free(pool);
        if (n_made <= n) {
            CHECK(n == 5, "a pool, a team and 3 threads, not %ld", n);
            break;
        }
    }
}

TEST(bad_sizes_are_errors)
{
    const int32_t bad[] = {0, -1, INT32_MIN, 1025, INT32_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        s2s_pool *pool = (s2s_pool *)&pool;
        s2s_error error;
        char number[16];
        snprintf(number, sizeof number, "not %d", bad[i]);
        CHECK(s2s_pool_create(bad[i], &pool, &error) == S2S_INVALID_ARGUMENT, "%d", bad[i]);
        CHECK(pool == NULL && strstr(error.message, number), "%s", error.message);
        CHECK(s2s_pool_create(bad[i], &pool, NULL) == S2S_INVALID_ARGUMENT, "without error");
    }
}

int main(void)
{
    RUN(every_item_is_done_once);
    RUN(a_late_worker_holds_nobody_up);
    RUN(no_pool_runs_on_the_caller);
    RUN(workers_sleep_and_wake_again);
    RUN(an_unused_pool_has_no_threads);
    RUN(threads_may_share_a_pool);
#ifdef __SANITIZE_THREAD__
    printf("(no forks: the thread sanitizer cannot start threads in a forked child) ");
#else
    RUN(a_forked_child_builds_its_own_workers);
    RUN(fork_while_another_thread_holds_the_pool);
#endif
    RUN(every_failing_allocation_is_survived);
    RUN(bad_sizes_are_errors);
    return harness_end();
}
