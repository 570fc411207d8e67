/* test_output.c: the output projection: blocks, picked rows, and bounds that leave blocks out. */
#include <math.h>

#include "harness.h"
#include "model/coarse.h"
#include "model/coarse_i4.h"
#include "nn/output.h"
#include "random_model.h"

enum { VOCAB = 5003, N_BLOCKS = (VOCAB + S2S_LOGITS_BLOCK - 1) / S2S_LOGITS_BLOCK, MAX_ROWS = 40 };

typedef struct seen {
    atomic_int n_visits[MAX_ROWS], n_nan[MAX_ROWS];
    float best[MAX_ROWS][N_BLOCKS]; /* of each block, -inf where it was not visited */
    int32_t id[MAX_ROWS][N_BLOCKS];
    unsigned char is_out[VOCAB];
} seen;

static void rule_out(void *context, int32_t row, int32_t worker, int32_t block, float *x)
{
    const seen *s = context;
    (void)row;
    (void)worker;
    for (int32_t i = 0; i < S2S_LOGITS_BLOCK && block * S2S_LOGITS_BLOCK + i < VOCAB; i++)
        if (s->is_out[block * S2S_LOGITS_BLOCK + i]) x[i] = -INFINITY;
}

static void look(void *context, int32_t row, int32_t worker, int32_t block, float *x)
{
    seen *s = context;
    CHECK((uintptr_t)x % 64 == 0, "block %d is not aligned", block);
    CHECK(s->best[row][block] == -INFINITY, "row %d, block %d came twice", row, block);
    atomic_fetch_add(&s->n_visits[row], 1);
    for (int32_t i = 0; i < S2S_LOGITS_BLOCK && block * S2S_LOGITS_BLOCK + i < VOCAB; i++)
        if (isnan(x[i])) atomic_fetch_add(&s->n_nan[row], 1);
    rule_out(context, row, worker, block, x);
    for (int32_t i = 0; i < S2S_LOGITS_BLOCK && block * S2S_LOGITS_BLOCK + i < VOCAB; i++)
        if (x[i] > s->best[row][block]) {
            s->best[row][block] = x[i];
            s->id[row][block] = block * S2S_LOGITS_BLOCK + i;
        }
}

static void forget(seen *s)
{
    memset(s, 0, sizeof *s);
    for (int r = 0; r < MAX_ROWS; r++)
        for (int b = 0; b < N_BLOCKS; b++) s->best[r][b] = -INFINITY, s->id[r][b] = -1;
}

static int best_block(const seen *s, int row)
{
    int best = 0;
    for (int b = 1; b < N_BLOCKS; b++)
        if (s->best[row][b] > s->best[row][best]) best = b;
    return best;
}

typedef enum row_kind { NORMAL, OUTLIER, TINY, ZERO, HUGE_NUMBERS, NOT_FINITE, N_KINDS } row_kind;

static void fill_row(float *x, int32_t d, row_kind kind)
{
    for (int32_t i = 0; i < d; i++) {
        x[i] = random_float();
        if (kind == TINY) x[i] *= 1e-30f;
        if (kind == ZERO) x[i] = 0.0f;
        if (kind == HUGE_NUMBERS) x[i] *= 1e37f;
    }
    if (kind == OUTLIER) x[random_below(d)] = 300.0f;
    if (kind == NOT_FINITE) x[random_below(d)] = random_below(2) ? INFINITY : NAN;
}

/* Outputs that are equal, of very different sizes, zero: in the tiles of a float matrix. */
static void make_odd(random_model *m, int32_t d)
{
    s2s_tensor *t = &m->tensors[0];
    const size_t size = t->dtype == S2S_F32 ? 4 : 2;
    char *w = (char *)t->data;
    for (int trial = 0; trial < 400; trial++) {
        const int32_t from = random_below(VOCAB), to = random_below(VOCAB);
        const int kind = random_below(8);
        for (int32_t i = 0; i < d; i++) {
            char *a =
                w + ((size_t)(from / 16) * (size_t)d * 16 + (size_t)(i * 16 + from % 16)) * size;
            char *b = w + ((size_t)(to / 16) * (size_t)d * 16 + (size_t)(i * 16 + to % 16)) * size;
            if (kind == 0)
                memset(b, 0, size);
            else
                memcpy(b, a, size);
        }
    }
}

