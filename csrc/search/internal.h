/* internal.h: the inside of a search, shared by the files of this folder.
 *
 * Concept.  The token fed at `position` of row b is node (position, b) of a tree; its parent is
 * node (position - 1, parent).  A hypothesis is a node, so nothing is copied when rows are
 * reordered; what a hypothesis carries from step to step (s2s_row) is small.  Row b owns slice b of
 * every per-row array below, which is all that its scan writes: rows may run on different
 * threads, and so may the blocks of one row.
 *
 * Files.  options.c defaults and checks; search.c layout, tree, steps; result.c results; edits.c the
 * logits processors; from logits to candidates scan.c, block by block, and row.c, where a whole row is
 * needed, with sample.c warpers and the random generator, select.c the k best; choose.c from
 * candidates to the next rows.
 */
#ifndef S2S_SEARCH_INTERNAL_H
#define S2S_SEARCH_INTERNAL_H

#include <stdatomic.h>

#include "search.h"

#define S2S_MAX_PERIOD 16 /* longest loop that repetition_stop sees; a power of two */

typedef struct s2s_row {
    float score;    /* sum of the log-probabilities that count */
    int32_t stream; /* sampling: which of the independent hypotheses this is */
    /* repetition_stop: generated token g at last[g mod 16]; run[q-1]: how many trailing generated
     * tokens equal the one q places before them */
    int32_t last[S2S_MAX_PERIOD], run[S2S_MAX_PERIOD];
    int32_t n_loops; /* tokens that would now end the row, at most */
} s2s_row;

/* A hypothesis that ended: node (position, row), then `token` unless that is -1. */
typedef struct s2s_ended {
    int32_t position, row, token, finish_reason;
    float logprob; /* of token */
    float score;   /* final */
} s2s_ended;

/* A chosen continuation of a live row. */
typedef struct s2s_choice {
    int32_t row, token;
    float logprob, score;
} s2s_choice;

/* Where a row puts what it finds, best first. */
typedef struct s2s_candidates {
    int32_t *tokens;        /* [n_candidates] */
    float *logprobs, *keys; /* [n_candidates]; one array unless beams are sampled */
} s2s_candidates;

/* Tokens in the order of the blocks of the vocabulary that they lie in; some perhaps repeated. */
typedef struct s2s_token_list {
    int32_t *tokens; /* [n] */
    int32_t *begin;  /* [n_blocks + 1] the first of each block; not set when n is 0 */
    int32_t n;
} s2s_token_list;

/* What the processors do to a row at this step. */
typedef struct s2s_edits {
    s2s_token_list ruled_out; /* score -inf */
    s2s_token_list penalized; /* repetition_penalty */
    float *penalized_scores;  /* [penalized.n] while they are set aside */
    int32_t *history;         /* [max_positions] the row's tokens, or NULL if nothing needs them */
    int32_t *gathered;        /* scratch of ruled_out, or NULL if nothing is ever ruled out */
} s2s_edits;

struct s2s_search {
    const s2s_kernels *kernels;
    s2s_options options; /* its arrays are copies */
    int32_t *prefix;     /* [n_prefix] */
    int32_t *source;     /* [n_source], for encoder_no_repeat_ngram_size */
    int32_t vocab_size, n_prefix, n_source;
    int32_t n_rows, n_return; /* most live rows; most hypotheses returned */
    int32_t max_positions;
    int32_t n_candidates; /* most candidates of a row at a step */
    int32_t n_keep;       /* most candidates of all beams looked at in a step */

    int32_t position; /* of the tokens fed now: rows hold position + 1 tokens */
    int32_t n_ahead;  /* tokens of the prefix read together with this step's, just before it */
    int32_t n_scans;  /* rows that step 2 may have: n_rows, and those read ahead if scored */
    int32_t n_live, n_ended, n_steps;
    atomic_int is_broken;      /* a logit was not a number; rows may find that on several threads */
    int32_t *tokens, *parents; /* [n_rows] */
    s2s_row *rows, *next_rows; /* [n_rows] */
    s2s_choice *choices;       /* [n_rows] */
    s2s_ended *ended;          /* [n_rows] best first */

