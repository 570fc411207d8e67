/* binder.c: named tensors, each checked as it is bound (binder.h). */
#include "binder.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../base/status.h"

/* The search goes on from the tensor found last: files are mostly in the order of asking. */
const s2s_tensor *s2s_binder_find(s2s_binder *b, const char *name)
{
    for (size_t n = 0; n < b->n_tensors; n++) {
        const size_t i = b->next;
        b->next = i + 1 < b->n_tensors ? i + 1 : 0;
        if (strcmp(b->tensors[i].name, name) == 0) {
            b->used[i] = 1;
            return &b->tensors[i];
        }
    }
    return NULL;
}

static void describe_shape(char *text, size_t size, int32_t rank, const int64_t *shape)
{
    size_t n = 0;
    text[0] = '\0';
    for (int32_t i = 0; i < rank && i < S2S_MAX_RANK && n < size; i++) {
        int written = snprintf(text + n, size - n, i ? ", %lld" : "%lld", (long long)shape[i]);
        if (written < 0) break;
        n += (size_t)written;
    }
}

/* What a tensor may hold: tiles are 64-byte aligned. */
typedef enum tensor_kind { FLOATS, SUMS, TILES, INT8_TILES, INT4_TILES } tensor_kind;

static const struct {
    s2s_dtype dtypes[2];
    const char *expected;
    size_t alignment;
} kinds[] = {[FLOATS] = {{S2S_F32, S2S_F32}, "float32", 4},
             [SUMS] = {{S2S_INT32, S2S_INT32}, "int32", 4},
             [TILES] = {{S2S_F32, S2S_BF16}, "float32, bfloat16, int8 or int4", 64},
             [INT8_TILES] = {{S2S_INT8, S2S_INT8}, "int8", 64},
             [INT4_TILES] = {{S2S_INT4, S2S_INT4}, "int4", 64}};
static const size_t dtype_sizes[] = {
    [S2S_F32] = 4, [S2S_BF16] = 2, [S2S_INT32] = 4, [S2S_INT8] = 1, [S2S_INT4] = 1};

/* Checks shape, dtype, byte count and alignment. */
static s2s_status check_tensor(s2s_binder *b, const s2s_tensor *t, int32_t rank,
                               const int64_t *shape, tensor_kind kind)
{
    int same = t->rank == rank;
    size_t n = 1;
    for (int32_t i = 0; same && i < rank; i++) {
        same = t->shape[i] == shape[i];
        n *= (size_t)shape[i]; /* bounded by the limits above: at most 2^20 * 2^20 * 16 */
    }
    if (!same) {
        char expected[96], found[96];
        describe_shape(expected, sizeof expected, rank, shape);
        describe_shape(found, sizeof found, t->rank, t->shape);
        return s2s_fail(b->error, S2S_INVALID_MODEL, "tensor %s must have shape [%s], but has [%s]",
                        t->name, expected, found);
    }
    if (t->dtype != kinds[kind].dtypes[0] && t->dtype != kinds[kind].dtypes[1]) {
        return s2s_fail(b->error, S2S_INVALID_MODEL,
                        "tensor %s must be %s, but has dtype number %d", t->name,
                        kinds[kind].expected, (int)t->dtype);
    }
    size_t n_bytes = n * dtype_sizes[t->dtype];
    if (t->data == NULL || t->n_bytes != n_bytes) {
        return s2s_fail(b->error, S2S_INVALID_MODEL, "tensor %s must have %zu bytes, but has %zu",
                        t->name, n_bytes, t->data ? t->n_bytes : 0);
    }
    size_t alignment = kinds[kind].alignment;
    if ((uintptr_t)t->data % alignment != 0) {
        return s2s_fail(b->error, S2S_INVALID_MODEL,
                        "tensor %s must be aligned to %zu bytes, but is %zu bytes off", t->name,
                        alignment, (size_t)((uintptr_t)t->data % alignment));
    }
    return S2S_OK;
}

s2s_status s2s_binder_missing(s2s_binder *b, const char *name)
{
    return s2s_fail(b->error, S2S_INVALID_MODEL, "tensor %s is missing", name);
}

