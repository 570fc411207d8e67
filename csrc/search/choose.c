/* choose.c: from the candidates of each row to the rows of the next step.
 *
 * Beams follow transformers' GenerationMixin._beam_search, for one input:
 *  - of the n_keep = max(2, 1 + n_eos) * num_beams best candidates, the first num_beams may end,
 *    and the best num_beams that do not end go on;
 *  - what ended competes for num_beams places by score / length ** length_penalty;
 *  - the search is over when these places are filled and (early_stopping) at once, or (heuristic,
 *    never) when the best live score, divided by the power of the present length, or with "never"
 *    and a positive penalty of the longest one, cannot exceed the worst of them.
 *
 * transformers starts num_beams equal rows, all but one at -1e9.  Here one row starts, and rows
 * appear as there are candidates with a finite score: the same unless there are fewer of them than
 * beams, where transformers fills up with rows of -1e9 that can even be returned. */
#include <math.h>
#include <string.h>

#include "internal.h"

static s2s_ended choice_as_end(const s2s_search *s, const s2s_choice *choice, int32_t finish_reason)
{
    return (s2s_ended){
        .position = s->position,
        .row = choice->row,
        .token = choice->token,
        .finish_reason = finish_reason,
        .logprob = choice->logprob,
        .score = s2s_search_final_score(s, choice->score, s->position + 2 - s->n_prefix),
    };
}

void s2s_choose_independent(s2s_search *s)
{
    /* one row has read the prefix for all; its first free step draws for each of them */
    const int first = s->position + 1 == s->n_prefix;
    const int32_t n = first ? s->n_rows : s->n_live;
    int32_t n_live = 0;
    for (int32_t i = 0; i < n; i++) {
        const int32_t row = first ? 0 : i;
        if (s->n_found[row] == 0) { /* every token is ruled out */
            s2s_search_end_row(s, row, S2S_FINISH_LENGTH);
            continue;
        }
        const size_t candidate = (size_t)row * (size_t)s->n_candidates + (size_t)(first ? i : 0);
        const s2s_choice choice = {
            .row = row,
            .token = s->candidate_tokens[candidate],
            .logprob = s->candidate_logprobs[candidate],
            .score = s->rows[row].score + s->candidate_logprobs[candidate],
        };
        const int32_t end = s2s_search_end_of(s, row, choice.token);
        if (end < 0)
            s2s_search_continue(s, n_live++, &choice, first ? i : s->rows[row].stream);
        else
            s2s_search_add_ended(s, choice_as_end(s, &choice, end));
    }
    s2s_search_advance(s, n_live);
}

/* Takes the best candidate that is left: largest key, then smallest token, then smallest row.  Each
 * row's candidates are in order, n_found[row] of them, heads[row] taken already.  Returns 0 when
 * none is left. */
static int take_best(s2s_search *s, s2s_choice *best)
{
    float best_key = -INFINITY;
    best->row = -1;
    for (int32_t row = 0; row < s->n_live; row++) {
        if (s->heads[row] == s->n_found[row]) continue;
        const size_t i = (size_t)row * (size_t)s->n_candidates + (size_t)s->heads[row];
        const float key = s->rows[row].score + s->candidate_keys[i];
        const int32_t token = s->candidate_tokens[i];
        if (key > best_key || (key == best_key && best->row >= 0 && token < best->token)) {
            best_key = key;
            best->row = row;
            best->token = token;
            best->logprob = s->candidate_logprobs[i];
        }
    }
    if (best->row < 0) return 0;
    best->score = s->rows[best->row].score + best->logprob;
    s->heads[best->row]++;
    return 1;
}

/* Keeps the `capacity` best choices, best first, earlier ones first among equals. */
static void keep_choice(s2s_choice *choices, int32_t *n, int32_t capacity, const s2s_choice *choice)
{
    if (*n < capacity)
        ++*n;
    else if (!(choice->score > choices[capacity - 1].score))
        return;
    int32_t i = *n - 1;
    for (; i > 0 && choices[i - 1].score < choice->score; i--) choices[i] = choices[i - 1];
    choices[i] = *choice;
}

void s2s_choose_beams(s2s_search *s)
{
    const s2s_options *o = &s->options;
    const int32_t n_generated = s->position + 2 - s->n_prefix;
    int32_t n_next = 0;
    memset(s->heads, 0, (size_t)s->n_rows * sizeof *s->heads);
    for (int32_t rank = 0; rank < s->n_keep; rank++) {
        /* sampled candidates come in the order of drawing, so that all must be looked at */
        if (!o->do_sample && rank >= o->num_beams && n_next == o->num_beams) break;
        s2s_choice choice;
        if (!take_best(s, &choice)) break;
        const int32_t end = s2s_search_end_of(s, choice.row, choice.token);
        if (end < 0)
            keep_choice(s->choices, &n_next, o->num_beams, &choice);
        else if (rank < o->num_beams)
            s2s_search_add_ended(s, choice_as_end(s, &choice, end));
    }
    if (n_next == 0 && s->n_ended == 0) { /* every token is ruled out */
        s2s_search_end_live(s, S2S_FINISH_LENGTH);
        return;
    }
    for (int32_t i = 0; i < n_next; i++) s2s_search_continue(s, i, &s->choices[i], i);

    int over = n_next == 0;
    if (!over && s->n_ended == o->num_beams) {
        const int longest = o->early_stopping == S2S_STOP_NEVER && o->length_penalty > 0.0f;
        const float best_possible = s2s_search_final_score(
            s, s->choices[0].score, longest ? o->max_new_tokens : n_generated);
        over = o->early_stopping == S2S_STOP_EARLY ||
               !(best_possible > s->ended[s->n_ended - 1].score);
    }
    s2s_search_advance(s, over ? 0 : n_next);
}
