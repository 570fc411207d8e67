"""What is run: one sentence at a time, 32 at once, a file; greedy and beam search."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .engines import Call
from .models import Sources

N_TOGETHER = 32
N_SINGLE = {"base": 4, "tiny": 8, "built-in": 24, "smoke": 2}
"""Sentences of one round, one after another."""


@dataclass(frozen=True)
class Workload:
    name: str
    beams: int
    kind: str
    """"one", "batch" or "file"."""


WORKLOADS = (
    Workload("1 at a time, greedy", 1, "one"),
    Workload("1 at a time, beam 4", 4, "one"),
    Workload("32 at once, greedy", 1, "batch"),
    Workload("32 at once, beam 4", 4, "batch"),
    Workload("file, greedy", 1, "file"),
    Workload("file, beam 4", 4, "file"),
)


def calls(workload: Workload, model: str, sources: Sources, scale: float = 1.0) -> list[Call]:
    """The calls of one round.  scale: part of the output tokens, for a first look.

    Real sentences have real lengths: alone, that of their reference translation; 32 at once, the
    mean of those, since CTranslate2 takes one length for all; those of a file end by themselves.
    """

    def length(n: float) -> int:
        return max(1, round(n * scale))

    order = list(range(len(sources.ids)))
    random.Random(7).shuffle(order)
    if workload.kind == "one":
        return [
            Call([sources.ids[i]], workload.beams, length(sources.n_targets[i]))
            for i in order[: max(2, round(N_SINGLE[model] * scale))]
        ]
    if workload.kind == "batch":
        chosen = order[:N_TOGETHER]
        mean = sum(sources.n_targets[i] for i in chosen) / len(chosen)
        return [Call([sources.ids[i] for i in chosen], workload.beams, length(mean))]
    ids = sources.ids
    if scale < 1:
        ids = ids[:: round(1 / scale)]
    return [Call(ids, workload.beams, None)]
