/* queue.c: the queues of a session, linked through their tickets: no allocation. */
#include <stdlib.h>

#include "session.h"

void s2s_queue_push(s2s_queue *q, s2s_ticket *t)
{
    t->next = NULL;
    if (q->tail) {
        q->tail->next = t;
    } else {
        q->head = t;
    }
    q->tail = t;
}

s2s_ticket *s2s_queue_pop(s2s_queue *q)
{
    s2s_ticket *t = q->head;
    if (t == NULL) return NULL;
    q->head = t->next;
    if (q->head == NULL) q->tail = NULL;
    t->next = NULL;
    return t;
}

int s2s_queue_remove(s2s_queue *q, s2s_ticket *wanted)
{
    s2s_ticket *previous = NULL;
    for (s2s_ticket *t = q->head; t; previous = t, t = t->next) {
        if (t != wanted) continue;
        if (previous) {
            previous->next = t->next;
        } else {
            q->head = t->next;
        }
        if (q->tail == t) q->tail = previous;
        return 1;
    }
    return 0;
}

s2s_ticket *s2s_queue_find(const s2s_queue *q, uint64_t id)
{
    for (s2s_ticket *t = q->head; t; t = t->next) {
        if (t->result.id == id) return t;
    }
    return NULL;
}

void s2s_queue_free(s2s_queue *q)
{
    s2s_ticket *t;
    while ((t = s2s_queue_pop(q)) != NULL) free(t);
}
