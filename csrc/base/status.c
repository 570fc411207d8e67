#include "status.h"

#include <stdarg.h>
#include <stdio.h>

s2s_status s2s_fail(s2s_error *error, s2s_status status, const char *format, ...)
{
    if (error != NULL) {
        va_list args;
        error->status = status;
        va_start(args, format);
        if (vsnprintf(error->message, sizeof error->message, format, args) < 0)
            error->message[0] = '\0';
        va_end(args);
    }
    return status;
}
