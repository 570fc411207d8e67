/* session.c: makes sessions, takes requests, hands out results; step.c runs them. */
#include "session.h"

#include <stdlib.h>
#include <string.h>

#include "../model/coarse.h"
#include "../nn/rotary.h"

/* Whole rows of logits that exist at one time, for the requests that need them: enough to reuse the
 * output weights well, little enough that the logits of a large vocabulary stay small. */
enum { MAX_LOGIT_ROWS = 32 };

/* ---- Creation ---------------------------------------------------------------------------- */

/* Lays out everything the session touches.  Runs twice: counting, then for real.  Returns 0 when a size
 * cannot be expressed. */
static int lay_out(s2s_session *s)
{
    const s2s_model *model = s->exec.model;
    const s2s_session_config *c = &s->config;
    const size_t rows = (size_t)c->max_rows, sources = (size_t)c->max_sources;
    const size_t tokens = (size_t)c->max_encoder_tokens;
    s2s_arena *a = &s->arena;

    s2s_workspace_init(&s->ws, a, model, s2s_max(c->max_encoder_tokens, c->max_rows),
                       c->max_source_positions, c->max_target_positions,
                       s2s_pool_n_threads(s->exec.pool));
    if (!s2s_kv_cache_init(&s->cache, a, model, c->max_rows, c->max_sources,
                           c->max_target_positions, c->max_source_positions,
                           c->prompt ? c->prompt->n_ids : 0, (s2s_dtype)c->kv_dtype)) {
        return 0;
    }
    const size_t entries = (size_t)s->ws.max_tokens; /* rows, and tokens of prompts */
    s->active = s2s_arena_take(a, rows, sizeof *s->active);
    s->free_rows = s2s_arena_take(a, rows, sizeof *s->free_rows);
    s->free_sources = s2s_arena_take(a, sources, sizeof *s->free_sources);
    s->batch.tokens = s2s_arena_take(a, entries, sizeof *s->batch.tokens);
    s->batch.positions = s2s_arena_take(a, entries, sizeof *s->batch.positions);
    s->batch.rows = s2s_arena_take(a, entries, sizeof *s->batch.rows);
    s->batch.sources = s2s_arena_take(a, entries, sizeof *s->batch.sources);
    s->batch.n_source = s2s_arena_take(a, entries, sizeof *s->batch.n_source);
    for (int32_t r = 0; r < S2S_KV_RINGS; r++) {
        s->batch.cells[r] = s2s_arena_take(a, entries, sizeof *s->batch.cells[r]);
        s->batch.n_cells[r] = s2s_arena_take(a, entries, sizeof *s->batch.n_cells[r]);
    }
    s->batch.alignment = s2s_arena_take(a, entries, sizeof *s->batch.alignment);
    s->batch_ticket = s2s_arena_take(a, entries, sizeof *s->batch_ticket);
    s->batch_index = s2s_arena_take(a, entries, sizeof *s->batch_index);
    s->batch_need = s2s_arena_take(a, entries, sizeof *s->batch_need);
    s->picked = s2s_arena_take(a, entries, sizeof *s->picked);
    s->logit_rows = s2s_min(c->max_rows, MAX_LOGIT_ROWS);
    s->ld_logits = (size_t)model->output.n_tiles * S2S_TILE;
    s->logits = s2s_arena_take(a, (size_t)s->logit_rows, s->ld_logits * sizeof(float));
    s->encoder_ids = s2s_arena_take(a, tokens, sizeof *s->encoder_ids);
    s->encoder_positions = s2s_arena_take(a, tokens, sizeof *s->encoder_positions);
    s->encoder_offsets = s2s_arena_take(a, sources + 1, sizeof *s->encoder_offsets);
    s->encoder_slots = s2s_arena_take(a, sources, sizeof *s->encoder_slots);
    return !a->overflow;
}

static s2s_status check_size(s2s_error *error, const char *name, int32_t value, int32_t low,
                             int32_t high)
{
    if (value >= low && value <= high) return S2S_OK;
    return s2s_fail(error, S2S_INVALID_ARGUMENT, "%s must be from %d to %d, but is %d", name, low,
                    high, value);
}

