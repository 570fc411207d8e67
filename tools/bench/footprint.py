"""From the model's file to the first token, and the memory that takes: a process for each run.

    python -m tools.bench.footprint '{"engine": "s2s-infer", "path": ..., ...}'     (one run, JSON)

Imports are not counted in the seconds to the first token; a second figure counts all from the start
of the interpreter, of a program of a few lines (`first_token.py`).  The memory that the process has
before it opens the model is given beside the rest.  Memory in bytes, as Linux counts it: resident,
of it anonymous (the process's own) and file-backed (shared with all that map the file),
proportional (PSS), and the peak.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from . import first_token
from .engines import ROOT
from .models import MODELS_OF_OTHERS, BenchModel
from .worker import ENGINES

IMPORTS = {
    "s2s-infer": ("s2s_infer.opening", "s2s_infer.formats.native"),
    "CTranslate2": ("ctranslate2",),
    "transformers": ("torch", "transformers.models.marian.modeling_marian"),
    "onnxruntime": ("onnxruntime", "tools.bench.onnx_model"),
}


def memory() -> dict[str, int]:
    """What this process has now.  Linux only; without /proc/self/smaps_rollup all pages are own."""
    fields = {}
    for path in map(Path, ("/proc/self/status", "/proc/self/smaps_rollup")):
        for line in path.read_text().splitlines() if path.exists() else ():
            words = line.split()
            if len(words) >= 3 and words[-1] == "kB":
                fields[words[0].rstrip(":")] = int(words[1]) * 1024
    resident = fields["VmRSS"]
    anonymous = fields.get("Anonymous", fields.get("RssAnon", resident))
    return {
        "resident": resident,
        "anonymous": anonymous,
        "file": resident - anonymous,
        "proportional": fields.get("Pss", resident),
        "peak": fields["VmHWM"],
    }


def measure(
    model: BenchModel,
    dtypes: Sequence[str],
    threads: int,
    n_runs: int,
    with_peer: bool,
    others: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Medians of runs that take turns.  others: engines beside the peer."""
    found = []
    for dtype in dtypes:
        paths = {"s2s-infer": model.native(dtype)}
        if with_peer and dtype != "bfloat16":
            paths["CTranslate2"] = model.ctranslate2(dtype)
        if model.name in MODELS_OF_OTHERS:
            if "transformers" in others and dtype == "float32":
                paths["transformers"] = model.directory / "hf"
            if "onnxruntime" in others and dtype != "bfloat16":
                paths["onnxruntime"] = model.onnx(dtype)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in paths}
        for number in range(n_runs + 1):
            for name, path in paths.items():
                run = _run(name, path, model.sources.ids[:32], dtype, threads)
                if number:  # the first fills the page cache
                    runs[name].append(run)
        row: dict[str, Any] = {"model": model.name, "dtype": dtype, "threads": threads}
        row["engines"] = {name: _medians(all_) for name, all_ in runs.items()}
        found.append(row)
    return found


def _medians(runs: list[Any]) -> Any:
    first = runs[0]
    if isinstance(first, dict):
        return {name: _medians([run[name] for run in runs]) for name in first}
    return statistics.median(runs)


def _run(
    engine: str, path: Path, sources: list[list[int]], dtype: str, threads: int
) -> dict[str, Any]:
    spec = {
        "engine": engine,
        "path": str(path),
        "dtype": dtype,
        "threads": threads,
        "sources": sources,
    }
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    # compiled modules are kept, as for an installed package
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPYCACHEPREFIX"] = str(ROOT / "build" / "bench" / "pycache")
    source = list(ENGINES[engine].prepare(spec, sources[:1])[0])
    whole = first_token.seconds(engine, path, dtype, threads, source, environment)
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench.footprint", json.dumps(spec)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {**json.loads(done.stdout), "process_seconds_to_first_token": whole}


def main() -> None:
    """One run: load, one token of one sentence, then 32 sentences with 4 beams.

    Without beams where the engine's loop is greedy (onnxruntime).
    """
    spec = json.loads(sys.argv[1])
    for name in IMPORTS[spec["engine"]]:
        import_module(name)
    sources = ENGINES[spec["engine"]].prepare(spec, spec["sources"])
    before = memory()
    start, cpu_start = time.perf_counter(), time.process_time()
    engine = ENGINES[spec["engine"]](spec)
    engine.translate(sources[:1], 1, 1)
    first_token, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    at_first = memory()
    engine.translate(sources, 1 if spec["engine"] == "onnxruntime" else 4, 16)
    report = {
        "seconds_to_first_token": first_token,
        "cpu_seconds_to_first_token": cpu,
        "before": before,
        "at_first_token": at_first,
        "after_32_with_4_beams": memory(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
