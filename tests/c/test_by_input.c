/* When products may leave zeros out. */
#include <math.h>
#include <pthread.h>

#include "harness.h"
#include "model/by_input.h"

enum { N_IN = 6, N_TILES = 2, N_WEIGHTS = N_IN * N_TILES * S2S_TILE, MANY = 1000 };

/* Asks until there is an answer; whether the matrix became ready. */
static int becomes_ready(const s2s_matrix *m)
{
    CHECK(!s2s_by_input_ready(m), "at once");
    for (int i = 0; i < MANY; i++)
        if (s2s_by_input_ready(m)) return 1;
    return 0;
}

TEST(float_weights_must_be_plain)
{
    const struct {
        float value;
        int is_plain;
    } cases[] = {{0.5f, 1},      {0.0f, 1},     {-0.0f, 1},     {0x1p-89f, 1},
                 {-0x1p-89f, 1}, {0x1p-90f, 0}, {-0x1p-90f, 0}, {1e-45f, 0},
                 {3e38f, 1},     {INFINITY, 0}, {-INFINITY, 0}, {NAN, 0}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int is_bf16 = 0; is_bf16 < 2; is_bf16++) {
            float w[N_WEIGHTS];
            uint16_t half[N_WEIGHTS];
            for (int i = 0; i < N_WEIGHTS; i++) w[i] = random_float();
            w[random_below(N_WEIGHTS)] = cases[c].value;
            for (int i = 0; i < N_WEIGHTS; i++) half[i] = s2s_bf16_from_f32(w[i]);
            if (is_bf16 && fabsf(cases[c].value) < 1e-44f && cases[c].value != 0.0f) continue;
            s2s_by_input b = {0};
            const s2s_matrix m = {.w = is_bf16 ? (const void *)half : w,
                                  .n_in = N_IN,
                                  .n_out = N_TILES * S2S_TILE,
                                  .n_tiles = N_TILES,
                                  .dtype = is_bf16 ? S2S_BF16 : S2S_F32,
                                  .by_input = &b};
            CHECK(becomes_ready(&m) == cases[c].is_plain, "%a, %d", (double)cases[c].value,
                  is_bf16);
            s2s_by_input_free(&b);
        }
}

TEST(int8_sums_must_be_honest)
{
    for (int wrong = 0; wrong < 2; wrong++) {
        int8_t w[N_TILES * (N_IN + 3) / 4 * 4 * S2S_TILE + 64] = {0};
        int32_t sum[N_TILES * S2S_TILE] = {0};
        for (int tile = 0; tile < N_TILES; tile++)
            for (int input = 0; input < N_IN; input++)
                for (int c = 0; c < S2S_TILE; c++) {
                    const int8_t weight = (int8_t)(random_below(255) - 127);
                    w[tile * 128 + input / 4 * 64 + c * 4 + input % 4] = weight;
                    sum[tile * S2S_TILE + c] += weight;
                }
        sum[random_below(N_TILES * S2S_TILE)] += wrong;
        s2s_by_input b = {0};
        const s2s_matrix m = {.w = w,
                              .sum = sum,
                              .n_in = N_IN,
                              .n_out = N_TILES * S2S_TILE,
                              .n_tiles = N_TILES,
                              .dtype = S2S_INT8,
                              .by_input = &b};
        CHECK(becomes_ready(&m) == !wrong, "wrong %d", wrong);
        CHECK((b.rows != NULL) == !wrong, "wrong %d", wrong);
        s2s_by_input_free(&b);
    }
}

static void *ask(void *matrix)
{
    for (int i = 0; i < MANY; i++)
        if (s2s_by_input_ready(matrix))
            CHECK(((s2s_matrix *)matrix)->by_input->rows != NULL, "rows");
    return NULL;
}

TEST(threads_may_ask_at_once)
{
    int8_t w[2 * 4 * S2S_TILE] = {1};
    int32_t sum[S2S_TILE] = {1};
    s2s_by_input b = {0};
    s2s_matrix m = {.w = w,
                    .sum = sum,
                    .n_in = N_IN,
                    .n_out = S2S_TILE,
                    .n_tiles = 1,
                    .dtype = S2S_INT8,
                    .by_input = &b};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, ask, &m) == 0, "thread");
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    CHECK(s2s_by_input_ready(&m), "ready");
    s2s_by_input_free(&b);
}

int main(void)
{
    RUN(float_weights_must_be_plain);
    RUN(int8_sums_must_be_honest);
    RUN(threads_may_ask_at_once);
    return harness_end();
}
