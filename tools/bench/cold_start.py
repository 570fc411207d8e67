"""Cold start: from process start to the translated text, s2s-infer beside CTranslate2.

    python -m tools.bench.cold_start [--runs 15]        (extra: reference)

Both translate the same sentence with the built-in model (CTranslate2 in a float32 conversion of it,
through its own Python API and sentencepiece) and as many beams.  The programs run in turn, so that
both see the same machine; medians are written as JSON (CPU seconds too: they stand a busy machine).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .machine import commit, machine, versions

CTRANSLATE2 = """
import sys
import ctranslate2
import sentencepiece
directory, text, beams, threads = sys.argv[1:]
source = sentencepiece.SentencePieceProcessor(directory + "/source.spm")
target = sentencepiece.SentencePieceProcessor(directory + "/target.spm")
translator = ctranslate2.Translator(directory, intra_threads=int(threads))
tokens = [">>en<<", *source.encode(text, out_type=str), "</s>"]
result = translator.translate_batch([tokens], beam_size=int(beams))[0]
print(target.decode(result.hypotheses[0]))
"""


def run_program(program: list[str]) -> tuple[float, float, str]:
    """Wall-clock seconds, CPU seconds (user and system) and what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen(program, stdout=subprocess.PIPE)
    assert process.stdout is not None
    text = process.stdout.read().decode().strip()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{program[0]} failed with status {process.returncode}")
    return wall, usage.ru_utime + usage.ru_stime, text


def convert(directory: Path) -> None:
    """The built-in model as CTranslate2 reads it, with its sentencepiece models."""
    from ctranslate2.converters import TransformersConverter

    from s2s_infer.formats.native import load_native
    from tools.hf_directory import BUILT_IN, write

    with tempfile.TemporaryDirectory() as hugging_face:
        write(load_native(BUILT_IN), Path(hugging_face))
        files = ["source.spm", "target.spm"]
        TransformersConverter(hugging_face, copy_files=files).convert(str(directory), force=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--text", default="今天天气很好")
    parser.add_argument("--num-beams", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    beams, threads = str(arguments.num_beams), str(arguments.threads)
    flags = ["--to", "en", "--num-beams", beams, "--threads", threads]
    positional = [arguments.text, beams, threads]

    with tempfile.TemporaryDirectory() as directory:
        convert(Path(directory))
        command = str(Path(sys.executable).parent / "s2s-infer")
        programs: dict[str, list[str]] = {
            "python": [sys.executable, "-c", "print()"],
            "import numpy": [sys.executable, "-c", "import numpy; print()"],
            "s2s-infer": [command, "translate", arguments.text, *flags],
            "CTranslate2": [sys.executable, "-c", CTRANSLATE2, directory, *positional],
        }
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in programs}
        texts: dict[str, str] = {}
        for run in range(arguments.runs + 1):
            for name, program in programs.items():
                wall, cpu_time, texts[name] = run_program(program)
                if run:  # the first round only fills the page cache
                    seconds[name].append(wall)
                    cpu_seconds[name].append(cpu_time)
    report = {
        "benchmark": "cold start: process start to text, seconds",
        "machine": machine(),
        "commit": commit(),
        "versions": versions("s2s-infer", "numpy", "ctranslate2", "sentencepiece"),
        "settings": {k: getattr(arguments, k) for k in ("runs", "text", "num_beams", "threads")},
        "texts": {name: text for name, text in texts.items() if text},
        "wall_median": {name: round(statistics.median(all_), 4) for name, all_ in seconds.items()},
        "wall_fastest": {name: round(min(all_), 4) for name, all_ in seconds.items()},
        "cpu_median": {
            name: round(statistics.median(all_), 4) for name, all_ in cpu_seconds.items()
        },
    }
    print(json.dumps(report, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
