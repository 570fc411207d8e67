/* profile.h: where the time of a step goes, in a build made to tell (S2S_PROFILE=1, see setup.py).
 *
 * Concept.  S2S_OPERATION(NAME); says that from here to the end of the enclosing block the thread works
 * on that operation; operations named meanwhile take over until their own block ends, so every
 * nanosecond counts once.  Operations inside ENCODER are counted apart.  In any other build the macro
 * is nothing.  It belongs in code that the caller of a step runs, not in tasks of the pool: what
 * workers do meanwhile is not counted, what the caller waits for them is WAIT.
 * Ownership.  The counters are the process's.  Thread-safety: all of it.
 */
#ifndef S2S_PROFILE_H
#define S2S_PROFILE_H

#include "../s2s.h"

/* In the order of reports. */
#define S2S_OPERATIONS(X)                                                                          \
    X(STEP, "step")         /* what no other operation names */                                    \
    X(ENCODER, "encoder")   /* likewise */                                                         \
    X(EMBED, "embed")       /* token and position embeddings */                                    \
    X(NORM, "norm")         /* norms that are not part of another operation */                     \
    X(QUANTIZE, "quantize") /* likewise */                                                         \
    X(QKV, "qkv")           /* products, each with its epilogue */                                 \
    X(OUT, "out")           /* of self-attention */                                                \
    X(CROSS_KV, "cross_kv") /* once a source, all layers */                                        \
    X(CROSS_Q, "cross_q")                                                                          \
    X(CROSS_OUT, "cross_out")                                                                      \
    X(FFN_UP, "ffn_up")                                                                            \
    X(FFN_DOWN, "ffn_down")                                                                        \
    X(OUTPUT, "output")                 /* logits, and what is fused with them */                  \
    X(SELF_ATTENTION, "self_attention") /* scores, softmax, context */                             \
    X(CROSS_ATTENTION, "cross_attention")                                                          \
    X(KV_WRITE, "kv_write")                                                                        \
    X(KV_REORDER, "kv_reorder")                                                                    \
    X(SEARCH, "search")                                                                            \
    X(WAIT, "wait") /* for the other threads at the end of a loop */

typedef enum s2s_operation {
#define S2S_OPERATION_MEMBER(name, text) S2S_OP_##name,
    S2S_OPERATIONS(S2S_OPERATION_MEMBER)
#undef S2S_OPERATION_MEMBER
        S2S_N_OPERATIONS
} s2s_operation;

#ifdef S2S_PROFILE
/* Returns what the thread was at, for leave. */
int32_t s2s_profile_enter(s2s_operation operation);
void s2s_profile_leave(const int32_t *previous);
#define S2S_OPERATION(name)                                                                        \
    __attribute__((cleanup(s2s_profile_leave))) const int32_t operation_##name =                   \
        s2s_profile_enter(S2S_OP_##name)
#else
#define S2S_OPERATION(name) ((void)0)
#endif

#endif
