/* encode.c: the encoder alone, and the heads that read its hidden states. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/numbers.h"
#include "../base/status.h"
#include "../nn/encoder.h"
#include "../nn/rotary.h"

struct s2s_encoder {
    s2s_exec exec;
    s2s_encoder_config config;
    s2s_arena arena;
    s2s_workspace ws;
    int32_t *positions; /* [max_tokens] */
    int32_t *offsets;   /* [max_tokens + 1] */
};

static void lay_out(s2s_encoder *e)
{
    const size_t tokens = (size_t)e->config.max_tokens;
    s2s_workspace_init(&e->ws, &e->arena, e->exec.model, e->config.max_tokens,
                       e->config.max_positions, 0, s2s_pool_n_threads(e->exec.pool));
    e->positions = s2s_arena_take(&e->arena, tokens, sizeof(int32_t));
    e->offsets = s2s_arena_take(&e->arena, tokens + 1, sizeof(int32_t));
}

s2s_status s2s_encoder_create(const s2s_model *model, s2s_pool *pool,
                              const s2s_encoder_config *config, s2s_encoder **out, s2s_error *error)
{
    if (model == NULL || config == NULL || out == NULL) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "s2s_encoder_create got a NULL argument");
    }
    *out = NULL;
    if (model->encoder.config.n_layers == 0) {
        return s2s_fail(error, S2S_UNSUPPORTED, "the model has no encoder");
    }
    const int32_t longest = model->encoder.config.max_positions;
    if (config->max_positions < 1 || config->max_positions > longest) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "max_positions must be from 1 to %d, but is %d", longest,
                        config->max_positions);
    }
    if (config->max_tokens < config->max_positions || config->max_tokens > 1 << 24) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "max_tokens must be from %d to %d, but is %d",
                        config->max_positions, 1 << 24, config->max_tokens);
    }
    s2s_encoder *e = calloc(1, sizeof *e);
    if (e == NULL) return s2s_fail(error, S2S_OUT_OF_MEMORY, "out of memory for an encoder");
    e->exec.model = model;
    e->exec.pool = pool;
    e->config = *config;
    lay_out(e); /* counts; then the same takes from one block */
    const size_t size = e->arena.used;
    if (e->arena.overflow || !s2s_arena_init(&e->arena, size, s2s_model_blocks(model))) {
        free(e);
        return s2s_fail(error, S2S_OUT_OF_MEMORY,
                        "out of memory: an encoder of %d tokens needs %zu bytes",
                        config->max_tokens, size);
    }
    lay_out(e);
    if (model->encoder.inv_freq)
        s2s_rotary_fill(&model->encoder, e->ws.max_source, e->ws.encoder_rotary);
    *out = e;
    return S2S_OK;
}

void s2s_encoder_free(s2s_encoder *e)
{
    if (e == NULL) return;
    s2s_arena_release(&e->arena, s2s_model_blocks(e->exec.model));
    free(e);
}

void s2s_encoder_set_record(s2s_encoder *e, s2s_record_fn record, void *user)
{
    e->exec.record = record;
    e->exec.record_user = user;
    e->exec.record_failed = 0;
}

static s2s_status check_sequences(const s2s_encoder *e, const int32_t *ids,
                                  const int32_t *token_types, const int32_t *offsets,
                                  int32_t n_sequences, s2s_error *error)
{
    const int32_t vocab_size = e->exec.model->config.source_vocab_size;
    const int32_t n_types = s2s_max(e->exec.model->encoder.config.n_token_types, 1);
    for (int32_t s = 0; s < n_sequences; s++) {
        const int32_t n = offsets[s + 1] - offsets[s];
        if (n < 1 || n > e->config.max_positions) {
            return s2s_fail(error, S2S_INVALID_ARGUMENT,
                            "a sequence must have from 1 to %d tokens, but number %d has %d",
                            e->config.max_positions, s, n);
        }
        for (int32_t i = offsets[s]; i < offsets[s + 1]; i++) {
            if (ids[i] < 0 || ids[i] >= vocab_size) {
                return s2s_fail(error, S2S_INVALID_ARGUMENT,
                                "token ids must be from 0 to %d, but number %d is %d",
                                vocab_size - 1, i, ids[i]);
            }
            if (token_types && (token_types[i] < 0 || token_types[i] >= n_types)) {
                return s2s_fail(error, S2S_INVALID_ARGUMENT,
                                "token types must be from 0 to %d, but number %d is %d",
                                n_types - 1, i, token_types[i]);
            }
        }
    }
    if (e->exec.record && n_sequences > 1) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "while tensors are recorded one sequence is encoded at a time, but %d were "
                        "given",
                        n_sequences);
    }
    return S2S_OK;
}

