"""What the machine allows: bandwidth by size and peak operations, measured by probe.c."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from s2s_infer.cost import Costs

from .engines import ROOT, Call

FILE_ROWS = 64
"""Rows that a file's outputs are thought to be decoded in, for its limit."""


@dataclass(frozen=True)
class Limits:
    """Rates of some number of threads together."""

    threads: int
    read: dict[int, float]
    """Size in bytes -> bytes a second of reading that many over and over."""
    operations: dict[str, float]
    """float32, int8_amx, ...: operations a second, a multiply-add being two."""

    def bandwidth(self, n_bytes: int) -> float:
        """Bytes a second at a size, between measured sizes on a logarithmic scale."""
        sizes = sorted(self.read)
        if n_bytes <= sizes[0]:
            return self.read[sizes[0]]
        for low, high in pairwise(sizes):
            if n_bytes <= high:
                part = math.log(n_bytes / low) / math.log(high / low)
                return float(self.read[low] ** (1 - part) * self.read[high] ** part)
        return self.read[sizes[-1]]

    def peak(self, dtype: str) -> float:
        """Operations a second; bfloat16 weights are multiplied in float32."""
        if dtype != "int8":
            return self.operations["float32"]
        return max(self.operations.values())


def probe(threads: int, seconds: float) -> Limits | str:
    """Measure this machine, each figure for so long; or one sentence that says why not."""
    compiler = shutil.which("cc")
    if compiler is None:
        return "no C compiler (cc): the machine's limits are not measured"
    program = ROOT / "build" / "bench" / "probe"
    program.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-O3", "-march=native", "-ffp-contract=fast", "-pthread"]
    source = Path(__file__).with_name("probe.c")
    built = subprocess.run(
        [compiler, *flags, str(source), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        return f"the machine's limits are not measured: {built.stderr.splitlines()[0]}"
    lines = subprocess.run(
        [program, str(threads), str(seconds)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()
    values = {name: float(value) for name, value in map(str.split, lines)}
    read = {int(name[5:]): value for name, value in values.items() if name.startswith("read_")}
    operations = {name: value for name, value in values.items() if not name.startswith("read_")}
    return Limits(threads, read, operations)


def least_seconds(limits: Limits, costs: Costs, dtype: str, calls: Sequence[Call]) -> float | None:
    """The least that the weights of these calls take to read, or their products to compute.

    None: outputs of unknown length.
    """
    peak = limits.peak(dtype)
    total = 0.0
    for call in calls:
        if call.n_target is None:
            return None
        n_rows = len(call.sources) * call.beams
        n_source = sum(map(len, call.sources))
        passes = [(costs.encoder, n_source, 1), (costs.cross_kv, n_source, 1)]
        passes.append((costs.step, n_rows, call.n_target))
        for cost, rows, times in passes:
            if cost.n_bytes:
                total += times * cost.seconds(rows, limits.bandwidth(cost.n_bytes), peak)
    return total


def least_seconds_of_file(
    limits: Limits, costs: Costs, dtype: str, n_source: int, n_target: int, beams: int
) -> float:
    """Likewise for a file of n_source and n_target tokens, decoded FILE_ROWS rows at a time."""
    peak = limits.peak(dtype)
    n_passes = max(1, n_source // 512)
    total = 0.0
    for cost, rows, times in (
        (costs.encoder, n_source // n_passes, n_passes),
        (costs.cross_kv, n_source // n_passes, n_passes),
        (costs.step, FILE_ROWS, math.ceil(n_target * beams / FILE_ROWS)),
    ):
        total += times * cost.seconds(rows, limits.bandwidth(cost.n_bytes), peak)
    return total
