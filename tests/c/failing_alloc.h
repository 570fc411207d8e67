/* failing_alloc.h: makes the n-th allocation fail, and counts allocations.
 *
 * Every test program is linked with --wrap for malloc, calloc, realloc, aligned_alloc, posix_memalign,
 * mmap and pthread_create, so calls from the core and from the test come through here; calls inside
 * libc do not.
 *
 *     for (long n = 0; ; n++) {
 *         allocation_fail_at(n);                 // the n-th from now fails, once; -1: none
 *         s2s_status status = thing_create(...);
 *         long n_made = allocation_count();
 *         allocation_fail_at(-1);
 *         if (status == S2S_OK) { thing_free(...); }
 *         if (n_made <= n) break;                // the n-th was never reached: all have failed once
 *         CHECK(status == S2S_OUT_OF_MEMORY, ...);
 *     }
 */
#ifndef FAILING_ALLOC_H
#define FAILING_ALLOC_H

/* Restarts the count at 0. */
void allocation_fail_at(long n);
/* Allocations since allocation_fail_at(), the failed one included. */
long allocation_count(void);

#endif