static s2s_status check_prompt(const s2s_model *model, const s2s_session_config *config,
                               s2s_error *error)
{
    const s2s_prompt *prompt = config->prompt;
    if (prompt == NULL) return S2S_OK;
    if (prompt->model != model || prompt->kv_dtype != (s2s_dtype)config->kv_dtype)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "the prompt must be one of the same model, with keys and values of the "
                        "same type");
    if (prompt->n_read < prompt->n_ids)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "the prompt must have been read, but %d of its %d tokens were not",
                        prompt->n_ids - prompt->n_read, prompt->n_ids);
    return S2S_OK;
}

s2s_status s2s_session_create(const s2s_model *model, s2s_pool *pool,
                              const s2s_session_config *config, s2s_session **out, s2s_error *error)
{
    if (model == NULL || config == NULL || out == NULL) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "s2s_session_create got a NULL argument");
    }
    *out = NULL;
    if (model->decoder.config.n_layers == 0) {
        return s2s_fail(error, S2S_UNSUPPORTED,
                        "the model has no decoder: it encodes texts, but generates none");
    }
    S2S_TRY(check_size(error, "max_rows", config->max_rows, 1, 1 << 16));
    const int has_encoder = model->encoder.config.n_layers > 0;
    S2S_TRY(check_size(error, "max_source_positions", config->max_source_positions, has_encoder,
                       has_encoder ? model->encoder.config.max_positions : 0));
    S2S_TRY(check_size(error, "max_target_positions", config->max_target_positions, 1,
                       model->decoder.config.max_positions));
    S2S_TRY(check_size(error, "max_encoder_tokens", config->max_encoder_tokens,
                       config->max_source_positions, 1 << 24));

    S2S_TRY(check_size(error, "max_sources", config->max_sources, 0, 1 << 16));
    if (config->kv_dtype != S2S_F32 && config->kv_dtype != S2S_BF16) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "kv_dtype must be %d (float32) or %d (bfloat16), but is %d", S2S_F32,
                        S2S_BF16, config->kv_dtype);
    }

    S2S_TRY(check_prompt(model, config, error));

    s2s_session *s = calloc(1, sizeof *s);
    if (s == NULL) return s2s_fail(error, S2S_OUT_OF_MEMORY, "out of memory for a session");
    s->exec.model = model;
    s->exec.pool = pool;
    s->config = *config;
    if (config->max_sources == 0) s->config.max_sources = config->max_rows;
    if (!lay_out(s)) {
        free(s);
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "a session of %d rows, %d source and %d target positions is too large",
                        config->max_rows, config->max_source_positions,
                        config->max_target_positions);
    }
    const size_t size = s->arena.used;
    if (!s2s_arena_init(&s->arena, size, s2s_model_blocks(model))) {
        free(s);
        return s2s_fail(error, S2S_OUT_OF_MEMORY,
                        "out of memory: a session of %d rows needs %zu bytes", config->max_rows,
                        size);
    }
    lay_out(s);
    s2s_kv_cache_start(&s->cache, model);
    if (config->prompt) s2s_kv_cache_put_shared(&s->cache, config->prompt->k, config->prompt->v);
    if (model->encoder.inv_freq)
        s2s_rotary_fill(&model->encoder, s->ws.max_source, s->ws.encoder_rotary);
    if (model->decoder.inv_freq)
        s2s_rotary_fill(&model->decoder, s->ws.max_target, s->ws.decoder_rotary);
    for (int32_t i = 0; i < config->max_rows; i++) {
        /* Stacks, lowest number on top. */
        s->free_rows[i] = config->max_rows - 1 - i;
    }
    for (int32_t i = 0; i < s->config.max_sources; i++)
        s->free_sources[i] = s->config.max_sources - 1 - i;
    s->n_free_rows = config->max_rows;
    s->n_free_sources = s->config.max_sources;
    *out = s;
    return S2S_OK;
}

void s2s_session_free(s2s_session *s)
{
    if (s == NULL) return;
    s2s_queue_free(&s->waiting);
    s2s_queue_free(&s->encoded);
    s2s_queue_free(&s->done);
    for (int32_t i = 0; i < s->n_active; i++) free(s->active[i]);
    s2s_arena_release(&s->arena, s2s_model_blocks(s->exec.model));
    free(s);
}

size_t s2s_session_bytes(const s2s_session *s)
{
    return s->arena.used;
}

