/* search.h: the bookkeeping of one request's search: greedy, beam, sampling, forced tokens.
 *
 * Concept.  A search holds up to n_rows live hypotheses ("rows").  Each decoder step is:
 *   1. the caller feeds s2s_search_tokens()[b] for b in [0, n_live) to the decoder;
 *   2. for each row, in any order and on any thread, s2s_search_row(b, logits): processors,
 *      log-softmax, the row's best candidates.  Logits need not all be there at one time, see
 *      s2s_search_scan_begin;
 *   3. s2s_search_step(): chooses the next rows.  Row b now continues what was row parents()[b], so
 *      the caller permutes its index tables; keys and values do not move.
 * Until n_live is 0.  The search knows tokens and scores only: no model, no KV cache.
 * Semantics are those of transformers' generate() for the same GenerationConfig (greedy search;
 * beam search as in GenerationMixin._beam_search; processors in the order of
 * _get_logits_processor, then temperature, top_k, top_p, min_p, renormalize_logits).  Of one row
 * the larger logit goes first, of equals the smaller token id; ties of rows go to the smaller token
 * id, then the smaller row.
 * Result.  Best hypothesis first, samples too.  There are fewer than num_return_sequences where not
 * as many have a finite score (transformers fills up with -1e9).  A row whose tokens are all ruled
 * out, or whose logits are all -inf or NaN, cannot go on; if nothing else ended, it ends with
 * finish_reason length.  Only generated tokens count for repetition_stop.  Log-probabilities and
 * alternatives are those after the processors and, when sampling, the warpers; those of a forced
 * prefix are the model's own.
 * Sampling draws from a counter-based generator keyed by (seed, row, step): no state, no
 * neighbours.
 * Memory.  One block given by the caller; no allocation afterwards.  One thread, but for distinct
 * rows in 2., and distinct blocks of one row.
 */
#ifndef S2S_SEARCH_H
#define S2S_SEARCH_H

#include "../kernels/kernels.h"
#include "../s2s.h"

typedef struct s2s_search s2s_search;

/* Checks options and prefix against a vocabulary; an error names the option, what was expected and
 * what was found. */
s2s_status s2s_search_validate(const s2s_request *request, int32_t vocab_size, s2s_error *error);

/* Decoder rows this request needs: num_beams, or num_return_sequences when sampling. */
int32_t s2s_search_n_rows(const s2s_request *request);
/* Longest target, start token counted: n_prefix + max_new_tokens. */
int32_t s2s_search_max_positions(const s2s_request *request);

/* Bytes of the block for a validated request; 0 on overflow.  n_workers: threads that scan blocks. */
size_t s2s_search_bytes(const s2s_request *request, int32_t vocab_size, int32_t n_workers);
/* Builds the search in a zeroed, 64-byte aligned block; copies everything it needs from request. */
s2s_search *s2s_search_init(void *block, const s2s_request *request, int32_t vocab_size,
                            int32_t n_workers, const s2s_kernels *kernels);

int32_t s2s_search_n_live(const s2s_search *search); /* rows to run now; 0: ended */
/* 1 once a row's logits held a NaN: the model computes nonsense.  The search itself goes on, treating
 * it as -inf. */
int s2s_search_is_broken(const s2s_search *search);
const int32_t *s2s_search_tokens(const s2s_search *search);  /* [n_live] token to feed */
const int32_t *s2s_search_parents(const s2s_search *search); /* [n_live] after a step */

/* A prefix may be read in blocks.  given: the tokens that follow the present one whatever the logits, *n of
 * them.  read_ahead, before step 2: the caller feeds the present token and the first k - 1 given ones, k <= *n,
 * k <= S2S_SEARCH_AHEAD, at positions of their own beside what s2s_search_tokens names then.  In step 2 they are
 * the rows s2s_search_n_rows() and following. */
enum { S2S_SEARCH_AHEAD = 127 };
const int32_t *s2s_search_given(const s2s_search *search, int32_t *n);
void s2s_search_read_ahead(s2s_search *search, int32_t k);
/* The first k steps, of a prompt longer than that, as if they had been made elsewhere. */
void s2s_search_skip(s2s_search *search, int32_t k);

/* Where the caller stores the cross-attention of row b at this step, [n_source] floats; NULL if it
 * was not asked for.  Valid until s2s_search_step. */
float *s2s_search_alignment(s2s_search *search, int32_t row);
/* logits [vocab_size], 64-byte aligned, room for a multiple of 16; overwritten. */
void s2s_search_row(s2s_search *search, int32_t row, float *logits);

/* The same in parts, so that logits are never written out unless they must be. */
typedef enum s2s_logits_need {
    S2S_LOGITS_NONE,   /* then s2s_search_scan_end */
    S2S_LOGITS_BLOCKS, /* then s2s_search_scan of every block, then s2s_search_scan_end */
    S2S_LOGITS_BEST,   /* the same, but blocks without the largest logit may be left out */
    S2S_LOGITS_ROW     /* then s2s_search_whole_row */
} s2s_logits_need;
/* Whether a request will ever need S2S_LOGITS_BEST. */
int s2s_search_needs_best(const s2s_request *request);
s2s_logits_need s2s_search_scan_begin(s2s_search *search, int32_t row);
/* Block b: logits b * S2S_LOGITS_BLOCK and following, in x, aligned and overwritten as above.  A
 * worker, from 0 to n_workers - 1, scans blocks one at a time, in any order. */
void s2s_search_scan(s2s_search *search, int32_t row, int32_t worker, int32_t block, float *x);
/* Makes -inf of what may not be chosen in a block: for bounds of the logits, where BEST is needed. */
void s2s_search_rule_out(const s2s_search *search, int32_t row, int32_t block, float *x);
void s2s_search_scan_end(s2s_search *search, int32_t row);
void s2s_search_whole_row(s2s_search *search, int32_t row, float *logits);

void s2s_search_step(s2s_search *search);

/* Ends the search with what it has, finish_reason cancelled for the hypotheses still live. */
void s2s_search_cancel(s2s_search *search);
/* As s2s_session_progress. */
int32_t s2s_search_progress(const s2s_search *search, int32_t *ids, int32_t capacity);
/* Bytes for s2s_search_result's arrays are part of the block: the result points into it. */
void s2s_search_result(s2s_search *search, s2s_result *result);

#endif
