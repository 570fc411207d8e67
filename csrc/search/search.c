/* search.c: the memory of a search, its tree of hypotheses, and its steps. */
#include <math.h>
#include <string.h>

#include "../base/arena.h"
#include "../base/numbers.h"
#include "internal.h"

/* ---- Layout: the same code counts (base NULL) and places ------------------------------------ */

static void *take(s2s_arena *arena, size_t n_a, size_t n_b, size_t size)
{
    size_t n;
    if (__builtin_mul_overflow(n_a, n_b, &n)) {
        arena->overflow = 1;
        return NULL;
    }
    return s2s_arena_take(arena, n, size);
}

static int32_t *take_copy(s2s_arena *arena, const int32_t *from, int32_t n)
{
    int32_t *to = s2s_arena_take(arena, (size_t)n, sizeof *to);
    if (to != NULL && n > 0) memcpy(to, from, (size_t)n * sizeof *to);
    return to;
}

static void copy_options(s2s_arena *arena, s2s_options *to, const s2s_options *from)
{
    *to = *from;
    to->eos_token_ids = take_copy(arena, from->eos_token_ids, from->n_eos_token_ids);
    to->forced_eos_token_ids =
        take_copy(arena, from->forced_eos_token_ids, from->n_forced_eos_token_ids);
    to->suppress_tokens = take_copy(arena, from->suppress_tokens, from->n_suppress_tokens);
    to->begin_suppress_tokens =
        take_copy(arena, from->begin_suppress_tokens, from->n_begin_suppress_tokens);
    if (from->n_bad_words > 0) {
        to->bad_words_offsets = take_copy(arena, from->bad_words_offsets, from->n_bad_words + 1);
        to->bad_words =
            take_copy(arena, from->bad_words, from->bad_words_offsets[from->n_bad_words]);
    }
}

/* Memory of the processors, for a search that chooses tokens. */
static void lay_out_edits(s2s_search *s, s2s_arena *arena)
{
    const s2s_options *o = &s->options;
    const int32_t counts[] = {
        o->n_suppress_tokens,
        o->n_begin_suppress_tokens,
        o->n_bad_words,
        o->min_new_tokens > 0 ? o->n_eos_token_ids : 0,
        o->no_repeat_ngram_size > 0 ? s->max_positions : 0,
        o->encoder_no_repeat_ngram_size > 0 ? s->n_source : 0,
    };
    size_t n_ruled_out = 0;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) n_ruled_out += (size_t)counts[i];
    const size_t n_begin = (size_t)s->n_blocks + 1, positions = (size_t)s->max_positions;
    const int penalizes = o->repetition_penalty != 1.0f;
    const int reads_history = penalizes || o->no_repeat_ngram_size > 0 ||
                              o->encoder_no_repeat_ngram_size > 0 || o->n_bad_words > 0;
    for (int32_t row = 0; row < s->n_rows; row++) {
        s2s_edits e = {0};
        if (reads_history) e.history = take(arena, positions, 1, sizeof *e.history);
        if (n_ruled_out > 0) {
            e.gathered = take(arena, n_ruled_out, 1, sizeof *e.gathered);
            e.ruled_out.tokens = take(arena, n_ruled_out, 1, sizeof *e.ruled_out.tokens);
            e.ruled_out.begin = take(arena, n_begin, 1, sizeof *e.ruled_out.begin);
        }
        if (penalizes) {
            e.penalized.tokens = take(arena, positions, 1, sizeof *e.penalized.tokens);
            e.penalized.begin = take(arena, n_begin, 1, sizeof *e.penalized.begin);
            e.penalized_scores = take(arena, positions, 1, sizeof *e.penalized_scores);
        }
        if (s->edits != NULL) s->edits[row] = e;
    }
}

