/* config.c: checks a model description: every number within bounds in which no later product of two of
 * them overflows.
 */
#include <math.h>
#include <stdio.h>

#include "../base/status.h"
#include "model.h"

/* Far above any real model, low enough that no product of two of them overflows an int64. */
enum {
    MAX_HEADS = 1024,
    MAX_D_HEAD = 1 << 12,
    MAX_WIDTH = 1 << 20,
    MAX_VOCAB = 1 << 24,
    MAX_POSITIONS = 1 << 20
};

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

static s2s_status check_not_negative(s2s_error *error, const char *stack, const char *field,
                                     float value)
{
    S2S_TRY(check_finite(error, stack, field, value));
    if (value >= 0) return S2S_OK;
    return s2s_fail(error, S2S_INVALID_MODEL, "%s%s must not be negative, but is %g", stack, field,
                    (double)value);
}

static s2s_status check_positions(const s2s_stack_config *c, const char *s, s2s_error *error)
{
    S2S_TRY(
        check_range(error, s, "positions", c->positions, S2S_POSITIONS_NONE, S2S_POSITIONS_ROTARY));
    S2S_TRY(check_range(error, s, "max_positions", c->max_positions, 1, MAX_POSITIONS));
    S2S_TRY(check_range(error, s, "n_token_types", c->n_token_types, 0, MAX_POSITIONS));
    S2S_TRY(check_range(error, s, "relative_per_layer", c->relative_per_layer, 0, 1));
    S2S_TRY(check_range(error, s, "max_distance", c->max_distance,
                        c->positions == S2S_POSITIONS_RELATIVE, MAX_POSITIONS));
    S2S_TRY(check_range(error, s, "d_rotary", c->d_rotary,
                        c->positions == S2S_POSITIONS_ROTARY ? 2 : 0,
                        c->kv_rank > 0 ? MAX_D_HEAD : c->d_head));
    if (c->d_rotary % 2 != 0) {
        return s2s_fail(error, S2S_INVALID_MODEL, "%sd_rotary must be even, but is %d", s,
                        c->d_rotary);
    }
    return check_finite(error, s, "rotary_scale", c->rotary_scale);
}

static s2s_status check_latent(const s2s_stack_config *c, const char *s, s2s_error *error)
{
    S2S_TRY(check_range(error, s, "kv_rank", c->kv_rank, 0, MAX_D_HEAD));
    S2S_TRY(check_range(error, s, "q_rank", c->q_rank, 0, c->kv_rank > 0 ? MAX_WIDTH : 0));
    S2S_TRY(check_range(error, s, "d_value", c->d_value, c->kv_rank > 0,
                        c->kv_rank > 0 ? MAX_D_HEAD : 0));
    S2S_TRY(check_range(error, s, "kv_norm", c->kv_norm, 0, 1));
    if (c->kv_rank == 0) return S2S_OK;
    if (c->d_rotary > 0 && c->positions != S2S_POSITIONS_ROTARY) {
        return s2s_fail(error, S2S_UNSUPPORTED,
                        "%sd_rotary must be 0 without rotary positions, but is %d", s, c->d_rotary);
    }
    if ((c->kv_norm || c->q_rank > 0) && c->norm_kind != S2S_RMS_NORM) {
        return s2s_fail(error, S2S_UNSUPPORTED, "%skv_norm and q_rank must be 0 without RMS norms",
                        s);
    }
    return S2S_OK;
}

