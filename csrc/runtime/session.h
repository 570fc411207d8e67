/* session.h: the inside of a session, shared by the files of this folder.
 *
 * Concept.  Requests ("tickets") wait in a queue, are encoded many at once (ahead of free rows, as far as
 * there is memory for their keys and values), are admitted into free decoder rows, advance one token a
 * step together, and end in a queue of results.  session.c makes sessions and takes requests, step.c
 * runs them.
 * Ownership.  The session owns its arena and all tickets until their results are handed out.  One thread.
 */
#ifndef S2S_SESSION_H
#define S2S_SESSION_H

#include "../base/arena.h"
#include "../base/numbers.h"
#include "../base/status.h"
#include "../nn/decoder.h"
#include "../nn/encoder.h"
#include "../nn/output.h"
#include "../search/search.h"

/* A request from submit to result.  One block: this struct, the source ids, the search. */
typedef struct s2s_ticket {
    s2s_result result; /* first: a result pointer is the ticket's pointer */
    struct s2s_ticket *next;
    s2s_search *search;
    const int32_t *source; /* [n_source] */
    int32_t n_source;
    int32_t n_rows;      /* decoder rows it may use */
    int32_t *rows;       /* [n_rows] which, once admitted */
    int32_t source_slot; /* once encoded */
    int32_t position;    /* of the token to be fed next */
} s2s_ticket;

/* A prompt and its keys and values.  While it is being read it has a session of one row, whose
 * rings hold the last block. */
struct s2s_prompt {
    const s2s_model *model;
    s2s_session *reader; /* NULL once it was read */
    int32_t *ids;        /* [n_ids] */
    int32_t n_ids, n_read;
    s2s_dtype kv_dtype;
    void *k, *v; /* [n_layers][n_ids] cells, see kv_cache.h */
    s2s_arena arena;
};

/* First in, first out. */
typedef struct s2s_queue {
    s2s_ticket *head, *tail;
} s2s_queue;

struct s2s_session {
    s2s_exec exec;
    s2s_session_config config;
    s2s_arena arena;
    s2s_workspace ws;
    s2s_kv_cache cache;

    s2s_queue waiting, encoded, done;
    s2s_ticket **active; /* [n_active], in order of admission */
    int32_t n_active, n_pending;
    uint64_t last_id;

    int32_t *free_rows, *free_sources; /* stacks */
    int32_t n_free_rows, n_free_sources;

    s2s_batch batch;           /* arrays of max_rows */
    s2s_ticket **batch_ticket; /* [max_tokens of ws] whose token ... */
    int32_t *batch_index;      /* ... and which row of its search */
    unsigned char *batch_need; /* [max_tokens] s2s_logits_need of its search */
    int32_t *picked, n_picked; /* [max_tokens] rows of the batch that are projected together */
    float *logits;             /* [logit_rows, ld_logits] for those that need whole rows */
    size_t ld_logits;
    int32_t logit_rows;

    int32_t *encoder_ids, *encoder_positions; /* [max_encoder_tokens] */
    int32_t *encoder_offsets, *encoder_slots; /* [max_sources + 1], [max_sources] */
};

/* ---- queue.c ---- */

void s2s_queue_push(s2s_queue *queue, s2s_ticket *ticket);
s2s_ticket *s2s_queue_pop(s2s_queue *queue);                     /* NULL when empty */
int s2s_queue_remove(s2s_queue *queue, s2s_ticket *ticket);      /* 0 if it is not there */
s2s_ticket *s2s_queue_find(const s2s_queue *queue, uint64_t id); /* NULL if it is not there */
void s2s_queue_free(s2s_queue *queue);                           /* with its tickets */

/* ---- step.c ---- */

/* Fills batch.cells: what every token of the batch sees, once all are entered. */
void s2s_session_find_cells(s2s_session *session);

/* Gives the rows of an ended request back, makes its result and queues it as done. */
void s2s_session_finish(s2s_session *session, s2s_ticket *ticket);

#endif
