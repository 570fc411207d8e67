"""How cost grows: with the batch, lengths, beams and threads; and where it grows too fast."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from . import peer
from .engines import Call, Worker
from .models import SHAPES, BenchModel
from .table import OURS, PEER, say
from .workloads import Workload

N_SOURCE, N_TARGET = 24, 16
SWEEPS: dict[str, tuple[int, ...]] = {
    "batch": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "beams": (1, 2, 4, 8, 16),
    "source length": (8, 16, 32, 64, 128, 256, 512),
    "output length": (8, 16, 32, 64, 128, 256, 512),
}
BATCH = Workload("growth", 1, "batch")
"""What the peer's configurations are chosen for."""
SOURCES_OF_LENGTHS = 4
"""Sentences at once where lengths grow."""
TOLERANCE = 1.3
"""A point is a cliff when its time is more than this factor above a straight line through the two
points before it (or, with more threads, more than a tenth above the point before it)."""


def measure(
    model: BenchModel,
    dtype: str,
    threads: Sequence[int],
    n_rounds: int,
    largest: int,
    with_peer: bool,
) -> dict[str, Any]:
    """Sweep -> {"x", engine -> {"seconds", "tokens_per_second"}, "cliffs"}; largest: x at most."""
    environment = _environment(model, dtype) if with_peer else None
    found: dict[str, Any] = {"model": model.name, "dtype": dtype, "sweeps": {}}
    most = max(threads)
    with ExitStack() as stack:
        workers = _open(stack, model, dtype, most, environment)
        for sweep, values in SWEEPS.items():
            xs = [x for x in values if x <= largest]
            calls = [_call(model.name, sweep, x) for x in xs]
            found["sweeps"][sweep] = _sweep(xs, [workers] * len(xs), calls, n_rounds)
            found["sweeps"][sweep]["threads"] = most
            _say(sweep, found["sweeps"][sweep])
    xs = sorted({*range(1, min(most, 4) + 1), *threads, most})
    with ExitStack() as stack:
        opened = [_open(stack, model, dtype, x, environment) for x in xs]
        for name, size in (("threads, 1 at a time", 1), ("threads, 32 at once", 32)):
            calls = [_call(model.name, "batch", size)] * len(xs)
            found["sweeps"][name] = _sweep(xs, opened, calls, n_rounds)
            _say(name, found["sweeps"][name])
    return found


def _environment(model: BenchModel, dtype: str) -> peer.Configuration:
    return peer.best_environments(model, dtype, [BATCH])[BATCH.name]


def _open(
    stack: ExitStack,
    model: BenchModel,
    dtype: str,
    threads: int,
    environment: peer.Configuration | None,
) -> dict[str, Worker]:
    """Ours; and the peer with its threads split in both ways, since neither is best everywhere."""
    workers = {OURS: stack.enter_context(Worker(OURS, model.native(dtype), dtype, threads))}
    if environment is not None:
        splits = peer.splits(BATCH, threads)
        for split, (_, options) in (
            ("one worker", splits[0]),
            ("a worker each thread", splits[-1]),
        ):
            configuration = peer.Configuration(split, environment.environment, options)
            worker = configuration.open(model, dtype, threads)
            workers[f"{PEER}, {split}"] = stack.enter_context(worker)
    return workers


def _call(model: str, sweep: str, x: int) -> Call:
    n, beams, n_source, n_target = SOURCES_OF_LENGTHS, 1, N_SOURCE, N_TARGET
    if sweep == "batch":
        n = x
    elif sweep == "beams":
        beams = x
    elif sweep == "source length":
        n_source = x
    else:
        n_target = x
    rng = random.Random(x)
    n_vocabulary = SHAPES[model][-1]
    sources = [[rng.randrange(2, n_vocabulary - 1) for _ in range(n_source)] for _ in range(n)]
    return Call(sources, beams, n_target)


def _sweep(
    xs: Sequence[int], workers: Sequence[dict[str, Worker]], calls: Sequence[Call], n_rounds: int
) -> dict[str, Any]:
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in xs] for name in workers[0]}
    for _ in range(n_rounds):
        for i, call in enumerate(calls):
            for name, worker in workers[i].items():
                seconds[name][i].append(worker.run([call])["wall"])
    result: dict[str, Any] = {"x": list(xs), "engines": {}, "cliffs": {}}
    n_tokens = [len(call.sources) * (call.n_target or 0) for call in calls]
    for name, runs in seconds.items():
        # the least of few rounds: what else runs on the machine only ever adds
        best = [min(times) for times in runs]
        result["engines"][name] = {
            "seconds": [round(s, 5) for s in best],
            "tokens_per_second": [round(n / s, 1) for n, s in zip(n_tokens, best, strict=True)],
            "spread": [round(statistics.median(times) / min(times), 2) for times in runs],
        }
        same_work = len(set(n_tokens)) == 1 and len({id(w) for w in workers}) > 1
        result["cliffs"][name] = cliffs(xs, best, growing=not same_work)
    return result


def cliffs(xs: Sequence[int], seconds: Sequence[float], growing: bool) -> list[int]:
    """The x whose time is more than the points before it let expect.

    growing: the work grows with x, and time may grow in a straight line; else time must not grow.
    """
    found = []
    for i in range(1, len(xs)):
        expected = 1.1 * seconds[i - 1]
        if growing:
            slope = seconds[i - 1] / xs[i - 1]  # through zero: no fixed cost at all
            if i > 1:
                rise = (seconds[i - 1] - seconds[i - 2]) / (xs[i - 1] - xs[i - 2])
                slope = max(rise, slope)
            expected = TOLERANCE * (seconds[i - 1] + slope * (xs[i] - xs[i - 1]))
        if seconds[i] > expected:
            found.append(xs[i])
    return found


def _say(name: str, sweep: dict[str, Any]) -> None:
    speeds = sweep["engines"][OURS]["tokens_per_second"]
    points = ", ".join(f"{x}: {speed:,.0f}" for x, speed in zip(sweep["x"], speeds, strict=True))
    cliffs_ = sweep["cliffs"][OURS]
    say(f"growth, {name}: {points}" + (f"; cliffs at {cliffs_}" if cliffs_ else ""))