static void lay_out(s2s_search *s, s2s_arena *arena, const s2s_request *request, int32_t vocab_size,
                    int32_t n_workers)
{
    const s2s_options *o = &request->options;
    *s = (s2s_search){0};
    s->vocab_size = vocab_size;
    s->n_blocks = (vocab_size + S2S_LOGITS_BLOCK - 1) / S2S_LOGITS_BLOCK;
    s->n_prefix = request->n_prefix;
    s->n_source = s2s_max(request->n_source, 0);
    s->n_rows = s2s_search_n_rows(request);
    s->n_return = s2s_min(o->num_return_sequences, s->n_rows);
    s->max_positions = s2s_search_max_positions(request);
    const int is_free = o->max_new_tokens > 0; /* else nothing is chosen */
    /* tokens that would close a loop */
    const int32_t n_loops = o->repetition_stop > 0 ? S2S_MAX_PERIOD : 0;
    s->n_keep = s2s_max(2, 1 + o->n_eos_token_ids) * o->num_beams;
    if (!is_free)
        s->n_candidates = 1;
    else if (o->num_beams == 1)
        s->n_candidates = s->n_rows; /* what the first free step draws for the others */
    else if (o->do_sample)
        s->n_candidates = s2s_min(s->n_keep, vocab_size);
    else {
        s->n_candidates = s2s_min(o->num_beams + o->n_eos_token_ids + n_loops, vocab_size);
        s->n_keep += n_loops * o->num_beams;
    }

    const size_t rows = (size_t)s->n_rows, positions = (size_t)s->max_positions;
    const size_t source = (size_t)s->n_source, alternatives = (size_t)o->n_alternatives;
    const size_t candidates = (size_t)s->n_candidates, returned = (size_t)s->n_return;
    size_t nodes = 0, results = 0;
    if (__builtin_mul_overflow(positions, rows, &nodes) ||
        __builtin_mul_overflow(positions, returned, &results))
        arena->overflow = 1;

    copy_options(arena, &s->options, o);
    s->prefix = take_copy(arena, request->prefix, request->n_prefix);
    if (o->encoder_no_repeat_ngram_size > 0)
        s->source = take_copy(arena, request->source, s->n_source);
    s->tokens = take(arena, rows, 1, sizeof *s->tokens);
    s->parents = take(arena, rows, 1, sizeof *s->parents);
    s->rows = take(arena, rows, 1, sizeof *s->rows);
    s->next_rows = take(arena, rows, 1, sizeof *s->next_rows);
    s->choices = take(arena, rows, 1, sizeof *s->choices);
    s->ended = take(arena, rows, 1, sizeof *s->ended);
    s->node_tokens = take(arena, nodes, 1, sizeof *s->node_tokens);
    s->node_parents = take(arena, nodes, 1, sizeof *s->node_parents);
    s->node_logprobs = take(arena, nodes, 1, sizeof *s->node_logprobs);

    s->n_found = take(arena, rows, 1, sizeof *s->n_found);
    s->heads = take(arena, rows, 1, sizeof *s->heads);
    s->candidate_tokens = take(arena, rows, candidates, sizeof *s->candidate_tokens);
    s->candidate_logprobs = take(arena, rows, candidates, sizeof *s->candidate_logprobs);
    s->candidate_keys = s->candidate_logprobs;
    if (o->do_sample && o->num_beams > 1)
        s->candidate_keys = take(arena, rows, candidates, sizeof *s->candidate_keys);

    s->edits = take(arena, rows, 1, sizeof *s->edits);
    if (is_free) lay_out_edits(s, arena);
    s->n_workers = n_workers;
    s->n_best = s2s_max(s->n_candidates, o->n_alternatives);
    s->n_best = s2s_min(s->n_best, vocab_size);
    s->n_scans = s->n_rows;
    if (s2s_search_is_scored(s, s->n_prefix - 1))
        s->n_scans += s2s_min(s->n_prefix - 1, S2S_SEARCH_AHEAD);
    const size_t scans = (size_t)s->n_scans, blocks = (size_t)s->n_blocks;
    const size_t places = scans * ((size_t)n_workers + 1);
    s->block_max = take(arena, scans, blocks, sizeof *s->block_max);
    s->block_sum = take(arena, scans, blocks, sizeof *s->block_sum);
    s->forced_logits = take(arena, scans, 1, sizeof *s->forced_logits);
    s->best_values = take(arena, places, (size_t)s->n_best, sizeof *s->best_values);
    s->best_ids = take(arena, places, (size_t)s->n_best, sizeof *s->best_ids);
    s->n_best_found = take(arena, places, 1, sizeof *s->n_best_found);
    if (is_free && o->do_sample) {
        /* beams need one continuation beside every end token */
        s->n_min = o->num_beams == 1 ? 1 : s2s_max(2, 1 + o->n_eos_token_ids);
        s->survivors = take(arena, rows, (size_t)vocab_size, sizeof *s->survivors);
        if (o->top_k > 0) {
            s->n_top = s2s_min(s2s_max(o->top_k, s->n_min), vocab_size);
            s->top_logits = take(arena, rows, (size_t)s->n_top, sizeof *s->top_logits);
            s->top_tokens = take(arena, rows, (size_t)s->n_top, sizeof *s->top_tokens);
        }
    }
    for (int i = 0; i < 2; i++) s->paths[i] = take(arena, positions, 1, sizeof *s->paths[i]);

    s->hypotheses = take(arena, returned, 1, sizeof *s->hypotheses);
    s->result_tokens = take(arena, results, 1, sizeof *s->result_tokens);
    s->result_logprobs = take(arena, results, 1, sizeof *s->result_logprobs);
    if (o->return_alignment) {
        s->alignments = take(arena, nodes, source, sizeof *s->alignments);
        s->result_alignments = take(arena, results, source, sizeof *s->result_alignments);
    }
    if (alternatives > 0) {
        s->alternative_ids = take(arena, nodes, alternatives, sizeof *s->alternative_ids);
        s->alternative_logprobs = take(arena, nodes, alternatives, sizeof *s->alternative_logprobs);
        s->result_alternative_ids =
            take(arena, results, alternatives, sizeof *s->result_alternative_ids);
        s->result_alternative_logprobs =
            take(arena, results, alternatives, sizeof *s->result_alternative_logprobs);
    }
}

