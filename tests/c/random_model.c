/* random_model.c: see random_model.h. */
#include "random_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned weight_state;

/* Uniform in [-1, 1). */
static float weight(void)
{
    weight_state = weight_state * 1664525u + 1013904223u;
    return (float)(weight_state >> 8) / 8388608.0f - 1.0f;
}

static int round16(int n)
{
    return (n + 15) / 16 * 16;
}

s2s_model_config random_model_config(void)
{
    s2s_stack_config stack = {
        .n_layers = 2,
        .n_heads = 3,
        .n_kv_heads = 3,
        .d_head = 20,
        .d_ffn = 70,
        .activation = S2S_SILU,
        .norm_place = S2S_POST_NORM,
        .qkv_bias = 1,
        .out_bias = 1,
        .ffn_bias = 1,
        .positions = 1,
        .max_positions = 64,
        .embed_scale = 2.0f,
        .attention_scale = 0.2236068f,
        .norm_eps = 1e-5f,
    };
    return (s2s_model_config){.vocab_size = 53,
                              .source_vocab_size = 53,
                              .d_model = 40,
                              .output_bias = 1,
                              .encoder = stack,
                              .decoder = stack};
}

s2s_model_config random_model_variant(int variant)
{
    s2s_model_config config = random_model_config();
    s2s_stack_config *stacks[2] = {&config.encoder, &config.decoder};
    if (variant == 0) return config;
    for (int i = 0; i < 2; i++) {
        s2s_stack_config *c = stacks[i];
        c->norm_kind = S2S_RMS_NORM;
        c->ffn_gated = 1;
        c->final_norm = 1;
        c->qkv_bias = variant == 2;
        c->out_bias = c->ffn_bias = 0;
        c->n_kv_heads = 1;
        c->norm_place = variant == 1 ? S2S_SANDWICH_NORM : S2S_PRE_NORM;
        c->positions = variant == 1 ? S2S_POSITIONS_RELATIVE : S2S_POSITIONS_ROTARY;
        c->max_distance = 6;
        c->d_rotary = 10;
        c->rotary_scale = 1.1f;
        c->window = 5;
        c->full_layers[1] = 1;
        c->attention_softcap = variant == 1 ? 4.0f : 0.0f;
    }
    config.output_softcap = variant == 1 ? 8.0f : 0.0f;
    if (variant == 2) {
        config.decoder.kv_rank = 36;
        config.decoder.kv_norm = 1;
        config.decoder.q_rank = 21;
        config.decoder.d_value = 18;
    }
    return config;
}

static s2s_tensor *add(random_model *m, const char *name, s2s_dtype dtype, size_t n)
{
    s2s_tensor *t = &m->tensors[m->n_tensors];
    char *copy = m->names[m->n_tensors++];
    snprintf(copy, S2S_NAME_MAX, "%s", name);
    t->name = copy;
    t->dtype = dtype;
    t->n_bytes = n * (dtype == S2S_INT8 ? 1 : dtype == S2S_BF16 ? 2 : 4);
    t->data = aligned_alloc(64, (t->n_bytes + 63) / 64 * 64);
    return t->data ? t : NULL;
}

static int add_vector(random_model *m, const char *name, int n, int n_used, float centre,
                      float spread)
{
    s2s_tensor *t = add(m, name, S2S_F32, (size_t)n);
    if (t == NULL) return 0;
    float *x = (float *)t->data;
    for (int i = 0; i < n; i++) x[i] = i < n_used ? centre + spread * weight() : 0.0f;
    t->rank = 1;
    t->shape[0] = n;
    return 1;
}

/* Fills int8 tiles, with their scales and sums. */
static int add_quantized(random_model *m, const s2s_tensor *tiles, const float *w, int n_out,
                         int n_in)
{
    char name[S2S_NAME_MAX];
    snprintf(name, sizeof name, "%.80s.scale", tiles->name);
    s2s_tensor *scale = add(m, name, S2S_F32, (size_t)round16(n_out));
    snprintf(name, sizeof name, "%.80s.sum", tiles->name);
    s2s_tensor *sum = add(m, name, S2S_INT32, (size_t)round16(n_out));
    if (scale == NULL || sum == NULL) return 0;
    scale->rank = sum->rank = 1;
    scale->shape[0] = sum->shape[0] = round16(n_out);
    return s2s_pack_int8(w, n_out, n_in, (void *)tiles->data, tiles->n_bytes, (void *)scale->data,
                         (void *)sum->data, NULL) == S2S_OK;
}

