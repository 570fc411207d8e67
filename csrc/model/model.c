/* model.c: checks a model description against its tensors and binds the one to the other.
 *
 * Everything that comes from a file is untrusted here and trusted everywhere below: after this one
 * call every shape, size and alignment that the forward pass relies on is known to hold.
 */
#include "model.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/status.h"

/* Far above any real model, low enough that no product of two of them overflows an int64. */
enum {
    MAX_LAYERS = 256,
    MAX_HEADS = 1024,
    MAX_WIDTH = 1 << 20,
    MAX_VOCAB = 1 << 24,
    MAX_POSITIONS = 1 << 20,
    MAX_TENSORS = 1 << 16
};

typedef struct binder {
    const s2s_tensor *tensors;
    size_t n_tensors;
    unsigned char *used; /* [n_tensors] */
    s2s_error *error;
} binder;

static s2s_status check_range(s2s_error *error, const char *stack, const char *field, int64_t value,
                              int64_t low, int64_t high)
{
    if (value >= low && value <= high) return S2S_OK;
    return s2s_fail(error, S2S_INVALID_MODEL, "%s%s must be from %lld to %lld, but is %lld", stack,
                    field, (long long)low, (long long)high, (long long)value);
}

static s2s_status check_finite(s2s_error *error, const char *stack, const char *field, float value)
{
    if (isfinite(value)) return S2S_OK;
    return s2s_fail(error, S2S_INVALID_MODEL, "%s%s must be a finite number, but is %g", stack,
                    field, (double)value);
}

static s2s_status check_stack(const s2s_stack_config *c, const char *s, s2s_error *error)
{
    S2S_TRY(check_range(error, s, "n_layers", c->n_layers, 1, MAX_LAYERS));
    S2S_TRY(check_range(error, s, "n_heads", c->n_heads, 1, MAX_HEADS));
    S2S_TRY(check_range(error, s, "n_kv_heads", c->n_kv_heads, 1, c->n_heads));
    if (c->n_heads % c->n_kv_heads != 0) {
        return s2s_fail(error, S2S_INVALID_MODEL,
                        "%sn_kv_heads must divide n_heads (%d), but is %d", s, c->n_heads,
                        c->n_kv_heads);
    }
    S2S_TRY(check_range(error, s, "d_head", c->d_head, 1, 1 << 12));
    S2S_TRY(check_range(error, s, "d_ffn", c->d_ffn, 1, MAX_WIDTH));
    S2S_TRY(check_range(error, s, "activation", c->activation, S2S_RELU, S2S_IDENTITY));
    S2S_TRY(check_range(error, s, "norm_place", c->norm_place, S2S_POST_NORM, S2S_PRE_NORM));
    S2S_TRY(check_range(error, s, "embed_norm", c->embed_norm, 0, 1));
    S2S_TRY(check_range(error, s, "final_norm", c->final_norm, 0, 1));
    S2S_TRY(check_range(error, s, "positions", c->positions, 0, 1));
    S2S_TRY(check_range(error, s, "max_positions", c->max_positions, 1, MAX_POSITIONS));
    S2S_TRY(check_range(error, s, "window", c->window, 0, MAX_POSITIONS));
    S2S_TRY(check_finite(error, s, "embed_scale", c->embed_scale));
    S2S_TRY(check_finite(error, s, "attention_scale", c->attention_scale));
    S2S_TRY(check_finite(error, s, "norm_eps", c->norm_eps));
    if (c->norm_eps < 0) {
        return s2s_fail(error, S2S_INVALID_MODEL, "%snorm_eps must not be negative, but is %g", s,
                        (double)c->norm_eps);
    }
    return S2S_OK;
}

