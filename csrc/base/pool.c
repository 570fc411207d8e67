/* Protocol.  A loop is cut into one part for each thread and a part into a few chunks.  The caller writes
 * the loop down, fills every part's count of chunks that are left, and raises the `posted` count of the
 * workers it wants.  Whoever works takes chunks, by lowering a count, first of its own part and then of
 * the others', so that a worker that is late or was interrupted holds nobody up: the caller does the
 * work itself, and waits only for chunks that are under way.  A worker that arrives when the loop is
 * over finds no chunk; if it finds one of the next loop, that is as good.
 * Whoever waits spins for a short time and then sleeps on a condition variable.  A team belongs to one process: after a fork the child finds another
 * process id, forgets the team (its threads do not exist there) and builds a new one. */
#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "compiler.h"
#include "profile.h"
#include "status.h"

#define MAX_THREADS 1024
#define SPIN_NS 50000          /* longer than the serial work between two loops of a step */
#define MAX_CHUNKS 4           /* of one part */
#define STACK_BYTES (1u << 20) /* kernels keep little on the stack */

/* A counter to wait on. */
typedef struct event {
    _Atomic int32_t value;
    atomic_int n_sleeping;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} event;

typedef struct worker {
    S2S_ALIGN(S2S_CACHE_LINE) event posted; /* loops posted so far */
    struct team *team;
    int32_t index;
    pthread_t thread;
    S2S_ALIGN(S2S_CACHE_LINE)
    _Atomic int32_t n_left; /* chunks of part `index`; below 0 is none, too */
} worker;

typedef struct team {
    event n_undone; /* chunks of the current loop */
    atomic_int is_ending;
    /* The current loop: to be read by whoever holds one of its chunks. */
    s2s_task_fn task;
    void *context;
    int32_t n_items, n_parts, n_chunks; /* n_chunks: of each part */
    int32_t n_workers;
    S2S_ALIGN(S2S_CACHE_LINE) _Atomic int32_t n_left; /* chunks of the caller's part */
    worker workers[];
} team;

struct s2s_pool {
    int32_t n_threads;
    /* process id * 2 + 1 while the team is being built, process id * 2 afterwards, 0 before. */
    _Atomic int64_t owner;
    atomic_int busy; /* 1: some thread runs a loop */
    team *team;      /* NULL: no workers, everything runs on the caller */
};

static int event_init(event *e)
{
    atomic_init(&e->value, 0);
    atomic_init(&e->n_sleeping, 0);
    if (pthread_mutex_init(&e->mutex, NULL) != 0) return 0;
    if (pthread_cond_init(&e->changed, NULL) != 0) {
        pthread_mutex_destroy(&e->mutex);
        return 0;
    }
    return 1;
}

static void event_destroy(event *e)
{
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->mutex);
}

/* To be called after `value` was changed.  Both sides use sequentially consistent order: either we see
 * the sleeper, or the sleeper sees the new value. */
static void event_wake(event *e)
{
    if (atomic_load(&e->n_sleeping) == 0) return;
    pthread_mutex_lock(&e->mutex);
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->mutex);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Returns once (value == wanted) is `equal`. */
static void event_wait(event *e, int32_t wanted, int equal)
{
    const int64_t deadline = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 16; i++) {
            if ((atomic_load_explicit(&e->value, memory_order_acquire) == wanted) == equal) return;
            s2s_cpu_relax();
        }
    } while (now_ns() < deadline);
    pthread_mutex_lock(&e->mutex);
    atomic_fetch_add(&e->n_sleeping, 1);
    while ((atomic_load(&e->value) == wanted) != equal) pthread_cond_wait(&e->changed, &e->mutex);
    atomic_fetch_sub(&e->n_sleeping, 1);
    pthread_mutex_unlock(&e->mutex);
}

/* First item of part i of n_parts. */
static int32_t part_begin(int32_t n_items, int32_t i, int32_t n_parts)
{
    return (int32_t)((int64_t)n_items * i / n_parts);
}

