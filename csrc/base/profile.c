/* profile.c: see profile.h; the public functions exist in every build. */
#define _GNU_SOURCE
#include "profile.h"

#ifdef S2S_PROFILE

#include <stdatomic.h>
#include <time.h>

enum { N_COUNTERS = 2 * S2S_N_OPERATIONS, NOTHING = -1 };

static _Atomic int64_t nanoseconds[N_COUNTERS], n_entered[N_COUNTERS];
static _Thread_local int32_t current = NOTHING; /* counter that runs on this thread */
static _Thread_local int64_t since;

static const char *const names[N_COUNTERS] = {
#define PLAIN(name, text) text,
#define IN_ENCODER(name, text) "encoder." text,
    S2S_OPERATIONS(PLAIN) S2S_OPERATIONS(IN_ENCODER)};

static void switch_to(int32_t counter)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    const int64_t now = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    if (current != NOTHING)
        atomic_fetch_add_explicit(&nanoseconds[current], now - since, memory_order_relaxed);
    current = counter;
    since = now;
}

int32_t s2s_profile_enter(s2s_operation operation)
{
    const int32_t previous = current;
    const int in_encoder = previous >= S2S_N_OPERATIONS || previous == S2S_OP_ENCODER;
    const int32_t counter = (int32_t)operation + (in_encoder ? S2S_N_OPERATIONS : 0);
    atomic_fetch_add_explicit(&n_entered[counter], 1, memory_order_relaxed);
    switch_to(counter);
    return previous;
}

void s2s_profile_leave(const int32_t *previous)
{
    switch_to(*previous);
}

const char *s2s_profile_read(int32_t index, int64_t *ns, int64_t *n_times)
{
    if (index < 0 || index >= N_COUNTERS) return NULL;
    *ns = atomic_load_explicit(&nanoseconds[index], memory_order_relaxed);
    *n_times = atomic_load_explicit(&n_entered[index], memory_order_relaxed);
    return names[index];
}

#else

const char *s2s_profile_read(int32_t index, int64_t *ns, int64_t *n_times)
{
    (void)index;
    (void)ns;
    (void)n_times;
    return NULL;
}

#endif