static int add_tiles(random_model *m, const char *name, s2s_dtype dtype, int n_out, int n_in,
                     float spread)
{
    float *w = malloc(sizeof(float) * (size_t)n_out * (size_t)n_in);
    const int n_padded = dtype == S2S_INT8 ? (n_in + 3) / 4 * 4 : n_in;
    s2s_tensor *t = add(m, name, dtype, (size_t)round16(n_out) * (size_t)n_padded);
    int ok = w != NULL && t != NULL;
    if (ok) {
        for (int i = 0; i < n_out * n_in; i++) w[i] = spread * weight();
        t->rank = 3;
        t->shape[0] = round16(n_out) / 16;
        t->shape[1] = n_in;
        t->shape[2] = 16;
        if (dtype == S2S_INT8) {
            t->rank = 4;
            t->shape[1] = n_padded / 4;
            t->shape[3] = 4;
            ok = add_quantized(m, t, w, n_out, n_in);
        } else {
            ok = s2s_pack(w, n_out, n_in, dtype, (void *)t->data, t->n_bytes, NULL) == S2S_OK;
        }
    }
    free(w);
    return ok;
}

static int add_product(random_model *m, const char *prefix, s2s_dtype dtype, int n_out, int n_in,
                       int has_bias)
{
    char name[S2S_NAME_MAX + 8];
    snprintf(name, sizeof name, "%s.weight", prefix);
    int ok = add_tiles(m, name, dtype, n_out, n_in, 2.0f / sqrtf((float)n_in));
    if (!has_bias) return ok;
    snprintf(name, sizeof name, "%s.bias", prefix);
    return ok && add_vector(m, name, round16(n_out), n_out, 0.0f, 0.1f);
}

static int add_matrix(random_model *m, const char *prefix, s2s_dtype dtype, int n_out, int n_in)
{
    return add_product(m, prefix, dtype, n_out, n_in, 1);
}

static int add_norm_of(random_model *m, const char *prefix, int d, int32_t kind)
{
    char name[S2S_NAME_MAX + 8];
    snprintf(name, sizeof name, "%s.weight", prefix);
    int ok = add_vector(m, name, d, d, 1.0f, 0.2f);
    snprintf(name, sizeof name, "%s.bias", prefix);
    return ok && (kind == S2S_RMS_NORM || add_vector(m, name, d, d, 0.0f, 0.1f));
}

static int add_norm(random_model *m, const char *prefix, int d)
{
    return add_norm_of(m, prefix, d, S2S_LAYER_NORM);
}

static int add_table(random_model *m, const char *name, int n_rows, int d)
{
    if (!add_vector(m, name, n_rows * d, n_rows * d, 0.0f, 1.0f)) return 0;
    s2s_tensor *t = &m->tensors[m->n_tensors - 1];
    t->rank = 2;
    t->shape[0] = n_rows;
    t->shape[1] = d;
    return 1;
}

/* All layers of a head; the last weight of masked_lm is left out, so that it is the embedding. */
static int add_head(random_model *m, const char *head, const s2s_head_config *c, s2s_dtype dtype)
{
    int ok = 1;
    for (int i = 0; ok && i < c->n_layers; i++) {
        const s2s_head_layer_config *layer = &c->layers[i];
        const int is_tied = strcmp(head, "masked_lm") == 0 && i + 1 == c->n_layers;
        char p[S2S_NAME_MAX];
        snprintf(p, sizeof p, "%s.%d%s", head, i, is_tied ? ".bias" : "");
        ok = is_tied ? add_vector(m, p, round16(layer->n_out), layer->n_out, 0.0f, 0.1f)
                     : add_matrix(m, p, dtype, layer->n_out, m->config.d_model);
        snprintf(p, sizeof p, "%s.%d.norm", head, i);
        if (layer->norm) ok = ok && add_norm(m, p, m->config.d_model);
    }
    return ok;
}

