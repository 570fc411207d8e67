/* s2s.h: the public C API of the s2s-infer core.
 *
 * Concept.  A Transformer - encoder and decoder, or one of them - is an immutable `s2s_model` (weights
 * plus a description of its layers as data).  Work is done by an `s2s_session`, which owns a fixed number of decoder
 * rows: `submit` queues a request, `step` admits waiting requests into free rows (the encoder runs
 * once per source) and advances every active row by one token, `next_result` hands out what ended.
 * One-shot calls, streams, files and servers are all this loop.
 *
 *     s2s_model_create(&config, tensors, n_tensors, S2S_ISA_AUTO, &model, &error);
 *     s2s_session_create(model, pool, &session_config, &session, &error);
 *     s2s_session_submit(session, &request, &id, &error);
 *     while (s2s_session_step(session, &n_pending, &error) == S2S_OK) {
 *         while ((result = s2s_session_next_result(session)) != NULL) { ...; s2s_result_free(result); }
 *         if (n_pending == 0) break;
 *     }
 *
 * Ownership.  `*_create` makes, `*_free` frees and accepts NULL.  A model keeps pointers into the
 * caller's tensor memory (a mapped file, say), which must outlive it; a session must not outlive its
 * model or pool.  A result owns its memory.
 * Thread-safety.  A model may be used by any number of sessions at once.  A session or a result is
 * used by one thread at a time.  A pool may be shared by sessions on different threads.
 * Errors.  Functions return a status and, if it is not S2S_OK, write one sentence to the caller's
 * `s2s_error` (which may be NULL).  Nothing prints, aborts or exits.
 * Numbers.  float32 arithmetic, and products of int8 matrices in exact int32 (such a model's
 * KV cache is bfloat16); bit-identical for any batch, thread count and SIMD level.
 */
#ifndef S2S_H
#define S2S_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define S2S_NAME_MAX 96 /* bytes of a tensor or record name, terminator included */
#define S2S_MAX_RANK 4
#define S2S_TILE 16 /* outputs per weight tile: the unit of every packed layout */

typedef enum s2s_status {
    S2S_OK = 0,
    S2S_INVALID_ARGUMENT = 1, /* an option, id or size of the caller is wrong */
    S2S_INVALID_MODEL = 2,    /* the description and the tensors do not agree */
    S2S_OUT_OF_MEMORY = 3,
    S2S_UNSUPPORTED = 4, /* valid, but not computed by this build or this CPU */
    S2S_INTERNAL = 5
} s2s_status;

typedef struct s2s_error {
    s2s_status status;
    char message[512]; /* one sentence, UTF-8, terminated */
} s2s_error;

/* ---- SIMD levels ------------------------------------------------------------------------- */

typedef enum s2s_isa {
    S2S_ISA_AUTO = 0, /* the best level that CPU and operating system support */
    S2S_ISA_GENERIC = 1,
    S2S_ISA_AVX2 = 2,       /* AVX2 + FMA + F16C */
    S2S_ISA_AVX512 = 3,     /* AVX-512 F, BW, DQ, VL */
    S2S_ISA_AVX512VNNI = 4, /* and VNNI, for int8 */
    S2S_ISA_AVX512AMX = 5,  /* and AMX tiles, for int8 with many rows */
    S2S_ISA_NEON = 6
} s2s_isa;

const char *s2s_isa_name(s2s_isa isa); /* "generic", "avx2", ...; NULL if unknown */
int s2s_isa_supported(s2s_isa isa);    /* 1 if built in and usable on this CPU */
s2s_isa s2s_isa_best(void);

/* ---- Model description ------------------------------------------------------------------- */

typedef enum s2s_dtype {
    S2S_F32 = 0,
    S2S_BF16 = 1,
    S2S_INT32 = 2,
    S2S_INT8 = 3,
    S2S_INT4 = 4
} s2s_dtype;

typedef enum s2s_activation {
    S2S_RELU = 0,
    S2S_SILU = 1,
    S2S_GELU = 2,      /* 0.5 x (1 + erf(x / sqrt 2)) */
    S2S_GELU_TANH = 3, /* the tanh approximation */
    S2S_IDENTITY = 4,
    S2S_TANH = 5
} s2s_activation;