/* Packs sequences from number s on, as many as fit, runs them, and returns the number of the next. */
static int32_t encode_some(s2s_encoder *e, const int32_t *ids, const int32_t *token_types,
                           const int32_t *offsets, int32_t s, int32_t n_sequences, float *out)
{
    const size_t d_model = (size_t)e->exec.model->config.d_model;
    const int32_t first = offsets[s];
    int32_t n = 0, n_tokens = 0;
    while (s < n_sequences && offsets[s + 1] - first <= e->config.max_tokens) {
        e->offsets[n++] = n_tokens;
        for (int32_t j = 0; j < offsets[s + 1] - offsets[s]; j++) e->positions[n_tokens++] = j;
        s++;
    }
    e->offsets[n] = n_tokens;
    const s2s_sources sources = {ids + first, e->positions, e->offsets, n,
                                 token_types ? token_types + first : NULL};
    s2s_encoder_run(&e->exec, &sources, &e->ws);
    for (int32_t row = 0; row < n_tokens; row++) {
        memcpy(out + ((size_t)first + (size_t)row) * d_model, e->ws.x + (size_t)row * e->ws.ld_x,
               d_model * sizeof(float));
    }
    return s;
}

s2s_status s2s_encoder_encode(s2s_encoder *e, const int32_t *ids, const int32_t *token_types,
                              const int32_t *offsets, int32_t n_sequences, float *out,
                              s2s_error *error)
{
    if (e == NULL || ids == NULL || offsets == NULL || out == NULL) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "s2s_encoder_encode got a NULL argument");
    }
    S2S_TRY(check_sequences(e, ids, token_types, offsets, n_sequences, error));
    for (int32_t s = 0; s < n_sequences;) {
        s = encode_some(e, ids, token_types, offsets, s, n_sequences, out);
    }
    if (e->exec.record_failed) {
        return s2s_fail(error, S2S_OUT_OF_MEMORY, "out of memory for a recorded tensor");
    }
    return S2S_OK;
}

/* Runs a chain of layers over the rows in ws->x; the last one writes to out [n_rows, ld_out]. */
static void run_layers(s2s_encoder *e, const s2s_head_layer *const *layers, int32_t n_layers,
                       int32_t n_rows, float *out, size_t ld_out)
{
    float *x = e->ws.x, *spare = e->ws.h;
    for (int32_t i = 0; i < n_layers; i++) {
        const s2s_head_layer *layer = layers[i];
        const int is_last = i + 1 == n_layers;
        float *y = is_last ? out : spare;
        const size_t ld = is_last ? ld_out : e->ws.ld_x;
        s2s_linear(&e->exec, &layer->dense, (s2s_rows){x, e->ws.ld_x, n_rows}, &e->ws,
                   layer->activation, NULL, 0, y, ld);
        if (layer->norm.weight) {
            s2s_norm_rows(&e->exec, &e->exec.model->encoder, &layer->norm, y, n_rows, ld, y);
        }
        spare = x;
        x = y;
    }
}

s2s_status s2s_encoder_head(s2s_encoder *e, s2s_head head, const float *x, int32_t n_rows,
                            float *out, float *log_sum_exp, s2s_error *error)
{
    if (e == NULL || x == NULL || out == NULL || n_rows < 0 || (int)head < 0 ||
        head >= S2S_N_HEADS) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "s2s_encoder_head got a wrong argument");
    }
    const s2s_model *model = e->exec.model;
    const s2s_head_config *config = model->config.heads;
    if (config[head].n_layers == 0) {
        return s2s_fail(error, S2S_UNSUPPORTED, "the model has no head number %d", (int)head);
    }
    const s2s_head_layer *layers[2 * S2S_MAX_HEAD_LAYERS];
    int32_t n_layers = 0;
    for (int32_t i = 0; head == S2S_CLASSIFIER && i < config[S2S_POOLER].n_layers; i++) {
        layers[n_layers++] = &model->heads[S2S_POOLER][i];
    }
    for (int32_t i = 0; i < config[head].n_layers; i++) layers[n_layers++] = &model->heads[head][i];
    const int32_t n_out = layers[n_layers - 1]->dense.n_out;
    const size_t ld_out = (size_t)layers[n_layers - 1]->dense.n_tiles * S2S_TILE;
    const size_t d_model = (size_t)model->config.d_model;

    for (int32_t begin = 0; begin < n_rows; begin += e->config.max_tokens) {
        const int32_t n = s2s_min(e->config.max_tokens, n_rows - begin);
        for (int32_t i = 0; i < n; i++) {
            memcpy(e->ws.x + (size_t)i * e->ws.ld_x, x + (size_t)(begin + i) * d_model,
                   d_model * sizeof(float));
        }
        run_layers(e, layers, n_layers, n, out + (size_t)begin * ld_out, ld_out);
    }
    for (int32_t i = 0; log_sum_exp && i < n_rows; i++) {
        log_sum_exp[i] = model->kernels->log_sum_exp(out + (size_t)i * ld_out, n_out);
        if (isnan(log_sum_exp[i])) {
            return s2s_fail(error, S2S_INVALID_MODEL,
                            "the model computed logits that are not numbers (NaN): its weights are "
                            "damaged or overflow");
        }
    }
    return S2S_OK;
}
