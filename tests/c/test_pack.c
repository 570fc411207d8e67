#include <math.h>

#include "kernels/kernels.h"

#include "harness.h"

TEST(tiles_hold_the_matrix_and_zeros)
{
    const int64_t outs[] = {1, 15, 16, 17, 40}, ins[] = {1, 3, 16, 33};
    for (int a = 0; a < 5; a++)
        for (int b = 0; b < 4; b++) {
            const int64_t n_out = outs[a], n_in = ins[b], n_tiles = (n_out + 15) / 16;
            const size_t n = (size_t)(n_tiles * n_in * 16);
            float *w = malloc((size_t)(n_out * n_in) * sizeof *w),
                  *tiles = malloc(n * sizeof *tiles);
            uint16_t *narrow = malloc(n * sizeof *narrow);
            s2s_error error;
            for (int64_t i = 0; i < n_out * n_in; i++) w[i] = random_float();
            CHECK(s2s_pack(w, n_out, n_in, S2S_F32, tiles, n * 4, &error) == S2S_OK, "f32");
            CHECK(s2s_pack(w, n_out, n_in, S2S_BF16, narrow, n * 2, &error) == S2S_OK, "bf16");
            for (int64_t out = 0; out < n_tiles * 16; out++)
                for (int64_t i = 0; i < n_in; i++) {
                    const float want = out < n_out ? w[out * n_in + i] : 0.0f;
                    const int64_t at = (out / 16 * n_in + i) * 16 + out % 16;
                    CHECK(same_float(tiles[at], want), "[%d, %d]", (int)out, (int)i);
                    CHECK(narrow[at] == s2s_bf16_from_f32(want), "[%d, %d]", (int)out, (int)i);
                }
            free(w), free(tiles), free(narrow);
        }
}

