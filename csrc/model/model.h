/* model.h: weights, validated once and immutable, as the forward pass reads them.
 *
 * Concept.  A model is two stacks of alike layers (one may be absent) and an output projection.  Every matrix is a view of
 * tiles in the caller's memory; nothing is copied.
 * Ownership.  The model owns its own structs, the copy that bounds logits, and spare blocks of memory.
 * Thread-safety: read-only after creation but for these two, which are atomic.
 */
#ifndef S2S_MODEL_H
#define S2S_MODEL_H

#include <stdatomic.h>

#include "../base/arena.h"
#include "../kernels/kernels.h"
#include "../s2s.h"

typedef struct s2s_by_input s2s_by_input; /* by_input.h */

typedef struct s2s_matrix {
    const void *w;      /* tiles [n_tiles, n_in, 16], or those of int8 and int4 (s2s.h) */
    const float *scale; /* [16 * n_tiles] of int8 and int4, else NULL */
    const int32_t *sum; /* likewise */
    const float *bias;  /* [16 * n_tiles] or NULL */
    int32_t n_in, n_out, n_tiles;
    s2s_dtype dtype;
    s2s_by_input *by_input; /* of a matrix behind a ReLU, most of whose inputs are 0; or NULL */
    char
        input_name[S2S_NAME_MAX]; /* of what it multiplies, when recorded; "": recorded elsewhere */
} s2s_matrix;

/* Rows that it multiplies are quantized. */
static inline int s2s_matrix_is_quantized(const s2s_matrix *m)
{
    return m->dtype == S2S_INT8 || m->dtype == S2S_INT4;
}

static inline size_t s2s_i8_tile_bytes(int32_t n_in)
{
    return ((size_t)n_in + 3) / 4 * 4 * S2S_TILE;
}

static inline size_t s2s_matrix_tile_bytes(const s2s_matrix *m)
{
    const size_t n_in = (size_t)m->n_in;
    switch (m->dtype) {
    case S2S_INT4:
        return (n_in + 127) / 128 * 17 * 64;
    case S2S_INT8:
        return s2s_i8_tile_bytes(m->n_in);
    case S2S_BF16:
        return n_in * S2S_TILE * sizeof(uint16_t);
    default:
        return n_in * S2S_TILE * sizeof(float);
    }
}

typedef struct s2s_norm {
    const float *weight, *bias; /* [d] each; bias NULL for an RMS norm */
    int32_t d;                  /* d_model, but for the norms of latents */
} s2s_norm;

/* Of one block: the one norm of post-norm and pre-norm layers, and a second one of sandwich norms. */
typedef struct s2s_block_norms {
    s2s_norm norm, post_norm;
} s2s_block_norms;

/* What a product that leaves zeros out needs of a matrix, see by_input.h. */
struct s2s_by_input {
    atomic_int n_missed, state;
    int8_t *rows; /* valid in state READY; of an int8 matrix */
};

typedef struct s2s_layer {
    s2s_matrix self_qkv, self_out;
    /* Latent attention: instead of self_qkv (latent.h). */
    s2s_matrix q_down, latent_q, k_up, kv_down, v_up;
    s2s_norm q_norm, kv_norm;
    s2s_block_norms self_norms;
    const float *relative_bias;              /* [n_heads, 2 max_distance + 1] or NULL */
    s2s_matrix cross_q, cross_kv, cross_out; /* decoder with an encoder only */
    s2s_block_norms cross_norms;
    s2s_matrix ffn_up, ffn_down;
    s2s_by_input ffn_by_input;
    s2s_block_norms ffn_norms;
} s2s_layer;

/* y = norm(activation(x W + b)): a layer of a head. */
typedef struct s2s_head_layer {
    s2s_matrix dense;
    s2s_norm norm; /* weight NULL: none */
    s2s_activation activation;
} s2s_head_layer;

/* What is cached of one position for one kind of attention: keys of n_heads KV heads, then values; or keys
 * alone, whose first d_value elements are the values. */
typedef struct s2s_kv_shape {
    int32_t n_heads;
    int32_t d_key, d_value; /* of a head */
    int32_t d_k, d_v;       /* of all heads; d_v 0: no values of their own */
} s2s_kv_shape;

typedef struct s2s_stack {
    s2s_stack_config config;
    const char *name;         /* "encoder" or "decoder": the prefix of tensor and record names */
    s2s_matrix embed;         /* column = token */
    const float *positions;   /* [max_positions, d_model] or NULL */
    const float *inv_freq;    /* [d_rotary / 2] or NULL */
    const float *token_types; /* [n_token_types, d_model] or NULL */
    s2s_norm embed_norm, final_norm;
    s2s_layer *layers;   /* [n_layers] */
    int32_t d_head;      /* padded to a multiple of 16 */
    int32_t d_query;     /* all queries of self-attention: n_heads * self_kv.d_key */
    int32_t d_attention; /* what the heads of cross-attention, or of all but latent attention, give:
                            n_heads * d_head */
    int32_t d_value;     /* latent attention: of a head, padded */
    s2s_kv_shape self_kv, cross_kv;
    int32_t d_ffn; /* padded to a multiple of 16 */
} s2s_stack;

typedef struct s2s_coarse s2s_coarse;       /* coarse.h */
typedef struct s2s_coarse_i4 s2s_coarse_i4; /* coarse_i4.h */

struct s2s_model {
    s2s_model_config config;
    const s2s_kernels *kernels;
    s2s_isa isa;
    s2s_stack encoder, decoder;
    s2s_matrix output; /* logits of the decoder */
    s2s_head_layer heads[S2S_N_HEADS][S2S_MAX_HEAD_LAYERS];
    int has_int8; /* some matrix is, or int4 */
    int has_int4;
    /* What changes later, under a model that is const otherwise. */
    _Atomic(s2s_coarse *) coarse;       /* NULL until it is needed */
    _Atomic(s2s_coarse_i4 *) coarse_i4; /* likewise */
    atomic_int n_without_coarse_i4;     /* products that would have used it */
    s2s_block_store blocks;             /* of sessions that ended, for the next ones */
    s2s_layer layers[];                 /* those of the encoder, then of the decoder */
};

static inline s2s_block_store *s2s_model_blocks(const s2s_model *model)
{
    return &((s2s_model *)model)->blocks;
}

/* ---- config.c ---- */

extern const char *const s2s_head_names[S2S_N_HEADS]; /* the prefixes of their tensors */

/* Checks the description alone. */
s2s_status s2s_model_config_check(const s2s_model_config *config, s2s_error *error);

static inline int s2s_has_cross_attention(const s2s_model *model)
{
    return model->encoder.config.n_layers > 0 && model->decoder.config.n_layers > 0;
}

static inline int32_t s2s_round_up(int32_t n, int32_t unit)
{
    return (n + unit - 1) / unit * unit;
}

#endif
