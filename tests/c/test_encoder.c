/* test_encoder.c: an encoder alone with its heads, over small random models. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/model/model.h"
#include "failing_alloc.h"
#include "harness.h"
#include "random_model.h"

enum { D = 40, N_SEQUENCES = 30, MAX_LENGTH = 20, N_VOCAB = 53, N_LABELS = 3 };

/* An encoder with token types and every head, no decoder. */
static s2s_model_config encoder_config(void)
{
    s2s_model_config c = random_model_config();
    memset(&c.decoder, 0, sizeof c.decoder);
    c.output_bias = 0;
    c.encoder.n_token_types = 2;
    c.encoder.embed_norm = 1;
    c.heads[S2S_POOLER] = (s2s_head_config){1, {{D, S2S_TANH, 0}}};
    c.heads[S2S_MASKED_LM] = (s2s_head_config){2, {{D, S2S_GELU, 1}, {N_VOCAB, S2S_IDENTITY, 0}}};
    c.heads[S2S_CLASSIFIER] = (s2s_head_config){1, {{N_LABELS, S2S_IDENTITY, 0}}};
    return c;
}

typedef struct sequences {
    int32_t ids[N_SEQUENCES * MAX_LENGTH], types[N_SEQUENCES * MAX_LENGTH];
    int32_t offsets[N_SEQUENCES + 1];
} sequences;

static void make_sequences(sequences *q)
{
    q->offsets[0] = 0;
    for (int s = 0; s < N_SEQUENCES; s++) {
        const int32_t n = 1 + random_below(MAX_LENGTH), first = q->offsets[s];
        for (int32_t i = 0; i < n; i++) {
            q->ids[first + i] = random_below(N_VOCAB);
            q->types[first + i] = i > n / 2;
        }
        q->offsets[s + 1] = first + n;
    }
}

/* Hidden states and logits do not depend on what is packed together, threads and SIMD level. */
TEST(same_bits_alone_and_together)
{
    const s2s_dtype dtypes[] = {S2S_F32, S2S_BF16, S2S_INT8};
    for (int kind = 0; kind < 3; kind++) {
        const s2s_model_config config = encoder_config();
        random_model m;
        s2s_model *plain = NULL, *best = NULL;
        s2s_encoder *one = NULL, *many = NULL;
        s2s_pool *pool = NULL;
        s2s_error error;
        sequences q;
        static float a[N_SEQUENCES * MAX_LENGTH * D], b[N_SEQUENCES * MAX_LENGTH * D];
        static float u[N_SEQUENCES * MAX_LENGTH * 64], v[N_SEQUENCES * MAX_LENGTH * 64];
        static float sums[N_SEQUENCES * MAX_LENGTH];
        make_sequences(&q);
        const int32_t n = q.offsets[N_SEQUENCES];
        EXPECT(random_model_init(&m, &config, dtypes[kind], 5));
        EXPECT(s2s_model_create(&config, m.tensors, m.n_tensors, S2S_ISA_GENERIC, &plain, &error) ==
               S2S_OK);
        EXPECT(s2s_model_create(&config, m.tensors, m.n_tensors, S2S_ISA_AUTO, &best, &error) ==
               S2S_OK);
        EXPECT(s2s_pool_create(3, &pool, &error) == S2S_OK);
        s2s_arena left; /* by an encoder that ended: NaN, -1 */
        EXPECT(s2s_arena_init(&left, 1 << 20, NULL));
        memset(left.base, 0xff, left.size);
        s2s_arena_release(&left, s2s_model_blocks(best));
        const s2s_encoder_config sizes = {MAX_LENGTH, MAX_LENGTH}, large = {MAX_LENGTH, 77};
        EXPECT(s2s_encoder_create(plain, NULL, &sizes, &one, &error) == S2S_OK);
        EXPECT(s2s_encoder_create(best, pool, &large, &many, &error) == S2S_OK);
        EXPECT(s2s_encoder_encode(many, q.ids, q.types, q.offsets, N_SEQUENCES, a, &error) ==
               S2S_OK);
        for (int s = 0; s < N_SEQUENCES; s++) {
            const int32_t own[2] = {0, q.offsets[s + 1] - q.offsets[s]};
            EXPECT(s2s_encoder_encode(one, q.ids + q.offsets[s], q.types + q.offsets[s], own, 1,
                                      b + (size_t)q.offsets[s] * D, &error) == S2S_OK);
        }
        EXPECT(memcmp(a, b, (size_t)n * D * sizeof(float)) == 0);
        for (int head = 0; head < S2S_N_HEADS; head++) {
            const int32_t width = head == S2S_MASKED_LM ? 64 : head == S2S_POOLER ? 48 : 16;
            EXPECT(s2s_encoder_head(many, (s2s_head)head, a, n, u, sums, &error) == S2S_OK);
            for (int32_t i = 0; i < n; i++) {
                EXPECT(s2s_encoder_head(one, (s2s_head)head, a + (size_t)i * D, 1,
                                        v + (size_t)i * (size_t)width, NULL, &error) == S2S_OK);
                EXPECT(isfinite(sums[i]));
            }
            EXPECT(memcmp(u, v, (size_t)n * (size_t)width * sizeof(float)) == 0);
        }
        s2s_encoder_free(one);
        s2s_encoder_free(many);
        s2s_model_free(plain);
        s2s_model_free(best);
        s2s_pool_free(pool);
        random_model_release(&m);
    }
}

