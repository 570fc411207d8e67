/* step.c: admits waiting requests and advances every active row by one token.
 *
 * A step allocates nothing: all buffers were taken from one arena when the session was made, and what
 * belongs to a request (its search, its result) was allocated when it was submitted.
 */
#include "../base/profile.h"
#include "session.h"

#include <string.h>

/* ---- Admission --------------------------------------------------------------------------- */

/* Encodes waiting requests together, in order: as many as there are tokens and places for. */
static void encode_waiting(s2s_session *s)
{
    int32_t n_tokens = 0, n_sources = 0;
    s2s_ticket *t;
    while ((t = s->waiting.head) != NULL && s->n_free_sources > 0 &&
           n_tokens + t->n_source <= s->config.max_encoder_tokens) {
        s2s_queue_push(&s->encoded, s2s_queue_pop(&s->waiting));
        t->source_slot = s->free_sources[--s->n_free_sources];
        for (int32_t i = 0; i < t->n_source; i++) {
            s->encoder_ids[n_tokens + i] = t->source[i];
            s->encoder_positions[n_tokens + i] = i;
        }
        s->encoder_slots[n_sources] = t->source_slot;
        s->encoder_offsets[n_sources++] = n_tokens;
        n_tokens += t->n_source;
    }
    if (n_tokens == 0) return; /* none came, or they have no source: there is no encoder */
    s->encoder_offsets[n_sources] = n_tokens;
    s2s_sources sources = {s->encoder_ids, s->encoder_positions, s->encoder_offsets, n_sources,
                           NULL};
    s2s_encoder_run(&s->exec, &sources, &s->ws);
    s2s_decoder_prepare(&s->exec, &s->cache, s->encoder_slots, s->encoder_offsets, n_sources,
                        &s->ws);
}

/* Moves encoded requests into free rows, in order. */
static void admit_encoded(s2s_session *s)
{
    s2s_ticket *t;
    while ((t = s->encoded.head) != NULL && t->n_rows <= s->n_free_rows) {
        s2s_queue_pop(&s->encoded);
        for (int32_t i = 0; i < t->n_rows; i++) t->rows[i] = s->free_rows[--s->n_free_rows];
        s->active[s->n_active++] = t;
        t->position = t->result.n_reused;
        if (t->position == 0) continue;
        s2s_kv_cache_share(&s->cache, t->rows[0], t->position);
        s2s_search_skip(t->search, t->position);
    }
}

/* Fills free rows.  Sources are encoded when the first of them is needed, with all that fit: a pass
 * over few tokens costs about as much as one over many. */
static void admit_waiting(s2s_session *s)
{
    admit_encoded(s);
    if (s->encoded.head == NULL && s->waiting.head != NULL &&
        s->waiting.head->n_rows <= s->n_free_rows) {
        encode_waiting(s);
        admit_encoded(s);
    }
}

/* ---- One step ---------------------------------------------------------------------------- */

/* Enters a token of decoder row `row` into the batch; the search scans it as its row `index`. */
static void add_entry(s2s_session *s, s2s_ticket *t, int32_t row, int32_t position, int32_t token,
                      int32_t index)
{
    s2s_batch *b = &s->batch;
    const int32_t n = b->n++;
    b->tokens[n] = token;
    b->positions[n] = position;
    b->rows[n] = row;
    b->sources[n] = t->source_slot;
    b->n_source[n] = t->n_source;
    b->alignment[n] = s2s_search_alignment(t->search, index);
    s->batch_ticket[n] = t;
    s->batch_index[n] = index;
    s2s_kv_cache_extend(&s->cache, row, position);
}

/* The tokens before the last one of a block of the prefix; the search goes on behind them. */
static void gather_given(s2s_session *s, s2s_ticket *t, int32_t room)
{
    int32_t n_given, token = s2s_search_tokens(t->search)[0];
    const int32_t *given = s2s_search_given(t->search, &n_given);
    const int32_t n = s2s_min(n_given, s2s_min(room, s2s_min(S2S_KV_BLOCK - 1, S2S_SEARCH_AHEAD)));
    if (n <= 0 || s->exec.record) return;
    s2s_search_read_ahead(t->search, n);
    for (int32_t i = 0; i < n; i++) {
        add_entry(s, t, t->rows[0], t->position++, token, t->n_rows + i);
        token = given[i];
    }
}

