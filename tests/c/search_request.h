/* search_request.h: what tests of the search ask for, unless they say otherwise. */
#ifndef SEARCH_REQUEST_H
#define SEARCH_REQUEST_H

#include "s2s.h"

static const int32_t EOS[] = {0};
static const int32_t PREFIX[] = {1, 2, 3, 2};
static const int32_t SOURCE[] = {3, 2, 4, 0};

static inline s2s_request make_request(int32_t n_prefix)
{
    s2s_request r = {.source = SOURCE, .n_source = 4, .prefix = PREFIX, .n_prefix = n_prefix};
    s2s_options_default(&r.options);
    r.options.eos_token_ids = EOS;
    r.options.n_eos_token_ids = 1;
    return r;
}

#endif
