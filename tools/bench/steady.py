"""Is memory flat?  Thousands of requests of mixed lengths, alone and from several Python threads.

python -m tools.bench.steady '{"path": ..., "n_requests": 10000, "python_threads": 1, ...}'
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .engines import ROOT

N_SAMPLES = 100
LONGEST_SOURCE, LONGEST_TARGET = 64, 12


def measure(path: Path, n_vocabulary: int, n_requests: int, threads: int) -> list[dict[str, Any]]:
    """One run from one Python thread and one from four."""
    found = []
    for python_threads in (1, 4):
        spec = {
            "path": str(path),
            "n_vocabulary": n_vocabulary,
            "n_requests": n_requests,
            "python_threads": python_threads,
            "threads": threads,
        }
        done = subprocess.run(
            [sys.executable, "-m", "tools.bench.steady", json.dumps(spec)],
            cwd=ROOT,
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout))
    return found


def resident() -> int:
    """Bytes of this process that are resident now.  Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the straight line of least squares."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    below = sum((x - mean_x) ** 2 for x in xs)
    return above / below if below else 0.0


def main() -> None:
    """One run: resident bytes as requests go by, their slope over the last three quarters."""
    import s2s_infer

    spec = json.loads(sys.argv[1])
    model = s2s_infer.load(spec["path"], threads=spec["threads"])
    n_requests, n_python = spec["n_requests"], spec["python_threads"]
    done, lock = 0, threading.Lock()
    samples: list[tuple[int, int]] = []
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        nonlocal done
        rng = random.Random(seed)
        try:
            for _ in range(n_requests // n_python):
                n = rng.randint(1, LONGEST_TARGET)
                source = [
                    rng.randrange(2, spec["n_vocabulary"] - 1)
                    for _ in range(rng.randint(1, LONGEST_SOURCE))
                ]
                beams = rng.choice((1, 1, 1, 4))
                result = model.generate_ids(
                    [source], num_beams=beams, max_new_tokens=n, min_new_tokens=n
                )[0]
                assert len(result.token_ids) == n
                with lock:
                    done += 1
                    if done % max(1, n_requests // N_SAMPLES) == 0:
                        samples.append((done, resident()))
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(n_python)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    last = samples[len(samples) // 4 :]
    report = {
        "python_threads": n_python,
        "n_requests": done,
        "resident_first": samples[0][1],
        "resident_last": samples[-1][1],
        "resident_most": max(size for _, size in samples),
        "bytes_per_1000_requests": round(1000 * slope(*zip(*last, strict=True))),
        "samples": [[number, round(size / 1e6, 2)] for number, size in samples[:: N_SAMPLES // 20]],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
