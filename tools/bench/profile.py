"""Where the time goes: a build that counts it (S2S_PROFILE=1, csrc/base/profile.h)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .engines import ROOT, Worker
from .models import BenchModel
from .table import OURS, say
from .workloads import WORKLOADS, calls

PACKAGE = ROOT / "build" / "release-profile" / "package"


def build() -> Path:
    """The folder of the package that counts; the usual build stays as it is."""
    command = [sys.executable, "setup.py", "-q", "build_clib", "build", "--build-lib", str(PACKAGE)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "S2S_PROFILE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the build that profiles failed:\n{done.stderr}")
    return PACKAGE


def measure(
    models: Sequence[BenchModel], dtypes: Sequence[str], threads: Sequence[int], n_rounds: int
) -> list[dict[str, Any]]:
    """For each workload the share of each operation in the time, see shares_of_time."""
    package = build()
    found = []
    for model in models:
        for dtype in dtypes:
            for n_threads in threads:
                path = model.native(dtype)
                with Worker(OURS, path, dtype, n_threads, package=package) as worker:
                    for workload in WORKLOADS:
                        if workload.kind == "file" and not model.sources.natural:
                            continue
                        work = calls(workload, model.name, model.sources)
                        worker.run(work)
                        runs = [worker.run(work, profile=True) for _ in range(n_rounds)]
                        shares = shares_of_time(min(runs, key=lambda run: float(run["wall"])))
                        row = {"model": model.name, "dtype": dtype, "threads": n_threads}
                        found.append({**row, "workload": workload.name, "shares": shares})
                        most = sorted(shares.items(), key=lambda item: -item[1])[:5]
                        text = ", ".join(f"{name} {share:.0%}" for name, share in most)
                        say(f"profile, {model.name} {dtype} {n_threads}, {workload.name}: {text}")
    return found


def shares_of_time(run: dict[str, Any]) -> dict[str, float]:
    """Of the time of the thread that calls, "python" being what is outside of the core's steps.

    Where lanes worked side by side, of all their steps: nothing tells what else their threads did.
    """
    seconds = {name: found[0] for name, found in run["profile"].items() if found[1]}
    total = max(run["wall"], sum(seconds.values()))
    seconds["python"] = total - sum(seconds.values())
    return {name: round(s / total, 4) for name, s in seconds.items()}
