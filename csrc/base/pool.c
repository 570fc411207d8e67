/* Protocol.  A loop is cut into one part for each thread and a part into a few chunks.  The caller writes
 * each part down, fills its count of chunks that are left, and raises the `posted` count of the workers
 * it wants.  Whoever works takes chunks, by lowering a count, first of its own part and then of
 * the others', so that a worker that is late or was interrupted holds nobody up: the caller does the
 * work itself, and waits only for chunks that are under way.  A worker that arrives when the loop is
 * over finds no chunk; if it finds one of the next loop, that is as good.
 * All that a worker needs to begin lies in one line of cache: fetching it is most of what a loop costs.
 * Whoever waits spins for a short time and then sleeps on a condition variable.  A team belongs to one
 * process: after a fork the child finds another generation, forgets the team (its threads do not exist
 * there) and builds a new one. */
#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "compiler.h"
#include "profile.h"
#include "status.h"

#define MAX_THREADS 1024
#define SPIN_NS 100000         /* longer than the serial work between two loops, or calls */
#define MAX_CHUNKS 4           /* of one part */
#define STACK_BYTES (1u << 20) /* kernels keep little on the stack */

/* Who waits for a counter, which lies elsewhere, asleep. */
typedef struct sleepers {
    atomic_int n;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} sleepers;

/* A part of the current loop: to be read by whoever holds one of its chunks. */
typedef struct part {
    _Atomic int32_t n_left; /* chunks; below 0 is none, too */
    int32_t begin, n_items, n_chunks;
    s2s_task_fn task;
    void *context;
} part;

typedef struct worker {
    S2S_ALIGN(S2S_CACHE_LINE) _Atomic int32_t posted; /* loops posted so far */
    part part;
    S2S_ALIGN(S2S_CACHE_LINE) sleepers asleep;
    struct team *team;
    int32_t index;
    pthread_t thread;
} worker;

typedef struct team {
    S2S_ALIGN(S2S_CACHE_LINE) _Atomic int32_t n_undone; /* chunks of the current loop */
    S2S_ALIGN(S2S_CACHE_LINE) sleepers asleep;
    atomic_int is_ending;
    int32_t n_workers;
    S2S_ALIGN(S2S_CACHE_LINE) part part; /* the caller's */
    worker workers[];
} team;

struct s2s_pool {
    int32_t n_threads;
    /* generation * 2 + 1 while the team is being built, generation * 2 afterwards, 0 before. */
    _Atomic int64_t owner;
    atomic_int busy; /* 1: some thread runs a loop */
    team *team;      /* NULL: no workers, everything runs on the caller */
};

/* Of this process: one more than its parent's.  getpid would do, but is a system call in every loop. */
static _Atomic int64_t generation = 1;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int cannot_count; /* generations */

static void count_generation(void)
{
    atomic_fetch_add(&generation, 1);
}

static void prepare_to_count(void)
{
    cannot_count = pthread_atfork(NULL, NULL, count_generation) != 0;
}

static int sleepers_init(sleepers *s)
{
    atomic_init(&s->n, 0);
    if (pthread_mutex_init(&s->mutex, NULL) != 0) return 0;
    if (pthread_cond_init(&s->changed, NULL) != 0) {
        pthread_mutex_destroy(&s->mutex);
        return 0;
    }
    return 1;
}

static void sleepers_destroy(sleepers *s)
{
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->mutex);
}

/* To be called after the counter was changed.  Both sides use sequentially consistent order: either we see
 * the sleeper, or the sleeper sees the new value. */
static void sleepers_wake(sleepers *s)
{
    if (atomic_load(&s->n) == 0) return;
    pthread_mutex_lock(&s->mutex);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Returns once (*counter == wanted) is `equal`. */
static void wait_until(_Atomic int32_t *counter, int32_t wanted, int equal, sleepers *s)
{
    const int64_t deadline = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 16; i++) {
            if ((atomic_load_explicit(counter, memory_order_acquire) == wanted) == equal) return;
            s2s_cpu_relax();
        }
    } while (now_ns() < deadline);
    pthread_mutex_lock(&s->mutex);
    atomic_fetch_add(&s->n, 1);
    while ((atomic_load(counter) == wanted) != equal) pthread_cond_wait(&s->changed, &s->mutex);
    atomic_fetch_sub(&s->n, 1);
    pthread_mutex_unlock(&s->mutex);
}