typedef enum s2s_norm_kind {
    S2S_LAYER_NORM = 0, /* (x - mean) / sqrt(variance + eps) * weight + bias */
    S2S_RMS_NORM = 1    /* x / sqrt(mean of squares + eps) * weight (Zhang, Sennrich 2019) */
} s2s_norm_kind;

typedef enum s2s_norm_place {
    S2S_POST_NORM = 0,    /* x = norm(x + block(x)) */
    S2S_PRE_NORM = 1,     /* x = x + block(norm(x)) */
    S2S_SANDWICH_NORM = 2 /* x = x + post_norm(block(norm(x))) */
} s2s_norm_place;

typedef enum s2s_position_kind {
    S2S_POSITIONS_NONE = 0,
    S2S_POSITIONS_TABLE = 1, /* a row of a table is added to each embedding */
    /* A number for each head and distance is added to the scores of self-attention (Raffel et al. 2020);
     * keys farther than max_distance count as at max_distance. */
    S2S_POSITIONS_RELATIVE = 2,
    /* Queries and keys of self-attention are turned by an angle for each position (Su et al. 2021): element i
     * with element i + d_rotary / 2, the first d_rotary elements of a head; cosine and sine times
     * rotary_scale. */
    S2S_POSITIONS_ROTARY = 3
} s2s_position_kind;

#define S2S_MAX_LAYERS 256

/* One stack of layers: the encoder or the decoder.  All layers of a stack are alike, but for the
 * window. */
typedef struct s2s_stack_config {
    int32_t n_layers; /* 0: there is no such stack, and nothing below is read */
    int32_t n_heads;
    int32_t n_kv_heads; /* = n_heads for multi-head attention; must divide it */
    int32_t d_head;     /* width of one head; padded to a multiple of 16 in every tensor */
    int32_t d_ffn;
    int32_t activation;         /* s2s_activation */
    int32_t ffn_gated;          /* 1: "ffn.up" makes gate and up; activation(gate) * up goes down */
    int32_t norm_kind;          /* s2s_norm_kind */
    int32_t norm_place;         /* s2s_norm_place */
    int32_t embed_norm;         /* 1: a norm on the embeddings */
    int32_t final_norm;         /* 1: a norm after the last layer */
    int32_t qkv_bias;           /* 1: products that make q, k and v have a bias */
    int32_t out_bias;           /* 1: so has the one after attention */
    int32_t ffn_bias;           /* 1: so have those of the feed-forward block */
    int32_t positions;          /* s2s_position_kind */
    int32_t max_positions;      /* longest sequence this stack accepts */
    int32_t n_token_types;      /* rows of a table of token types that is added (BERT); 0: none */
    int32_t max_distance;       /* of relative positions */
    int32_t relative_per_layer; /* 1: each layer has its own relative_bias */
    int32_t d_rotary;           /* of rotary positions: even, at most d_head */
    /* Latent attention (decoder only): self-attention caches of each position kv_rank numbers and a
     * rotary key of d_rotary that all heads share (DeepSeek-AI 2024).  d_head is then the width of the
     * part of a query that does not turn.  0: every KV head has its own keys and values. */
    int32_t kv_rank;
    int32_t kv_norm; /* latent attention: 1: a norm on the kv_rank numbers */
    int32_t q_rank;  /* latent attention: queries are made by way of so many numbers; 0: at once */
    int32_t d_value; /* latent attention: width of a head's value */
    /* Self-attention sees the last `window` positions (decoder), or as many on either side of its own
     * (encoder); 0: all. */
    int32_t window;
    uint8_t full_layers[S2S_MAX_LAYERS]; /* 1: this layer sees all positions in spite of `window` */
    float embed_scale;                   /* embeddings are multiplied by it */
    float attention_scale;               /* q·k is multiplied by it */
    float attention_softcap;             /* scores become cap tanh(scores / cap); 0: none */
    float rotary_scale;
    float norm_eps;
} s2s_stack_config;

