/* attention_impl.h: scores and context of attention, over whatever v16 the including file chose.
 *
 * Keys and values of one position are all KV heads of it, one after another, so positions are the outer
 * loop: memory is read once and in order, however many queries there are; the next positions are
 * fetched meanwhile.
 */
#ifndef S2S_ATTENTION_IMPL_H
#define S2S_ATTENTION_IMPL_H

enum {
    KEYS = 4,  /* positions whose scores are computed together: their sums are folded as one */
    VALUES = 8 /* positions between two passes over the context */
};

S2S_INLINE void load_pair_f32(const float *p, v16 *low, v16 *high)
{
    *low = v16_load(p);
    *high = v16_load(p + S2S_TILE);
}

S2S_INLINE size_t cell_of(const uint32_t *cells, int32_t j)
{
    return cells != NULL ? cells[j] : (size_t)j;
}

S2S_INLINE void prefetch(const void *p, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i += S2S_CACHE_LINE) __builtin_prefetch((const char *)p + i);
}

/* NAME, by NAME_of(a, d): the usual width is a constant there. */
#define S2S_DEFINE_WIDTHS(NAME, D)                                                                 \
    static void NAME(const s2s_attention *a)                                                       \
    {                                                                                              \
        if (a->D == 4 * S2S_TILE)                                                                  \
            NAME##_of(a, 4 * S2S_TILE);                                                            \
        else                                                                                       \
            NAME##_of(a, a->D);                                                                    \
    }

