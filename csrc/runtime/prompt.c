/* prompt.c: reads a prompt and keeps its keys and values. */
#include <stdlib.h>
#include <string.h>

#include "session.h"

/* Takes the prompt's memory (the arena may be counting). */
static void lay_out(s2s_prompt *p)
{
    const s2s_stack *stack = &p->model->decoder;
    const size_t cells = (size_t)stack->config.n_layers * (size_t)p->n_ids;
    const size_t size = p->kv_dtype == S2S_F32 ? sizeof(float) : sizeof(uint16_t);
    p->ids = s2s_arena_take(&p->arena, (size_t)p->n_ids, sizeof *p->ids);
    p->k = s2s_arena_take(&p->arena, cells, (size_t)stack->self_kv.d_k * size);
    p->v = s2s_arena_take(&p->arena, cells, (size_t)stack->self_kv.d_v * size);
}

static s2s_status take_memory(s2s_prompt *p, s2s_error *error)
{
    lay_out(p);
    const size_t size = p->arena.used;
    if (p->arena.overflow || !s2s_arena_init(&p->arena, size, NULL))
        return s2s_fail(error, S2S_OUT_OF_MEMORY,
                        "out of memory: the keys and values of a prompt of %d tokens are %zu bytes",
                        p->n_ids, size);
    lay_out(p);
    return S2S_OK;
}

static s2s_status check_ids(const s2s_model *model, const int32_t *ids, int32_t n, s2s_error *error)
{
    if (model->encoder.config.n_layers > 0 || model->decoder.config.n_layers == 0)
        return s2s_fail(error, S2S_UNSUPPORTED,
                        "a prompt is kept for a model that is a decoder alone: what another one "
                        "keeps depends on the source");
    if (n < 1 || n > model->decoder.config.max_positions || ids == NULL)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "a prompt must have from 1 to %d tokens, but has %d",
                        model->decoder.config.max_positions, n);
    for (int32_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= model->config.vocab_size)
            return s2s_fail(error, S2S_INVALID_ARGUMENT,
                            "prompt token ids must be from 0 to %d, but number %d is %d",
                            model->config.vocab_size - 1, i, ids[i]);
    return S2S_OK;
}

s2s_status s2s_prompt_create(const s2s_model *model, s2s_pool *pool, int32_t kv_dtype,
                             const int32_t *ids, int32_t n_ids, s2s_prompt **out, s2s_error *error)
{
    if (model == NULL || out == NULL)
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "s2s_prompt_create got a NULL argument");
    *out = NULL;
    S2S_TRY(check_ids(model, ids, n_ids, error));
    s2s_prompt *p = calloc(1, sizeof *p);
    if (p == NULL) return s2s_fail(error, S2S_OUT_OF_MEMORY, "out of memory for a prompt");
    p->model = model;
    p->n_ids = n_ids;
    p->kv_dtype = (s2s_dtype)kv_dtype;
    const s2s_session_config config = {.max_rows = 1,
                                       .max_target_positions = n_ids,
                                       .max_encoder_tokens = s2s_min(n_ids, S2S_KV_BLOCK),
                                       .kv_dtype = kv_dtype};
    s2s_status status = s2s_session_create(model, pool, &config, &p->reader, error);
    if (status == S2S_OK) status = take_memory(p, error);
    if (status != S2S_OK) {
        s2s_prompt_free(p);
        return status;
    }
    memcpy(p->ids, ids, (size_t)n_ids * sizeof *ids);
    *out = p;
    return S2S_OK;
}

void s2s_prompt_free(s2s_prompt *p)
{
    if (p == NULL) return;
    s2s_session_free(p->reader);
    s2s_arena_release(&p->arena, NULL);
    free(p);
}

size_t s2s_prompt_bytes(const s2s_prompt *p)
{
    return p->arena.used;
}

/* The next block of the prompt is a batch of row 0. */
static void gather_block(s2s_prompt *p, int32_t n)
{
    s2s_session *s = p->reader;
    s2s_batch *b = &s->batch;
    b->n = n;
    for (int32_t i = 0; i < n; i++) {
        b->positions[i] = p->n_read + i;
        b->tokens[i] = p->ids[p->n_read + i];
        b->rows[i] = b->sources[i] = b->n_source[i] = 0;
        b->alignment[i] = NULL;
        s2s_kv_cache_extend(&s->cache, 0, b->positions[i]);
    }
    s2s_session_find_cells(s);
}

s2s_status s2s_prompt_read(s2s_prompt *p, int32_t *n_left, s2s_error *error)
{
    if (p == NULL || n_left == NULL)
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "s2s_prompt_read got a NULL argument");
    const int32_t n = s2s_min(p->n_ids - p->n_read, S2S_KV_BLOCK);
    if (n > 0) {
        s2s_session *s = p->reader;
        gather_block(p, n);
        s2s_decoder_run(&s->exec, &s->cache, &s->batch, &s->ws);
        s2s_kv_cache_copy(&s->cache, 0, p->n_read, p->n_read + n, p->n_ids, p->k, p->v);
        p->n_read += n;
    }
    *n_left = p->n_ids - p->n_read;
    if (*n_left == 0) {
        s2s_session_free(p->reader);
        p->reader = NULL;
    }
    return S2S_OK;
}