TEST(wrong_input_is_refused)
{
    const s2s_model_config config = encoder_config();
    random_model m;
    s2s_model *model = NULL;
    s2s_encoder *e = NULL;
    s2s_session *session = NULL;
    s2s_error error;
    float out[64], x[D] = {0};
    EXPECT(random_model_init(&m, &config, S2S_F32, 5));
    EXPECT(s2s_model_create(&config, m.tensors, m.n_tensors, S2S_ISA_AUTO, &model, &error) ==
           S2S_OK);
    const s2s_session_config session_sizes = {.max_rows = 1,
                                              .max_source_positions = 8,
                                              .max_target_positions = 8,
                                              .max_encoder_tokens = 8};
    EXPECT(s2s_session_create(model, NULL, &session_sizes, &session, &error) == S2S_UNSUPPORTED);
    const s2s_encoder_config bad[] = {{0, 8}, {65, 65}, {8, 7}, {8, 1 << 30}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        EXPECT(s2s_encoder_create(model, NULL, &bad[i], &e, &error) == S2S_INVALID_ARGUMENT);
        EXPECT(e == NULL);
    }
    const s2s_encoder_config sizes = {8, 8};
    EXPECT(s2s_encoder_create(model, NULL, &sizes, &e, &error) == S2S_OK);
    const int32_t ids[9] = {1, 2, 3}, wrong[1] = {N_VOCAB}, types[1] = {2};
    const int32_t empty[2] = {0, 0}, one[2] = {0, 1}, nine[2] = {0, 9};
    EXPECT(s2s_encoder_encode(e, ids, NULL, empty, 1, out, &error) == S2S_INVALID_ARGUMENT);
    EXPECT(s2s_encoder_encode(e, ids, NULL, nine, 1, out, &error) == S2S_INVALID_ARGUMENT);
    EXPECT(s2s_encoder_encode(e, wrong, NULL, one, 1, out, &error) == S2S_INVALID_ARGUMENT);
    EXPECT(s2s_encoder_encode(e, ids, types, one, 1, out, &error) == S2S_INVALID_ARGUMENT);
    EXPECT(s2s_encoder_encode(e, ids, NULL, one, 1, out, &error) == S2S_OK);
    EXPECT(s2s_encoder_head(e, S2S_N_HEADS, x, 1, out, NULL, &error) == S2S_INVALID_ARGUMENT);
    x[3] = NAN;
    EXPECT(s2s_encoder_head(e, S2S_CLASSIFIER, x, 1, out, out + 32, &error) == S2S_INVALID_MODEL);
    s2s_encoder_free(e);
    s2s_model_free(model);

    /* A description that lies about its heads. */
    s2s_model_config changed = config;
    changed.heads[S2S_CLASSIFIER].layers[0].n_out = 17;
    EXPECT(s2s_model_create(&changed, m.tensors, m.n_tensors, S2S_ISA_AUTO, &model, &error) ==
           S2S_INVALID_MODEL);
    changed = config;
    changed.heads[S2S_MASKED_LM].layers[0].n_out = D + 1;
    EXPECT(s2s_model_create(&changed, m.tensors, m.n_tensors, S2S_ISA_AUTO, &model, &error) ==
           S2S_INVALID_MODEL);
    changed = config;
    changed.heads[S2S_POOLER].n_layers = 0;
    EXPECT(s2s_model_create(&changed, m.tensors, m.n_tensors, S2S_ISA_AUTO, &model, &error) ==
           S2S_INVALID_MODEL);
    random_model_release(&m);
}

TEST(running_out_of_memory)
{
    const s2s_model_config config = encoder_config();
    const s2s_encoder_config sizes = {8, 8};
    random_model m;
    s2s_model *model = NULL;
    s2s_error error;
    EXPECT(random_model_init(&m, &config, S2S_F32, 5));
    EXPECT(s2s_model_create(&config, m.tensors, m.n_tensors, S2S_ISA_AUTO, &model, &error) ==
           S2S_OK);
    for (long n = 0;; n++) {
        s2s_encoder *e = NULL;
        allocation_fail_at(n);
        const s2s_status status = s2s_encoder_create(model, NULL, &sizes, &e, &error);
        const long n_made = allocation_count();
        allocation_fail_at(-1);
        s2s_encoder_free(e);
        if (n_made <= n) break;
        EXPECT(status == S2S_OUT_OF_MEMORY && e == NULL);
    }
    s2s_model_free(model);
    random_model_release(&m);
}

int main(void)
{
    RUN(same_bits_alone_and_together);
    RUN(wrong_input_is_refused);
    RUN(running_out_of_memory);
    return harness_end();
}
