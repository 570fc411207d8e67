/* test_sample.c: random numbers of sampling, and what is drawn with them. */
#include <math.h>

#include "harness.h"
#include "search/internal.h"

/* The first block of the authors' known-answer tests: counter 0, key 0. */
TEST(random_numbers_are_philox)
{
    const uint64_t bits = (UINT64_C(0xe169c58d) << 32 | UINT64_C(0x6627e8d5)) >> 11;
    CHECK(s2s_sample_uniform(0, 0, 0, 0) == (double)bits * 0x1p-53, "%.17g",
          s2s_sample_uniform(0, 0, 0, 0));
    double sum = 0.0;
    for (int32_t i = 0; i < 10000; i++) {
        const double u = s2s_sample_uniform(7, i, 1, 2);
        CHECK(u >= 0.0 && u < 1.0, "%g", u);
        sum += u;
    }
    CHECK(fabs(sum / 10000 - 0.5) < 0.01, "mean %g", sum / 10000);
}

TEST(draw_at_the_edges)
{
    const float p[] = {0.0f, 0.25f, 0.0f, 0.75f, 0.0f};
    const double uniforms[] = {0.0, 0.2499, 0.25, 1.0 - 0x1p-53};
    const int32_t expected[] = {1, 1, 3, 3};
    for (int i = 0; i < 4; i++)
        CHECK(s2s_sample_draw(p, 5, uniforms[i]) == expected[i], "%g", uniforms[i]);
}

int main(void)
{
    RUN(random_numbers_are_philox);
    RUN(draw_at_the_edges);
    return harness_end();
}
