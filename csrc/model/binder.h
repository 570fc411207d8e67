/* binder.h: the caller's named tensors, found and checked one by one.
 *
 * Concept.  Each function finds a tensor, marks it as used, checks its shape, dtype, byte count and
 * alignment against what the model description calls for, and gives a pointer to its data.  What is
 * never used does not belong to the model.
 * Ownership.  Nothing is copied: results point into the caller's memory.
 * Thread-safety.  A binder lives within one s2s_model_create.
 */
#ifndef S2S_BINDER_H
#define S2S_BINDER_H

#include "model.h"

typedef struct s2s_binder {
    const s2s_tensor *tensors; /* [n_tensors] */
    size_t n_tensors;
    unsigned char *used; /* [n_tensors] */
    size_t next;         /* where the next search begins */
    s2s_error *error;
} s2s_binder;

/* The tensor of that name, marked as used; NULL when absent. */
const s2s_tensor *s2s_binder_find(s2s_binder *b, const char *name);
/* The error for an absent tensor. */
s2s_status s2s_binder_missing(s2s_binder *b, const char *name);
/* Plain floats [n]. */
s2s_status s2s_binder_vector(s2s_binder *b, const char *name, int64_t n, const float **out);
/* Plain floats [n_rows, n_columns]. */
s2s_status s2s_binder_table(s2s_binder *b, const char *name, int64_t n_rows, int64_t n_columns,
                            const float **out);
/* Tiles of an already found tensor, without bias; not int4; of int8 also
 * "<name>.scale" and "<name>.sum". */
s2s_status s2s_binder_tiles(s2s_binder *b, const s2s_tensor *t, int64_t n_out, int64_t n_in,
                            s2s_matrix *m);
/* "<prefix>.weight", which may be int4, and, if it has one, "<prefix>.bias". */
s2s_status s2s_binder_matrix(s2s_binder *b, const char *prefix, int64_t n_out, int64_t n_in,
                             int has_bias, s2s_matrix *m);
/* printf into name [S2S_NAME_MAX]. */
__attribute__((format(printf, 2, 3))) void s2s_name_format(char *name, const char *format, ...);

#endif