/* What may read an encoder's hidden states beside a decoder: a few layers y = norm(activation(x W + b)). */
typedef enum s2s_head {
    S2S_POOLER = 0,     /* of the first token; goes before the classifier where both are there */
    S2S_MASKED_LM = 1,  /* logits over the vocabulary */
    S2S_CLASSIFIER = 2, /* logits over the labels */
    S2S_N_HEADS = 3
} s2s_head;

#define S2S_MAX_HEAD_LAYERS 2

typedef struct s2s_head_layer_config {
    int32_t n_out;      /* d_model but for the head's last layer */
    int32_t activation; /* s2s_activation */
    int32_t norm;       /* 1: layer norm, with the encoder's norm_eps; n_out is d_model */
} s2s_head_layer_config;

typedef struct s2s_head_config {
    int32_t n_layers; /* 0: the model has no such head */
    s2s_head_layer_config layers[S2S_MAX_HEAD_LAYERS];
} s2s_head_config;

typedef struct s2s_model_config {
    int32_t vocab_size;        /* rows of the target vocabulary = width of the logits */
    int32_t source_vocab_size; /* rows of the source vocabulary */
    int32_t d_model;
    int32_t output_bias;  /* 1: "output.bias" is added to the logits */
    float output_softcap; /* logits become cap tanh(logits / cap); 0: none */
    s2s_stack_config encoder;
    s2s_stack_config decoder;
    s2s_head_config heads[S2S_N_HEADS]; /* by s2s_head */
} s2s_model_config;

