/* random_model.h: small models with random weights, for tests of everything above the kernels. */
#ifndef RANDOM_MODEL_H
#define RANDOM_MODEL_H

#include "../../csrc/s2s.h"

typedef struct random_model {
    s2s_model_config config;
    s2s_tensor tensors[256];
    char names[256][S2S_NAME_MAX];
    size_t n_tensors;
} random_model;

/* Two encoder and two decoder layers, 3 heads of 20 (padded to 32), d_model 40, vocabulary 53. */
s2s_model_config random_model_config(void);
/* 0: that.  1: RMS norms before and after blocks, gated feed-forward, no biases, relative positions, shared
 * key heads, soft caps, a window in one layer.  2: RMS norms, rotary positions, a window, latent attention. */
s2s_model_config random_model_variant(int variant);
/* All tensors of `config`, reproducible from `seed`.  Returns 0 when out of memory. */
int random_model_init(random_model *m, const s2s_model_config *config, s2s_dtype dtype,
                      unsigned seed);
void random_model_release(random_model *m);
/* As init, from a seed of its own, and the model of these tensors; NULL and `error` where there is none. */
s2s_model *random_model_create(random_model *m, const s2s_model_config *config, s2s_dtype dtype,
                               s2s_isa isa, s2s_error *error);

#endif