void s2s_session_set_record(s2s_session *s, s2s_record_fn record, void *user)
{
    s->exec.record = record;
    s->exec.record_user = user;
    s->exec.record_failed = 0;
}

/* ---- Requests and results ---------------------------------------------------------------- */

/* Positions of a request whose keys and values are those of the session's prompt.  What is scored must
 * be computed, and so must the token that it follows. */
static int32_t count_reused(const s2s_session *s, const s2s_request *r)
{
    const s2s_prompt *prompt = s->config.prompt;
    if (prompt == NULL || s->exec.record) return 0;
    const int32_t most = s2s_min(prompt->n_ids, r->options.n_prompt - 1);
    int32_t n = 0;
    while (n < most && r->prefix[n] == prompt->ids[n]) n++;
    return n;
}

static s2s_status check_source(const s2s_session *s, const int32_t *ids, int32_t n,
                               s2s_error *error)
{
    const int32_t vocab_size = s->exec.model->config.source_vocab_size;
    if (s->exec.model->encoder.config.n_layers == 0) {
        if (n == 0) return S2S_OK;
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "a model without encoder takes no source, but found one of %d tokens", n);
    }
    if (n < 1 || ids == NULL) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "a source needs at least one token, but has %d", n);
    }
    if (n > s->config.max_source_positions) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "a source of %d tokens is longer than the %d positions of the session", n,
                        s->config.max_source_positions);
    }
    for (int32_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocab_size) {
            return s2s_fail(error, S2S_INVALID_ARGUMENT,
                            "source token ids must be from 0 to %d, but number %d is %d",
                            vocab_size - 1, i, ids[i]);
        }
    }
    return S2S_OK;
}

static s2s_status check_request(const s2s_session *s, const s2s_request *r, s2s_error *error)
{
    if (s->exec.model->decoder.config.n_layers == 0) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "a model without decoder generates nothing: it encodes only");
    }
    S2S_TRY(check_source(s, r->source, r->n_source, error));
    if (r->options.return_alignment && !s2s_has_cross_attention(s->exec.model)) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "return_alignment must be 0 for a model without encoder, but is %d",
                        r->options.return_alignment);
    }
    if (r->options.encoder_no_repeat_ngram_size != 0 &&
        s->exec.model->encoder.config.n_layers == 0) {
        return s2s_fail(
            error, S2S_INVALID_ARGUMENT,
            "encoder_no_repeat_ngram_size must be 0 for a model without encoder, but is %d",
            r->options.encoder_no_repeat_ngram_size);
    }
    S2S_TRY(s2s_search_validate(r, s->exec.model->config.vocab_size, error));
    /* The last token is chosen but never fed. */
    const int32_t n_fed = s2s_search_max_positions(r) - 1;
    if (n_fed > s->config.max_target_positions) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "a prefix of %d tokens and max_new_tokens %d need %d target positions, but "
                        "the session has %d",
                        r->n_prefix, r->options.max_new_tokens, n_fed,
                        s->config.max_target_positions);
    }
    if (s2s_search_n_rows(r) > s->config.max_rows) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "a request of %d beams or samples does not fit a session of %d rows",
                        s2s_search_n_rows(r), s->config.max_rows);
    }
    if (s->exec.record && (s->n_pending > 0 || s2s_search_n_rows(r) > 1)) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "while tensors are recorded a session takes one request of one row, but "
                        "found %d waiting and %d rows",
                        s->n_pending, s2s_search_n_rows(r));
    }
    return S2S_OK;
}