/* A named array in the caller's memory.  Every matrix is in tiles: for a product y = x W (+ b) with
 * n_in inputs and n_out outputs the shape is [n_tiles, n_in, 16], n_tiles = ceil(n_out / 16), so that
 * element [t][i][c] is the weight of input i for output 16 t + c (0 where 16 t + c >= n_out); its
 * data is 64-byte aligned.  dtype F32, BF16, INT8 or INT4 (next paragraphs).  Vectors (norms, biases, [n]) and position tables
 * ([max_positions, d_model]) are F32, row-major; biases have 16 * n_tiles elements.
 *
 * An INT8 matrix is in tiles [n_tiles, ceil(n_in / 4), 16, 4], so that element [t][i][c][j] is the weight of
 * input 4 i + j for output 16 t + c, from -127 to 127, 0 in the padding; n_in <= 65536, so that no sum
 * overflows.  Beside a matrix NAME are NAME.scale F32 [16 * n_tiles], by which an output's weights are
 * multiplied, and NAME.sum INT32 [16 * n_tiles], the sum of an output's weights.
 *
 * An INT4 matrix is an INT8 one in fewer bytes, whose weights are from -8 to 7 times a step, from 0 to 15, that 32
 * inputs of an output have in common; that of a layer, not an embedding, output or head.  Its tiles are
 * [n_tiles, ceil(n_in / 128), 17, 64], bytes: a line of the steps of four groups of inputs, [4, 16], then for every
 * eight inputs a line [16, 4] with inputs 0 to 3 in the lower halves of its bytes, 4 to 7 in the upper ones, 0 in the
 * padding.  NAME.scale and NAME.sum are those of the INT8 matrix.
 *
 * Heads are padded: dh = d_head rounded up to a multiple of 16; head h owns outputs h*dh ... of
 * q, k and v, and inputs h*dh ... of "out".  Names, with S = encoder | decoder, L = 0..n_layers-1:
 *
 *   shared.embed                    [V/16, d_model, 16]  token embeddings; a token's vector is column c of tile t
 *   encoder.embed, decoder.embed, output.weight          each falls back to shared.embed when absent
 *   output.bias                     [16 * n_tiles]
 *   S.positions                     [max_positions, d_model]  (positions: table)
 *   S.relative_bias                 [n_heads, 2 max_distance + 1]  (relative) of key position - query position
 *                                   from -max_distance on; or S.L.self_attn.relative_bias (relative_per_layer)
 *   S.rotary.inv_freq               [d_rotary / 2]       (rotary) radians for each position
 *   S.token_types                   [n_token_types, d_model]   (when n_token_types > 0)
 *   S.embed_norm.{weight,bias}      [d_model]            (when embed_norm)
 *   S.L.self_attn.qkv.{weight,bias} n_out = (n_heads + 2 n_kv_heads) * dh, order q, k, v
 *   S.L.self_attn.out.{weight,bias} n_in = n_heads * dh, n_out = d_model
 *   S.L.self_attn.norm.{weight,bias}
 *   Instead of self_attn.qkv, with latent attention (rank = kv_rank rounded up to 32, dr = d_rotary, dv = d_value
 *   rounded up to 16; the first two where q_rank > 0):
 *     S.L.self_attn.q_down.{weight,bias}   d_model -> q_rank
 *     S.L.self_attn.q_norm.weight          [q_rank]
 *     S.L.self_attn.q.weight               q_rank or d_model -> n_heads * (dh + dr), dr rounded up to 16
 *     S.L.self_attn.q.bias                 (where q_rank = 0)
 *     S.L.self_attn.k_up.weight            d_head inputs of a head -> its rank: n_out = n_heads * rank
 *     S.L.self_attn.kv_down.{weight,bias}  d_model -> rank + dr
 *     S.L.self_attn.kv_norm.weight         [kv_rank]  (when kv_norm)
 *     S.L.self_attn.v_up.weight            kv_rank inputs of a head -> its values: n_out = n_heads * dv
 *     S.L.self_attn.out.{weight,bias}      n_in = n_heads * dv
 *   decoder.L.cross_attn.q.{weight,bias}    n_out = n_heads * dh
 *   decoder.L.cross_attn.kv.{weight,bias}   n_out = 2 n_kv_heads * dh, order k, v
 *   decoder.L.cross_attn.out.{weight,bias}, decoder.L.cross_attn.norm.{weight,bias}
 *   S.L.ffn.up.{weight,bias}        d_model -> d_ffn; gated: -> 2 df, df = d_ffn rounded up to 16, order gate, up
 *   S.L.ffn.down.{weight,bias}      d_ffn -> d_model
 *   S.L.ffn.norm.{weight,bias}
 *   S.L.X.post_norm.{weight,bias}   X = self_attn, cross_attn, ffn (sandwich norms)
 *   S.final_norm.{weight,bias}      (when final_norm)
 *   H.i.{weight,bias}, H.i.norm.{weight,bias}   layer i of head H = pooler | masked_lm | classifier; the last
 *                                   weight of masked_lm falls back to encoder.embed when absent
 *
 * Biases are there where the description says so, those of norms where they are layer norms.  A stack of 0
 * layers has no tensors; without an encoder the decoder has no cross-attention, without a decoder
 * there is no output.
 */
typedef struct s2s_tensor {
    const char *name;
    s2s_dtype dtype;
    int32_t rank;
    int64_t shape[S2S_MAX_RANK];
    const void *data;
    size_t n_bytes;
} s2s_tensor;

typedef struct s2s_model s2s_model;

/* Validates the description and every tensor once, and builds a model on the caller's memory.
 * Unknown, missing, misshapen or misaligned tensors are errors that name the tensor. */
s2s_status s2s_model_create(const s2s_model_config *config, const s2s_tensor *tensors,
                            size_t n_tensors, s2s_isa isa, s2s_model **out, s2s_error *error);
void s2s_model_free(s2s_model *model); /* after its sessions and encoders */
s2s_isa s2s_model_isa(const s2s_model *model);
/* In what a session should keep keys and values unless told otherwise: BF16 where some matrix is INT8, whose
 * products are coarser anyway, else F32. */
s2s_dtype s2s_model_kv_dtype(const s2s_model *model);

/* Packs a row-major matrix w [n_out, n_in] (the layout of a PyTorch Linear) into tiles
 * dst [ceil(n_out/16), n_in, 16]; the padding is zero.  BF16 rounds to nearest even. */