size_t s2s_search_bytes(const s2s_request *request, int32_t vocab_size, int32_t n_workers)
{
    s2s_search search;
    s2s_arena arena = {0};
    s2s_arena_take(&arena, 1, sizeof search);
    lay_out(&search, &arena, request, vocab_size, n_workers);
    return arena.overflow ? 0 : arena.used;
}

s2s_search *s2s_search_init(void *block, const s2s_request *request, int32_t vocab_size,
                            int32_t n_workers, const s2s_kernels *kernels)
{
    s2s_arena arena = {.base = block, .size = s2s_search_bytes(request, vocab_size, n_workers)};
    s2s_search *s = s2s_arena_take(&arena, 1, sizeof *s);
    lay_out(s, &arena, request, vocab_size, n_workers);
    s->kernels = kernels;
    s->n_live = 1;
    s->tokens[0] = s->node_tokens[0] = s->prefix[0];
    if (s->n_prefix == 1 && s->options.max_new_tokens == 0) /* nothing to score, nothing to add */
        s2s_search_end_live(s, s->options.score_only ? S2S_FINISH_SCORED : S2S_FINISH_LENGTH);
    return s;
}

/* ---- Hypotheses ------------------------------------------------------------------------------ */

int s2s_search_is_eos(const s2s_search *s, int32_t token)
{
    for (int32_t i = 0; i < s->options.n_eos_token_ids; i++)
        if (s->options.eos_token_ids[i] == token) return 1;
    return 0;
}

/* Length of the run that `token`, as generated token g, makes with the tokens `period` places
 * before. */
static int32_t run_with(const s2s_row *row, int32_t g, int32_t token, int32_t period)
{
    if (g < period || row->last[(g - period) % S2S_MAX_PERIOD] != token) return 0;
    return row->run[period - 1] + 1;
}

int32_t s2s_search_end_of(const s2s_search *s, int32_t row, int32_t token)
{
    const int32_t g = s->position + 1 - s->n_prefix, times = s->options.repetition_stop;
    if (s2s_search_is_eos(s, token)) return S2S_FINISH_EOS;
    for (int32_t period = 1; s->rows[row].n_loops > 0 && period <= S2S_MAX_PERIOD; period++)
        if (run_with(&s->rows[row], g, token, period) >= period * (times - 1))
            return S2S_FINISH_REPETITION;
    return s->position + 2 >= s->max_positions ? (int32_t)S2S_FINISH_LENGTH : -1;
}

float s2s_search_final_score(const s2s_search *s, float score, int32_t n_generated)
{
    if (n_generated == 0) return 0.0f;
    return (float)(score / pow(n_generated, s->options.length_penalty));
}

void s2s_search_add_ended(s2s_search *s, s2s_ended ended)
{
    if (s->n_ended < s->n_rows)
        s->n_ended++;
    else if (!(ended.score > s->ended[s->n_ended - 1].score))
        return;
    int32_t i = s->n_ended - 1;
    for (; i > 0 && s->ended[i - 1].score < ended.score; i--) s->ended[i] = s->ended[i - 1];
    s->ended[i] = ended;
}

void s2s_search_end_row(s2s_search *s, int32_t row, int32_t finish_reason)
{
    const int32_t n_generated = s2s_max(s->position + 1 - s->n_prefix, 0);
    s2s_search_add_ended(
        s, (s2s_ended){.position = s->position,
                       .row = row,
                       .token = -1,
                       .finish_reason = finish_reason,
                       .score = s2s_search_final_score(s, s->rows[row].score, n_generated)});
}

void s2s_search_end_live(s2s_search *s, int32_t finish_reason)
{
    for (int32_t row = 0; row < s->n_live; row++) s2s_search_end_row(s, row, finish_reason);
    s->n_live = 0;
}

