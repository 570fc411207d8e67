"""CTranslate2 in its best configuration on this machine, found for each workload by trying."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from .engines import Worker, take_turns
from .models import BenchModel
from .workloads import N_TOGETHER, Workload, calls

CALIBRATION_SCALE = 0.25


@dataclass(frozen=True)
class Configuration:
    """Environment variables and options of its Translator and translate_batch."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def open(self, model: BenchModel, dtype: str, threads: int) -> Worker:
        path = model.ctranslate2(dtype)
        return Worker("CTranslate2", path, dtype, threads, self.environment, **self.options)


def environments() -> list[Configuration]:
    """What its documentation offers: instruction set, MKL or its own kernels, packed weights."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return [Configuration("default"), Configuration("packed", {"CT2_PACKED_GEMM": "1"})]
    avx512 = {"CT2_FORCE_CPU_ISA": "AVX512"}
    if "avx512bw" not in _cpu_flags():
        avx512 = {}
    found = [Configuration("default")]
    if avx512:
        found.append(Configuration("AVX512", avx512))
    found.append(Configuration("packed AVX512", {**avx512, "CT2_PACKED_GEMM": "1"}))
    found.append(Configuration("AVX512 without MKL", {**avx512, "CT2_USE_MKL": "0"}))
    return found


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return next(set(line.split()) for line in file if line.startswith("flags"))
    except (OSError, StopIteration):
        return set()


def splits(workload: Workload, threads: int) -> list[tuple[str, dict[str, Any]]]:
    """Ways to use the threads and to batch: names, and options."""
    each = {"inter_threads": threads}
    if workload.kind == "file":
        together: list[tuple[str, dict[str, Any]]] = [
            ("batches of 32", {"max_batch_size": 32}),
            ("batches of 64", {"max_batch_size": 64}),
            ("batches of 1024 tokens", {"max_batch_size": 1024, "batch_type": "tokens"}),
        ]
        if threads == 1:
            return together
        found = [(f"{threads} x 1 thread, {name}", {**each, **some}) for name, some in together]
        return [*found, (f"1 x {threads} threads, {together[1][0]}", together[1][1])]
    if threads == 1:
        return [("", {})]
    found = [(f"1 x {threads} threads", {})]
    if workload.kind == "one":
        return [*found, (f"{threads} x 1 thread", each)]
    size = math.ceil(N_TOGETHER / threads)
    return [*found, (f"{threads} x 1 thread, {size} each", {**each, "max_batch_size": size})]


def best_environments(
    model: BenchModel, dtype: str, workloads: Iterable[Workload]
) -> dict[str, Configuration]:
    """Workload name -> the environment that is fastest on one thread."""
    return _best(model, dtype, 1, workloads, dict.fromkeys(_names(workloads), environments()))


def best_configurations(
    model: BenchModel,
    dtype: str,
    threads: int,
    workloads: Iterable[Workload],
    chosen: dict[str, Configuration],
) -> dict[str, Configuration]:
    """Workload name -> its environment with the split of threads and batches that is fastest."""
    candidates = {}
    for workload in workloads:
        base = chosen[workload.name]
        candidates[workload.name] = [
            Configuration(", ".join(filter(None, (base.name, name))), base.environment, options)
            for name, options in splits(workload, threads)
        ]
    return _best(model, dtype, threads, workloads, candidates)


def _names(workloads: Iterable[Workload]) -> list[str]:
    return [workload.name for workload in workloads]


def _best(
    model: BenchModel,
    dtype: str,
    threads: int,
    workloads: Iterable[Workload],
    candidates: dict[str, list[Configuration]],
) -> dict[str, Configuration]:
    best = {}
    with ExitStack() as stack:
        opened: dict[str, Worker] = {}

        def worker(configuration: Configuration) -> Worker:
            key = repr((configuration.environment, configuration.options))
            if key not in opened:
                opened[key] = stack.enter_context(configuration.open(model, dtype, threads))
            return opened[key]

        for workload in workloads:
            by_name = {c.name: c for c in candidates[workload.name]}
            best[workload.name] = next(iter(by_name.values()))
            if len(by_name) > 1:
                work = calls(workload, model.name, model.sources, CALIBRATION_SCALE)
                workers = {name: worker(c) for name, c in by_name.items()}
                times = take_turns(workers, work, seconds=0, min_rounds=2)
                fastest = max(times, key=lambda name: max(times[name].speeds))
                best[workload.name] = by_name[fastest]
    return best