s2s_status s2s_session_submit(s2s_session *s, const s2s_request *request, uint64_t *id,
                              s2s_error *error)
{
    if (s == NULL || request == NULL || id == NULL) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "s2s_session_submit got a NULL argument");
    }
    S2S_TRY(check_request(s, request, error));

    /* Counting first, then the same takes from one block: ticket, source, rows, search. */
    const int32_t vocab_size = s->exec.model->config.vocab_size;
    const int32_t n_workers = s2s_pool_n_threads(s->exec.pool);
    const size_t search_bytes = s2s_search_bytes(request, vocab_size, n_workers);
    const size_t n_source = (size_t)request->n_source;
    const size_t n_rows = (size_t)s2s_search_n_rows(request);
    s2s_arena a = {0};
    s2s_arena_take(&a, 1, sizeof(s2s_ticket));
    s2s_arena_take(&a, n_source, sizeof(int32_t));
    s2s_arena_take(&a, n_rows, sizeof(int32_t));
    s2s_arena_take(&a, 1, search_bytes);
    void *block = search_bytes > 0 ? s2s_arena_from_heap(&a) : NULL;
    if (block == NULL) {
        return s2s_fail(error, S2S_OUT_OF_MEMORY,
                        "out of memory for a request of %d rows and %d tokens", (int)n_rows,
                        request->options.max_new_tokens);
    }
    memset(block, 0, a.size);
    s2s_ticket *t = s2s_arena_take(&a, 1, sizeof(s2s_ticket));
    int32_t *source = s2s_arena_take(&a, n_source, sizeof(int32_t));
    t->rows = s2s_arena_take(&a, n_rows, sizeof(int32_t));
    if (n_source > 0) memcpy(source, request->source, n_source * sizeof(int32_t));
    t->source = source;
    t->n_source = request->n_source;
    t->n_rows = (int32_t)n_rows;
    t->search = s2s_search_init(s2s_arena_take(&a, 1, search_bytes), request, vocab_size, n_workers,
                                s->exec.model->kernels);
    if (s2s_search_needs_best(request)) s2s_model_make_coarse(s->exec.model);
    t->result.id = *id = ++s->last_id;
    t->result.n_source = t->n_source;
    t->result.n_reused = count_reused(s, request);
    s->n_pending++;
    s2s_queue_push(&s->waiting, t);
    return S2S_OK;
}

int s2s_session_is_idle(const s2s_session *s)
{
    return s->n_active == 0 && s->waiting.head == NULL && s->encoded.head == NULL;
}

s2s_result *s2s_session_next_result(s2s_session *s)
{
    s2s_ticket *t = s2s_queue_pop(&s->done);
    if (t == NULL) return NULL;
    s->n_pending--;
    return &t->result;
}

void s2s_result_free(s2s_result *result)
{
    free(result); /* the ticket's block starts with its result */
}

/* ---- Looking in from outside ------------------------------------------------------------- */
static int32_t find_active(const s2s_session *s, uint64_t id)
{
    for (int32_t i = 0; i < s->n_active; i++) {
        if (s->active[i]->result.id == id) return i;
    }
    return -1;
}

/* The request that waits, encoded or not; NULL if there is none. */
static s2s_ticket *find_waiting(const s2s_session *s, uint64_t id)
{
    s2s_ticket *t = s2s_queue_find(&s->encoded, id);
    return t != NULL ? t : s2s_queue_find(&s->waiting, id);
}

static s2s_status unknown_id(uint64_t id, s2s_error *error)
{
    return s2s_fail(error, S2S_INVALID_ARGUMENT, "request %llu is not in this session",
                    (unsigned long long)id);
}

s2s_status s2s_session_cancel(s2s_session *s, uint64_t id, s2s_error *error)
{
    const int32_t i = find_active(s, id);
    s2s_ticket *t = i >= 0 ? s->active[i] : find_waiting(s, id);
    if (t == NULL) {
        /* Ended already: its result waits to be handed out as it is. */
        return s2s_queue_find(&s->done, id) ? S2S_OK : unknown_id(id, error);
    }
    s2s_search_cancel(t->search);
    if (i >= 0) {
        memmove(s->active + i, s->active + i + 1, (size_t)(--s->n_active - i) * sizeof *s->active);
        s2s_session_finish(s, t);
    } else {
        if (s2s_queue_remove(&s->encoded, t))
            s->free_sources[s->n_free_sources++] = t->source_slot;
        else
            s2s_queue_remove(&s->waiting, t);
        s2s_search_result(t->search, &t->result);
        s2s_queue_push(&s->done, t);
    }
    return S2S_OK;
}

s2s_status s2s_session_progress(const s2s_session *s, uint64_t id, int32_t *ids, int32_t capacity,
                                int32_t *n, s2s_error *error)
{
    const int32_t i = find_active(s, id);
    const s2s_ticket *t = i >= 0 ? s->active[i] : find_waiting(s, id);
    if (t == NULL) t = s2s_queue_find(&s->done, id);
    if (t == NULL) return unknown_id(id, error);
    *n = s2s_search_progress(t->search, ids, capacity);
    return S2S_OK;
}