/* Likewise in the tiles of an int8 matrix, with scales and sums: also a few weights that are large. */
static void make_odd_i8(random_model *m, int32_t d)
{
    int8_t *w = (int8_t *)m->tensors[0].data;
    float *scale = (float *)m->tensors[1].data;
    int32_t *sum = (int32_t *)m->tensors[2].data;
    const size_t tile_bytes = (size_t)(d + 3) / 4 * 64;
    for (int trial = 0; trial < 400; trial++) {
        const int32_t from = random_below(VOCAB), to = random_below(VOCAB);
        const int kind = random_below(8);
        sum[to] = 0;
        scale[to] = kind == 1 ? 1e-3f * scale[from] : scale[from];
        for (int32_t i = 0; i < d; i++) {
            const size_t at = (size_t)(i / 4 * 64 + i % 4);
            const int8_t *a = w + (size_t)(from / 16) * tile_bytes + at + from % 16 * 4;
            int8_t *b = w + (size_t)(to / 16) * tile_bytes + at + to % 16 * 4;
            *b = kind == 0 ? 0 : kind == 2 ? (int8_t)(random_below(20) ? 1 : 127) : *a;
            sum[to] += *b;
        }
    }
}

static void compare(s2s_dtype dtype, s2s_isa isa, int32_t n_threads, int odd)
{
    static seen all, some;
    s2s_model_config config = random_model_config();
    config.vocab_size = config.source_vocab_size = VOCAB;
    const int32_t d = config.d_model;
    random_model m;
    s2s_model *model = NULL;
    s2s_pool *pool = NULL;
    s2s_error error = {0};
    CHECK(random_model_init(&m, &config, dtype, 11), "no memory");
    if (odd) (dtype == S2S_INT8 ? make_odd_i8 : make_odd)(&m, d);
    CHECK(s2s_model_create(&config, m.tensors, m.n_tensors, isa, &model, &error) == S2S_OK, "%s",
          error.message);
    CHECK(s2s_pool_create(n_threads, &pool, NULL) == S2S_OK, "%d threads", n_threads);
    s2s_model_make_coarse(model);
    CHECK((s2s_model_coarse(model) != NULL) == (dtype != S2S_INT8), "dtype %d", dtype);
    s2s_model_make_coarse_i4(model, pool);
    CHECK((s2s_model_coarse_i4(model, pool) != NULL) == (dtype == S2S_INT8), "dtype %d", dtype);
    s2s_exec exec = {.model = model, .pool = pool};
    s2s_workspace ws;
    s2s_arena arena = {0};
    s2s_workspace_init(&ws, &arena, model, MAX_ROWS, 16, 16, n_threads);
    CHECK(s2s_arena_init(&arena, arena.used, NULL), "no memory");
    s2s_workspace_init(&ws, &arena, model, MAX_ROWS, 16, 16, n_threads);

    int64_t n_visits = 0, n_blocks = 0;
    for (int trial = 0; trial < 60; trial++) {
        int32_t rows[MAX_ROWS], n_rows = 0;
        row_kind kinds[MAX_ROWS];
        const int32_t n_present = 1 + random_below(trial % 3 ? 4 : MAX_ROWS);
        for (int32_t row = 0; row < n_present; row++) {
            const row_kind kind = random_below(3) ? NORMAL : (row_kind)random_below(N_KINDS);
            fill_row(ws.x + (size_t)row * ws.ld_x, d, kind);
            if (row + 1 < n_present && random_below(4) == 0) continue; /* not picked */
            kinds[n_rows] = kind;
            rows[n_rows++] = row;
        }
        forget(&all);
        forget(&some);
        for (int i = 0; i < 50; i++) {
            const int32_t id = random_below(VOCAB);
            all.is_out[id] = some.is_out[id] = 1;
        }
        s2s_output_run(&exec, rows, n_rows, &ws, look, &all);
        const int is_bounded =
            dtype != S2S_INT8 || (ws.bounds_i4.n_rests == 0 && n_rows <= ws.bounds_i4.n_rows);
        s2s_output_run_best(&exec, rows, n_rows, &ws, rule_out, look, &some);
        for (int32_t row = 0; row < n_rows; row++) {
            CHECK(all.n_visits[row] == N_BLOCKS, "%d visits", all.n_visits[row]);
            CHECK((all.n_nan[row] > 0) == (some.n_nan[row] > 0), "a NaN was overlooked");
            const int a = best_block(&all, row), b = best_block(&some, row);
            CHECK(a == b && all.id[row][a] == some.id[row][b] &&
                      same_float(all.best[row][a], some.best[row][b]),
                  "kind %d: %d, %a instead of %d, %a", kinds[row], some.id[row][b],
                  (double)some.best[row][b], all.id[row][a], (double)all.best[row][a]);
            if (kinds[row] != NORMAL || !is_bounded) continue;
            n_visits += some.n_visits[row];
            n_blocks += N_BLOCKS;
        }
    }
    /* made up weights of 40 inputs have no clear winners; still most blocks are left out */
    CHECK(n_visits > 0 && n_visits * 2 < n_blocks, "%d of %d blocks", (int)n_visits, (int)n_blocks);
    s2s_arena_release(&arena, NULL);
    s2s_pool_free(pool);
    s2s_model_free(model);
    random_model_release(&m);
}

