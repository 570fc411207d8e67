"""The benchmark's command: ``python -m tools.bench`` (extras reference and train for all of it).

Measures speed, load, memory, growth and the profile; prints Markdown and writes results.json,
results.md and plots.  What a machine has not installed is skipped, with a note.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import continuous, footprint, growth, profile, steady, table
from .limits import Limits, probe
from .machine import commit, machine, versions
from .models import NAMES, SHAPES, make, missing_for_ctranslate2
from .report import markdown, plot

ROOT = Path(__file__).parents[2]
PARTS = ("speed", "load", "growth", "memory", "profile")
PACKAGES = ("s2s-infer", "numpy", "ctranslate2", "transformers", "torch", "onnxruntime")
NEEDED = {table.TORCH: ("transformers", "torch"), table.ONNX: ("onnxruntime", "onnx")}
"""Packages of the engines that are measured in some rows."""


def at_least(least: int) -> Callable[[str], int]:
    """What argparse makes a number with."""

    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        return value

    return integer


def above_zero(text: str) -> float:
    """What argparse makes seconds with."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a finite number above 0, not {text}")
    return value


def parse(argv: list[str] | None) -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description=(__doc__ or "").split("\n\n")[1],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}")
    parser.add_argument(
        "--quick", action="store_true", help="about three minutes: int8, speed, load"
    )
    parser.add_argument("--profile", action="store_true", help="the same as the part profile alone")
    parser.add_argument("--models", nargs="+", choices=[*NAMES, "smoke"], help="default: all")
    parser.add_argument("--dtypes", nargs="+", choices=["int8", "float32", "bfloat16"])
    parser.add_argument("--threads", nargs="+", type=at_least(1), default=sorted({1, cores}))
    parser.add_argument("--seconds", type=above_zero, help="to spend on each row, at least")
    parser.add_argument("--rounds", type=at_least(1), help="of each row, at least")
    parser.add_argument("--requests", type=at_least(1), default=10000, help="of the part memory")
    parser.add_argument(
        "--largest",
        type=at_least(max(values[0] for values in growth.SWEEPS.values())),
        default=512,
        help="batch or length of the part growth",
    )
    parser.add_argument(
        "--text", type=Path, help="Chinese TAB English lines for the built-in model"
    )
    parser.add_argument("--no-peers", action="store_true", help="this engine alone")
    parser.add_argument(
        "--keep", type=Path, default=ROOT / "build" / "bench", help="models go here"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench", help="results go here")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {sorted(unknown)[0]!r}: the parts are {', '.join(PARTS)}")
    if find_spec("safetensors") is None:
        parser.error("the models are made with the package safetensors (extra: train)")
    quick = arguments.quick
    arguments.parts = arguments.parts or (["speed", "load"] if quick else list(PARTS))
    if arguments.profile:
        arguments.parts = ["profile"]
    arguments.models = arguments.models or (["base", "built-in"] if quick else list(NAMES))
    arguments.dtypes = arguments.dtypes or (["int8"] if quick else ["int8", "float32", "bfloat16"])
    arguments.seconds = arguments.seconds or (1.0 if quick else 3.0)
    arguments.rounds = arguments.rounds or (3 if quick else 5)
    return arguments


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    start = time.time()
    report: dict[str, Any] = {
        "command": " ".join(["python -m tools.bench", *_shown(argv)]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(*PACKAGES),
        "notes": [],
    }
    notes: list[str] = report["notes"]
    with_peer = not arguments.no_peers
    if with_peer and (missing := missing_for_ctranslate2()):
        notes.append(f"CTranslate2 is skipped: not installed are {', '.join(missing)}.")
        with_peer = False

    others = [] if arguments.no_peers or arguments.quick else _others(notes)

    table.say(f"models: {', '.join(arguments.models)}")
    models = [make(name, arguments.keep, arguments.text) for name in arguments.models]
    report["text"] = next((m.sources.name for m in models if m.sources.natural), "none")
    limits: dict[int, Limits] = {}
    if "speed" in arguments.parts:
        for threads in arguments.threads:
            found = probe(threads, min(0.15, arguments.seconds))
            if isinstance(found, str):
                notes.append(found)
                break
            limits[threads] = found
        report["limits"] = [asdict(found) for found in limits.values()]
        report["table"] = list(
            table.rows(
                models,
                arguments.dtypes,
                arguments.threads,
                limits,
                arguments.seconds,
                arguments.rounds,
                with_peer,
                others,
            )
        )
        natural = [model for model in models if model.sources.natural]
        if natural:
            model, dtype = natural[0], arguments.dtypes[0]
            rounds = max(3, arguments.rounds)
            measured = continuous.measure(model, dtype, arguments.threads, rounds)
            report["continuous"] = {"model": model.name, "dtype": dtype, "rows": measured}
    if "load" in arguments.parts:
        report["footprint"] = []
        for model in models:
            table.say(f"load and memory: {model.name}")
            report["footprint"] += footprint.measure(
                model, arguments.dtypes, arguments.threads[0], arguments.rounds, with_peer, others
            )
    random_models = [model for model in models if model.name in SHAPES]
    skipped = [part for part in ("growth", "memory") if part in arguments.parts]
    if skipped and not random_models:
        notes.append(f"Skipped: {' and '.join(skipped)}, which need a model of random weights.")
    if random_models and "growth" in arguments.parts:
        report["growth"] = growth.measure(
            random_models[0],
            arguments.dtypes[0],
            arguments.threads,
            min(3, arguments.rounds),
            arguments.largest,
            with_peer,
        )
    if random_models and "memory" in arguments.parts:
        model, dtype = random_models[0], arguments.dtypes[0]
        table.say(f"memory over {arguments.requests} requests")
        runs = steady.measure(
            model.native(dtype), SHAPES[model.name][-1], arguments.requests, arguments.threads[-1]
        )
        report["steady"] = {"model": model.name, "dtype": dtype, "runs": runs}
    if "profile" in arguments.parts:
        report["profile"] = profile.measure(
            models, arguments.dtypes[:1], arguments.threads, min(3, arguments.rounds)
        )
    report["load_average_after"] = machine()["load_average"]
    report["minutes"] = round((time.time() - start) / 60, 1)
    _write(report, arguments.out)


def _shown(argv: list[str] | None) -> list[str]:
    """The arguments, paths by their names alone: results are read on other machines."""
    given = sys.argv[1:] if argv is None else argv
    return [Path(word).name if Path(word).is_absolute() else word for word in given]


def _others(notes: list[str]) -> list[str]:
    """Those of the other engines that are installed."""
    found = []
    for name, packages in NEEDED.items():
        if missing := [package for package in packages if find_spec(package) is None]:
            notes.append(f"{name} is skipped: not installed are {', '.join(missing)}.")
        else:
            found.append(name)
    return found


def _write(report: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if find_spec("matplotlib") is None:
        report["notes"].append("No plots: matplotlib is not installed.")
    else:
        plot(report, folder)
    (folder / "results.json").write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    text = markdown(report)
    (folder / "results.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
