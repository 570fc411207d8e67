/* result.c: what a search has found, read back from its tree. */
#include <string.h>

#include "../base/numbers.h"
#include "internal.h"

/* The end token of an ended hypothesis, or -1. */
static int32_t end_token(const s2s_search *s, const s2s_ended *e)
{
    const int may_end = e->finish_reason == S2S_FINISH_EOS || e->finish_reason == S2S_FINISH_SCORED;
    return may_end && e->token >= 0 && s2s_search_is_eos(s, e->token) ? e->token : -1;
}

/* Tokens after the start token of node (position, row), to path [position]. */
static void read_path(const s2s_search *s, int32_t position, int32_t row, int32_t *path)
{
    for (; position > 0; position--) {
        const size_t node = s2s_search_node(s, position, row);
        path[position - 1] = s->node_tokens[node];
        row = s->node_parents[node];
    }
}

static int32_t read_ended(const s2s_search *s, const s2s_ended *e, int32_t *path)
{
    read_path(s, e->position, e->row, path);
    if (e->token < 0 || end_token(s, e) >= 0) return e->position;
    path[e->position] = e->token;
    return e->position + 1;
}

int32_t s2s_search_progress(const s2s_search *s, int32_t *ids, int32_t capacity)
{
    /* once it is over, only what will be returned speaks */
    const int32_t n_ended = s->n_live > 0 ? s->n_ended : s2s_min(s->n_ended, s->n_return);
    int32_t n_agreed = -1;
    for (int32_t i = 0; i < s->n_live + n_ended; i++) {
        int32_t *path = s->paths[n_agreed >= 0];
        int32_t n = s->position;
        if (i < s->n_live)
            read_path(s, s->position, i, path);
        else
            n = read_ended(s, &s->ended[i - s->n_live], path);
        if (n_agreed < 0) n_agreed = n;
        int32_t j = 0;
        while (j < s2s_min(n, n_agreed) && path[j] == s->paths[0][j]) j++;
        n_agreed = j;
    }
    if (n_agreed <= 0) return 0;
    const int32_t n_wanted =
        s2s_min(n_agreed, capacity); /* ids may be NULL when nothing is wanted */
    if (n_wanted > 0) memcpy(ids, s->paths[0], (size_t)n_wanted * sizeof *ids);
    return n_agreed;
}

/* Copies what was recorded at node (position, row) for token `position` of hypothesis h. */
static void copy_records(s2s_search *s, int32_t h, int32_t position, int32_t row)
{
    const size_t node = s2s_search_node(s, position, row);
    const size_t to = (size_t)h * (size_t)s->max_positions + (size_t)position;
    const size_t n_source = (size_t)s->n_source, k = (size_t)s->options.n_alternatives;
    if (s->alignments != NULL)
        memcpy(s->result_alignments + to * n_source, s->alignments + node * n_source,
               n_source * sizeof(float));
    if (k > 0) {
        memcpy(s->result_alternative_ids + to * k, s->alternative_ids + node * k,
               k * sizeof(int32_t));
        memcpy(s->result_alternative_logprobs + to * k, s->alternative_logprobs + node * k,
               k * sizeof(float));
    }
}

void s2s_search_result(s2s_search *s, s2s_result *result)
{
    const int32_t k = s->options.n_alternatives;
    result->n_hypotheses = s2s_min(s->n_ended, s->n_return);
    result->n_source = s->n_source;
    result->n_alternatives = k;
    result->n_steps = s->n_steps;
    result->hypotheses = s->hypotheses;
    for (int32_t h = 0; h < result->n_hypotheses; h++) {
        const s2s_ended *e = &s->ended[h];
        const size_t slice = (size_t)h * (size_t)s->max_positions;
        int32_t *tokens = s->result_tokens + slice;
        float *logprobs = s->result_logprobs + slice;
        int32_t row = e->row;
        if (e->token >= 0) {
            logprobs[e->position] = e->logprob;
            copy_records(s, h, e->position, row);
        }
        for (int32_t p = e->position; p > 0; p--) {
            const size_t node = s2s_search_node(s, p, row);
            logprobs[p - 1] = s->node_logprobs[node];
            row = s->node_parents[node];
            copy_records(s, h, p - 1, row);
        }
        s->hypotheses[h] = (s2s_hypothesis){
            .tokens = tokens,
            .logprobs = s->options.return_scores ? logprobs : NULL,
            .alignment =
                s->alignments != NULL ? s->result_alignments + slice * (size_t)s->n_source : NULL,
            .alternative_ids = k > 0 ? s->result_alternative_ids + slice * (size_t)k : NULL,
            .alternative_logprobs =
                k > 0 ? s->result_alternative_logprobs + slice * (size_t)k : NULL,
            .n_tokens = read_ended(s, e, tokens),
            .n_logprobs = e->position + (e->token >= 0),
            .end_token = end_token(s, e),
            .finish_reason = e->finish_reason,
            .score = s->options.return_scores ? e->score : 0.0f,
        };
    }
}