static s2s_status check_stack(const s2s_stack_config *c, const char *s, s2s_error *error)
{
    S2S_TRY(check_range(error, s, "n_layers", c->n_layers, 0, S2S_MAX_LAYERS));
    if (c->n_layers == 0) return S2S_OK;
    S2S_TRY(check_range(error, s, "n_heads", c->n_heads, 1, MAX_HEADS));
    S2S_TRY(check_range(error, s, "n_kv_heads", c->n_kv_heads, 1, c->n_heads));
    if (c->n_heads % c->n_kv_heads != 0) {
        return s2s_fail(error, S2S_INVALID_MODEL,
                        "%sn_kv_heads must divide n_heads (%d), but is %d", s, c->n_heads,
                        c->n_kv_heads);
    }
    S2S_TRY(check_range(error, s, "d_head", c->d_head, 1, MAX_D_HEAD));
    S2S_TRY(check_range(error, s, "d_ffn", c->d_ffn, 1, MAX_WIDTH));
    S2S_TRY(check_range(error, s, "activation", c->activation, S2S_RELU, S2S_TANH));
    S2S_TRY(check_range(error, s, "ffn_gated", c->ffn_gated, 0, 1));
    S2S_TRY(check_range(error, s, "norm_kind", c->norm_kind, S2S_LAYER_NORM, S2S_RMS_NORM));
    S2S_TRY(check_range(error, s, "norm_place", c->norm_place, S2S_POST_NORM, S2S_SANDWICH_NORM));
    S2S_TRY(check_range(error, s, "embed_norm", c->embed_norm, 0, 1));
    S2S_TRY(check_range(error, s, "final_norm", c->final_norm, 0, 1));
    S2S_TRY(check_range(error, s, "qkv_bias", c->qkv_bias, 0, 1));
    S2S_TRY(check_range(error, s, "out_bias", c->out_bias, 0, 1));
    S2S_TRY(check_range(error, s, "ffn_bias", c->ffn_bias, 0, 1));
    S2S_TRY(check_positions(c, s, error));
    S2S_TRY(check_latent(c, s, error));
    S2S_TRY(check_range(error, s, "window", c->window, 0, MAX_POSITIONS));
    for (int32_t i = 0; i < S2S_MAX_LAYERS; i++)
        S2S_TRY(check_range(error, s, "full_layers", c->full_layers[i], 0, 1));
    S2S_TRY(check_finite(error, s, "embed_scale", c->embed_scale));
    S2S_TRY(check_finite(error, s, "attention_scale", c->attention_scale));
    S2S_TRY(check_not_negative(error, s, "attention_softcap", c->attention_softcap));
    return check_not_negative(error, s, "norm_eps", c->norm_eps);
}

const char *const s2s_head_names[S2S_N_HEADS] = {
    [S2S_POOLER] = "pooler", [S2S_MASKED_LM] = "masked_lm", [S2S_CLASSIFIER] = "classifier"};

static s2s_status check_head(const s2s_model_config *c, int32_t head, s2s_error *error)
{
    const s2s_head_config *h = &c->heads[head];
    char name[32];
    snprintf(name, sizeof name, "%s.", s2s_head_names[head]);
    S2S_TRY(check_range(error, name, "n_layers", h->n_layers, 0, S2S_MAX_HEAD_LAYERS));
    if (h->n_layers > 0 && c->encoder.n_layers == 0) {
        return s2s_fail(error, S2S_INVALID_MODEL, "%s needs an encoder", s2s_head_names[head]);
    }
    for (int32_t i = 0; i < S2S_MAX_HEAD_LAYERS; i++) {
        const s2s_head_layer_config *layer = &h->layers[i];
        const int exists = i < h->n_layers; /* numbers of a layer that does not exist are 0 */
        S2S_TRY(check_range(error, name, "activation", layer->activation, S2S_RELU,
                            exists ? S2S_TANH : 0));
        S2S_TRY(check_range(error, name, "norm", layer->norm, 0, exists));
        if (!exists) {
            S2S_TRY(check_range(error, name, "n_out", layer->n_out, 0, 0));
            continue;
        }
        /* The next layer, the next head and the norm read rows of d_model. */
        const int fixed = i + 1 < h->n_layers || layer->norm || head == S2S_POOLER;
        S2S_TRY(check_range(error, name, "n_out", layer->n_out, fixed ? c->d_model : 1,
                            fixed ? c->d_model : MAX_VOCAB));
    }
    return S2S_OK;
}

s2s_status s2s_model_config_check(const s2s_model_config *c, s2s_error *error)
{
    S2S_TRY(check_range(error, "", "vocab_size", c->vocab_size, 1, MAX_VOCAB));
    S2S_TRY(check_range(error, "", "source_vocab_size", c->source_vocab_size, 1, MAX_VOCAB));
    S2S_TRY(check_range(error, "", "d_model", c->d_model, 1, 1 << 16));
    S2S_TRY(check_range(error, "", "output_bias", c->output_bias, 0, 1));
    S2S_TRY(check_stack(&c->encoder, "encoder.", error));
    S2S_TRY(check_stack(&c->decoder, "decoder.", error));
    S2S_TRY(check_not_negative(error, "", "output_softcap", c->output_softcap));
    for (int32_t i = 0; i < S2S_N_HEADS; i++) S2S_TRY(check_head(c, i, error));
    if (c->encoder.n_layers > 0 && c->encoder.kv_rank > 0) {
        return s2s_fail(error, S2S_UNSUPPORTED,
                        "encoder.kv_rank must be 0 (an encoder caches nothing), but is %d",
                        c->encoder.kv_rank);
    }
    if (c->encoder.n_layers == 0 && c->decoder.n_layers == 0) {
        return s2s_fail(error, S2S_INVALID_MODEL,
                        "a model must have an encoder or a decoder, but both have 0 layers");
    }
    return S2S_OK;
}