void s2s_session_find_cells(s2s_session *s)
{
    s2s_batch *b = &s->batch;
    for (int32_t i = 0; i < b->n; i++)
        for (int32_t r = 0; r < S2S_KV_RINGS; r++)
            b->cells[r][i] =
                s2s_kv_cache_visible(&s->cache, r, b->rows[i], b->positions[i], &b->n_cells[r][i]);
}

static void gather_rows(s2s_session *s)
{
    s2s_batch *b = &s->batch;
    int32_t n_rows = 0; /* that are still to come */
    b->n = 0;
    for (int32_t i = 0; i < s->n_active; i++) n_rows += s2s_search_n_live(s->active[i]->search);
    for (int32_t i = 0; i < s->n_active; i++) {
        s2s_ticket *t = s->active[i];
        const int32_t n_live = s2s_search_n_live(t->search);
        gather_given(s, t, s->ws.max_tokens - b->n - n_rows);
        const int32_t *tokens = s2s_search_tokens(t->search);
        for (int32_t j = 0; j < n_live; j++) add_entry(s, t, t->rows[j], t->position, tokens[j], j);
        n_rows -= n_live;
    }
    s2s_session_find_cells(s);
}

/* ---- From hidden states to candidates, each row as its search needs it --------------------- */

static void run_begin(void *context, int32_t begin, int32_t end, int32_t worker)
{
    s2s_session *s = context;
    (void)worker;
    for (int32_t i = begin; i < end; i++) {
        const s2s_ticket *t = s->batch_ticket[i];
        s->batch_need[i] = (unsigned char)s2s_search_scan_begin(t->search, s->batch_index[i]);
    }
}

static void run_end(void *context, int32_t begin, int32_t end, int32_t worker)
{
    s2s_session *s = context;
    (void)worker;
    for (int32_t i = begin; i < end; i++)
        if (s->batch_need[i] != S2S_LOGITS_ROW)
            s2s_search_scan_end(s->batch_ticket[i]->search, s->batch_index[i]);
}

static void scan_block(void *context, int32_t row, int32_t worker, int32_t block, float *x)
{
    s2s_session *s = context;
    const int32_t i = s->picked[row];
    s2s_search_scan(s->batch_ticket[i]->search, s->batch_index[i], worker, block, x);
}

static void rule_out_block(void *context, int32_t row, int32_t worker, int32_t block, float *x)
{
    s2s_session *s = context;
    const int32_t i = s->picked[row];
    (void)worker;
    s2s_search_rule_out(s->batch_ticket[i]->search, s->batch_index[i], block, x);
}

static void keep_block(void *context, int32_t row, int32_t worker, int32_t block, float *x)
{
    s2s_session *s = context;
    const size_t first = (size_t)block * S2S_LOGITS_BLOCK;
    const size_t left = s->ld_logits - first;
    (void)worker;
    memcpy(s->logits + (size_t)row * s->ld_logits + first, x,
           (left < S2S_LOGITS_BLOCK ? left : S2S_LOGITS_BLOCK) * sizeof(float));
}

static void run_whole(void *context, int32_t begin, int32_t end, int32_t worker)
{
    s2s_session *s = context;
    (void)worker;
    for (int32_t row = begin; row < end; row++) {
        const int32_t i = s->picked[row];
        s2s_search_whole_row(s->batch_ticket[i]->search, s->batch_index[i],
                             s->logits + (size_t)row * s->ld_logits);
    }
}

/* The rows from *next on that need `need`, at most `limit`; *next moves behind the last. */
static int32_t pick_rows(s2s_session *s, s2s_logits_need need, int32_t *next, int32_t limit)
{
    s->n_picked = 0;
    for (; *next < s->batch.n && s->n_picked < limit; ++*next)
        if (s->batch_need[*next] == need) s->picked[s->n_picked++] = *next;
    return s->n_picked;
}