s2s_status s2s_pack(const float *w, int64_t n_out, int64_t n_in, s2s_dtype dtype, void *dst,
                    size_t n_dst_bytes, s2s_error *error);

/* Quantizes and packs likewise: tiles [n_tiles, ceil(n_in / 4), 16, 4], scale and sum [16 * n_tiles].
 * scale = max |w| / 127 of each output (1 where all are 0), weights rounded to nearest even.  A weight
 * that is not finite is an error. */
s2s_status s2s_pack_int8(const float *w, int64_t n_out, int64_t n_in, int8_t *tiles,
                         size_t n_tiles_bytes, float *scale, int32_t *sum, s2s_error *error);

/* ---- Threads ----------------------------------------------------------------------------- */

typedef struct s2s_pool s2s_pool;
/* Workers are started at the first use, again after a fork, and sleep when there is nothing to do.
 * When the pool is busy for another session, the caller's work runs on the caller's thread. */
s2s_status s2s_pool_create(int32_t n_threads, s2s_pool **out, s2s_error *error);
void s2s_pool_free(s2s_pool *pool);
int32_t s2s_pool_n_threads(const s2s_pool *pool);
/* Workers that sleep wait awake for a tenth of a millisecond: a step that comes soon finds them so. */
void s2s_pool_wake(s2s_pool *pool);

/* ---- Prompts -----------------------------------------------------------------------------
 * An `s2s_prompt` keeps the keys and values of a prompt that many requests begin with, for a model
 * that is a decoder alone.  It is read once, block by block; then it never changes, and any number of
 * sessions may be made with it, on any threads. */

typedef struct s2s_prompt s2s_prompt;

/* ids: [n_ids >= 1], copied.  kv_dtype: as of the sessions. */
s2s_status s2s_prompt_create(const s2s_model *model, s2s_pool *pool, int32_t kv_dtype,
                             const int32_t *ids, int32_t n_ids, s2s_prompt **out, s2s_error *error);
void s2s_prompt_free(s2s_prompt *prompt);
/* Reads some more of it; *n_left: tokens that are still to be read. */
s2s_status s2s_prompt_read(s2s_prompt *prompt, int32_t *n_left, s2s_error *error);
size_t s2s_prompt_bytes(const s2s_prompt *prompt);

/* ---- Sessions ---------------------------------------------------------------------------- */

typedef struct s2s_session_config {
    int32_t max_rows; /* decoder rows = beams or samples running at once */
    int32_t
        max_source_positions; /* longest source admitted, tokens; 0 for a model without encoder */
    int32_t max_target_positions; /* longest target, start token included; bounds the KV cache */
    int32_t max_encoder_tokens;   /* source tokens encoded, or prefix tokens read, at once;
                                     >= max_source_positions */
    int32_t max_sources; /* encoded sources held at once; those beyond the running requests' wait
                            for rows, encoded ahead together; 0: as many as rows */
    int32_t kv_dtype;    /* s2s_dtype of cached keys and values: F32, or BF16, half of the memory */
    const s2s_prompt
        *prompt; /* NULL, or one that was read, freed after the session: its keys and values are
                    copied, and every request whose prompt begins as it does starts behind what is the same */
} s2s_session_config;

typedef enum s2s_early_stopping {
    S2S_STOP_HEURISTIC = 0, /* early_stopping=False */
    S2S_STOP_EARLY = 1,     /* True */
    S2S_STOP_NEVER = 2      /* "never" */
} s2s_early_stopping;

