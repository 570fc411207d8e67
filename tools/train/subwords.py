"""Subword regularization: sample a segmentation of every sentence (Kudo 2018), repeatably.

sentencepiece samples too, but its generator is salted anew in every process, so neither two
workers nor two runs agree on a sample. Here all segmentations of all sentences are one array of
edges (a piece from one position of a sentence to another), and one sample of them all takes a few
array operations.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence

import numpy
import sentencepiece


class Lattices:
    """Every segmentation of each text into pieces of a unigram model.

    A segmentation is drawn with a probability proportional to its unigram probability to the power
    ``alpha``: the smaller, the flatter. A text with a character that has no piece always gets its
    best segmentation.
    """

    def __init__(
        self,
        processor: sentencepiece.SentencePieceProcessor,
        texts: Sequence[str],
        alpha: float,
    ) -> None:
        if alpha <= 0:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        pieces = {
            processor.id_to_piece(i): i
            for i in range(processor.get_piece_size())
            if not (processor.is_unknown(i) or processor.is_control(i) or processor.is_byte(i))
        }
        prefixes = {piece[:n] for piece in pieces for n in range(1, len(piece) + 1)}
        begins, ends, ids = array("i"), array("i"), array("i")
        self._first: list[int] = []  # node before the first character of each text
        self._last: list[int] = []  # node behind the last
        self._fixed: dict[int, list[int]] = {}
        node = 0
        for number, text in enumerate(processor.normalize(list(texts))):
            n = len(text)
            known = len(ids)
            reachable = bytearray(n + 1)
            reachable[0] = 1
            for start in range(n):
                if not reachable[start]:
                    continue
                for end in range(start + 1, n + 1):
                    part = text[start:end]
                    if part not in prefixes:
                        break
                    if part in pieces:
                        begins.append(node + start)
                        ends.append(node + end)
                        ids.append(pieces[part])
                        reachable[end] = 1
            if not all(text[i] in pieces for i in range(n)):
                del begins[known:], ends[known:], ids[known:]
                self._fixed[number] = processor.encode(texts[number])
                n = 0
            self._first.append(node)
            self._last.append(node + n)
            node += n + 1
        order = numpy.argsort(numpy.array(ends), kind="stable")
        self._begins = numpy.array(begins, dtype=numpy.int32)[order]
        self._ids = numpy.array(ids, dtype=numpy.int32)[order]
        self._ends = numpy.array(ends, dtype=numpy.int32)[order]
        scores = numpy.array([processor.get_score(i) for i in range(processor.get_piece_size())])
        self._scores = alpha * scores[self._ids]
        self._nodes, self._groups = numpy.unique(self._ends, return_index=True)
        self._n_nodes = node
        self._add_path_sums()

    def _add_path_sums(self) -> None:
        """Forward filtering: to each edge's score the log-sum of all paths that lead to its begin.

        Position by position, all texts at once. After that, the choices of a node's incoming edge
        are independent of each other.
        """
        total = numpy.zeros(self._n_nodes)
        depth = self._nodes - numpy.repeat(
            self._first, numpy.diff([*self._first, self._n_nodes])
        )[self._nodes]  # fmt: skip
        sizes = numpy.diff([*self._groups, len(self._ids)])
        by_depth = numpy.argsort(depth, kind="stable")
        bounds = numpy.searchsorted(depth[by_depth], numpy.arange(1, depth.max(initial=0) + 2))
        for low, high in itertools.pairwise(bounds):
            groups = by_depth[low:high]
            starts = numpy.cumsum([0, *sizes[groups][:-1]])
            edges = numpy.repeat(self._groups[groups] - starts, sizes[groups])
            edges += numpy.arange(len(edges))
            self._scores[edges] += total[self._begins[edges]]
            value = self._scores[edges]
            peak = numpy.maximum.reduceat(value, starts)
            spread = numpy.exp(value - numpy.repeat(peak, sizes[groups]))
            total[self._nodes[groups]] = peak + numpy.log(numpy.add.reduceat(spread, starts))

    def sample(self, seed: int) -> list[list[int]]:
        """One segmentation of each text, as sentencepiece ids; a pure function of ``seed``.

        Every node draws one incoming edge (the largest score plus Gumbel noise is an exact draw
        from the softmax of the scores); the path back from a text's end is then an exact sample.
        """
        noise = numpy.random.default_rng(seed).gumbel(size=len(self._scores))
        value = self._scores + noise
        chosen = numpy.zeros(self._n_nodes, dtype=numpy.int64)
        sizes = numpy.diff([*self._groups, len(self._ids)])
        best = numpy.repeat(numpy.maximum.reduceat(value, self._groups), sizes) == value
        edges = numpy.flatnonzero(best)
        chosen[self._ends[edges]] = edges
        first, node = numpy.array(self._first), numpy.array(self._last)
        steps = []
        active = numpy.flatnonzero(node > first)
        while len(active):
            edge = chosen[node[active]]
            steps.append((active, self._ids[edge]))
            node[active] = self._begins[edge]
            active = active[node[active] > first[active]]
        owner = numpy.concatenate([texts for texts, _ in reversed(steps)])
        ids = numpy.concatenate([part for _, part in reversed(steps)])
        order = numpy.argsort(owner, kind="stable")
        bounds = numpy.searchsorted(owner[order], numpy.arange(len(first) + 1)).tolist()
        flat = ids[order].tolist()
        rows = [flat[bounds[i] : bounds[i + 1]] for i in range(len(first))]
        for number, fixed in self._fixed.items():
            rows[number] = list(fixed)
        return rows
