/* model.c: which tensors the model of a description has, and the model that is made of them.
 *
 * Everything that comes from a file is untrusted here and trusted everywhere below: after this one
 * call every shape, size and alignment that the forward pass relies on is known to hold.
 */
#include "model.h"

#include <math.h>
#include <stdlib.h>

#include "../base/sine.h"
#include "../base/status.h"
#include "binder.h"
#include "by_input.h"

enum { MAX_TENSORS = 1 << 16 };

static s2s_status bind_norm(s2s_binder *b, const char *prefix, const s2s_stack *stack, int64_t d,
                            s2s_norm *norm)
{
    char name[S2S_NAME_MAX];
    norm->d = (int32_t)d;
    s2s_name_format(name, "%s.weight", prefix);
    S2S_TRY(s2s_binder_vector(b, name, d, &norm->weight));
    if (stack->config.norm_kind == S2S_RMS_NORM) return S2S_OK;
    s2s_name_format(name, "%s.bias", prefix);
    return s2s_binder_vector(b, name, d, &norm->bias);
}

/* "<stack>.<index>.<block>.norm" and, of sandwich norms, "...post_norm". */
static s2s_status bind_norms(s2s_binder *b, const s2s_stack *stack, int32_t index,
                             const char *block, int64_t d_model, s2s_block_norms *norms)
{
    char prefix[S2S_NAME_MAX];
    s2s_name_format(prefix, "%s.%d.%s.norm", stack->name, index, block);
    S2S_TRY(bind_norm(b, prefix, stack, d_model, &norms->norm));
    if (stack->config.norm_place != S2S_SANDWICH_NORM) return S2S_OK;
    s2s_name_format(prefix, "%s.%d.%s.post_norm", stack->name, index, block);
    return bind_norm(b, prefix, stack, d_model, &norms->post_norm);
}

/* `name` if present, else the shared embedding. */
static s2s_status bind_embedding(s2s_binder *b, const char *name, int64_t n_out, int64_t d_model,
                                 s2s_matrix *m)
{
    const s2s_tensor *t = s2s_binder_find(b, name);
    if (t == NULL) t = s2s_binder_find(b, "shared.embed");
    if (t == NULL) {
        return s2s_fail(b->error, S2S_INVALID_MODEL,
                        "tensor %s is missing, and so is shared.embed which could stand for it",
                        name);
    }
    return s2s_binder_tiles(b, t, n_out, d_model, m);
}

static s2s_status bind_latent(s2s_binder *b, const s2s_stack *stack, int32_t index, int64_t d_model)
{
    const s2s_stack_config *c = &stack->config;
    s2s_layer *layer = &stack->layers[index];
    const int64_t rank = stack->self_kv.d_value, d_rotary = stack->self_kv.d_key - rank;
    const int has_q_down = c->q_rank > 0;
    char p[S2S_NAME_MAX];
    if (has_q_down) {
        s2s_name_format(p, "%s.%d.self_attn.q_down", stack->name, index);
        S2S_TRY(s2s_binder_matrix(b, p, c->q_rank, d_model, c->qkv_bias, &layer->q_down));
        s2s_name_format(p, "%s.%d.self_attn.q_norm", stack->name, index);
        S2S_TRY(bind_norm(b, p, stack, c->q_rank, &layer->q_norm));
    }
    s2s_name_format(p, "%s.%d.self_attn.q", stack->name, index);
    S2S_TRY(s2s_binder_matrix(b, p, c->n_heads * (stack->d_head + d_rotary),
                              has_q_down ? c->q_rank : d_model, !has_q_down && c->qkv_bias,
                              &layer->latent_q));
    s2s_name_format(p, "%s.%d.self_attn.k_up", stack->name, index);
    S2S_TRY(s2s_binder_matrix(b, p, c->n_heads * rank, c->d_head, 0, &layer->k_up));
    s2s_name_format(p, "%s.%d.self_attn.kv_down", stack->name, index);
    S2S_TRY(s2s_binder_matrix(b, p, rank + d_rotary, d_model, c->qkv_bias, &layer->kv_down));
    if (c->kv_norm) {
        s2s_name_format(p, "%s.%d.self_attn.kv_norm", stack->name, index);
        S2S_TRY(bind_norm(b, p, stack, c->kv_rank, &layer->kv_norm));
    }
    s2s_name_format(p, "%s.%d.self_attn.v_up", stack->name, index);
    return s2s_binder_matrix(b, p, (int64_t)c->n_heads * stack->d_value, c->kv_rank, 0,
                             &layer->v_up);
}