static s2s_status check_config(const s2s_model_config *c, s2s_error *error)
{
    S2S_TRY(check_range(error, "", "vocab_size", c->vocab_size, 1, MAX_VOCAB));
    S2S_TRY(check_range(error, "", "source_vocab_size", c->source_vocab_size, 1, MAX_VOCAB));
    S2S_TRY(check_range(error, "", "d_model", c->d_model, 1, 1 << 16));
    S2S_TRY(check_range(error, "", "output_bias", c->output_bias, 0, 1));
    S2S_TRY(check_stack(&c->encoder, "encoder.", error));
    S2S_TRY(check_stack(&c->decoder, "decoder.", error));
    if (c->encoder.window != 0) {
        return s2s_fail(error, S2S_UNSUPPORTED,
                        "encoder.window must be 0 (only the decoder has a window), but is %d",
                        c->encoder.window);
    }
    return S2S_OK;
}

/* The tensor of that name, marked as used; NULL when absent. */
static const s2s_tensor *find(binder *b, const char *name)
{
    for (size_t i = 0; i < b->n_tensors; i++) {
        if (strcmp(b->tensors[i].name, name) == 0) {
            b->used[i] = 1;
            return &b->tensors[i];
        }
    }
    return NULL;
}

static void describe_shape(char *text, size_t size, int32_t rank, const int64_t *shape)
{
    size_t n = 0;
    text[0] = '\0';
    for (int32_t i = 0; i < rank && i < S2S_MAX_RANK && n < size; i++) {
        int written = snprintf(text + n, size - n, i ? ", %lld" : "%lld", (long long)shape[i]);
        if (written < 0) break;
        n += (size_t)written;
    }
}

/* What a tensor may hold: tiles are 64-byte aligned. */
typedef enum tensor_kind { FLOATS, SUMS, TILES, INT8_TILES } tensor_kind;

static const struct {
    s2s_dtype dtypes[2];
    const char *expected;
    size_t alignment;
} kinds[] = {[FLOATS] = {{S2S_F32, S2S_F32}, "float32", 4},
             [SUMS] = {{S2S_INT32, S2S_INT32}, "int32", 4},
             [TILES] = {{S2S_F32, S2S_BF16}, "float32, bfloat16 or int8", 64},
             [INT8_TILES] = {{S2S_INT8, S2S_INT8}, "int8", 64}};
static const size_t dtype_sizes[] = {
    [S2S_F32] = 4, [S2S_BF16] = 2, [S2S_INT32] = 4, [S2S_INT8] = 1};

/* Checks shape, dtype, byte count and alignment. */
static s2s_status check_tensor(binder *b, const s2s_tensor *t, int32_t rank, const int64_t *shape,
                               tensor_kind kind)
{
    int same = t->rank == rank;
    size_t n = 1;
    for (int32_t i = 0; same && i < rank; i++) {
        same = t->shape[i] == shape[i];
        n *= (size_t)shape[i]; /* bounded by the limits above: at most 2^20 * 2^20 * 16 */
    }
    if (!same) {
        char expected[96], found[96];
        describe_shape(expected, sizeof expected, rank, shape);
        describe_shape(found, sizeof found, t->rank, t->shape);
        return s2s_fail(b->error, S2S_INVALID_MODEL, "tensor %s must have shape [%s], but has [%s]",
                        t->name, expected, found);
    }
    if (t->dtype != kinds[kind].dtypes[0] && t->dtype != kinds[kind].dtypes[1]) {
        return s2s_fail(b->error, S2S_INVALID_MODEL,
                        "tensor %s must be %s, but has dtype number %d", t->name,
                        kinds[kind].expected, (int)t->dtype);
    }
    size_t n_bytes = n * dtype_sizes[t->dtype];
    if (t->data == NULL || t->n_bytes != n_bytes) {
        return s2s_fail(b->error, S2S_INVALID_MODEL, "tensor %s must have %zu bytes, but has %zu",
                        t->name, n_bytes, t->data ? t->n_bytes : 0);
    }
    size_t alignment = kinds[kind].alignment;
    if ((uintptr_t)t->data % alignment != 0) {
        return s2s_fail(b->error, S2S_INVALID_MODEL,
                        "tensor %s must be aligned to %zu bytes, but is %zu bytes off", t->name,
                        alignment, (size_t)((uintptr_t)t->data % alignment));
    }
    return S2S_OK;
}

