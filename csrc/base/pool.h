/* pool.h: a small thread pool for loops over independent items.
 *
 * s2s_pool_run splits [0, n_items) into one part for each thread, and parts into a few chunks; it returns
 * when all are done.  Each thread, the caller too, works on its own part first and then helps with the
 * others'.  Which thread does a chunk never changes a result: items are independent.
 * Workers start lazily, restart after fork, spin for some microseconds between calls of one step and
 * then sleep.  If another session holds the pool, the whole range runs on the caller's thread.
 */
#ifndef S2S_POOL_H
#define S2S_POOL_H

#include "../s2s.h"

/* worker: 0 .. n_threads-1, for per-worker scratch. */
typedef void (*s2s_task_fn)(void *context, int32_t begin, int32_t end, int32_t worker);

/* pool may be NULL (everything runs on the caller).  `grain`: fewest items worth a thread of their own.
 * The task is called several times, also by one worker. */
void s2s_pool_run(s2s_pool *pool, s2s_task_fn task, void *context, int32_t n_items, int32_t grain);

#endif