    int32_t *node_tokens, *node_parents; /* [max_positions, n_rows] */
    float *node_logprobs;                /* [max_positions, n_rows] */

    /* What s2s_search_row found: [n_rows, n_candidates], best first.  keys order the candidates;
     * they are the log-probabilities themselves but for beam sampling, which perturbs them. */
    int32_t *n_found; /* [n_rows] */
    int32_t *heads;   /* [n_rows] scratch of the step: candidates taken */
    int32_t *candidate_tokens;
    float *candidate_logprobs, *candidate_keys;

    s2s_edits *edits; /* [n_rows] */

    /* Scanning by blocks.  The last worker's place holds what was penalized. */
    int32_t n_workers, n_blocks, n_best; /* n_best: most logits of a row that a worker keeps */
    float *block_max, *block_sum;        /* [n_scans, n_blocks] sum of exp(x - max) */
    float *forced_logits;                /* [n_scans] of the prefix's next token */
    float *best_values;                  /* [n_workers + 1, n_scans, n_best] */
    int32_t *best_ids;                   /* likewise */
    int32_t *n_best_found;               /* [n_workers + 1, n_scans] */

    int32_t *survivors; /* [n_rows, vocab_size] scratch of sampling, or NULL */
    float *top_logits;  /* [n_rows, n_top] scratch of top_k, or NULL */
    int32_t *top_tokens;
    int32_t n_top;     /* of top_k; 0: off */
    int32_t n_min;     /* tokens that the warpers leave at least */
    int32_t *paths[2]; /* [max_positions] scratch of s2s_search_progress */

    /* Recorded at node (position, row) by the step that fed it; NULL if not asked for. */
    float *alignments;           /* [max_positions, n_rows, n_source] */
    int32_t *alternative_ids;    /* [max_positions, n_rows, n_alternatives] */
    float *alternative_logprobs; /* likewise */

    /* Results, one slice per returned hypothesis. */
    s2s_hypothesis *hypotheses;      /* [n_return] */
    int32_t *result_tokens;          /* [n_return, max_positions] */
    float *result_logprobs;          /* likewise */
    float *result_alignments;        /* [n_return, max_positions, n_source] */
    int32_t *result_alternative_ids; /* [n_return, max_positions, n_alternatives] */
    float *result_alternative_logprobs;
};

/* Where the token of a row of this step is. */
static inline int32_t s2s_search_position(const s2s_search *s, int32_t row)
{
    return row < s->n_rows ? s->position : s->position - s->n_ahead + row - s->n_rows;
}

/* What follows the token of a row is given: the prefix continues. */
static inline int s2s_search_is_forced(const s2s_search *s, int32_t row)
{
    return s2s_search_position(s, row) + 1 < s->n_prefix;
}

static inline size_t s2s_search_node(const s2s_search *s, int32_t position, int32_t row)
{
    return (size_t)position * (size_t)s->n_rows + (size_t)row;
}

/* Where a row of this step records what it finds. */
static inline size_t s2s_search_record(const s2s_search *s, int32_t row)
{
    return s2s_search_node(s, s2s_search_position(s, row), row < s->n_rows ? row : 0);
}

/* Whether token `position` of the prefix has a log-probability. */
static inline int s2s_search_is_scored(const s2s_search *s, int32_t position)
{
    const s2s_options *o = &s->options;
    return position >= o->n_prompt && (o->return_scores || o->n_alternatives > 0);
}

/* ---- select.c ---- */

/* A heap of (value, id) pairs; its root is the smallest value and, among equals, the largest id. */
void s2s_heap_sift(float *values, int32_t *ids, int32_t n, int32_t i);
void s2s_heap_build(float *values, int32_t *ids, int32_t n);
/* Offers a pair to a heap of at most k, which keeps the largest values, of equals smaller ids. */
void s2s_heap_offer(float *values, int32_t *ids, int32_t *n, int32_t k, float value, int32_t id);
/* Turns a heap into its pairs in falling order of value, equals in rising order of id. */
void s2s_heap_sort(float *values, int32_t *ids, int32_t n);
/* The k largest of x [n], best first, to values and ids [k]; -inf and NaN are left out.  Returns
 * how many. */