/* Names and meanings are those of Hugging Face's GenerationConfig. */
typedef struct s2s_options {
    int32_t max_new_tokens; /* tokens after start token and prefix, end token counted */
    int32_t min_new_tokens;
    int32_t num_beams;
    int32_t num_return_sequences;
    int32_t early_stopping; /* s2s_early_stopping */
    int32_t do_sample;
    int32_t top_k; /* 0: off */
    int32_t no_repeat_ngram_size;
    int32_t encoder_no_repeat_ngram_size;
    int32_t forced_bos_token_id; /* -1: none; forced when only the start token is there */
    int32_t repetition_stop;     /* end when the last tokens are one sequence of at most 16
                                    tokens this many times in a row; 0: off */
    int32_t return_scores;       /* 0: no score and log-probabilities in the result; greedy search
                                    then skips the softmax */
    int32_t n_alternatives;      /* record the k best tokens of each step */
    int32_t return_alignment;    /* record cross-attention, mean over the heads of the last layer */
    int32_t renormalize_logits;  /* probabilities sum to 1 after the processors (beam search) */
    int32_t n_prompt;            /* first tokens of the prefix that are a prompt: their
                                    log-probabilities are not computed, but NaN */
    int32_t score_only;          /* 1: score what of the prefix is no prompt (teacher forcing);
                                    max_new_tokens is 0 */
    float length_penalty, temperature, top_p, min_p, repetition_penalty;
    uint64_t seed;
    const int32_t *eos_token_ids;        /* [n_eos_token_ids] */
    const int32_t *forced_eos_token_ids; /* [n_...], forced at the last step */
    const int32_t *suppress_tokens;
    const int32_t *begin_suppress_tokens;
    const int32_t *bad_words;         /* the sequences one after another */
    const int32_t *bad_words_offsets; /* [n_bad_words + 1] into bad_words */
    int32_t n_eos_token_ids, n_forced_eos_token_ids, n_suppress_tokens, n_begin_suppress_tokens;
    int32_t n_bad_words;
} s2s_options;

void s2s_options_default(s2s_options *options);

typedef struct s2s_request {
    const int32_t *source; /* [n_source] token ids, n_source >= 1; 0 for a model without encoder */
    int32_t n_source;
    const int32_t *prefix; /* [n_prefix >= 1] decoder start token, then forced target tokens */
    int32_t n_prefix;
    s2s_options options; /* copied, arrays included */
} s2s_request;

typedef enum s2s_finish_reason {
    S2S_FINISH_EOS = 0,
    S2S_FINISH_LENGTH = 1, /* max_new_tokens reached, or every next token is ruled out */
    S2S_FINISH_REPETITION = 2,
    S2S_FINISH_CANCELLED = 3,
    S2S_FINISH_SCORED = 4 /* score_only: the whole prefix was scored */
} s2s_finish_reason;

typedef struct s2s_hypothesis {
    const int32_t *tokens;  /* [n_tokens] forced prefix, then generated; no start or end token */
    const float *logprobs;  /* [n_logprobs] one per token, then the end token's if any; or NULL */
    const float *alignment; /* [n_logprobs, n_source] or NULL */
    const int32_t *alternative_ids;    /* [n_logprobs, n_alternatives] or NULL, best first */
    const float *alternative_logprobs; /* likewise */
    int32_t n_tokens, n_logprobs;
    int32_t end_token; /* -1: none */
    int32_t finish_reason;
    float score; /* sum of generated log-probabilities / n_generated ** length_penalty; or 0 */
} s2s_hypothesis;

typedef struct s2s_result {
    uint64_t id;
    int32_t n_hypotheses; /* best first */
    int32_t n_source, n_alternatives;
    int32_t n_steps; /* tokens that the longest hypothesis was fed */
    int32_t
        n_reused; /* positions before them, whose keys and values were those of the session's prompt */
    const s2s_hypothesis *hypotheses;
} s2s_result;

typedef struct s2s_session s2s_session;

s2s_status s2s_session_create(const s2s_model *model, s2s_pool *pool,
                              const s2s_session_config *config, s2s_session **out,
                              s2s_error *error);
void s2s_session_free(s2s_session *session);
size_t s2s_session_bytes(const s2s_session *session); /* reserved; touched only as it is used */

/* Queues a request.  Its ids and options are validated here; *id counts up from 1. */
s2s_status s2s_session_submit(s2s_session *session, const s2s_request *request, uint64_t *id,
                              s2s_error *error);
/* Admits what fits, encoding at most once, and advances every active row by one token.  *n_pending: requests not yet handed
 * out as results.  No allocation.  A request whose logits are not numbers ends, as if cancelled, and
 * the step returns S2S_INVALID_MODEL. */