static s2s_status bind_self_attention(s2s_binder *b, const s2s_stack *stack, int32_t index,
                                      int64_t d_model)
{
    const s2s_stack_config *c = &stack->config;
    s2s_layer *layer = &stack->layers[index];
    int64_t d_out = stack->d_attention;
    char p[S2S_NAME_MAX];
    if (c->kv_rank > 0) {
        d_out = (int64_t)c->n_heads * stack->d_value;
        S2S_TRY(bind_latent(b, stack, index, d_model));
    } else {
        s2s_name_format(p, "%s.%d.self_attn.qkv", stack->name, index);
        S2S_TRY(s2s_binder_matrix(b, p,
                                  (int64_t)stack->d_attention + 2 * (int64_t)stack->self_kv.d_k,
                                  d_model, c->qkv_bias, &layer->self_qkv));
    }
    s2s_name_format(p, "%s.%d.self_attn.out", stack->name, index);
    S2S_TRY(s2s_binder_matrix(b, p, d_model, d_out, c->out_bias, &layer->self_out));
    if (c->positions == S2S_POSITIONS_RELATIVE) {
        if (c->relative_per_layer)
            s2s_name_format(p, "%s.%d.self_attn.relative_bias", stack->name, index);
        else
            s2s_name_format(p, "%s.relative_bias", stack->name);
        S2S_TRY(s2s_binder_table(b, p, c->n_heads, 2 * (int64_t)c->max_distance + 1,
                                 &layer->relative_bias));
    }
    return bind_norms(b, stack, index, "self_attn", d_model, &layer->self_norms);
}

static s2s_status bind_cross_attention(s2s_binder *b, const s2s_stack *stack, int32_t index,
                                       int64_t d_model)
{
    const s2s_stack_config *c = &stack->config;
    s2s_layer *layer = &stack->layers[index];
    char p[S2S_NAME_MAX];
    s2s_name_format(p, "%s.%d.cross_attn.q", stack->name, index);
    S2S_TRY(s2s_binder_matrix(b, p, stack->d_attention, d_model, c->qkv_bias, &layer->cross_q));
    s2s_name_format(p, "%s.%d.cross_attn.kv", stack->name, index);
    S2S_TRY(s2s_binder_matrix(b, p, 2 * (int64_t)stack->cross_kv.d_k, d_model, c->qkv_bias,
                              &layer->cross_kv));
    s2s_name_format(p, "%s.%d.cross_attn.out", stack->name, index);
    S2S_TRY(s2s_binder_matrix(b, p, d_model, stack->d_attention, c->out_bias, &layer->cross_out));
    return bind_norms(b, stack, index, "cross_attn", d_model, &layer->cross_norms);
}

static s2s_status bind_ffn(s2s_binder *b, const s2s_stack *stack, int32_t index, int64_t d_model)
{
    const s2s_stack_config *c = &stack->config;
    s2s_layer *layer = &stack->layers[index];
    const int64_t d_up = c->ffn_gated ? 2 * (int64_t)stack->d_ffn : c->d_ffn;
    char p[S2S_NAME_MAX];
    s2s_name_format(p, "%s.%d.ffn.up", stack->name, index);
    S2S_TRY(s2s_binder_matrix(b, p, d_up, d_model, c->ffn_bias, &layer->ffn_up));
    s2s_name_format(p, "%s.%d.ffn.down", stack->name, index);
    S2S_TRY(s2s_binder_matrix(b, p, d_model, c->d_ffn, c->ffn_bias, &layer->ffn_down));
    const int has_zeros = c->activation == S2S_RELU && !c->ffn_gated && c->d_ffn <= UINT16_MAX;
    if (has_zeros && layer->ffn_down.dtype != S2S_INT4)
        layer->ffn_down.by_input = &layer->ffn_by_input;
    return bind_norms(b, stack, index, "ffn", d_model, &layer->ffn_norms);
}