/* The largest logit, its place and its bits do not depend on the blocks that are left out. */
TEST(bounds_never_lose_the_largest)
{
    const s2s_dtype dtypes[] = {S2S_F32, S2S_BF16, S2S_INT8};
    for (int i = 0; i < 3; i++)
        for (s2s_isa isa = S2S_ISA_GENERIC; isa <= S2S_ISA_NEON; isa++)
            for (int odd = 0; odd < 2; odd++)
                if (s2s_isa_supported(isa)) compare(dtypes[i], isa, 1 + (int32_t)isa % 3, odd);
}

/* A weight that is not finite has no bounds. */
TEST(odd_weights_have_no_copy)
{
    s2s_model_config config = random_model_config();
    config.vocab_size = config.source_vocab_size = VOCAB;
    random_model m;
    s2s_model *model = NULL;
    CHECK(random_model_init(&m, &config, S2S_F32, 3), "no memory");
    ((float *)m.tensors[0].data)[12345] = INFINITY;
    CHECK(s2s_model_create(&config, m.tensors, m.n_tensors, S2S_ISA_AUTO, &model, NULL) == S2S_OK,
          "not created");
    s2s_model_make_coarse(model);
    CHECK(s2s_model_coarse(model) == NULL, "a copy of infinity");
    s2s_model_free(model);
    random_model_release(&m);
}

/* A file may say anything of its scales, sums and biases; bounds are for honest ones. */
TEST(odd_int8_weights_have_no_copy)
{
    for (int kind = 0; kind < 6; kind++) {
        s2s_model_config config = random_model_config();
        config.vocab_size = config.source_vocab_size = VOCAB;
        random_model m;
        s2s_model *model = NULL;
        CHECK(random_model_init(&m, &config, S2S_INT8, 3), "no memory");
        float *scale = (float *)m.tensors[1].data;
        if (kind == 1) scale[4321] = -scale[4321];
        if (kind == 2) scale[0] = NAN;
        if (kind == 3) scale[5002] = INFINITY;
        if (kind == 4) ((int32_t *)m.tensors[2].data)[1234]++;
        for (size_t i = 0; kind == 5 && i < m.n_tensors; i++)
            if (strcmp(m.tensors[i].name, "output.bias") == 0)
                ((float *)m.tensors[i].data)[77] = NAN;
        CHECK(s2s_model_create(&config, m.tensors, m.n_tensors, S2S_ISA_AUTO, &model, NULL) ==
                  S2S_OK,
              "not created");
        s2s_model_make_coarse_i4(model, NULL);
        CHECK((s2s_model_coarse_i4(model, NULL) != NULL) == (kind == 0), "kind %d", kind);
        s2s_model_free(model);
        random_model_release(&m);
    }
}

/* It is made when it was asked for some times, and then stays. */
TEST(copy_is_made_when_it_pays)
{
    s2s_model_config config = random_model_config();
    config.vocab_size = config.source_vocab_size = VOCAB;
    random_model m;
    s2s_model *model = NULL;
    CHECK(random_model_init(&m, &config, S2S_INT8, 3), "no memory");
    CHECK(s2s_model_create(&config, m.tensors, m.n_tensors, S2S_ISA_AUTO, &model, NULL) == S2S_OK,
          "not created");
    CHECK(s2s_model_coarse_i4(model, NULL) == NULL, "at once");
    const s2s_coarse_i4 *copy = NULL;
    for (int i = 0; i < 100 && copy == NULL; i++) copy = s2s_model_coarse_i4(model, NULL);
    CHECK(copy != NULL && s2s_model_coarse_i4(model, NULL) == copy, "never");
    s2s_model_free(model);
    random_model_release(&m);
}

int main(void)
{
    RUN(bounds_never_lose_the_largest);
    RUN(odd_weights_have_no_copy);
    RUN(odd_int8_weights_have_no_copy);
    RUN(copy_is_made_when_it_pays);
    return harness_end();
}