static _Atomic int32_t *part_left(team *t, int32_t part)
{
    return part == 0 ? &t->n_left : &t->workers[part - 1].n_left;
}

/* Does chunks of a part until none is left; returns how many. */
static int32_t work_on_part(team *t, int32_t part, int32_t worker_index)
{
    _Atomic int32_t *left = part_left(t, part);
    int32_t n_done = 0;
    while (atomic_load_explicit(left, memory_order_relaxed) > 0) {
        const int32_t n = atomic_fetch_sub(left, 1);
        if (n <= 0) break;
        const int32_t begin = part_begin(t->n_items, part, t->n_parts);
        const int32_t n_items = part_begin(t->n_items, part + 1, t->n_parts) - begin;
        const int32_t chunk = t->n_chunks - n;
        t->task(t->context, begin + part_begin(n_items, chunk, t->n_chunks),
                begin + part_begin(n_items, chunk + 1, t->n_chunks), worker_index);
        n_done++;
    }
    return n_done;
}

/* All parts, from the own one on. */
static void work(team *t, int32_t worker_index)
{
    int32_t n_done = 0, part = worker_index;
    do {
        n_done += work_on_part(t, part, worker_index);
        part = part == t->n_workers ? 0 : part + 1;
    } while (part != worker_index);
    if (n_done > 0 && atomic_fetch_sub(&t->n_undone.value, n_done) == n_done)
        event_wake(&t->n_undone);
}

static void *worker_main(void *argument)
{
    worker *self = argument;
    for (int32_t seen = 0;;) {
        event_wait(&self->posted, seen, 0);
        seen = atomic_load(&self->posted.value);
        if (atomic_load(&self->team->is_ending)) return NULL;
        work(self->team, self->index);
    }
}

/* The count wraps around: it is only compared for equality. */
static void worker_post(worker *w)
{
    atomic_fetch_add(&w->posted.value, 1);
    event_wake(&w->posted);
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
    if (!event_init(&t->n_undone)) {
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
    atomic_init(&t->n_left, 0);
    t->n_workers = 0;
    while (t->n_workers < n_threads - 1) {
        worker *w = &t->workers[t->n_workers];
        w->team = t;
        w->index = t->n_workers + 1;
        atomic_init(&w->n_left, 0);
        if (!event_init(&w->posted)) break;
        if (pthread_create(&w->thread, &attributes, worker_main, w) != 0) {
            event_destroy(&w->posted);
            break;
        }
        t->n_workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (t->n_workers == 0) {
        event_destroy(&t->n_undone);
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
        event_destroy(&t->workers[i].posted);
    }
    event_destroy(&t->n_undone);
    free(t);
}

/* Returns 1 when this process owns a team (or knows that there is none to have) and the caller holds the
 * pool.  In a forked child `busy` and the team are a snapshot of some moment in the parent, so the one
 * thread that wins the exchange of `owner` resets them. */
static int pool_acquire(s2s_pool *pool)
{
    const int64_t ready = (int64_t)getpid() * 2;
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
    s2s_pool *pool = malloc(sizeof *pool);
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
    if (atomic_load(&pool->owner) == (int64_t)getpid() * 2)
        team_free(pool->team);
    else
        free(pool->team);
    free(pool);
}

int32_t s2s_pool_n_threads(const s2s_pool *pool)
{
    return pool != NULL ? pool->n_threads : 1;
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
    t->task = task;
    t->context = context;
    t->n_items = n_items;
    t->n_parts = n_parts;
    t->n_chunks = n_chunks;
    atomic_store(&t->n_undone.value, n_parts * n_chunks);
    for (int32_t i = 0; i < n_parts; i++) atomic_store(part_left(t, i), n_chunks);
    for (int32_t i = 1; i < n_parts; i++) worker_post(&t->workers[i - 1]);
    work(t, 0);
    if (atomic_load(&t->n_undone.value) != 0) {
        S2S_OPERATION(WAIT);
        event_wait(&t->n_undone, 0, 1);
    }
    atomic_store(&pool->busy, 0);
}