/* The one row of a recorded session: its logits are written out, and searched as ever. */
static void score_recorded(s2s_session *s)
{
    s->picked[0] = 0;
    s2s_output_run(&s->exec, s->picked, 1, &s->ws, keep_block, s);
    s2s_record_rows(&s->exec, &s->exec.model->decoder, -1, "logits", s->logits, 1,
                    s->exec.model->output.n_out, s->ld_logits);
    s2s_search_row(s->batch_ticket[0]->search, s->batch_index[0], s->logits);
}

/* Fewest rows worth a second thread. */
enum { MIN_BEGUN_ROWS = 32, MIN_ENDED_ROWS = 8 };

static void score_rows(s2s_session *s)
{
    S2S_OPERATION(SEARCH);
    int32_t next = 0;
    if (s->exec.record) {
        score_recorded(s);
        return;
    }
    s2s_pool_run(s->exec.pool, run_begin, s, s->batch.n, MIN_BEGUN_ROWS);
    pick_rows(s, S2S_LOGITS_BLOCKS, &next, s->batch.n);
    s2s_output_run(&s->exec, s->picked, s->n_picked, &s->ws, scan_block, s);
    next = 0;
    pick_rows(s, S2S_LOGITS_BEST, &next, s->batch.n);
    s2s_output_run_best(&s->exec, s->picked, s->n_picked, &s->ws, rule_out_block, scan_block, s);
    s2s_pool_run(s->exec.pool, run_end, s, s->batch.n, MIN_ENDED_ROWS);
    for (next = 0; pick_rows(s, S2S_LOGITS_ROW, &next, s->logit_rows) > 0;) {
        s2s_output_run(&s->exec, s->picked, s->n_picked, &s->ws, keep_block, s);
        s2s_pool_run(s->exec.pool, run_whole, s, s->n_picked, 1);
    }
}

void s2s_session_finish(s2s_session *s, s2s_ticket *t)
{
    for (int32_t i = t->n_rows - 1; i >= 0; i--) s->free_rows[s->n_free_rows++] = t->rows[i];
    s->free_sources[s->n_free_sources++] = t->source_slot;
    s2s_search_result(t->search, &t->result);
    s2s_queue_push(&s->done, t);
}

/* Returns how many searches ended because their logits were not numbers. */
static int32_t advance_searches(s2s_session *s)
{
    int32_t n_kept = 0, n_broken = 0;
    S2S_OPERATION(SEARCH);
    for (int32_t i = 0; i < s->n_active; i++) {
        s2s_ticket *t = s->active[i];
        if (s2s_search_is_broken(t->search)) {
            n_broken++;
            s2s_search_cancel(t->search);
            s2s_session_finish(s, t);
            continue;
        }
        if (s2s_search_n_live(t->search) > 0) s2s_search_step(t->search);
        t->position++;
        const int32_t n_live = s2s_search_n_live(t->search);
        if (n_live == 0) {
            s2s_session_finish(s, t);
            continue;
        }
        S2S_OPERATION(KV_REORDER);
        s2s_kv_cache_reorder(&s->cache, t->rows, s2s_search_parents(t->search), n_live,
                             t->position);
        s->active[n_kept++] = t;
    }
    s->n_active = n_kept;
    return n_broken;
}

s2s_status s2s_session_step(s2s_session *s, int32_t *n_pending, s2s_error *error)
{
    if (s == NULL || n_pending == NULL) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "s2s_session_step got a NULL argument");
    }
    int32_t n_broken = 0;
    S2S_OPERATION(STEP);
    admit_waiting(s);
    const int32_t n_stepped = s->n_active;
    if (s->n_active > 0) {
        gather_rows(s);
        if (s->batch.n > 0) {
            s2s_decoder_run(&s->exec, &s->cache, &s->batch, &s->ws);
            score_rows(s);
        }
        n_broken = advance_searches(s);
    }
    *n_pending = s->n_pending;
    if (n_broken > 0) {
        return s2s_fail(
            error, S2S_INVALID_MODEL,
            "the model computed logits that are not numbers (NaN) for %d of %d requests: "
            "its weights are damaged or overflow",
            n_broken, n_stepped);
    }
    if (s->exec.record_failed) {
        return s2s_fail(error, S2S_OUT_OF_MEMORY, "out of memory for a recorded tensor");
    }
    return S2S_OK;
}