/* Every angle must be one whose sine is computed; not so if a rate is NaN. */
static s2s_status check_angles(const char *name, const s2s_stack *stack, s2s_error *error)
{
    const s2s_stack_config *c = &stack->config;
    for (int32_t i = 0; i < c->d_rotary / 2; i++) {
        const float rate = stack->inv_freq[i];
        if (fabsf(rate) * (float)c->max_positions <= S2S_MAX_ANGLE) continue;
        return s2s_fail(
            error, S2S_INVALID_MODEL,
            "tensor %s turns %d positions by %g radians each, but angles must be at most %g", name,
            c->max_positions, (double)rate, (double)S2S_MAX_ANGLE);
    }
    return S2S_OK;
}

static s2s_status bind_positions(s2s_binder *b, s2s_stack *stack, int64_t d_model)
{
    const s2s_stack_config *c = &stack->config;
    char name[S2S_NAME_MAX];
    if (c->positions == S2S_POSITIONS_TABLE) {
        s2s_name_format(name, "%s.positions", stack->name);
        return s2s_binder_table(b, name, c->max_positions, d_model, &stack->positions);
    }
    if (c->positions == S2S_POSITIONS_ROTARY) {
        s2s_name_format(name, "%s.rotary.inv_freq", stack->name);
        S2S_TRY(s2s_binder_vector(b, name, c->d_rotary / 2, &stack->inv_freq));
        return check_angles(name, stack, b->error);
    }
    return S2S_OK;
}

/* Checked already: no width here overflows. */
static void size_stack(s2s_stack *stack)
{
    const s2s_stack_config *c = &stack->config;
    stack->d_head = s2s_round_up(c->d_head, S2S_TILE);
    stack->d_attention = c->n_heads * stack->d_head;
    stack->cross_kv = (s2s_kv_shape){.n_heads = c->n_kv_heads,
                                     .d_key = stack->d_head,
                                     .d_value = stack->d_head,
                                     .d_k = c->n_kv_heads * stack->d_head,
                                     .d_v = c->n_kv_heads * stack->d_head};
    stack->self_kv = stack->cross_kv;
    if (c->kv_rank > 0) {
        const int32_t rank = s2s_round_up(c->kv_rank, 2 * S2S_TILE);
        const int32_t d_key = rank + s2s_round_up(c->d_rotary, S2S_TILE);
        stack->self_kv =
            (s2s_kv_shape){.n_heads = 1, .d_key = d_key, .d_value = rank, .d_k = d_key, .d_v = 0};
        stack->d_value = s2s_round_up(c->d_value, S2S_TILE);
    }
    stack->d_query = c->n_heads * stack->self_kv.d_key;
    stack->d_ffn = s2s_round_up(c->d_ffn, S2S_TILE);
}

static s2s_status bind_stack(s2s_binder *b, s2s_model *model, s2s_stack *stack, int64_t vocab_size)
{
    const s2s_stack_config *c = &stack->config;
    const int64_t d_model = model->config.d_model;
    char name[S2S_NAME_MAX];

    if (c->n_layers == 0) return S2S_OK;
    size_stack(stack);
    s2s_name_format(name, "%s.embed", stack->name);
    S2S_TRY(bind_embedding(b, name, vocab_size, d_model, &stack->embed));
    S2S_TRY(bind_positions(b, stack, d_model));
    if (c->n_token_types > 0) {
        s2s_name_format(name, "%s.token_types", stack->name);
        S2S_TRY(s2s_binder_table(b, name, c->n_token_types, d_model, &stack->token_types));
    }
    if (c->embed_norm) {
        s2s_name_format(name, "%s.embed_norm", stack->name);
        S2S_TRY(bind_norm(b, name, stack, d_model, &stack->embed_norm));
    }
    for (int32_t i = 0; i < c->n_layers; i++) {
        S2S_TRY(bind_self_attention(b, stack, i, d_model));
        if (stack == &model->decoder && s2s_has_cross_attention(model))
            S2S_TRY(bind_cross_attention(b, stack, i, d_model));
        S2S_TRY(bind_ffn(b, stack, i, d_model));
    }
    if (c->final_norm) {
        s2s_name_format(name, "%s.final_norm", stack->name);
        S2S_TRY(bind_norm(b, name, stack, d_model, &stack->final_norm));
    }
    return S2S_OK;
}

