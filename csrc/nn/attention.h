/* attention.h: scaled dot-product attention over contiguous sequences and over the KV cache.
 *
 * Concept.  softmax(scale q K^T) V (Vaswani et al. 2017, section 3.2), in two forms.  Over the cache,
 * s2s_attend: queries of one row, or of rows that share a source, over n keys that all of them see,
 * wherever these lie.  Over whole sequences (encoder), where there are as many queries as keys: two
 * products, with keys and values packed as weights are.  There is no mask anywhere: a query is given the
 * keys that it sees, and no others.
 * Ownership.  Buffers belong to the caller.  Thread-safety: as layers.h; heads and rows are split
 * between threads.
 */
#ifndef S2S_ATTENTION_H
#define S2S_ATTENTION_H

#include "decoder.h"
#include "encoder.h"

/* softmax(cap(scale q K^T) + bias) V of the queries described; the weights are left in attention->scores.
 * dtype: of keys and values, F32 or BF16. */
void s2s_attend(const s2s_kernels *kernels, const s2s_attention *attention, s2s_dtype dtype);

/* Self-attention of layer `index` of the encoder: fused q, k, v rows in ws->wide, the heads' outputs to
 * ws->context. */
void s2s_attention_sources(s2s_exec *exec, const s2s_stack *stack, int32_t index,
                           const s2s_sources *sources, s2s_workspace *ws);

/* Where the rows of a step look. */
typedef enum s2s_attention_kind { S2S_SELF_ATTENTION, S2S_CROSS_ATTENTION } s2s_attention_kind;

/* Attention of layer `index` of the decoder: queries in ws->wide, keys and values in the cache, the heads'
 * outputs to ws->context.  The cross-attention of the last layer also fills batch->alignment. */
void s2s_attention_rows(s2s_exec *exec, const s2s_stack *stack, int32_t index,
                        s2s_attention_kind kind, const s2s_kv_cache *cache, const s2s_batch *batch,
                        s2s_workspace *ws);

#endif
