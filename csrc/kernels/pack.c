#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "../base/compiler.h"
#include "../base/status.h"
#include "kernels.h"

static s2s_status check_sizes(const void *w, const void *dst, int64_t n_out, int64_t n_in,
                              s2s_error *error)
{
    if (w == NULL || dst == NULL)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "pack: source and destination must not be NULL");
    if (n_out < 1 || n_in < 1)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "pack: a matrix needs at least 1 output and 1 input, not %" PRId64
                        " and %" PRId64,
                        n_out, n_in);
    return S2S_OK;
}

static s2s_status check_room(int64_t n_out, int64_t n_in, size_t tile_bytes, size_t n_dst_bytes,
                             s2s_error *error)
{
    const size_t n_tiles = ((size_t)n_out - 1) / S2S_TILE + 1;
    size_t n_bytes;
    if (tile_bytes == 0 || __builtin_mul_overflow(n_tiles, tile_bytes, &n_bytes))
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "pack: a matrix of %" PRId64 " x %" PRId64 " is too large", n_out, n_in);
    if (n_dst_bytes < n_bytes)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "pack: %" PRId64 " x %" PRId64 " needs %zu bytes, the destination has %zu",
                        n_out, n_in, n_bytes, n_dst_bytes);
    return S2S_OK;
}

s2s_status s2s_pack(const float *w, int64_t n_out, int64_t n_in, s2s_dtype dtype, void *dst,
                    size_t n_dst_bytes, s2s_error *error)
{
    S2S_TRY(check_sizes(w, dst, n_out, n_in, error));
    if (dtype != S2S_F32 && dtype != S2S_BF16)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "pack: dtype must be float32 (%d) or bfloat16 (%d), not %d", S2S_F32,
                        S2S_BF16, (int)dtype);
    const size_t size = dtype == S2S_F32 ? sizeof(float) : sizeof(uint16_t);
    const size_t n_tiles = ((size_t)n_out - 1) / S2S_TILE + 1;
    size_t tile_bytes;
    if (__builtin_mul_overflow((size_t)n_in, S2S_TILE * size, &tile_bytes)) tile_bytes = 0;
    S2S_TRY(check_room(n_out, n_in, tile_bytes, n_dst_bytes, error));

    size_t at = 0;
    for (size_t tile = 0; tile < n_tiles; tile++)
        for (size_t i = 0; i < (size_t)n_in; i++)
            for (size_t c = 0; c < S2S_TILE; c++, at++) {
                const size_t out = tile * S2S_TILE + c;
                const float value = out < (size_t)n_out ? w[out * (size_t)n_in + i] : 0.0f;
                if (dtype == S2S_F32)
                    ((float *)dst)[at] = value;
                else
                    ((uint16_t *)dst)[at] = s2s_bf16_from_f32(value);
            }
    return S2S_OK;
}

/* Row `out` of w into its column of the tiles. */
static s2s_status quantize_output(const float *w, int64_t n_in, int64_t out, int8_t *column,
                                  float *scale, int32_t *sum, s2s_error *error)
{
    float most = 0.0f;
    for (int64_t i = 0; i < n_in; i++) {
        if (!isfinite(w[i]))
            return s2s_fail(error, S2S_INVALID_ARGUMENT,
                            "pack: int8 needs finite weights, but that of output %" PRId64
                            " and input %" PRId64 " is %g",
                            out, i, (double)w[i]);
        if (fabsf(w[i]) > most) most = fabsf(w[i]);
    }
    *scale = most / 127.0f;
    if (*scale < 0x1p-126f) *scale = 1.0f; /* nothing but zeros, or next to it */
    for (int64_t i = 0; i < n_in; i++) {
        const int8_t q = (int8_t)rintf(w[i] / *scale);
        column[i / 4 * (4 * S2S_TILE) + i % 4] = q;
        *sum += q;
    }
    return S2S_OK;
}

s2s_status s2s_pack_int8(const float *w, int64_t n_out, int64_t n_in, int8_t *tiles,
                         size_t n_tiles_bytes, float *scale, int32_t *sum, s2s_error *error)
{
    S2S_TRY(check_sizes(w, tiles, n_out, n_in, error));
    if (scale == NULL || sum == NULL)
        return s2s_fail(error, S2S_INVALID_ARGUMENT, "pack: scale and sum must not be NULL");
    if (n_in > S2S_INT8_MAX_K)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "pack: an int8 matrix has at most %d inputs, not %" PRId64, S2S_INT8_MAX_K,
                        n_in);
    const size_t tile_bytes = ((size_t)n_in + 3) / 4 * 4 * S2S_TILE;
    S2S_TRY(check_room(n_out, n_in, tile_bytes, n_tiles_bytes, error));
    const int64_t n_padded = ((n_out - 1) / S2S_TILE + 1) * S2S_TILE;
    memset(tiles, 0, (size_t)n_padded / S2S_TILE * tile_bytes);
    for (int64_t out = 0; out < n_padded; out++) {
        int8_t *column = tiles + (size_t)(out / S2S_TILE) * tile_bytes + out % S2S_TILE * 4;
        scale[out] = 1.0f;
        sum[out] = 0;
        if (out < n_out)
            S2S_TRY(
                quantize_output(w + out * n_in, n_in, out, column, scale + out, sum + out, error));
    }
    return S2S_OK;
}

size_t s2s_by_input_bytes(int32_t k, int32_t n_tiles)
{
    return (size_t)k * (((size_t)n_tiles + 3) / 4 * 4 * S2S_TILE);
}

void s2s_pack_by_input(const int8_t *tiles, int32_t k, int32_t n_tiles, int8_t *by_input)
{
    const size_t n_quads = ((size_t)k + 3) / 4, ld = s2s_by_input_bytes(1, n_tiles);
    memset(by_input, 0, s2s_by_input_bytes(k, n_tiles));
    for (size_t tile = 0; tile < (size_t)n_tiles; tile++) {
        int8_t *to = by_input + tile / 4 * 4 * S2S_TILE + tile % 4 * 4;
        for (size_t i = 0; i < n_quads * 4; i += 4, tiles += 4 * S2S_TILE) {
            const size_t n = (size_t)k - i < 4 ? (size_t)k - i : 4;
            for (size_t c = 0; c < S2S_TILE; c += 4) {
                int8_t four[4][4]; /* of input and output */
                for (size_t j = 0; j < 16; j++) four[j % 4][j / 4] = tiles[c * 4 + j];
                for (size_t j = 0; j < n; j++) memcpy(to + (i + j) * ld + c * 4, four[j], 4);
            }
        }
    }
}
