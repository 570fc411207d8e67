# 1:1 mirror of csrc/s2s.h, nothing else.
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, uint8_t, int32_t, int64_t, uint16_t, uint64_t

cdef extern from "s2s.h" nogil:
    enum:
        S2S_MAX_RANK
        S2S_TILE

    ctypedef enum s2s_status:
        S2S_OK
        S2S_INVALID_ARGUMENT
        S2S_INVALID_MODEL
        S2S_OUT_OF_MEMORY
        S2S_UNSUPPORTED
        S2S_INTERNAL

    ctypedef struct s2s_error:
        s2s_status status
        char message[512]

    ctypedef enum s2s_isa:
        S2S_ISA_AUTO
        S2S_ISA_GENERIC
        S2S_ISA_AVX2
        S2S_ISA_AVX512
        S2S_ISA_AVX512VNNI
        S2S_ISA_AVX512AMX
        S2S_ISA_NEON

    const char *s2s_isa_name(s2s_isa isa)
    int s2s_isa_supported(s2s_isa isa)
    s2s_isa s2s_isa_best()

    ctypedef enum s2s_dtype:
        S2S_F32
        S2S_BF16
        S2S_INT32
        S2S_INT8
        S2S_INT4

    ctypedef struct s2s_stack_config:
        int32_t n_layers, n_heads, n_kv_heads, d_head, d_ffn, activation, ffn_gated
        int32_t norm_kind, norm_place, embed_norm, final_norm, qkv_bias, out_bias, ffn_bias
        int32_t positions, max_positions, n_token_types, max_distance, relative_per_layer
        int32_t d_rotary, kv_rank, kv_norm, q_rank, d_value, window
        uint8_t full_layers[256]
        float embed_scale, attention_scale, attention_softcap, rotary_scale, norm_eps

    ctypedef enum s2s_head:
        S2S_POOLER
        S2S_MASKED_LM
        S2S_CLASSIFIER

    enum:
        S2S_MAX_HEAD_LAYERS

    ctypedef struct s2s_head_layer_config:
        int32_t n_out, activation, norm

    ctypedef struct s2s_head_config:
        int32_t n_layers
        s2s_head_layer_config layers[2]

    ctypedef struct s2s_model_config:
        int32_t vocab_size, source_vocab_size, d_model, output_bias
        float output_softcap
        s2s_stack_config encoder, decoder
        s2s_head_config heads[3]

    ctypedef struct s2s_tensor:
        const char *name
        s2s_dtype dtype
        int32_t rank
        int64_t shape[4]
        const void *data
        size_t n_bytes

    ctypedef struct s2s_model:
        pass

    s2s_status s2s_model_create(const s2s_model_config *config, const s2s_tensor *tensors,
                                size_t n_tensors, s2s_isa isa, s2s_model **out, s2s_error *error)
    void s2s_model_free(s2s_model *model)
    s2s_isa s2s_model_isa(const s2s_model *model)
    s2s_dtype s2s_model_kv_dtype(const s2s_model *model)
    s2s_status s2s_pack(const float *w, int64_t n_out, int64_t n_in, s2s_dtype dtype, void *dst,
                        size_t n_dst_bytes, s2s_error *error)
    s2s_status s2s_pack_int8(const float *w, int64_t n_out, int64_t n_in, int8_t *tiles,
                             size_t n_tiles_bytes, float *scale, int32_t *sum, s2s_error *error)

    ctypedef struct s2s_pool:
        pass

    s2s_status s2s_pool_create(int32_t n_threads, s2s_pool **out, s2s_error *error)
    void s2s_pool_free(s2s_pool *pool)
    int32_t s2s_pool_n_threads(const s2s_pool *pool)
    void s2s_pool_wake(s2s_pool *pool)

    ctypedef struct s2s_prompt:
        pass

    s2s_status s2s_prompt_create(const s2s_model *model, s2s_pool *pool, int32_t kv_dtype,
                                 const int32_t *ids, int32_t n_ids, s2s_prompt **out,
                                 s2s_error *error)
    void s2s_prompt_free(s2s_prompt *prompt)
    s2s_status s2s_prompt_read(s2s_prompt *prompt, int32_t *n_left, s2s_error *error)
    size_t s2s_prompt_bytes(const s2s_prompt *prompt)

    ctypedef struct s2s_session_config:
        int32_t max_rows, max_source_positions, max_target_positions, max_encoder_tokens
        int32_t max_sources
        int32_t kv_dtype
        const s2s_prompt *prompt

    ctypedef enum s2s_early_stopping:
        S2S_STOP_HEURISTIC
        S2S_STOP_EARLY
        S2S_STOP_NEVER

    ctypedef struct s2s_options:
        int32_t max_new_tokens, min_new_tokens, num_beams, num_return_sequences, early_stopping
        int32_t do_sample, top_k, no_repeat_ngram_size, encoder_no_repeat_ngram_size
        int32_t forced_bos_token_id, repetition_stop, return_scores, n_alternatives
        int32_t return_alignment, renormalize_logits, n_prompt, score_only
        float length_penalty, temperature, top_p, min_p, repetition_penalty
        uint64_t seed
        const int32_t *eos_token_ids
        const int32_t *forced_eos_token_ids
        const int32_t *suppress_tokens
        const int32_t *begin_suppress_tokens
        const int32_t *bad_words
        const int32_t *bad_words_offsets
        int32_t n_eos_token_ids, n_forced_eos_token_ids, n_suppress_tokens, n_begin_suppress_tokens
        int32_t n_bad_words

    void s2s_options_default(s2s_options *options)

    ctypedef struct s2s_request:
        const int32_t *source
        int32_t n_source
        const int32_t *prefix
        int32_t n_prefix
        s2s_options options

    ctypedef struct s2s_hypothesis:
        const int32_t *tokens
        const float *logprobs
        const float *alignment
        const int32_t *alternative_ids
        const float *alternative_logprobs
        int32_t n_tokens, n_logprobs, end_token, finish_reason
        float score

    ctypedef struct s2s_result:
        uint64_t id
        int32_t n_hypotheses, n_source, n_alternatives, n_steps, n_reused
        const s2s_hypothesis *hypotheses

    ctypedef struct s2s_session:
        pass

    s2s_status s2s_session_create(const s2s_model *model, s2s_pool *pool,
                                  const s2s_session_config *config, s2s_session **out,
                                  s2s_error *error)
    void s2s_session_free(s2s_session *session)
    size_t s2s_session_bytes(const s2s_session *session)
    s2s_status s2s_session_submit(s2s_session *session, const s2s_request *request, uint64_t *id,
                                  s2s_error *error)
    s2s_status s2s_session_step(s2s_session *session, int32_t *n_pending, s2s_error *error)
    int s2s_session_is_idle(const s2s_session *session)
    s2s_result *s2s_session_next_result(s2s_session *session)
    void s2s_result_free(s2s_result *result)
    s2s_status s2s_session_cancel(s2s_session *session, uint64_t id, s2s_error *error)
    s2s_status s2s_session_progress(const s2s_session *session, uint64_t id, int32_t *ids,
                                    int32_t capacity, int32_t *n, s2s_error *error)
    ctypedef void (*s2s_record_fn)(void *user, const char *name, int32_t rank,
                                   const int64_t *shape, const float *data) noexcept
    void s2s_session_set_record(s2s_session *session, s2s_record_fn record, void *user)

    ctypedef struct s2s_encoder_config:
        int32_t max_positions, max_tokens

    ctypedef struct s2s_encoder:
        pass

    s2s_status s2s_encoder_create(const s2s_model *model, s2s_pool *pool,
                                  const s2s_encoder_config *config, s2s_encoder **out,
                                  s2s_error *error)
    void s2s_encoder_free(s2s_encoder *encoder)
    s2s_status s2s_encoder_encode(s2s_encoder *encoder, const int32_t *ids,
                                  const int32_t *token_types, const int32_t *offsets,
                                  int32_t n_sequences, float *out, s2s_error *error)
    s2s_status s2s_encoder_head(s2s_encoder *encoder, s2s_head head, const float *x,
                                int32_t n_rows, float *out, float *log_sum_exp, s2s_error *error)
    void s2s_encoder_set_record(s2s_encoder *encoder, s2s_record_fn record, void *user)

    const char *s2s_profile_read(int32_t index, int64_t *ns, int64_t *n_times)
