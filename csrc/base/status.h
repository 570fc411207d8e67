/* status.h: how the core reports errors: fill the caller's s2s_error, return the status. */
#ifndef S2S_STATUS_H
#define S2S_STATUS_H

#include "../s2s.h"

/* Writes a printf-style sentence to error (which may be NULL) and returns status. */
s2s_status s2s_fail(s2s_error *error, s2s_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define S2S_TRY(expression)                                                                        \
    do {                                                                                           \
        s2s_status status_ = (expression);                                                         \
        if (status_ != S2S_OK) return status_;                                                     \
    } while (0)

#endif
