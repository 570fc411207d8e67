"""Starts workers and times what they do, in turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Call:
    """One call of an engine: these sources at once."""

    sources: Sequence[Sequence[int]]
    beams: int
    n_target: int | None
    """Output tokens of each, exactly; None: outputs end by themselves."""


@dataclass
class Times:
    """What the rounds of one engine took.  All in seconds and tokens."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    n_tokens: list[int] = field(default_factory=list)

    def add(self, answer: Mapping[str, Any]) -> None:
        self.wall.append(answer["wall"])
        self.cpu.append(answer["cpu"])
        self.n_tokens.append(answer["n_tokens"])

    @property
    def speeds(self) -> list[float]:
        """Tokens a second, of each round."""
        return [n / s for n, s in zip(self.n_tokens, self.wall, strict=True)]

    @property
    def speed(self) -> float:
        """Median tokens a second."""
        return statistics.median(self.speeds)

    @property
    def cpu_speed(self) -> float:
        """Median tokens a second of CPU time, of all threads together: it stands a busy machine."""
        return statistics.median(n / s for n, s in zip(self.n_tokens, self.cpu, strict=True))


class Worker:
    """A process that runs one engine with one model (see worker.py).  A context manager."""

    def __init__(
        self,
        engine: str,
        path: Path,
        dtype: str,
        threads: int,
        environment: Mapping[str, str] | None = None,
        package: Path | None = None,
        **options: Any,
    ) -> None:
        """package: folder to import s2s_infer from, where not the usual one."""
        self.engine, self.options, self.environment = engine, options, dict(environment or {})
        spec = {"engine": engine, "path": str(path), "dtype": dtype, "threads": threads, **options}
        variables = {**os.environ, **self.environment, "OMP_NUM_THREADS": str(threads)}
        variables["TOKENIZERS_PARALLELISM"] = "false"
        if package is not None:
            variables["PYTHONPATH"] = str(package)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.bench.worker", json.dumps(spec)],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started = self._answer()
        self.version, self.detail = started["version"], started["detail"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.engine} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(
        self, calls: Sequence[Call], profile: bool = False, outputs: bool = False
    ) -> dict[str, Any]:
        """Do the calls one after another: {"wall", "cpu", "n_tokens"}, and if asked for "profile"
        and "outputs", ids of each call's."""
        assert self._process.stdin is not None
        job = {"calls": [call.__dict__ for call in calls], "profile": profile, "outputs": outputs}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def take_turns(
    workers: Mapping[str, Worker], calls: Sequence[Call], seconds: float, min_rounds: int = 3
) -> dict[str, Times]:
    """Rounds in which every worker does the same calls, after one that is not counted.

    seconds: to spend, about.  The order is turned round after each round, so that none always
    follows the same one.
    """
    times = {name: Times() for name in workers}
    order = list(workers)
    for name in order:
        workers[name].run(calls)
    start = time.perf_counter()
    n_rounds = 0
    while n_rounds < min_rounds or time.perf_counter() - start < seconds:
        for name in order:
            times[name].add(workers[name].run(calls))
        order.reverse()
        n_rounds += 1
        if n_rounds == 25:
            break
    return times