static s2s_status missing(binder *b, const char *name)
{
    return s2s_fail(b->error, S2S_INVALID_MODEL, "tensor %s is missing", name);
}

__attribute__((format(printf, 2, 3))) static void name_of(char *name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, S2S_NAME_MAX, format, arguments);
    va_end(arguments);
}

/* A vector tensor [n]. */
static s2s_status bind_vector(binder *b, const char *name, int64_t n, const float **out)
{
    const s2s_tensor *t = find(b, name);
    if (t == NULL) return missing(b, name);
    S2S_TRY(check_tensor(b, t, 1, &n, FLOATS));
    *out = t->data;
    return S2S_OK;
}

/* Tiles of an already found tensor. */
static s2s_status bind_tiles(binder *b, const s2s_tensor *t, int64_t n_out, int64_t n_in,
                             s2s_matrix *m)
{
    int64_t n_tiles = (n_out + S2S_TILE - 1) / S2S_TILE;
    int64_t n_all = n_tiles * S2S_TILE;
    char name[S2S_NAME_MAX];
    *m = (s2s_matrix){.w = t->data,
                      .bias = NULL,
                      .n_in = (int32_t)n_in,
                      .n_out = (int32_t)n_out,
                      .n_tiles = (int32_t)n_tiles,
                      .dtype = t->dtype};
    if (t->dtype != S2S_INT8) {
        int64_t shape[3] = {n_tiles, n_in, S2S_TILE};
        return check_tensor(b, t, 3, shape, TILES);
    }
    if (n_in > S2S_INT8_MAX_K) {
        return s2s_fail(b->error, S2S_INVALID_MODEL,
                        "tensor %s is int8 and may have at most %d inputs, but has %lld", t->name,
                        S2S_INT8_MAX_K, (long long)n_in);
    }
    int64_t shape[4] = {n_tiles, (n_in + 3) / 4, S2S_TILE, 4};
    S2S_TRY(check_tensor(b, t, 4, shape, INT8_TILES));
    name_of(name, "%s.scale", t->name);
    S2S_TRY(bind_vector(b, name, n_all, &m->scale));
    name_of(name, "%s.sum", t->name);
    const s2s_tensor *sum = find(b, name);
    if (sum == NULL) return missing(b, name);
    S2S_TRY(check_tensor(b, sum, 1, &n_all, SUMS));
    m->sum = sum->data;
    return S2S_OK;
}

/* "<prefix>.weight" and "<prefix>.bias". */
static s2s_status bind_matrix(binder *b, const char *prefix, int64_t n_out, int64_t n_in,
                              s2s_matrix *m)
{
    char name[S2S_NAME_MAX];
    name_of(name, "%s.weight", prefix);
    const s2s_tensor *t = find(b, name);
    if (t == NULL) return missing(b, name);
    S2S_TRY(bind_tiles(b, t, n_out, n_in, m));
    name_of(name, "%s.bias", prefix);
    return bind_vector(b, name, (int64_t)S2S_TILE * m->n_tiles, &m->bias);
}

static s2s_status bind_norm(binder *b, const char *prefix, int64_t d_model, s2s_norm *norm)
{
    char name[S2S_NAME_MAX];
    name_of(name, "%s.weight", prefix);
    S2S_TRY(bind_vector(b, name, d_model, &norm->weight));
    name_of(name, "%s.bias", prefix);
    return bind_vector(b, name, d_model, &norm->bias);
}