void s2s_search_continue(s2s_search *s, int32_t index, const s2s_choice *choice, int32_t stream)
{
    const size_t node = s2s_search_node(s, s->position + 1, index);
    s->node_tokens[node] = choice->token;
    s->node_parents[node] = choice->row;
    s->node_logprobs[node] = choice->logprob;
    s->tokens[index] = choice->token;
    s->parents[index] = choice->row;

    const s2s_row *from = &s->rows[choice->row];
    s2s_row *to = &s->next_rows[index];
    *to = *from;
    to->score = choice->score;
    to->stream = stream;
    const int32_t g = s->position + 1 - s->n_prefix;
    const int32_t times = s->options.repetition_stop;
    if (g < 0 || times == 0) return;
    to->n_loops = 0;
    for (int32_t period = 1; period <= S2S_MAX_PERIOD; period++) {
        const int32_t run = run_with(from, g, choice->token, period);
        to->run[period - 1] = run;
        to->n_loops += run + 1 >= period * (times - 1);
    }
    to->last[g % S2S_MAX_PERIOD] = choice->token;
}

void s2s_search_advance(s2s_search *s, int32_t n_live)
{
    s2s_row *rows = s->rows;
    s->rows = s->next_rows;
    s->next_rows = rows;
    s->position++;
    s->n_live = n_live;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

int32_t s2s_search_n_live(const s2s_search *s)
{
    return s->n_live;
}
int s2s_search_is_broken(const s2s_search *s)
{
    return atomic_load_explicit(&s->is_broken, memory_order_relaxed);
}
const int32_t *s2s_search_tokens(const s2s_search *s)
{
    return s->tokens;
}
const int32_t *s2s_search_parents(const s2s_search *s)
{
    return s->parents;
}

float *s2s_search_alignment(s2s_search *s, int32_t row)
{
    if (s->alignments == NULL) return NULL;
    return s->alignments + s2s_search_record(s, row) * (size_t)s->n_source;
}

/* What the token of the prefix at `position` adds to the score. */
static float forced_score(const s2s_search *s, int32_t position, float logprob)
{
    return s->options.score_only && position >= s->options.n_prompt ? logprob : 0.0f;
}

static void step_forced(s2s_search *s)
{
    const s2s_options *o = &s->options;
    const float logprob = s->candidate_logprobs[0];
    const s2s_choice choice = {
        .row = 0,
        .token = s->candidate_tokens[0],
        .logprob = logprob,
        .score = s->rows[0].score + forced_score(s, s->position + 1, logprob),
    };
    if (o->max_new_tokens > 0 || s->position + 2 < s->n_prefix) {
        s2s_search_continue(s, 0, &choice, 0);
        s2s_search_advance(s, 1);
        return;
    }
    const int32_t n_scored = o->score_only ? s->n_prefix - s2s_max(o->n_prompt, 1) : 0;
    s2s_search_add_ended(
        s, (s2s_ended){.position = s->position,
                       .token = choice.token,
                       .finish_reason = o->score_only ? S2S_FINISH_SCORED : S2S_FINISH_LENGTH,
                       .logprob = choice.logprob,
                       .score = s2s_search_final_score(s, choice.score, n_scored)});
    s->n_live = 0;
}

const int32_t *s2s_search_given(const s2s_search *s, int32_t *n)
{
    /* the last token of a prefix that nothing follows is never fed */
    const int32_t n_given = s->n_prefix - 1 - s->position - (s->options.max_new_tokens == 0);
    *n = s->n_live > 0 ? s2s_max(n_given, 0) : 0;
    return s->prefix + s->position + 1;
}

void s2s_search_skip(s2s_search *s, int32_t k)
{
    for (; k > 0; k--) {
        const s2s_choice choice = {
            .token = s->prefix[s->position + 1], .logprob = NAN, .score = s->rows[0].score};
        s2s_search_no_alternatives(s, 0, 0);
        s2s_search_continue(s, 0, &choice, 0);
        s2s_search_advance(s, 1);
    }
}

void s2s_search_read_ahead(s2s_search *s, int32_t k)
{
    s2s_search_skip(s, k);
    s->n_ahead = k;
    s->n_steps += k;
}

void s2s_search_step(s2s_search *s)
{
    if (s->n_live == 0) return;
    for (int32_t p = s->position - s->n_ahead + 1; p <= s->position; p++) {
        const float logprob = s->node_logprobs[s2s_search_node(s, p, 0)];
        s->rows[0].score += forced_score(s, p, logprob);
    }
    s->n_ahead = 0;
    s->n_steps++;
    if (s2s_search_is_forced(s, 0))
        step_forced(s);
    else if (s->options.num_beams > 1)
        s2s_choose_beams(s);
    else
        s2s_choose_independent(s);
}

void s2s_search_cancel(s2s_search *s)
{
    s2s_search_end_live(s, S2S_FINISH_CANCELLED);
}