void s2s_name_format(char *name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, S2S_NAME_MAX, format, arguments);
    va_end(arguments);
}

s2s_status s2s_binder_vector(s2s_binder *b, const char *name, int64_t n, const float **out)
{
    const s2s_tensor *t = s2s_binder_find(b, name);
    if (t == NULL) return s2s_binder_missing(b, name);
    S2S_TRY(check_tensor(b, t, 1, &n, FLOATS));
    *out = t->data;
    return S2S_OK;
}

static s2s_status bind_tiles(s2s_binder *b, const s2s_tensor *t, int64_t n_out, int64_t n_in,
                             s2s_matrix *m)
{
    int64_t n_tiles = (n_out + S2S_TILE - 1) / S2S_TILE;
    int64_t n_all = n_tiles * S2S_TILE;
    char name[S2S_NAME_MAX];
    *m = (s2s_matrix){.w = t->data,
                      .bias = NULL,
                      .n_in = (int32_t)n_in,
                      .n_out = (int32_t)n_out,
                      .n_tiles = (int32_t)n_tiles,
                      .dtype = t->dtype};
    if (t->dtype != S2S_INT8 && t->dtype != S2S_INT4) {
        int64_t shape[3] = {n_tiles, n_in, S2S_TILE};
        return check_tensor(b, t, 3, shape, TILES);
    }
    if (n_in > S2S_INT8_MAX_K) {
        return s2s_fail(b->error, S2S_INVALID_MODEL,
                        "tensor %s is int8 or int4 and may have at most %d inputs, but has %lld",
                        t->name, S2S_INT8_MAX_K, (long long)n_in);
    }
    if (t->dtype == S2S_INT8) {
        int64_t shape[4] = {n_tiles, (n_in + 3) / 4, S2S_TILE, 4};
        S2S_TRY(check_tensor(b, t, 4, shape, INT8_TILES));
    } else {
        int64_t shape[4] = {n_tiles, (n_in + 127) / 128, 17, 64};
        S2S_TRY(check_tensor(b, t, 4, shape, INT4_TILES));
    }
    s2s_name_format(name, "%s.scale", t->name);
    S2S_TRY(s2s_binder_vector(b, name, n_all, &m->scale));
    s2s_name_format(name, "%s.sum", t->name);
    const s2s_tensor *sum = s2s_binder_find(b, name);
    if (sum == NULL) return s2s_binder_missing(b, name);
    S2S_TRY(check_tensor(b, sum, 1, &n_all, SUMS));
    m->sum = sum->data;
    return S2S_OK;
}

s2s_status s2s_binder_tiles(s2s_binder *b, const s2s_tensor *t, int64_t n_out, int64_t n_in,
                            s2s_matrix *m)
{
    if (t->dtype == S2S_INT4) {
        return s2s_fail(b->error, S2S_INVALID_MODEL,
                        "tensor %s must not be int4: only matrices of layers can", t->name);
    }
    return bind_tiles(b, t, n_out, n_in, m);
}

s2s_status s2s_binder_matrix(s2s_binder *b, const char *prefix, int64_t n_out, int64_t n_in,
                             int has_bias, s2s_matrix *m)
{
    char name[S2S_NAME_MAX];
    s2s_name_format(name, "%s.weight", prefix);
    const s2s_tensor *t = s2s_binder_find(b, name);
    if (t == NULL) return s2s_binder_missing(b, name);
    S2S_TRY(bind_tiles(b, t, n_out, n_in, m));
    s2s_name_format(m->input_name, "%s.input", prefix);
    if (!has_bias) return S2S_OK;
    s2s_name_format(name, "%s.bias", prefix);
    return s2s_binder_vector(b, name, (int64_t)S2S_TILE * m->n_tiles, &m->bias);
}

s2s_status s2s_binder_table(s2s_binder *b, const char *name, int64_t n_rows, int64_t n_columns,
                            const float **out)
{
    const int64_t shape[2] = {n_rows, n_columns};
    const s2s_tensor *t = s2s_binder_find(b, name);
    if (t == NULL) return s2s_binder_missing(b, name);
    S2S_TRY(check_tensor(b, t, 2, shape, FLOATS));
    *out = t->data;
    return S2S_OK;
}