/* First item of piece i of n. */
static int32_t piece_begin(int32_t n_items, int32_t i, int32_t n)
{
    return (int32_t)((int64_t)n_items * i / n);
}

static part *part_of(team *t, int32_t index)
{
    return index == 0 ? &t->part : &t->workers[index - 1].part;
}

/* Does chunks of a part until none is left; returns how many. */
static int32_t work_on_part(part *p, int32_t worker_index)
{
    int32_t n_done = 0;
    while (atomic_load_explicit(&p->n_left, memory_order_relaxed) > 0) {
        const int32_t n = atomic_fetch_sub(&p->n_left, 1);
        if (n <= 0) break;
        const int32_t chunk = p->n_chunks - n;
        p->task(p->context, p->begin + piece_begin(p->n_items, chunk, p->n_chunks),
                p->begin + piece_begin(p->n_items, chunk + 1, p->n_chunks), worker_index);
        n_done++;
    }
    return n_done;
}

/* All parts, from the own one on. */
static void work(team *t, int32_t worker_index)
{
    int32_t n_done = 0, index = worker_index;
    do {
        n_done += work_on_part(part_of(t, index), worker_index);
        index = index == t->n_workers ? 0 : index + 1;
    } while (index != worker_index);
    if (n_done > 0 && atomic_fetch_sub(&t->n_undone, n_done) == n_done) sleepers_wake(&t->asleep);
}

static void *worker_main(void *argument)
{
    worker *self = argument;
    for (int32_t seen = 0;;) {
        wait_until(&self->posted, seen, 0, &self->asleep);
        seen = atomic_load(&self->posted);
        if (atomic_load(&self->team->is_ending)) return NULL;
        work(self->team, self->index);
    }
}

/* The count wraps around: it is only compared for equality. */
static void worker_post(worker *w)
{
    atomic_fetch_add(&w->posted, 1);
    sleepers_wake(&w->asleep);
}

/* A team of up to n_threads - 1 workers; fewer when the system refuses more; NULL when there is none. */
static team *team_create(int32_t n_threads)
{
    const size_t n_bytes = sizeof(team) + (size_t)(n_threads - 1) * sizeof(worker);
    void *block = NULL;
    if (posix_memalign(&block, S2S_CACHE_LINE, n_bytes) != 0) return NULL;
    team *t = block;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) {
        free(t);
        return NULL;
    }
    if (!sleepers_init(&t->asleep)) {
        pthread_attr_destroy(&attributes);
        free(t);
        return NULL;
    }
    pthread_attr_setstacksize(&attributes, STACK_BYTES);

    /* Signals are the caller's business: workers start with all of them blocked. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    atomic_init(&t->is_ending, 0);
    atomic_init(&t->n_undone, 0);
    atomic_init(&t->part.n_left, 0);
    t->n_workers = 0;
    while (t->n_workers < n_threads - 1) {
        worker *w = &t->workers[t->n_workers];
        w->team = t;
        w->index = t->n_workers + 1;
        atomic_init(&w->posted, 0);
        atomic_init(&w->part.n_left, 0);
        if (!sleepers_init(&w->asleep)) break;
        if (pthread_create(&w->thread, &attributes, worker_main, w) != 0) {
            sleepers_destroy(&w->asleep);
            break;
        }
        t->n_workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (t->n_workers == 0) {
        sleepers_destroy(&t->asleep);
        free(t);
        return NULL;
    }
    return t;
}

static void team_free(team *t)
{
    if (t == NULL) return;
    atomic_store(&t->is_ending, 1);
    for (int32_t i = 0; i < t->n_workers; i++) worker_post(&t->workers[i]);
    for (int32_t i = 0; i < t->n_workers; i++) {
        pthread_join(t->workers[i].thread, NULL);
        sleepers_destroy(&t->workers[i].asleep);
    }
    sleepers_destroy(&t->asleep);
    free(t);
}

/* Returns 1 when this process owns a team (or knows that there is none to have) and the caller holds the
 * pool.  In a forked child `busy` and the team are a snapshot of some moment in the parent, so the one
 * thread that wins the exchange of `owner` resets them. */
