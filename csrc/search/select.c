/* select.c: the k best of many.  A bounded heap over one pass: what cannot enter it is skipped by a
 * vector comparison, so the cost is that of reading x, whatever k.  Of x in random order about
 * k ln(n / k) elements enter; in the worst order, rising, all do: n log k. */
#include <math.h>

#include "internal.h"

#define SCAN 512 /* elements between two looks at the threshold: the indices found fit in 2 KB */

static int before(float va, int32_t ia, float vb, int32_t ib)
{
    return va < vb || (va == vb && ia > ib);
}

void s2s_heap_sift(float *values, int32_t *ids, int32_t n, int32_t i)
{
    const float value = values[i];
    const int32_t id = ids[i];
    for (;;) {
        /* 2 i + 1 <= n stays within int32_t: n is a vocabulary size */
        int32_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && before(values[child + 1], ids[child + 1], values[child], ids[child]))
            child++;
        if (!before(values[child], ids[child], value, id)) break;
        values[i] = values[child];
        ids[i] = ids[child];
        i = child;
    }
    values[i] = value;
    ids[i] = id;
}

void s2s_heap_build(float *values, int32_t *ids, int32_t n)
{
    for (int32_t i = n / 2; i-- > 0;) s2s_heap_sift(values, ids, n, i);
}

void s2s_heap_offer(float *values, int32_t *ids, int32_t *n, int32_t k, float value, int32_t id)
{
    if (*n < k) {
        values[*n] = value;
        ids[*n] = id;
        if (++*n == k) s2s_heap_build(values, ids, k);
    } else if (before(values[0], ids[0], value, id)) {
        values[0] = value;
        ids[0] = id;
        s2s_heap_sift(values, ids, k, 0);
    }
}

void s2s_heap_sort(float *values, int32_t *ids, int32_t n)
{
    s2s_heap_build(values, ids,
                   n); /* a heap that never filled up is still in the order of arrival */
    while (n-- > 1) {
        const float value = values[0];
        const int32_t id = ids[0];
        values[0] = values[n];
        ids[0] = ids[n];
        values[n] = value;
        ids[n] = id;
        s2s_heap_sift(values, ids, n, 0);
    }
}

int32_t s2s_top_k(const s2s_kernels *kernels, const float *x, int32_t n, int32_t k, float *values,
                  int32_t *ids)
{
    int32_t found[SCAN];
    int32_t n_kept = 0;
    for (int32_t begin = 0; begin < n; begin += SCAN) {
        const int32_t n_scan = n - begin < SCAN ? n - begin : SCAN;
        /* equal to the threshold loses to what is kept already, which has smaller ids */
        const float threshold = n_kept < k ? -INFINITY : values[0];
        const int32_t n_found = kernels->find_above(x + begin, n_scan, threshold, found, SCAN);
        for (int32_t i = 0; i < n_found; i++)
            s2s_heap_offer(values, ids, &n_kept, k, x[begin + found[i]], begin + found[i]);
    }
    s2s_heap_sort(values, ids, n_kept);
    return n_kept;
}
