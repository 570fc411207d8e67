#include <inttypes.h>

#include "../base/compiler.h"
#include "../base/status.h"
#include "kernels.h"

s2s_status s2s_pack(const float *w, int64_t n_out, int64_t n_in, s2s_dtype dtype, void *dst,
                    size_t n_dst_bytes, s2s_error *error)
{
    if (w == NULL || dst == NULL)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "pack: source and destination must not be NULL");
    if (n_out < 1 || n_in < 1)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "pack: a matrix needs at least 1 output and 1 input, not %" PRId64
                        " and %" PRId64,
                        n_out, n_in);
    if (dtype != S2S_F32 && dtype != S2S_BF16)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "pack: dtype must be float32 (%d) or bfloat16 (%d), not %d", S2S_F32,
                        S2S_BF16, (int)dtype);
    const size_t size = dtype == S2S_F32 ? sizeof(float) : sizeof(uint16_t);
    const size_t n_tiles = ((size_t)n_out - 1) / S2S_TILE + 1;
    size_t n_bytes;
    if (__builtin_mul_overflow(n_tiles, (size_t)n_in, &n_bytes) ||
        __builtin_mul_overflow(n_bytes, S2S_TILE * size, &n_bytes))
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "pack: a matrix of %" PRId64 " x %" PRId64 " is too large", n_out, n_in);
    if (n_dst_bytes < n_bytes)
        return s2s_fail(error, S2S_INVALID_ARGUMENT,
                        "pack: %" PRId64 " x %" PRId64 " needs %zu bytes, the destination has %zu",
                        n_out, n_in, n_bytes, n_dst_bytes);

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