static int add_stack(random_model *m, const char *s, const s2s_stack_config *c, s2s_dtype dtype,
                     int has_cross)
{
    const int d = m->config.d_model, dh = round16(c->d_head);
    const int d_attention = c->n_heads * dh, d_kv = c->n_kv_heads * dh;
    char p[S2S_NAME_MAX];
    int ok = 1;
    if (c->n_layers == 0) return 1;
    if (c->positions == S2S_POSITIONS_TABLE) {
        snprintf(p, sizeof p, "%s.positions", s);
        ok = add_table(m, p, c->max_positions, d);
    }
    if (c->positions == S2S_POSITIONS_RELATIVE) {
        snprintf(p, sizeof p, "%s.relative_bias", s);
        ok = add_table(m, p, c->n_heads, 2 * c->max_distance + 1);
    }
    if (c->positions == S2S_POSITIONS_ROTARY) {
        snprintf(p, sizeof p, "%s.rotary.inv_freq", s);
        ok = add_vector(m, p, c->d_rotary / 2, c->d_rotary / 2, 0.5f, 0.4f);
    }
    if (c->n_token_types > 0) {
        snprintf(p, sizeof p, "%s.token_types", s);
        ok = ok && add_table(m, p, c->n_token_types, d);
    }
    if (c->embed_norm) {
        snprintf(p, sizeof p, "%s.embed_norm", s);
        ok = ok && add_norm_of(m, p, d, c->norm_kind);
    }
    if (c->final_norm) {
        snprintf(p, sizeof p, "%s.final_norm", s);
        ok = ok && add_norm_of(m, p, d, c->norm_kind);
    }
    for (int i = 0; ok && i < c->n_layers; i++) {
        const int sandwich = c->norm_place == S2S_SANDWICH_NORM, latent = c->kv_rank > 0;
        const int rank = (c->kv_rank + 31) / 32 * 32, dr = round16(c->d_rotary);
        const int dv = round16(c->d_value), n = c->n_heads;
        const int d_up = c->ffn_gated ? 2 * round16(c->d_ffn) : c->d_ffn;
        const struct {
            const char *name;
            int n_out, n_in; /* n_in 0: a norm, of n_out elements */
            int wanted, bias;
        } parts[] = {
            {"self_attn.qkv", d_attention + 2 * d_kv, d, !latent, c->qkv_bias},
            {"self_attn.q_down", c->q_rank, d, c->q_rank > 0, c->qkv_bias},
            {"self_attn.q_norm", c->q_rank, 0, c->q_rank > 0, 0},
            {"self_attn.q", n * (dh + dr), c->q_rank > 0 ? c->q_rank : d, latent, 0},
            {"self_attn.k_up", n * rank, c->d_head, latent, 0},
            {"self_attn.kv_down", rank + dr, d, latent, c->qkv_bias},
            {"self_attn.kv_norm", c->kv_rank, 0, c->kv_norm, 0},
            {"self_attn.v_up", n * dv, c->kv_rank, latent, 0},
            {"self_attn.out", d, latent ? n * dv : d_attention, 1, c->out_bias},
            {"self_attn.norm", d, 0, 1, 0},
            {"self_attn.post_norm", d, 0, sandwich, 0},
            {"cross_attn.q", d_attention, d, has_cross, c->qkv_bias},
            {"cross_attn.kv", 2 * d_kv, d, has_cross, c->qkv_bias},
            {"cross_attn.out", d, d_attention, has_cross, c->out_bias},
            {"cross_attn.norm", d, 0, has_cross, 0},
            {"cross_attn.post_norm", d, 0, has_cross && sandwich, 0},
            {"ffn.up", d_up, d, 1, c->ffn_bias},
            {"ffn.down", d, c->d_ffn, 1, c->ffn_bias},
            {"ffn.norm", d, 0, 1, 0},
            {"ffn.post_norm", d, 0, sandwich, 0},
        };
        for (size_t j = 0; ok && j < sizeof parts / sizeof *parts; j++) {
            if (!parts[j].wanted) continue;
            snprintf(p, sizeof p, "%s.%d.%s", s, i, parts[j].name);
            ok = parts[j].n_in
                     ? add_product(m, p, dtype, parts[j].n_out, parts[j].n_in, parts[j].bias)
                     : add_norm_of(m, p, parts[j].n_out, c->norm_kind);
        }
    }
    return ok;
}

int random_model_init(random_model *m, const s2s_model_config *config, s2s_dtype dtype,
                      unsigned seed)
{
    memset(m, 0, sizeof *m);
    m->config = *config;
    weight_state = seed;
    int ok = add_tiles(m, "shared.embed", dtype, config->vocab_size, config->d_model, 1.0f);
    if (config->output_bias) {
        int n = config->vocab_size;
        ok = ok && add_vector(m, "output.bias", round16(n), n, 0.0f, 0.5f);
    }
    ok = ok && add_stack(m, "encoder", &config->encoder, dtype, 0) &&
         add_stack(m, "decoder", &config->decoder, dtype, config->encoder.n_layers > 0) &&
         add_head(m, "pooler", &config->heads[S2S_POOLER], dtype) &&
         add_head(m, "masked_lm", &config->heads[S2S_MASKED_LM], dtype) &&
         add_head(m, "classifier", &config->heads[S2S_CLASSIFIER], dtype);
    if (!ok) random_model_release(m);
    return ok;
}

void random_model_release(random_model *m)
{
    for (size_t i = 0; i < m->n_tensors; i++) free((void *)m->tensors[i].data);
    m->n_tensors = 0;
}

s2s_model *random_model_create(random_model *m, const s2s_model_config *config, s2s_dtype dtype,
                               s2s_isa isa, s2s_error *error)
{
    s2s_model *model = NULL;
    if (!random_model_init(m, config, dtype, 7)) return NULL;
    s2s_model_create(config, m->tensors, m->n_tensors, isa, &model, error);
    return model;
}