/* `name` if present, else the shared embedding. */
static s2s_status bind_embedding(binder *b, const char *name, int64_t n_out, int64_t d_model,
                                 s2s_matrix *m)
{
    const s2s_tensor *t = find(b, name);
    if (t == NULL) t = find(b, "shared.embed");
    if (t == NULL) {
        return s2s_fail(b->error, S2S_INVALID_MODEL,
                        "tensor %s is missing, and so is shared.embed which could stand for it",
                        name);
    }
    return bind_tiles(b, t, n_out, d_model, m);
}

static s2s_status bind_layer(binder *b, const s2s_stack *stack, int32_t index, int64_t d_model,
                             int has_cross)
{
    s2s_layer *layer = &stack->layers[index];
    const int64_t d_attention = stack->d_attention, d_kv = stack->d_kv;
    const int64_t d_ffn = stack->config.d_ffn;
    char p[S2S_NAME_MAX];

    name_of(p, "%s.%d.self_attn.qkv", stack->name, index);
    S2S_TRY(bind_matrix(b, p, d_attention + 2 * d_kv, d_model, &layer->self_qkv));
    name_of(p, "%s.%d.self_attn.out", stack->name, index);
    S2S_TRY(bind_matrix(b, p, d_model, d_attention, &layer->self_out));
    name_of(p, "%s.%d.self_attn.norm", stack->name, index);
    S2S_TRY(bind_norm(b, p, d_model, &layer->self_norm));
    if (has_cross) {
        name_of(p, "%s.%d.cross_attn.q", stack->name, index);
        S2S_TRY(bind_matrix(b, p, d_attention, d_model, &layer->cross_q));
        name_of(p, "%s.%d.cross_attn.kv", stack->name, index);
        S2S_TRY(bind_matrix(b, p, 2 * d_kv, d_model, &layer->cross_kv));
        name_of(p, "%s.%d.cross_attn.out", stack->name, index);
        S2S_TRY(bind_matrix(b, p, d_model, d_attention, &layer->cross_out));
        name_of(p, "%s.%d.cross_attn.norm", stack->name, index);
        S2S_TRY(bind_norm(b, p, d_model, &layer->cross_norm));
    }
    name_of(p, "%s.%d.ffn.up", stack->name, index);
    S2S_TRY(bind_matrix(b, p, d_ffn, d_model, &layer->ffn_up));
    name_of(p, "%s.%d.ffn.down", stack->name, index);
    S2S_TRY(bind_matrix(b, p, d_model, d_ffn, &layer->ffn_down));
    name_of(p, "%s.%d.ffn.norm", stack->name, index);
    return bind_norm(b, p, d_model, &layer->ffn_norm);
}

static s2s_status bind_stack(binder *b, const s2s_model_config *config, s2s_stack *stack,
                             const char *stack_name, const s2s_stack_config *stack_config,
                             s2s_layer *layers, int64_t vocab_size, int has_cross)
{
    const int64_t d_model = config->d_model;
    char name[S2S_NAME_MAX];

    stack->config = *stack_config;
    stack->name = stack_name;
    stack->layers = layers;
    stack->d_head = s2s_round_up(stack_config->d_head, S2S_TILE);
    stack->n_qkv = stack_config->n_heads + 2 * stack_config->n_kv_heads;
    stack->d_attention = stack_config->n_heads * stack->d_head;
    stack->d_kv = stack_config->n_kv_heads * stack->d_head;

    name_of(name, "%s.embed", stack_name);
    S2S_TRY(bind_embedding(b, name, vocab_size, d_model, &stack->embed));
    if (stack_config->positions) {
        name_of(name, "%s.positions", stack_name);
        const s2s_tensor *t = find(b, name);
        if (t == NULL) return missing(b, name);
        int64_t shape[2] = {stack_config->max_positions, d_model};
        S2S_TRY(check_tensor(b, t, 2, shape, FLOATS));
        stack->positions = t->data;
    }
    if (stack_config->embed_norm) {
        name_of(name, "%s.embed_norm", stack_name);
        S2S_TRY(bind_norm(b, name, d_model, &stack->embed_norm));
    }
    for (int32_t i = 0; i < stack_config->n_layers; i++) {
        S2S_TRY(bind_layer(b, stack, i, d_model, has_cross));
    }
    if (stack_config->final_norm) {
        name_of(name, "%s.final_norm", stack_name);
        S2S_TRY(bind_norm(b, name, d_model, &stack->final_norm));
    }
    return S2S_OK;
}

