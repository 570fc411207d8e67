/* layers.h: the pieces that encoder and decoder layers are made of.
 *
 * Concept.  Activations are packed rows: row i is one token of some sequence, no padding anywhere; row
 * strides (`ld`) are multiples of 16 floats.  Every function here treats rows independently, so a row's
 * bits do not depend on its neighbours; work is split between threads by output tiles or by rows.
 * Ownership.  Buffers belong to the caller.  Thread-safety: one exec per session.
 */
#ifndef S2S_LAYERS_H
#define S2S_LAYERS_H

#include "../base/arena.h"
#include "../base/pool.h"
#include "../model/model.h"

/* What a forward pass runs with. */
typedef struct s2s_exec {
    const s2s_model *model;
    s2s_pool *pool;
    s2s_record_fn record; /* NULL: nothing is recorded */
    void *record_user;
    int record_failed; /* a recording ran out of memory */
} s2s_exec;

/* Fewest floats passed over worth waking a second thread, which costs about two microseconds. */
enum { S2S_MIN_FLOATS_PER_THREAD = 1 << 14 };

/* Rows that attend together: those of a source, beams for instance, over the cache, where one thread
 * holds the scores of all heads; tokens of a sequence, one head at a time. */
enum { S2S_ATTENTION_ROWS_PER_SOURCE = 8, S2S_ATTENTION_ROWS = 24 };

/* What is known of the logits of rows of which only the largest is wanted (output_i4.c). */
typedef struct s2s_bounds {
    int32_t n_rows;  /* at most; 0: none */
    size_t ld;       /* outputs, padded */
    float *upper;    /* [n_rows, ld] upper bounds of the logits */
    float *most;     /* [n_rows, n_blocks] the largest of each block */
    float *reached;  /* [n_rows] a logit that the largest reaches */
    int32_t *left;   /* [n_rows * n_blocks] blocks that may hold the largest */
    int8_t *x;       /* [n_rows, ld_quantized] of s2s_bound_i4 */
    int32_t *x_sum;  /* [n_rows] likewise */
    float *x_norm;   /* [n_rows] likewise */
    int32_t n_rests; /* calls to come that do without: lately the bounds left too much */
} s2s_bounds;

/* Buffers of one session, shared by encoder and decoder (they never run at the same time). */
typedef struct s2s_workspace {
    int32_t max_tokens; /* rows of the buffers below */
    size_t ld_x;        /* d_model rounded up to 16 */
    size_t ld_wide;     /* widest of q,k,v and ffn */
    size_t ld_context;  /* n_heads * d_head */
    size_t ld_scores;   /* the longer of these, rounded up to 16 */
    size_t n_scores;    /* rows that attend together, times heads that they do it with */
    size_t n_packed;    /* ld_scores * d_head of the encoder */
    int32_t max_source, max_target; /* longest sequences of encoder and decoder */
    float *x;                       /* [max_tokens, ld_x] the residual stream */
    float *h;                       /* [max_tokens, ld_x] */
    float *wide;                    /* [max_tokens, ld_wide] */
    float *context;                 /* [max_tokens, ld_context] */
    size_t ld_query;                /* queries of latent attention; 0 without */
    float *query;                   /* [max_tokens, ld_query] */
    float *scores;                  /* [n_threads, n_scores, ld_scores] */
    float *packed; /* [n_threads, 2, n_packed] keys and values of a sequence as tiles */
    size_t
        ld_quantized; /* widest input of an int8 product, an odd multiple of 64; 0 where there is none */
    uint8_t *quantized;    /* [max_tokens, ld_quantized] rows for an int8 or int4 product */
    float *row_scale;      /* [max_tokens] their scales */
    size_t n_unpacked;     /* 0 where no matrix is int4 */
    int8_t *unpacked;      /* [n_threads, n_unpacked] tiles of an int4 matrix as int8 */
    float *encoder_rotary; /* [max_source, d_rotary] of a rotary stack (rotary.h) */
    float *decoder_rotary; /* [max_target, d_rotary] likewise */
    float *bounds; /* [max_tokens, 2 n_blocks + S2S_ROW_BOUNDS] of logits, see output.c; or NULL */
    s2s_bounds bounds_i4;
    size_t ld_nonzero;  /* d_ffn behind a ReLU; 0 where there is none */
    uint16_t *nonzero;  /* [S2S_SPARSE_ROWS, ld_nonzero], see sparse.h */
    int32_t *n_nonzero; /* [S2S_SPARSE_ROWS] */
    float *logits;      /* [n_threads, S2S_LOGITS_SCRATCH] blocks of logits, see output.h */
} s2s_workspace;

enum {
    S2S_LOGITS_ROWS = 32, /* rows of a block of logits at one time */
    S2S_ROW_BOUNDS = 3,
    S2S_LOGITS_SCRATCH = S2S_LOGITS_ROWS * (S2S_LOGITS_BLOCK + S2S_TILE)
};