s2s_status s2s_session_step(s2s_session *session, int32_t *n_pending, s2s_error *error);
/* Nothing runs and nothing waits: a step would do nothing. */
int s2s_session_is_idle(const s2s_session *session);
/* The next ended request, in order of ending, or NULL. */
s2s_result *s2s_session_next_result(s2s_session *session);
void s2s_result_free(s2s_result *result);
/* The request ends with what it has, finish_reason cancelled.  An unknown id is an error. */
s2s_status s2s_session_cancel(s2s_session *session, uint64_t id, s2s_error *error);
/* Tokens that every live and finished hypothesis of a request agrees on so far, start token left out:
 * writes at most `capacity` to ids and the full count to *n.  For streaming. */
s2s_status s2s_session_progress(const s2s_session *session, uint64_t id, int32_t *ids,
                                int32_t capacity, int32_t *n, s2s_error *error);

/* Glass box: while set, the sink receives every named intermediate tensor as it is computed (row-major
 * float32).  Names, with S = encoder | decoder and L = layer: S.embed (token embeddings, scaled), S.positions,
 * S.input (their sum, normed if the model does), S.L.self_attn.weights [heads, queries, keys],
 * S.L.self_attn.output, decoder.L.cross_attn.weights, decoder.L.cross_attn.output, S.L.output, S.output,
 * decoder.logits [1, vocab], and what a matrix NAME.weight multiplies as NAME.input (but for cross_attn.kv,
 * which multiplies encoder.output).  Encoder tensors come once per source, decoder tensors once per step.  Only
 * one request of one row may be in the session meanwhile. */
typedef void (*s2s_record_fn)(void *user, const char *name, int32_t rank, const int64_t *shape,
                              const float *data);
void s2s_session_set_record(s2s_session *session, s2s_record_fn record, void *user);

/* ---- Encoders ----------------------------------------------------------------------------
 * An `s2s_encoder` runs the encoder alone, and the heads that read it.  Ownership and threads are as for
 * a session. */

typedef struct s2s_encoder_config {
    int32_t max_positions; /* longest sequence admitted, tokens */
    int32_t max_tokens;    /* encoded at once; >= max_positions */
} s2s_encoder_config;

typedef struct s2s_encoder s2s_encoder;

s2s_status s2s_encoder_create(const s2s_model *model, s2s_pool *pool,
                              const s2s_encoder_config *config, s2s_encoder **out,
                              s2s_error *error);
void s2s_encoder_free(s2s_encoder *encoder);

/* Hidden states of n_sequences sequences, sequence s being ids[offsets[s]] .. ids[offsets[s + 1] - 1], to out
 * [offsets[n_sequences], d_model].  token_types: one for each id, or NULL where all are 0. */
s2s_status s2s_encoder_encode(s2s_encoder *encoder, const int32_t *ids, const int32_t *token_types,
                              const int32_t *offsets, int32_t n_sequences, float *out,
                              s2s_error *error);
/* A head's output for hidden states x [n_rows, d_model], to out [n_rows, n_out rounded up to 16], whose
 * padding means nothing.  log_sum_exp [n_rows]: that of each row of out, or NULL. */
s2s_status s2s_encoder_head(s2s_encoder *encoder, s2s_head head, const float *x, int32_t n_rows,
                            float *out, float *log_sum_exp, s2s_error *error);
/* As s2s_session_set_record, for one sequence at a time. */
void s2s_encoder_set_record(s2s_encoder *encoder, s2s_record_fn record, void *user);

/* ---- Profile ------------------------------------------------------------------------------ */

/* Counter `index` of a build made with S2S_PROFILE=1: nanoseconds spent in an operation so far by all
 * threads that called s2s_session_step, how often it was begun, and its name, static; those of the encoder begin with
 * "encoder.".  NULL past the last, and always in other builds, which count nothing. */
const char *s2s_profile_read(int32_t index, int64_t *ns, int64_t *n_times);

#ifdef __cplusplus
}
#endif
#endif
