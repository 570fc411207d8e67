/* test_kv_cache.c: the cache under the decoder, over a small random model. */
#include "../../csrc/nn/decoder.h"
#include "../../csrc/nn/encoder.h"
#include "harness.h"
#include "random_model.h"

/* Decodes 40 fixed tokens on two rows that exchange their histories, and keeps every hidden state. */
static void decode_window(const s2s_model *model, int32_t window, int ring, float *states)
{
    enum { N_STEPS = 40, N_SOURCE = 5 };
    s2s_exec exec = {.model = model};
    s2s_workspace ws;
    s2s_kv_cache cache;
    s2s_arena arena = {0};
    for (int pass = 0; pass < 2; pass++) {
        s2s_workspace_init(&ws, &arena, model, 16, 64, 64, 1);
        EXPECT(s2s_kv_cache_init(&cache, &arena, model, 2, 2, ring ? window : N_STEPS, N_SOURCE, 0,
                                 S2S_F32));
        if (pass == 0) EXPECT(s2s_arena_init(&arena, arena.used, NULL));
    }
    s2s_kv_cache_start(&cache, model);
    cache.rings[0].window = window;
    const int32_t ids[N_SOURCE] = {3, 4, 5, 6, 7}, positions[N_SOURCE] = {0, 1, 2, 3, 4};
    const int32_t offsets[2] = {0, N_SOURCE};
    s2s_encoder_run(&exec, &(s2s_sources){ids, positions, offsets, 1, NULL}, &ws);
    const int32_t slot = 0;
    s2s_decoder_prepare(&exec, &cache, &slot, offsets, 1, &ws);

    int32_t tokens[2], at[2], rows[2] = {0, 1}, sources[2] = {0, 0}, n_source[2] = {5, 5};
    int32_t n_cells[2];
    const uint32_t *cells[2];
    float *alignment[2] = {NULL, NULL};
    for (int32_t t = 0; t < N_STEPS; t++) {
        for (int32_t b = 0; b < 2; b++) {
            tokens[b] = 3 + (t * 5 + b * 11) % 50;
            at[b] = t;
            s2s_kv_cache_extend(&cache, b, t);
            cells[b] = s2s_kv_cache_visible(&cache, 0, b, t, &n_cells[b]);
        }
        s2s_batch batch = {
            2, tokens, at, rows, sources, n_source, {cells, NULL}, {n_cells, NULL}, alignment};
        s2s_decoder_run(&exec, &cache, &batch, &ws);
        for (int32_t b = 0; b < 2; b++) {
            memcpy(states + (t * 2 + b) * model->config.d_model, ws.x + (size_t)b * ws.ld_x,
                   (size_t)model->config.d_model * sizeof(float));
        }
        const int32_t parents[3][2] = {{0, 1}, {1, 0}, {1, 1}};
        s2s_kv_cache_reorder(&cache, rows, parents[t % 3], 2, t + 1);
    }
    s2s_arena_release(&arena, NULL);
}

/* The ring that overwrites its oldest position equals an unbounded cache of which only the window is seen. */
TEST(ring_buffer_equals_masked_cache)
{
    const s2s_model_config config = random_model_config();
    const s2s_dtype dtypes[] = {S2S_F32, S2S_INT8}; /* the cache is float32, bfloat16 */
    for (int t = 0; t < 2; t++) {
        random_model m;
        s2s_model *model = random_model_create(&m, &config, dtypes[t], S2S_ISA_AUTO, NULL);
        EXPECT(model != NULL);
        static float ring[40 * 2 * 40], masked[40 * 2 * 40], unbounded[40 * 2 * 40];
        const int32_t windows[] = {1, 2, 7, 16, 39, 40};
        for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
            decode_window(model, windows[i], 1, ring);
            decode_window(model, windows[i], 0, masked);
            EXPECT(memcmp(ring, masked, sizeof ring) == 0);
            decode_window(model, 40, 0, unbounded);
            EXPECT((memcmp(ring, unbounded, sizeof ring) == 0) == (windows[i] == 40));
        }
        s2s_model_free(model);
        random_model_release(&m);
    }
}

int main(void)
{
    RUN(ring_buffer_equals_masked_cache);
    return harness_end();
}