/* Takes the buffers from the arena (which may be counting). */
void s2s_workspace_init(s2s_workspace *ws, s2s_arena *arena, const s2s_model *model,
                        int32_t max_tokens, int32_t max_source, int32_t max_target,
                        int32_t n_threads);

/* Rows that a product reads; an int8 matrix reads them from ws->quantized. */
typedef struct s2s_rows {
    const float *x; /* [n, n_in], row stride ld */
    size_t ld;
    int32_t n;
} s2s_rows;

/* Quantizes rows to ws->quantized if m is int8: once for all products of the same rows. */
void s2s_linear_prepare(s2s_exec *exec, const s2s_matrix *m, s2s_rows rows, s2s_workspace *ws);
/* y = activation(x W + bias) + residual of the prepared rows; y [n_rows, 16 * n_tiles]; residual may be NULL. */
void s2s_linear_run(s2s_exec *exec, const s2s_matrix *m, s2s_rows rows, const s2s_workspace *ws,
                    s2s_activation activation, const float *residual, size_t ldr, float *y,
                    size_t ldy);
/* Its arguments for the kernels. */
s2s_matmul s2s_linear_args(const s2s_matrix *m, s2s_rows rows, s2s_activation activation,
                           const float *residual, size_t ldr, float *y, size_t ldy);
s2s_matmul_i8 s2s_linear_args_i8(const s2s_matrix *m, const s2s_workspace *ws, int32_t n_rows,
                                 s2s_activation activation, const float *residual, size_t ldr,
                                 float *y, size_t ldy);
/* Both. */
void s2s_linear(s2s_exec *exec, const s2s_matrix *m, s2s_rows rows, s2s_workspace *ws,
                s2s_activation activation, const float *residual, size_t ldr, float *y, size_t ldy);

/* Rows [row, row + n_rows) of the prepared rows and output tiles [tile_begin, tile_end) alone, on this
 * thread; y [n_rows, 16 * (tile_end - tile_begin)]. */
void s2s_linear_tiles(const s2s_exec *exec, const s2s_matrix *m, s2s_rows rows, int32_t row,
                      int32_t n_rows, const s2s_workspace *ws, int32_t tile_begin, int32_t tile_end,
                      float *y, size_t ldy);
/* How many groups of n_tiles outputs are worth a thread of their own. */
int32_t s2s_linear_grain(const s2s_matrix *m, int32_t n_rows, int32_t n_tiles);

/* y = norm(x), rows of norm->d; y may be x. */
void s2s_norm_rows(s2s_exec *exec, const s2s_stack *stack, const s2s_norm *norm, const float *x,
                   int32_t n_rows, size_t ld, float *y);

/* Sum of embedding, position and token type, then the embedding norm, to ws->x: row i is token ids[i] at
 * positions[i], of token_types[i] (NULL: all 0) in a stack that has types.
 * Records "<stack>.embed", "<stack>.positions", "<stack>.input". */
void s2s_embed_rows(s2s_exec *exec, const s2s_stack *stack, const int32_t *ids,
                    const int32_t *positions, const int32_t *token_types, int32_t n_rows,
                    s2s_workspace *ws);

/* Feed-forward block with its norm and residual, ws->x to ws->x. */
void s2s_ffn_block(s2s_exec *exec, const s2s_stack *stack, int32_t index, int32_t n_rows,
                   s2s_workspace *ws);

/* The two halves that every block shares.  enter: the block's input (ws->x, or its norm in ws->h for
 * pre-norm and sandwich norms).  leave: ws->x = residual + (block W + b), with the norms that come after. */
const float *s2s_block_enter(s2s_exec *exec, const s2s_stack *stack, const s2s_block_norms *norms,
                             int32_t n_rows, s2s_workspace *ws);
void s2s_block_leave(s2s_exec *exec, const s2s_stack *stack, const s2s_block_norms *norms,
                     const s2s_matrix *m, const float *block, size_t ld_block, int32_t n_rows,
                     s2s_workspace *ws);

/* Hands rows [n_rows, d] with stride ld to the record sink, if there is one. */
void s2s_record_named(s2s_exec *exec, const char *name, const float *data, int32_t n_rows,
                      int32_t d, size_t ld);
/* Likewise under "<stack>.<index>.<what>", or "<stack>.<what>" when index is negative. */
void s2s_record_rows(s2s_exec *exec, const s2s_stack *stack, int32_t index, const char *what,
                     const float *data, int32_t n_rows, int32_t d, size_t ld);
/* Likewise a contiguous tensor of rank 3. */
void s2s_record_cube(s2s_exec *exec, const s2s_stack *stack, int32_t index, const char *what,
                     const float *data, int64_t n0, int64_t n1, int64_t n2);

#endif