/* Scores of one query for four keys. */
#define S2S_DEFINE_SCORES(NAME, TYPE, LOAD, LOAD_PAIR)                                             \
    S2S_INLINE void NAME##_4(const float *q, const TYPE *const *keys, size_t at, int32_t d,        \
                             float scale, float *scores)                                           \
    {                                                                                              \
        const TYPE *k0 = keys[0] + at, *k1 = keys[1] + at, *k2 = keys[2] + at, *k3 = keys[3] + at; \
        v16 s0 = v16_set1(0.0f), s1 = s0, s2 = s0, s3 = s0;                                        \
        int32_t i = 0;                                                                             \
        for (; i + 2 * S2S_TILE <= d; i += 2 * S2S_TILE) {                                         \
            const v16 q_low = v16_load(q + i), q_high = v16_load(q + i + S2S_TILE);                \
            v16 low, high;                                                                         \
            LOAD_PAIR(k0 + i, &low, &high);                                                        \
            s0 = v16_fma(q_high, high, v16_fma(q_low, low, s0));                                   \
            LOAD_PAIR(k1 + i, &low, &high);                                                        \
            s1 = v16_fma(q_high, high, v16_fma(q_low, low, s1));                                   \
            LOAD_PAIR(k2 + i, &low, &high);                                                        \
            s2 = v16_fma(q_high, high, v16_fma(q_low, low, s2));                                   \
            LOAD_PAIR(k3 + i, &low, &high);                                                        \
            s3 = v16_fma(q_high, high, v16_fma(q_low, low, s3));                                   \
        }                                                                                          \
        if (i < d) {                                                                               \
            const v16 rest = v16_load(q + i);                                                      \
            s0 = v16_fma(rest, LOAD(k0 + i), s0);                                                  \
            s1 = v16_fma(rest, LOAD(k1 + i), s1);                                                  \
            s2 = v16_fma(rest, LOAD(k2 + i), s2);                                                  \
            s3 = v16_fma(rest, LOAD(k3 + i), s3);                                                  \
        }                                                                                          \
        v16_store_sums(scores, s0, s1, s2, s3, scale);                                             \
    }                                                                                              \
    S2S_INLINE void NAME##_of(const s2s_attention *a, int32_t d)                                   \
    {                                                                                              \
        const TYPE *all = a->keys;                                                                 \
        const size_t n_bytes = (size_t)d * sizeof(TYPE);                                           \
        for (int32_t j = 0; j < a->n; j += KEYS) {                                                 \
            const TYPE *keys[KEYS], *next[KEYS];                                                   \
            for (int32_t i = 0; i < KEYS; i++) { /* beyond the last: the last again */             \
                const int32_t here = j + i < a->n ? j + i : a->n - 1;                              \
                const int32_t there = here + KEYS < a->n ? here + KEYS : a->n - 1;                 \
                keys[i] = all + cell_of(a->cells, here) * a->ld_keys;                              \
                next[i] = all + cell_of(a->cells, there) * a->ld_keys;                             \
            }                                                                                      \
            size_t at = 0;                                                                         \
            for (int32_t head = 0; head < a->n_heads; head += a->heads_per_kv, at += (size_t)d) {  \
                for (int32_t i = 0; i < KEYS; i++) prefetch(next[i] + at, n_bytes);                \
                for (int32_t row = 0; row < a->n_rows; row++) {                                    \
                    for (int32_t h = head; h < head + a->heads_per_kv; h++) {                      \
                        const float *q = a->q + (size_t)row * a->ld_q + (size_t)h * (size_t)d;     \
                        float *scores =                                                            \
                            a->scores + (size_t)(row * a->n_heads + h) * a->ld_scores + j;         \
                        NAME##_4(q, keys, at, d, a->scale, scores);                                \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    S2S_DEFINE_WIDTHS(NAME, d_key)

S2S_DEFINE_SCORES(attention_scores, float, v16_load, load_pair_f32)
S2S_DEFINE_SCORES(attention_scores_bf16, uint16_t, v16_load_bf16, v16_load_bf16_pair)

/* out[at ...] += p[j] * v_j for a block of positions: 64, 32 or 16 elements in registers. */
#define S2S_DEFINE_CONTEXT(NAME, TYPE, LOAD, LOAD_PAIR)                                            \
    S2S_INLINE void NAME##_block(const float *p, const TYPE *const *values, size_t from,           \
                                 int32_t n, int32_t d, float *out)                                 \
    {                                                                                              \
        int32_t i = 0;                                                                             \
        for (; i + 4 * S2S_TILE <= d; i += 4 * S2S_TILE) {                                         \
            v16 s0 = v16_load(out + i), s1 = v16_load(out + i + S2S_TILE);                         \
            v16 s2 = v16_load(out + i + 2 * S2S_TILE), s3 = v16_load(out + i + 3 * S2S_TILE);      \
            for (int32_t j = 0; j < n; j++) {                                                      \
                const TYPE *value = values[j] + from + i;                                          \
                const v16 weight = v16_set1(p[j]);                                                 \
                v16 low, high;                                                                     \
                LOAD_PAIR(value, &low, &high);                                                     \
                s0 = v16_fma(weight, low, s0);                                                     \
                s1 = v16_fma(weight, high, s1);                                                    \
                LOAD_PAIR(value + 2 * S2S_TILE, &low, &high);                                      \
                s2 = v16_fma(weight, low, s2);                                                     \
                s3 = v16_fma(weight, high, s3);                                                    \
            }                                                                                      \
            v16_store(out + i, s0);                                                                \
            v16_store(out + i + S2S_TILE, s1);                                                     \
            v16_store(out + i + 2 * S2S_TILE, s2);                                                 \
            v16_store(out + i + 3 * S2S_TILE, s3);                                                 \
        }                                                                                          \
        for (; i + 2 * S2S_TILE <= d; i += 2 * S2S_TILE) {                                         \
            v16 s0 = v16_load(out + i), s1 = v16_load(out + i + S2S_TILE);                         \
            for (int32_t j = 0; j < n; j++) {                                                      \
                const v16 weight = v16_set1(p[j]);                                                 \
                v16 low, high;                                                                     \
                LOAD_PAIR(values[j] + from + i, &low, &high);                                      \
                s0 = v16_fma(weight, low, s0);                                                     \
                s1 = v16_fma(weight, high, s1);                                                    \
            }                                                                                      \
            v16_store(out + i, s0);                                                                \
            v16_store(out + i + S2S_TILE, s1);                                                     \
        }                                                                                          \
        if (i < d) {                                                                               \
            v16 sum = v16_load(out + i);                                                           \
            for (int32_t j = 0; j < n; j++)                                                        \
                sum = v16_fma(v16_set1(p[j]), LOAD(values[j] + from + i), sum);                    \
            v16_store(out + i, sum);                                                               \
        }                                                                                          \
    }                                                                                              \
    S2S_INLINE void NAME##_of(const s2s_attention *a, int32_t d)                                   \
    {                                                                                              \
        const TYPE *all = a->values;                                                               \
        const size_t n_bytes = (size_t)d * sizeof(TYPE);                                           \
        for (int32_t row = 0; row < a->n_rows; row++)                                              \
            memset(a->out + (size_t)row * a->ld_out, 0,                                            \
                   (size_t)a->n_heads * (size_t)d * sizeof(float));                                \
        for (int32_t j = 0; j < a->n; j += VALUES) {                                               \
            const int32_t n = a->n - j < VALUES ? a->n - j : VALUES;                               \
            const TYPE *values[VALUES], *next[VALUES];                                             \
            for (int32_t i = 0; i < n; i++) {                                                      \
                const int32_t there = j + i + VALUES < a->n ? j + i + VALUES : a->n - 1;           \
                values[i] = all + cell_of(a->cells, j + i) * a->ld_values;                         \
                next[i] = all + cell_of(a->cells, there) * a->ld_values;                           \
            }                                                                                      \
            size_t at = 0;                                                                         \
            for (int32_t head = 0; head < a->n_heads; head += a->heads_per_kv, at += (size_t)d) {  \
                for (int32_t i = 0; i < n; i++) prefetch(next[i] + at, n_bytes);                   \
                for (int32_t row = 0; row < a->n_rows; row++) {                                    \
                    for (int32_t h = head; h < head + a->heads_per_kv; h++) {                      \
                        const float *p =                                                           \
                            a->scores + (size_t)(row * a->n_heads + h) * a->ld_scores + j;         \
                        float *out = a->out + (size_t)row * a->ld_out + (size_t)h * (size_t)d;     \
                        NAME##_block(p, values, at, n, d, out);                                    \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    S2S_DEFINE_WIDTHS(NAME, d_value)

S2S_DEFINE_CONTEXT(attention_context, float, v16_load, load_pair_f32)
S2S_DEFINE_CONTEXT(attention_context_bf16, uint16_t, v16_load_bf16, v16_load_bf16_pair)

/* Each 32 elements in the order that v16_load_bf16_pair reads; a last 16 as they are. */
static void cache_bf16(const float *x, int32_t n_heads, int32_t d, uint16_t *y)
{
    for (int32_t h = 0; h < n_heads; h++, x += d, y += d) {
        int32_t i = 0;
        for (; i + 2 * S2S_TILE <= d; i += 2 * S2S_TILE)
            v16_store_bf16_pair(y + i, v16_load(x + i), v16_load(x + i + S2S_TILE));
        for (; i < d; i++) y[i] = s2s_bf16_from_f32(x[i]);
    }
}

#endif