TEST(bfloat16_rounds_to_nearest_even)
{
    const struct {
        float from;
        uint16_t to;
    } cases[] = {{0.0f, 0},
                 {-0.0f, 0x8000},
                 {1.0f, 0x3f80},
                 {0x1.01p0f, 0x3f80},     /* half way: to even, down */
                 {0x1.03p0f, 0x3f82},     /* half way: to even, up */
                 {0x1.010002p0f, 0x3f81}, /* just above half way */
                 {0x1.fffffep127f, 0x7f80},
                 {INFINITY, 0x7f80},
                 {-INFINITY, 0xff80},
                 {0x1p-149f, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK(s2s_bf16_from_f32(cases[i].from) == cases[i].to, "%a gives %x", (double)cases[i].from,
              s2s_bf16_from_f32(cases[i].from));
    const uint32_t low_nan_bits = 0x7f800001u; /* its set bits are all cut off */
    float low_nan;
    memcpy(&low_nan, &low_nan_bits, sizeof low_nan);
    const uint16_t nan = s2s_bf16_from_f32(low_nan);
    CHECK((nan & 0x7f80) == 0x7f80 && (nan & 0x7f) != 0, "a NaN gives %x", nan);
}

TEST(int8_tiles_hold_the_rounded_matrix_and_zeros)
{
    const int64_t outs[] = {1, 15, 16, 17, 40}, ins[] = {1, 3, 4, 16, 33};
    for (int a = 0; a < 5; a++)
        for (int b = 0; b < 5; b++) {
            const int64_t n_out = outs[a], n_in = ins[b], quads = (n_in + 3) / 4;
            const int64_t width = (n_out + 15) / 16 * 16;
            float *w = malloc((size_t)(n_out * n_in) * sizeof *w);
            float *scale = malloc((size_t)width * sizeof *scale);
            int32_t *sum = malloc((size_t)width * sizeof *sum);
            const size_t n = (size_t)(width * quads * 4);
            int8_t *tiles = malloc(n);
            s2s_error error;
            for (int64_t i = 0; i < n_out * n_in; i++) w[i] = random_float();
            for (int64_t i = 0; i < n_in; i++) w[(n_out - 1) * n_in + i] = 0.0f;
            CHECK(s2s_pack_int8(w, n_out, n_in, tiles, n, scale, sum, &error) == S2S_OK, "packs");
            for (int64_t out = 0; out < width; out++) {
                int32_t total = 0;
                float most = 0.0f;
                for (int64_t i = 0; out < n_out && i < n_in; i++)
                    most = fmaxf(most, fabsf(w[out * n_in + i]));
                const float want_scale = most > 0.0f ? most / 127.0f : 1.0f;
                CHECK(same_float(scale[out], want_scale), "scale of %d", (int)out);
                for (int64_t i = 0; i < 4 * quads; i++) {
                    const int is_real = out < n_out && i < n_in;
                    const int q = tiles[((out / 16 * quads + i / 4) * 16 + out % 16) * 4 + i % 4];
                    const float want = is_real ? w[out * n_in + i] / want_scale : 0.0f;
                    CHECK(q == (int)rintf(want), "[%d, %d] is %d", (int)out, (int)i, q);
                    CHECK(q >= -127 && q <= 127, "[%d, %d] is %d", (int)out, (int)i, q);
                    total += q;
                }
                CHECK(sum[out] == total, "sum of %d", (int)out);
            }
            w[n_in - 1] = NAN;
            CHECK(s2s_pack_int8(w, n_out, n_in, tiles, n, scale, sum, &error) ==
                          S2S_INVALID_ARGUMENT &&
                      strstr(error.message, "finite") != NULL,
                  "%s", error.message);
            CHECK(s2s_pack_int8(w, n_out, n_in, tiles, n - 1, scale, sum, &error) ==
                          S2S_INVALID_ARGUMENT &&
                      strstr(error.message, "needs") != NULL,
                  "%s", error.message);
            free(w), free(scale), free(sum), free(tiles);
        }
    float w[4] = {0};
    int8_t tiles[64];
    float scale[16];
    int32_t sum[16];
    s2s_error error = {0};
    CHECK(s2s_pack_int8(w, 1, S2S_INT8_MAX_K + 1, tiles, SIZE_MAX, scale, sum, &error) ==
              S2S_INVALID_ARGUMENT,
          "too many inputs");
    CHECK(s2s_pack_int8(w, 1, 4, tiles, 64, NULL, sum, &error) == S2S_INVALID_ARGUMENT, "NULL");
    CHECK(s2s_pack_int8(NULL, 1, 4, tiles, 64, scale, sum, &error) == S2S_INVALID_ARGUMENT, "NULL");
    CHECK(s2s_pack_int8(w, INT64_MAX, 4, tiles, 64, scale, sum, &error) == S2S_INVALID_ARGUMENT,
          "too large");
}

TEST(bad_arguments_are_errors)
{
    float w[16] = {0}, dst[256];
    const struct {
        const float *w;
        int64_t n_out, n_in;
        int dtype;
        void *dst;
        size_t n_bytes;
        const char *message;
    } cases[] = {
        {NULL, 1, 1, S2S_F32, dst, 64, "NULL"},
        {w, 1, 1, S2S_F32, NULL, 64, "NULL"},
        {w, 0, 1, S2S_F32, dst, 64, "not 0 and 1"},
        {w, 1, -5, S2S_F32, dst, 64, "not 1 and -5"},
        {w, 1, 1, S2S_INT32, dst, 64, "not 2"},
        {w, 1, 1, 77, dst, 64, "not 77"},
        {w, 1, 1, S2S_F32, dst, 63, "needs 64 bytes, the destination has 63"},
        {w, 17, 1, S2S_BF16, dst, 32, "needs 64 bytes"},
        {w, INT64_MAX, INT64_MAX, S2S_F32, dst, SIZE_MAX, "too large"},
        {w, (int64_t)1 << 61, 4, S2S_F32, dst, SIZE_MAX, "too large"},
        {w, 1, (int64_t)1 << 58, S2S_F32, dst, SIZE_MAX, "too large"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        s2s_error error = {0};
        const s2s_status status =
            s2s_pack(cases[i].w, cases[i].n_out, cases[i].n_in, (s2s_dtype)cases[i].dtype,
                     cases[i].dst, cases[i].n_bytes, &error);
        CHECK(status == S2S_INVALID_ARGUMENT && error.status == status, "case %zu", i);
        CHECK(strstr(error.message, cases[i].message) != NULL, "case %zu: %s", i, error.message);
    }
}

int main(void)
{
    RUN(tiles_hold_the_matrix_and_zeros);
    RUN(bfloat16_rounds_to_nearest_even);
    RUN(int8_tiles_hold_the_rounded_matrix_and_zeros);
    RUN(bad_arguments_are_errors);
    return harness_end();
}