static s2s_status bind_output(s2s_binder *b, s2s_model *model)
{
    const s2s_model_config *c = &model->config;
    if (c->decoder.n_layers == 0) return S2S_OK;
    S2S_TRY(bind_embedding(b, "output.weight", c->vocab_size, c->d_model, &model->output));
    if (!c->output_bias) return S2S_OK;
    return s2s_binder_vector(b, "output.bias", (int64_t)S2S_TILE * model->output.n_tiles,
                             &model->output.bias);
}

static s2s_status bind_head_layer(s2s_binder *b, s2s_model *model, int32_t head, int32_t index)
{
    const s2s_model_config *c = &model->config;
    const s2s_head_layer_config *config = &c->heads[head].layers[index];
    const int is_tied = head == S2S_MASKED_LM && index + 1 == c->heads[head].n_layers;
    s2s_head_layer *layer = &model->heads[head][index];
    char name[S2S_NAME_MAX];
    s2s_name_format(name, "%s.%d.weight", s2s_head_names[head], index);
    const s2s_tensor *t = s2s_binder_find(b, name);
    if (t == NULL && is_tied) t = s2s_binder_find(b, "encoder.embed");
    if (t == NULL && is_tied) t = s2s_binder_find(b, "shared.embed");
    if (t == NULL) return s2s_binder_missing(b, name);
    S2S_TRY(s2s_binder_tiles(b, t, config->n_out, c->d_model, &layer->dense));
    s2s_name_format(name, "%s.%d.bias", s2s_head_names[head], index);
    S2S_TRY(
        s2s_binder_vector(b, name, (int64_t)S2S_TILE * layer->dense.n_tiles, &layer->dense.bias));
    layer->activation = (s2s_activation)config->activation;
    if (!config->norm) return S2S_OK;
    s2s_name_format(name, "%s.%d.norm", s2s_head_names[head], index);
    return bind_norm(b, name, &model->encoder, c->d_model, &layer->norm);
}

static s2s_status bind_heads(s2s_binder *b, s2s_model *model)
{
    for (int32_t head = 0; head < S2S_N_HEADS; head++) {
        for (int32_t i = 0; i < model->config.heads[head].n_layers; i++)
            S2S_TRY(bind_head_layer(b, model, head, i));
    }
    return S2S_OK;
}

static s2s_status bind_model(s2s_binder *b, s2s_model *model)
{
    const s2s_model_config *c = &model->config;
    model->encoder = (s2s_stack){.config = c->encoder, .name = "encoder", .layers = model->layers};
    model->decoder = (s2s_stack){
        .config = c->decoder, .name = "decoder", .layers = model->layers + c->encoder.n_layers};
    S2S_TRY(bind_stack(b, model, &model->encoder, c->source_vocab_size));
    S2S_TRY(bind_stack(b, model, &model->decoder, c->vocab_size));
    S2S_TRY(bind_output(b, model));
    S2S_TRY(bind_heads(b, model));
    for (size_t i = 0; i < b->n_tensors; i++) {
        model->has_int4 |= b->tensors[i].dtype == S2S_INT4;
        model->has_int8 |= b->tensors[i].dtype == S2S_INT8 || b->tensors[i].dtype == S2S_INT4;
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
    S2S_TRY(s2s_model_config_check(config, error));
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
    /* What a description says of a stack that is not there was not checked. */
    if (config->encoder.n_layers == 0) model->config.encoder = (s2s_stack_config){0};
    if (config->decoder.n_layers == 0) model->config.decoder = (s2s_stack_config){0};
    model->kernels = kernels;
    model->isa = isa == S2S_ISA_AUTO ? s2s_isa_best() : isa;

    s2s_binder b = {.tensors = tensors, .n_tensors = n_tensors, .used = used, .error = error};
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
    if (model == NULL) return;
    s2s_block_store_clear(&model->blocks);
    for (int32_t i = 0; i < model->config.encoder.n_layers + model->config.decoder.n_layers; i++)
        s2s_by_input_free(&model->layers[i].ffn_by_input);
    free(model->coarse);
    free(model->coarse_i4);
    free(model);
}

s2s_dtype s2s_model_kv_dtype(const s2s_model *model)
{
    return model->has_int8 ? S2S_BF16 : S2S_F32;
}

s2s_isa s2s_model_isa(const s2s_model *model)
{
    return model->isa;
}
