/* Attention kernels of every level that this CPU has equal generic bit for bit, and generic is
 * near a double reference within a bound derived from the operation. */
#include "kernel_data.h"

typedef struct attention_case {
    s2s_attention a;
    size_t n_q, n_keys, n_values, n_scores, n_out;
} attention_case;

/* Widths of 16 and more, gaps in every stride, cells in any order or none. */
static attention_case attention_make(int32_t n, int32_t d, int32_t shape, int with_cells,
                                     data_kind kind)
{
    static const int32_t shapes[][3] = {{1, 1, 1}, {1, 3, 1}, {3, 2, 1}, {2, 4, 2}, {5, 2, 2}};
    const int32_t n_rows = shapes[shape][0], n_heads = shapes[shape][1];
    const int32_t heads_per_kv = shapes[shape][2];
    const size_t n_kv = (size_t)(n_heads / heads_per_kv);
    const int32_t d_value = shape == 3 ? d + 16 : d, n_cells = with_cells ? n + 3 : n;
    const size_t gap = shape > 1 ? 32 : 0;
    attention_case c = {.a = {.ld_q = (size_t)(n_heads * d) + gap,
                              .ld_keys = n_kv * (size_t)d + gap,
                              .ld_values = n_kv * (size_t)d_value + gap,
                              .ld_scores = round_up((size_t)n) + gap,
                              .ld_out = (size_t)(n_heads * d_value) + gap,
                              .n_rows = n_rows,
                              .n_heads = n_heads,
                              .heads_per_kv = heads_per_kv,
                              .n = n,
                              .d_key = d,
                              .d_value = d_value,
                              .scale = 0.3f}};
    c.n_q = (size_t)n_rows * c.a.ld_q - gap;
    c.n_keys = n_cells > 0 ? (size_t)n_cells * c.a.ld_keys - gap : 0;
    c.n_values = n_cells > 0 ? (size_t)n_cells * c.a.ld_values - gap : 0;
    c.n_scores = (size_t)(n_rows * n_heads) * c.a.ld_scores - gap;
    c.n_out = (size_t)n_rows * c.a.ld_out - gap;
    c.a.q = make_floats(c.n_q, kind);
    c.a.keys = make_floats(c.n_keys, kind);
    c.a.values = make_floats(c.n_values, kind);
    c.a.scores = make_floats(c.n_scores, NORMAL);
    c.a.out = make_floats(c.n_out, NORMAL);
    if (with_cells) {
        uint32_t *cells = malloc((size_t)(n + 1) * sizeof *cells);
        for (int32_t j = 0; j < n; j++) cells[j] = (uint32_t)random_below(n_cells);
        c.a.cells = cells;
    }
    return c;
}

static void attention_free(attention_case *c)
{
    free((void *)c->a.q), free((void *)c->a.keys), free((void *)c->a.values);
    free((void *)c->a.cells), free(c->a.scores), free(c->a.out);
}

/* The rows of a matrix, without what lies between them. */
static void check_rows(const float *a, const float *b, int32_t n_rows, size_t ld, size_t n,
                       const char *what, int detail)
{
    for (int32_t row = 0; row < n_rows; row++)
        check_same(a + (size_t)row * ld, b + (size_t)row * ld, n, what, detail);
}

/* Scores and context of every query against a double reference. */
static void check_attention(const s2s_attention *a)
{
    const float *keys = a->keys, *values = a->values;
    for (int32_t i = 0; i < a->n_rows * a->n_heads; i++) {
        const int32_t row = i / a->n_heads, head = i % a->n_heads;
        const size_t kv = (size_t)(head / a->heads_per_kv);
        const float *q = a->q + (size_t)row * a->ld_q + (size_t)(head * a->d_key);
        const float *p = a->scores + (size_t)i * a->ld_scores;
        const float *out = a->out + (size_t)row * a->ld_out + (size_t)(head * a->d_value);
        for (int32_t j = 0; j < a->n; j++) {
            const size_t cell = a->cells ? a->cells[j] : (size_t)j;
            const float *key = keys + cell * a->ld_keys + kv * (size_t)a->d_key;
            double sum = 0, size = 0;
            for (int32_t c = 0; c < a->d_key; c++) {
                sum += (double)q[c] * (double)key[c];
                size += fabs((double)q[c] * (double)key[c]);
            }
            const double want = sum * (double)a->scale;
            CHECK(fabs((double)p[j] - want) <= EPS * size * (a->d_key / 16 + 6),
                  "score %g, want %g", (double)p[j], want);
        }
        for (int32_t c = 0; c < a->d_value; c++) {
            double sum = 0, size = 0;
            for (int32_t j = 0; j < a->n; j++) {
                const size_t cell = a->cells ? a->cells[j] : (size_t)j;
                const float v = values[cell * a->ld_values + kv * (size_t)a->d_value + (size_t)c];
                sum += (double)p[j] * (double)v;
                size += fabs((double)p[j] * (double)v);
            }
            CHECK(fabs((double)out[c] - sum) <= EPS * size * a->n, "context %g, want %g",
                  (double)out[c], sum);
        }
    }
}

