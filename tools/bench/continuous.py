"""What continuous batching is worth: a file of mixed lengths, rows refilled or batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .engines import Call, Times, Worker
from .models import BenchModel
from .table import OURS, say

SIZES = (32, 64)
"""Sentences of a batch."""


def measure(
    model: BenchModel, dtype: str, threads: Sequence[int], min_rounds: int
) -> list[dict[str, Any]]:
    """Rows of threads, beams, and way -> tokens a second.

    The same engine in both: batch at a time, a call waits for its last sentence before the next
    begins; in the order of the file, or sorted by length (a part of it too: the file must be there
    as a whole).
    """
    ids = model.sources.ids
    by_length = sorted(ids, key=len, reverse=True)
    found = []
    for n_threads in threads:
        for beams in (1, 4):
            ways = {"continuous": [Call(ids, beams, None)]}
            for size in SIZES:
                for name, sources in (("file's order", ids), ("sorted", by_length)):
                    ways[f"{size} at a time, {name}"] = [
                        Call(sources[first : first + size], beams, None)
                        for first in range(0, len(sources), size)
                    ]
            times = {name: Times() for name in ways}
            with Worker(OURS, model.native(dtype), dtype, n_threads) as worker:
                for number in range(min_rounds + 1):
                    for name, work in ways.items():
                        answer = worker.run(work)
                        if number:  # the first warms up
                            times[name].add(answer)
            speeds = {name: round(some.speed, 1) for name, some in times.items()}
            found.append({"threads": n_threads, "beams": beams, "tokens_per_second": speeds})
            say(f"continuous batching, {n_threads} threads, beams {beams}: {speeds}")
    return found