int32_t s2s_top_k(const s2s_kernels *kernels, const float *x, int32_t n, int32_t k, float *values,
                  int32_t *ids);

/* ---- edits.c ---- */

/* Finds what the processors do to a row at this step. */
void s2s_edits_find(s2s_search *s, int32_t row);
/* The tokens that the processors force at this step, [n]; NULL: none, they choose freely. */
const int32_t *s2s_edits_forced(const s2s_search *s, int32_t *n);
/* Whether a forced token is ruled out all the same. */
int s2s_edits_suppressed(const s2s_search *s, int32_t row, int32_t token);
/* Whether anything in a block is edited. */
int s2s_edits_touch(const s2s_edits *e, int32_t block);
/* Makes -inf of what is ruled out or penalized in a block, x its scores; those of the penalized go to
 * penalized_scores, -inf where the token was ruled out or is repeated. */
void s2s_edits_take(const s2s_edits *e, int32_t block, float *x);
/* Puts the penalized scores of a block in their places. */
void s2s_edits_put(const s2s_search *s, const s2s_edits *e, int32_t block, float *x);
float s2s_edits_penalize(const s2s_search *s, float score);
/* All of it, in place, on a whole row of logits (or log-probabilities, in beam search) x. */
void s2s_edits_apply(s2s_search *s, int32_t row, float *x);

/* ---- scan.c ---- */

/* Of a row at this step there are no alternatives from number `first` on. */
void s2s_search_no_alternatives(s2s_search *s, int32_t row, int32_t first);

/* A NaN becomes -inf, and breaks the search; +inf becomes FLT_MAX. */
void s2s_logits_clean(s2s_search *s, float *x, int32_t n);

/* ---- row.c ---- */

s2s_candidates s2s_search_candidates(s2s_search *s, int32_t row);
/* How many of a row's candidates can matter at this step, at most n_candidates. */
int32_t s2s_search_n_candidates(const s2s_search *s, int32_t row);

/* ---- sample.c ---- */

/* temperature, top_k, top_p, min_p.  The tokens that remain go to ids, their logits to the front of
 * x; returns how many, 0 only if there were none. */
int32_t s2s_sample_warp(const s2s_search *s, int32_t row, float *x, int32_t *ids);
/* Uniform in [0, 1), a function of its arguments alone. */
double s2s_sample_uniform(uint64_t seed, int32_t position, int32_t stream, int32_t token);
/* Index drawn from p [n], which need not sum to 1. */
int32_t s2s_sample_draw(const float *p, int32_t n, double uniform);
/* Noise for drawing without replacement: the k largest of log p + Gumbel are k draws in order. */
float s2s_sample_gumbel(uint64_t seed, int32_t position, int32_t row, int32_t token);

/* ---- choose.c ---- */

void s2s_choose_independent(s2s_search *s); /* greedy and sampling: each row goes its own way */
void s2s_choose_beams(s2s_search *s);

/* ---- search.c ---- */

int s2s_search_is_eos(const s2s_search *s, int32_t token);
/* Why row `row` would end if it continued with a generated token; -1: it would not. */
int32_t s2s_search_end_of(const s2s_search *s, int32_t row, int32_t token);
/* score / n_generated ** length_penalty */
float s2s_search_final_score(const s2s_search *s, float score, int32_t n_generated);
/* Places a hypothesis among the n_rows best ended ones. */
void s2s_search_add_ended(s2s_search *s, s2s_ended ended);
/* Ends one live row, or all of them, where they are. */
void s2s_search_end_row(s2s_search *s, int32_t row, int32_t finish_reason);
void s2s_search_end_live(s2s_search *s, int32_t finish_reason);
/* Makes `choice` live row `index` of the next step, which s2s_search_advance begins. */
void s2s_search_continue(s2s_search *s, int32_t index, const s2s_choice *choice, int32_t stream);
void s2s_search_advance(s2s_search *s, int32_t n_live);

#endif