/* Where cache_bf16 puts element i of a head of d. */
static size_t bf16_place(size_t i, size_t d)
{
    const size_t block = i / 32 * 32, within = i % 32;
    if (block + 32 > d) return i;
    return block + (within < 16 ? 2 * within : 2 * (within - 16) + 1);
}

/* cells of heads of d in bfloat16, and in place what these are as float32 */
static uint16_t *narrow_cache(float *x, size_t n, size_t d)
{
    uint16_t *narrow = malloc(n > 0 ? n * sizeof *narrow : 1);
    for (size_t from = 0; from < n; from += d) {
        tested->cache_bf16(x + from, 1, (int32_t)d, narrow + from);
        for (size_t i = 0; i < d; i++) {
            const uint16_t got = narrow[from + bf16_place(i, d)];
            CHECK(got == s2s_bf16_from_f32(x[from + i]), "%s bfloat16 of %a: %x", tested->name,
                  (double)x[from + i], got);
            x[from + i] = bf16_value(got);
        }
    }
    return narrow;
}

TEST(attention_equals_generic)
{
    const int32_t positions[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 50};
    const int32_t widths[] = {16, 32, 48, 64, 80, 128, 144};
    for (size_t i = 0; i < LENGTH(positions); i++)
        for (size_t w = 0; w < LENGTH(widths); w++)
            for (int mode = 0; mode < 4 * 5; mode++) {
                const int32_t n = positions[i], d = widths[w];
                const data_kind kind = mode & 1 ? SPECIAL : NORMAL;
                attention_case c = attention_make(n, d, mode / 4, mode & 2, kind);
                s2s_attention a = c.a, want = c.a;
                const int32_t n_queries = a.n_rows * a.n_heads;
                const size_t out_width = (size_t)(a.n_heads * a.d_value);
                want.scores = copy_floats(a.scores, c.n_scores);
                want.out = copy_floats(a.out, c.n_out);
                for (int narrow = 0; narrow < 2; narrow++) {
                    uint16_t *keys = NULL, *values = NULL;
                    if (narrow) { /* as float32 of the rounded cache; gaps are a whole head */
                        if (a.ld_keys % (size_t)d != 0 || a.ld_values % (size_t)a.d_value != 0)
                            break;
                        a.keys = keys = narrow_cache((float *)c.a.keys, c.n_keys, (size_t)d);
                        a.values = values =
                            narrow_cache((float *)c.a.values, c.n_values, (size_t)a.d_value);
                    }
                    generic->attention_scores(&want);
                    (narrow ? tested->attention_scores_bf16 : tested->attention_scores)(&a);
                    check_rows(want.scores, a.scores, n_queries, a.ld_scores, (size_t)n,
                               narrow ? "attention_scores_bf16" : "attention_scores", d);
                    generic->attention_context(&want);
                    (narrow ? tested->attention_context_bf16 : tested->attention_context)(&a);
                    check_rows(want.out, a.out, a.n_rows, a.ld_out, out_width,
                               narrow ? "attention_context_bf16" : "attention_context", d);
                    if (kind == NORMAL) check_attention(&want);
                    free(keys), free(values);
                }
                free(want.scores), free(want.out);
                attention_free(&c);
            }
}

int main(void)
{
    FOR_EVERY_LEVEL
    {
        RUN(attention_equals_generic);
    }
    return harness_end();
}
