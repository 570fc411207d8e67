"""The table: every model, precision, number of threads and workload, beside CTranslate2."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from s2s_infer.cost import costs
from s2s_infer.loaders import load_checkpoint

from . import peer
from .engines import Call, Times, Worker, take_turns
from .limits import Limits, least_seconds, least_seconds_of_file
from .models import MODELS_OF_OTHERS, BenchModel
from .workloads import WORKLOADS, Workload, calls

OURS, PEER, TORCH, ONNX = "s2s-infer", "CTranslate2", "transformers", "onnxruntime"
MAX_TOKEN_DIFFERENCE = 0.1
"""Part by which outputs that end by themselves may differ in length, all together."""


def say(text: str) -> None:
    """A line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def rows(
    models: Sequence[BenchModel],
    dtypes: Sequence[str],
    threads: Sequence[int],
    limits: dict[int, Limits],
    seconds: float,
    min_rounds: int,
    with_peer: bool,
    others: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """One row of the table after another, in plain JSON types.

    others: engines that are measured beside ours in greedy rows of some models.
    """
    for model in models:
        workloads = [w for w in WORKLOADS if w.kind != "file" or model.sources.natural]
        for dtype in dtypes:
            compared = with_peer and dtype in ("int8", "float32")
            chosen = peer.best_environments(model, dtype, workloads) if compared else {}
            for n_threads in threads:
                found = {}
                if compared:
                    found = peer.best_configurations(model, dtype, n_threads, workloads, chosen)
                with ExitStack() as stack:
                    ours = stack.enter_context(Worker(OURS, model.native(dtype), dtype, n_threads))
                    peers: dict[str, Worker] = {}
                    slow = _open_others(stack, others, model, dtype, n_threads)
                    for workload in workloads:
                        workers, details = {OURS: ours}, {OURS: ours.detail}
                        if compared:
                            best = found[workload.name]
                            details[PEER] = best.name
                            if best.name not in peers:
                                worker = best.open(model, dtype, n_threads)
                                peers[best.name] = stack.enter_context(worker)
                            workers[PEER] = peers[best.name]
                        work = calls(workload, model.name, model.sources)
                        times = take_turns(workers, work, seconds, min_rounds)
                        row = {
                            "model": model.name,
                            "dtype": dtype,
                            "threads": n_threads,
                            "workload": workload.name,
                            **_figures(times, details),
                        }
                        if compared and workload.kind == "file":
                            row["same_outputs"] = _same_outputs(workers, work)
                        if slow and workload.beams == 1:
                            row["others"] = _others({OURS: ours, **slow}, work, min_rounds)
                        if n_threads in limits:
                            limit = limits[n_threads]
                            row["limit"] = _limit(limit, model, dtype, workload, work, row)
                        say(_short(row))
                        yield row


def _figures(times: dict[str, Times], details: dict[str, str]) -> dict[str, Any]:
    engines = {
        name: {
            "tokens_per_second": round(found.speed, 1),
            "spread": [round(min(found.speeds), 1), round(max(found.speeds), 1)],
            "tokens_per_cpu_second": round(found.cpu_speed, 1),
            "rounds": [round(speed, 1) for speed in found.speeds],
            "n_tokens": found.n_tokens[0],
            "configuration": details[name],
        }
        for name, found in times.items()
    }
    row: dict[str, Any] = {"engines": engines}
    if PEER in times:
        ours, theirs = times[OURS], times[PEER]
        n_ours, n_theirs = ours.n_tokens[0], theirs.n_tokens[0]
        if abs(n_ours - n_theirs) > MAX_TOKEN_DIFFERENCE * n_theirs:
            raise SystemExit(f"outputs have {n_ours} and {n_theirs} tokens: not the same work")
        row["ratio"] = round(ours.speed / theirs.speed, 2)
        row["ratio_by_cpu_time"] = round(ours.cpu_speed / theirs.cpu_speed, 2)
    return row


def _limit(
    limits: Limits,
    model: BenchModel,
    dtype: str,
    workload: Workload,
    work: list[Call],
    row: dict[str, Any],
) -> dict[str, float]:
    """Tokens a second that the machine allows, and the share of it that was reached."""
    model_costs = costs(load_checkpoint(model.native(dtype), dtype=dtype))
    figures = row["engines"][OURS]
    least = least_seconds(limits, model_costs, dtype, work)
    if least is None:
        n_source = sum(len(source) for call in work for source in call.sources)
        least = least_seconds_of_file(
            limits, model_costs, dtype, n_source, figures["n_tokens"], workload.beams
        )
    most = figures["n_tokens"] / least
    return {
        "tokens_per_second": round(most, 1),
        "share": round(figures["tokens_per_second"] / most, 3),
    }


def _short(row: dict[str, Any]) -> str:
    text = f"{row['model']} {row['dtype']} {row['threads']} threads, {row['workload']}: "
    text += f"{row['engines'][OURS]['tokens_per_second']:,.0f} tokens/s"
    if "ratio" in row:
        text += f" = {row['ratio']:.2f} x CTranslate2 ({row['engines'][PEER]['configuration']})"
    if "limit" in row:
        text += f", {row['limit']['share']:.0%} of the limit"
    return text


# ---- Others: in greedy rows of some models, since they take long --------------------------------


def _open_others(
    stack: ExitStack, others: Sequence[str], model: BenchModel, dtype: str, threads: int
) -> dict[str, Worker]:
    paths = {}
    if model.name in MODELS_OF_OTHERS and TORCH in others and dtype == "float32":
        paths[TORCH] = model.directory / "hf"
    if model.name in MODELS_OF_OTHERS and ONNX in others and dtype in ("float32", "int8"):
        paths[ONNX] = model.onnx(dtype)
    return {
        name: stack.enter_context(Worker(name, path, dtype, threads))
        for name, path in paths.items()
    }


def _others(workers: dict[str, Worker], work: list[Call], min_rounds: int) -> dict[str, Any]:
    """Engine -> its figures, and how many times as fast ours was in the same turns."""
    times = take_turns(workers, work, seconds=0, min_rounds=min(2, min_rounds))
    details = {name: worker.version for name, worker in workers.items()}
    figures: dict[str, Any] = _figures(times, details)["engines"]
    ours = figures.pop(OURS)["tokens_per_second"]
    for name, found in figures.items():
        found["ratio"] = round(ours / found["tokens_per_second"], 2)
        say(f"{name}: {found['tokens_per_second']:,.0f} tokens/s, ours {found['ratio']} x")
    return figures


def _same_outputs(workers: dict[str, Worker], work: list[Call]) -> list[int]:
    """How many outputs of ours are the peer's, token for token, and how many there are."""
    ours, theirs = (workers[name].run(work, outputs=True)["outputs"] for name in (OURS, PEER))
    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
    return [sum(a == b for a, b in pairs), len(pairs)]