static int pool_acquire(s2s_pool *pool)
{
    const int64_t ready = atomic_load_explicit(&generation, memory_order_relaxed) * 2;
    int64_t owner = atomic_load(&pool->owner);
    if (S2S_UNLIKELY(owner != ready)) {
        if (owner == ready + 1) return 0; /* another thread of this process is building */
        if (!atomic_compare_exchange_strong(&pool->owner, &owner, ready + 1)) return 0;
        team *inherited = pool->team;
        pool->team = NULL; /* first: this thread may be the next one to be forked away from */
        free(inherited);   /* its locks and threads are the parent's: nothing to join or destroy */
        pool->team = team_create(pool->n_threads);
        atomic_store(&pool->busy, 1);
        atomic_store(&pool->owner, ready);
        return 1;
    }
    return atomic_exchange(&pool->busy, 1) == 0;
}

s2s_status s2s_pool_create(int32_t n_threads, s2s_pool **out, s2s_error *error)
{
    if (out == NULL)
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "s2s_pool_create: out must not be NULL");
    *out = NULL;
    if (n_threads < 1 || n_threads > MAX_THREADS)
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "threads must be from 1 to %d, not %d",
                        MAX_THREADS, (int)n_threads);
    pthread_once(&once, prepare_to_count);
    s2s_pool *pool = cannot_count ? NULL : malloc(sizeof *pool);
    if (pool == NULL)
        return s2s_fail(error, S2S_OUT_OF_MEMORY, "out of memory for a pool of %d threads",
                        (int)n_threads);
    pool->n_threads = n_threads;
    pool->team = NULL;
    atomic_init(&pool->owner, 0);
    atomic_init(&pool->busy, 0);
    *out = pool;
    return S2S_OK;
}

void s2s_pool_free(s2s_pool *pool)
{
    if (pool == NULL) return;
    if (atomic_load(&pool->owner) == atomic_load(&generation) * 2)
        team_free(pool->team);
    else
        free(pool->team);
    free(pool);
}

int32_t s2s_pool_n_threads(const s2s_pool *pool)
{
    return pool != NULL ? pool->n_threads : 1;
}

void s2s_pool_wake(s2s_pool *pool)
{
    if (pool == NULL || pool->n_threads == 1) return;
    if (atomic_load(&pool->owner) != atomic_load(&generation) * 2) return; /* nobody sleeps yet */
    if (atomic_exchange(&pool->busy, 1) != 0) return;                      /* or now */
    for (int32_t i = 0; pool->team != NULL && i < pool->team->n_workers; i++)
        if (atomic_load(&pool->team->workers[i].asleep.n) > 0)
            worker_post(&pool->team->workers[i]); /* it finds no chunk, and waits for one */
    atomic_store(&pool->busy, 0);
}

void s2s_pool_run(s2s_pool *pool, s2s_task_fn task, void *context, int32_t n_items, int32_t grain)
{
    if (n_items <= 0) return;
    if (grain < 1) grain = 1;
    int32_t n_parts = n_items / grain;
    if (pool == NULL || pool->n_threads == 1 || n_parts < 2 || !pool_acquire(pool)) {
        task(context, 0, n_items, 0);
        return;
    }
    team *t = pool->team;
    if (t == NULL) {
        atomic_store(&pool->busy, 0);
        task(context, 0, n_items, 0);
        return;
    }
    if (n_parts > t->n_workers + 1) n_parts = t->n_workers + 1;
    int32_t n_chunks = n_items / n_parts / grain; /* at least 1: parts have `grain` items */
    if (n_chunks > MAX_CHUNKS) n_chunks = MAX_CHUNKS;
    atomic_store_explicit(&t->n_undone, n_parts * n_chunks, memory_order_relaxed);
    for (int32_t i = 0; i < n_parts; i++) {
        part *p = part_of(t, i);
        p->begin = piece_begin(n_items, i, n_parts);
        p->n_items = piece_begin(n_items, i + 1, n_parts) - p->begin;
        p->n_chunks = n_chunks;
        p->task = task;
        p->context = context;
        /* a worker that has not gone to sleep since the last loop may take a chunk from here on */
        atomic_store_explicit(&p->n_left, n_chunks, memory_order_release);
        if (i > 0) worker_post(&t->workers[i - 1]);
    }
    work(t, 0);
    if (atomic_load(&t->n_undone) != 0) {
        S2S_OPERATION(WAIT);
        wait_until(&t->n_undone, 0, 1, &t->asleep);
    }
    atomic_store(&pool->busy, 0);
}
