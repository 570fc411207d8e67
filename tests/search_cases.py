"""The cases in which csrc/search must choose what transformers chooses."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from search_driver import Case

VOCABS = (5, 17, 100, 1000)
BEAMS = (1, 2, 4, 5, 8)
LENGTH_PENALTIES = (0.0, 0.6, 1.0, 2.0)
EARLY_STOPPING = (True, False, "never")
PREFIXES = ((1,), (1, 4), (1, 2, 3, 2))
SOURCE = (4, 2, 3, 2, 4, 3, 2, 0)

PROCESSORS: tuple[dict[str, Any], ...] = (
    {"min_new_tokens": 6},
    {"min_new_tokens": 50},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"encoder_no_repeat_ngram_size": 2},
    {"encoder_no_repeat_ngram_size": 3},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"bad_words_ids": [[3], [0], [2, 4], [4, 2, 3], [1, 1, 1, 1, 1]]},
    {"suppress_tokens": [2, 4]},
    {"begin_suppress_tokens": [0, 2]},
    {"forced_bos_token_id": 3},
    {"forced_bos_token_id": 3, "begin_suppress_tokens": [2, 0]},
    {"forced_eos_token_id": [0]},
    {"forced_eos_token_id": [0], "repetition_penalty": 1.5, "min_new_tokens": 3},
    {"repetition_penalty": 1.4, "renormalize_logits": True},
    {"suppress_tokens": [2, 4], "renormalize_logits": True},
    {"eos_token_id": [0, 3]},
    {"eos_token_id": [0, 2, 3]},
    {"eos_token_id": []},
    {"max_new_tokens": 1},
    {"max_new_tokens": 2, "forced_bos_token_id": 3, "forced_eos_token_id": [0]},
    {
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "encoder_no_repeat_ngram_size": 3,
        "bad_words_ids": [[2], [3, 4]],
        "min_new_tokens": 3,
        "suppress_tokens": [1],
        "begin_suppress_tokens": [0],
        "forced_eos_token_id": [0],
    },
)


def in_beam_search(vocab: int, n_beams: int, n_eos: int = 1) -> bool:
    """Whether transformers fills no beam with a placeholder.

    It starts num_beams equal beams, all but one at -1e9, and so continues (and may return) such
    beams when the first one has fewer tokens than there are beams to fill.
    """
    return n_beams <= vocab - n_eos


def stopping() -> Iterator[Case]:
    """length_penalty x early_stopping x beams x vocabularies, every hypothesis returned."""
    grid = itertools.product(VOCABS, BEAMS[1:], LENGTH_PENALTIES, EARLY_STOPPING)
    for seed, (vocab, n_beams, penalty, early) in enumerate(grid):
        if in_beam_search(vocab, n_beams):
            yield Case(
                vocab,
                seed % 7,
                PREFIXES[seed % 3],
                SOURCE,
                {
                    "num_beams": n_beams,
                    "num_return_sequences": n_beams,
                    "length_penalty": penalty,
                    "early_stopping": early,
                    "max_new_tokens": 12,
                },
            )


def processing() -> Iterator[Case]:
    """Each processor in greedy and beam search, with and without a forced prefix."""
    grid = itertools.product(PROCESSORS, (17, 100), (1, 2, 4), PREFIXES[:2])
    for seed, (options, vocab, n_beams, prefix) in enumerate(grid):
        beams = {"num_beams": n_beams, "num_return_sequences": n_beams, "max_new_tokens": 10}
        yield Case(vocab, seed % 11, prefix, SOURCE, beams | options)


def mixing() -> Iterator[Case]:
    """Everything together, at random."""
    choose = random.Random(5)
    for seed in range(300):
        vocab = choose.choice(VOCABS[1:])
        n_beams = choose.choice(BEAMS)
        options = {
            "num_beams": n_beams,
            "num_return_sequences": choose.randint(1, n_beams),
            "max_new_tokens": choose.choice((3, 9, 16)),
        }
        if n_beams > 1:
            options["length_penalty"] = choose.choice((*LENGTH_PENALTIES, -0.5))
            options["early_stopping"] = choose.choice(EARLY_STOPPING)
        for _ in range(choose.randint(0, 3)):
            options |= {k: v for k, v in choose.choice(PROCESSORS).items() if k != "max_new_tokens"}
        if options.get("no_repeat_ngram_size") == 1:
            options["max_new_tokens"] = 3  # or a small vocabulary is used up
        source = tuple(choose.randrange(5) for _ in range(choose.randint(1, 9)))
        yield Case(vocab, seed % 13, choose.choice(PREFIXES), source, options)


CASES = (*stopping(), *processing(), *mixing())
GOLDEN_CASES = CASES[::3]
