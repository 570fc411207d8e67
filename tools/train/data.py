"""Sentence pairs in both directions, packed into batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from tools.train import ops
from tools.train.layers.dropout import mix
from tools.train.model import Batch
from tools.train.vocabulary import EOS, Vocabulary


@dataclass(frozen=True)
class Pair:
    """One training example: translate ``source`` into language ``to``."""

    source: str
    target: str
    to: str


def read_tsv(path: Path) -> list[tuple[str, str]]:
    """The first two columns of each row."""
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            columns = line.rstrip("\n").split("\t")
            if len(columns) < 2 or not columns[0].strip() or not columns[1].strip():
                raise ValueError(f"{path}:{number}: expected two tab-separated sentences")
            rows.append((columns[0].strip(), columns[1].strip()))
    return rows


def both_directions(rows: Sequence[tuple[str, str]]) -> list[Pair]:
    """Chinese and English columns to examples of zh-en, then of en-zh."""
    return [Pair(zh, en, "en") for zh, en in rows] + [Pair(en, zh, "zh") for zh, en in rows]


@dataclass
class Subwords:
    """How segmentation is sampled in training: 0 for ``alpha`` takes the best one always."""

    alpha: float = 0.0
    source: bool = True
    target: bool = True


class Corpus:
    """Examples that are segmented anew and shuffled in every epoch."""

    def __init__(
        self, pairs: Sequence[Pair], vocabulary: Vocabulary, max_length: int, subwords: Subwords
    ) -> None:
        self.pairs, self.max_length, self.subwords = list(pairs), max_length, subwords
        self._codes = [vocabulary.language(pair.to) for pair in self.pairs]
        numbers: dict[
            str, int
        ] = {}  # a sentence stands in several pairs, its lattice is built once
        self._sources = [numbers.setdefault(pair.source, len(numbers)) for pair in self.pairs]
        self._targets = [numbers.setdefault(pair.target, len(numbers)) for pair in self.pairs]
        self._best = vocabulary.encode(list(numbers))
        self._lattices = (
            vocabulary.lattices(list(numbers), subwords.alpha) if subwords.alpha else None
        )

    def encode(self, seed: int) -> tuple[list[list[int]], list[list[int]]]:
        """Source ids (code, pieces, end) and target ids (pieces, end) of all examples."""

        def side(numbers: list[int], sampled: bool, salt: int) -> list[list[int]]:
            if self._lattices is None or not sampled:
                return [self._best[number] for number in numbers]
            rows = self._lattices.sample(mix(seed, salt))
            return [[i + 1 for i in rows[number]] for number in numbers]

        sources = side(self._sources, self.subwords.source, 1)
        targets = side(self._targets, self.subwords.target, 2)
        return (
            [[code, *ids, EOS] for code, ids in zip(self._codes, sources, strict=True)],
            [[*ids, EOS] for ids in targets],
        )

    def epoch(self, batch_tokens: int, seed: int) -> Epoch:
        """All examples once, in batches of at most ``batch_tokens`` target tokens.

        Sentences of similar length share a batch (bucketing): pools of 16 batches are sorted by
        length. The order of the batches is random. A pure function of its arguments, so that every
        worker makes the same batches without talking to the others.
        """
        sources, targets = self.encode(seed)
        rng = numpy.random.default_rng(mix(seed, 3))
        n_source = numpy.array([len(ids) for ids in sources])
        n_target = numpy.array([len(ids) for ids in targets])
        order = rng.permutation(len(sources))
        order = order[(n_source[order] <= self.max_length) & (n_target[order] <= self.max_length)]
        pool = numpy.cumsum(n_target[order]) // (16 * batch_tokens)
        order = order[numpy.lexsort((n_source[order], n_target[order], pool))]
        batches = cut(n_target[order], batch_tokens)
        plan = [order[start:stop] for start, stop in batches]
        return Epoch(sources, targets, [plan[i] for i in rng.permutation(len(plan))])


@dataclass
class Epoch:
    """Ids of all examples and which of them form each batch."""

    sources: list[list[int]]
    targets: list[list[int]]
    plan: list[numpy.ndarray]

    def n_target_tokens(self, i: int) -> int:
        """Target tokens of batch ``i`` (all workers together)."""
        return sum(len(self.targets[j]) for j in self.plan[i])

    def batch(self, i: int, pad: int, rank: int, n_workers: int, copies: int) -> Batch | None:
        """Worker ``rank``'s share of batch ``i``: every n-th sentence, so that shares are alike."""
        chosen = self.plan[i][rank::n_workers]
        if len(chosen) == 0:
            return None
        return pack(
            [self.sources[j] for j in chosen], [self.targets[j] for j in chosen], pad, copies
        )


def cut(lengths: numpy.ndarray, limit: int) -> list[tuple[int, int]]:
    """Consecutive slices whose lengths sum up to at most ``limit`` (a longer one stands alone)."""
    ends = numpy.cumsum(lengths)
    slices, start, done = [], 0, 0
    while start < len(lengths):
        stop = max(int(numpy.searchsorted(ends, done + limit, side="right")), start + 1)
        slices.append((start, stop))
        start, done = stop, int(ends[stop - 1])
    return slices


def offsets_of(rows: Sequence[Sequence[int]]) -> numpy.ndarray:
    """Where each row starts in the concatenation of all, and the end."""
    return numpy.concatenate([[0], numpy.cumsum([len(row) for row in rows])]).astype(numpy.int32)


def positions_of(offsets: numpy.ndarray) -> numpy.ndarray:
    """Position of each packed token in its own sequence."""
    starts = numpy.repeat(offsets[:-1], numpy.diff(offsets))
    positions: numpy.ndarray = numpy.arange(len(starts), dtype=numpy.int32) - starts
    return positions


def concatenated(rows: Sequence[Sequence[int]]) -> numpy.ndarray:
    """All ids of all rows, one after another."""
    return numpy.array([i for row in rows for i in row], dtype=numpy.int32)


def pack(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], pad: int, copies: int = 1
) -> Batch:
    """Sentence pairs as one packed batch; ``copies`` 2 repeats all but the targets (R-Drop)."""
    n = len(targets)
    target_ids = concatenated(targets)
    sources, targets = list(sources) * copies, list(targets) * copies
    source_offsets, target_offsets = offsets_of(sources), offsets_of(targets)
    decoder_ids = numpy.empty(int(target_offsets[-1]), dtype=numpy.int32)
    decoder_ids[1:] = numpy.tile(target_ids, copies)[:-1]
    decoder_ids[target_offsets[:-1]] = pad
    arrays = (
        concatenated(sources),
        positions_of(source_offsets),
        source_offsets,
        decoder_ids,
        target_ids,
        positions_of(target_offsets),
        target_offsets,
    )
    if n == 0:
        raise ValueError("a batch needs at least one sentence pair")
    return Batch(*(ops.xp.asarray(array) for array in arrays))
