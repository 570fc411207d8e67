/* Plain C: complete on every machine, and the oracle of every other level. */
#define S2S_KERNELS_NAME "generic"
#define S2S_KERNELS_TABLE s2s_kernels_generic

#include "vec_generic.h"

#include "kernels_impl.h"