static s2s_status bind_model(binder *b, s2s_model *model)
{
    const s2s_model_config *c = &model->config;
    S2S_TRY(bind_stack(b, c, &model->encoder, "encoder", &c->encoder, model->layers,
                       c->source_vocab_size, 0));
    S2S_TRY(bind_stack(b, c, &model->decoder, "decoder", &c->decoder,
                       model->layers + c->encoder.n_layers, c->vocab_size, 1));
    S2S_TRY(bind_embedding(b, "output.weight", c->vocab_size, c->d_model, &model->output));
    if (c->output_bias) {
        S2S_TRY(bind_vector(b, "output.bias", (int64_t)S2S_TILE * model->output.n_tiles,
                            &model->output.bias));
    }
    for (size_t i = 0; i < b->n_tensors; i++) {
        model->has_int8 |= b->tensors[i].dtype == S2S_INT8;
        if (!b->used[i]) {
            return s2s_fail(b->error, S2S_INVALID_MODEL,
                            "tensor %.*s is not part of the model that the description calls for",
                            S2S_NAME_MAX, b->tensors[i].name);
        }
    }
    return S2S_OK;
}

s2s_status s2s_model_create(const s2s_model_config *config, const s2s_tensor *tensors,
                            size_t n_tensors, s2s_isa isa, s2s_model **out, s2s_error *error)
{
    if (out == NULL || config == NULL || (tensors == NULL && n_tensors > 0)) {
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "s2s_model_create got a NULL argument");
    }
    *out = NULL;
    S2S_TRY(check_config(config, error));
    if (n_tensors > MAX_TENSORS) {
        return s2s_fail(error, S2S_INVALID_MODEL,
                        "a model has at most %d tensors, but %zu were given", MAX_TENSORS,
                        n_tensors);
    }
    for (size_t i = 0; i < n_tensors; i++) {
        if (tensors[i].name == NULL || tensors[i].rank < 0 || tensors[i].rank > S2S_MAX_RANK) {
            return s2s_fail(error, S2S_INVALID_MODEL,
                            "tensor number %zu must have a name and at most %d dimensions", i,
                            S2S_MAX_RANK);
        }
    }
    const s2s_kernels *kernels = s2s_kernels_get(isa);
    if (kernels == NULL) {
        const char *name = s2s_isa_name(isa);
        return s2s_fail(error, S2S_UNSUPPORTED, "the SIMD level %s is not available on this CPU",
                        name ? name : "(unknown)");
    }

    size_t n_layers = (size_t)config->encoder.n_layers + (size_t)config->decoder.n_layers;
    s2s_model *model = calloc(1, sizeof *model + n_layers * sizeof(s2s_layer));
    unsigned char *used = calloc(n_tensors + 1, 1);
    if (model == NULL || used == NULL) {
        free(model);
        free(used);
        return s2s_fail(error, S2S_OUT_OF_MEMORY, "out of memory for a model of %zu layers",
                        n_layers);
    }
    model->config = *config;
    model->kernels = kernels;
    model->isa = isa == S2S_ISA_AUTO ? s2s_isa_best() : isa;

    binder b = {tensors, n_tensors, used, error};
    s2s_status status = bind_model(&b, model);
    free(used);
    if (status != S2S_OK) {
        free(model);
        return status;
    }
    *out = model;
    return S2S_OK;
}

void s2s_model_free(s2s_model *model)
{
    free(model);
}

s2s_isa s2s_model_isa(const s2s_model *model)
{
    return model->isa;
}
