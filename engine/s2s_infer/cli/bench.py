"""`s2s-infer bench`: how fast a model runs on this machine, and how fast it could."""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from .arguments import Parser, add_model_arguments, open_model

if TYPE_CHECKING:
    from ..model import Model

EPILOG = """examples:
  s2s-infer bench
  s2s-infer bench -m opus-mt-zh-en/ --dtype int8 --threads 2 --text chinese.txt
  CT2_PACKED_GEMM=1 s2s-infer bench -m zh-en.s2s --ctranslate2 zh-en-ct2/
"""
N_SOURCE = 24
N_ALONE = 4
"""Sentences of a round of the workloads of one at a time."""
MIN_ROUNDS, MAX_ROUNDS = 3, 50
PROBE_SECONDS = 0.1

Translate = Callable[[Sequence[Sequence[int]], int, int], int]
"""(sources, beams, output tokens of each) -> output tokens of all."""


@dataclass
class Workload:
    """What is run in turns, and tokens a second of each round, by engine."""

    name: str
    n_together: int
    beams: int
    speeds: dict[str, list[float]] = field(default_factory=dict)
    limit: float | None = None
    """Tokens a second if reading the weights were all."""


def run(argv: Sequence[str]) -> int:
    parser = Parser(
        "bench",
        "[-m MODEL] [--text FILE] [--ctranslate2 DIR] [options]",
        "Measures a model on this machine: output tokens a second, one sentence at a time and\n"
        "several at once, greedy and beam search; loading; memory.  Outputs have a fixed length.",
        EPILOG,
    )
    add_model_arguments(parser)
    group = parser.add_argument_group("workloads")
    group.add_argument("--beams", type=int, default=4, metavar="N", help="of beam search (4)")
    group.add_argument("--batch", type=int, default=32, metavar="N", help="sentences at once (32)")
    group.add_argument("--tokens", type=int, default=32, metavar="N", help="of each output (32)")
    group.add_argument("--text", metavar="FILE", help="sources, one a line; default: random tokens")
    group.add_argument("--to", metavar="LANG", help="target language, where a model has several")
    group.add_argument(
        "--seconds", type=float, default=2.0, metavar="S", help="for each workload, about (2)"
    )
    group.add_argument(
        "--ctranslate2",
        metavar="DIR",
        help="the same model as CTranslate2 has it, to take turns with; its CT2_* environment "
        "variables count, and the package ctranslate2 must be installed",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse(argv)
    for name in ("beams", "batch", "tokens"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    report = measure(arguments)
    if arguments.json:
        from .lines import to_json

        print(to_json(report))
    else:
        print("\n".join(_lines(report)))
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that the command prints, in plain JSON types."""
    import_module("..model", __package__)  # what importing takes is not the model's
    before, start = _resident(), time.perf_counter()
    model = open_model(arguments)
    opened = time.perf_counter() - start
    texts = _read_texts(arguments.text)
    sources = _sources(model, texts, arguments.to, arguments.batch)
    start = time.perf_counter()
    model.generate_ids(sources[:1], max_new_tokens=1)
    first_token = time.perf_counter() - start
    info = model.info()
    engines: dict[str, Translate] = {"s2s-infer": _ours(model)}
    if arguments.ctranslate2 is not None:
        engines["CTranslate2"] = _ctranslate2(arguments, info["dtype"], info["threads"])

    workloads = [
        Workload("1 at a time, greedy", 1, 1),
        Workload(f"1 at a time, beam {arguments.beams}", 1, arguments.beams),
        Workload(f"{arguments.batch} at once, greedy", arguments.batch, 1),
        Workload(
            f"{arguments.batch} at once, beam {arguments.beams}", arguments.batch, arguments.beams
        ),
    ]
    step_bytes, bandwidth = _reading(model, info["threads"])
    for workload in workloads:
        _take_turns(workload, engines, sources, arguments.tokens, arguments.seconds)
        if workload.n_together == 1:
            workload.limit = bandwidth / step_bytes
    after = _resident()
    return {
        "model": {name: info[name] for name in ("path", "family", "dtype", "weights", "bytes")},
        "isa": info["isa"],
        "threads": info["threads"],
        "tokens": arguments.tokens,
        "sources": arguments.text or "random tokens",
        "seconds_to_open": opened,
        "seconds_to_first_token": opened + first_token,
        "resident_bytes": after,
        "resident_bytes_added": None if after is None or before is None else after - before,
        "bytes_read_per_step": step_bytes,
        "read_bytes_per_second": bandwidth,
        "workloads": [_figures(workload) for workload in workloads],
        "file": None if texts is None else _file(model, texts, arguments),
    }


def _figures(workload: Workload) -> dict[str, Any]:
    engines = {
        name: {
            "tokens_per_second": statistics.median(speeds),
            "least": min(speeds),
            "most": max(speeds),
        }
        for name, speeds in workload.speeds.items()
    }
    figures: dict[str, Any] = {"name": workload.name, "engines": engines}
    ours = engines["s2s-infer"]["tokens_per_second"]
    if "CTranslate2" in engines:
        figures["ratio"] = ours / engines["CTranslate2"]["tokens_per_second"]
    if workload.limit is not None:
        figures["share_of_limit"] = ours / workload.limit
    return figures


def _take_turns(
    workload: Workload,
    engines: dict[str, Translate],
    sources: Sequence[Sequence[int]],
    n_target: int,
    seconds: float,
) -> None:
    """Rounds of every engine, one after another, after one that is not counted."""
    n = workload.n_together
    calls = [sources[:n]] if n > 1 else [[source] for source in sources[:N_ALONE]]
    workload.speeds = {name: [] for name in engines}
    start = time.perf_counter()
    for number in range(MAX_ROUNDS + 1):
        if number > MIN_ROUNDS and time.perf_counter() - start > seconds:
            break
        for name, translate in engines.items():
            begin = time.perf_counter()
            n_tokens = sum(translate(some, workload.beams, n_target) for some in calls)
            if number:
                workload.speeds[name].append(n_tokens / (time.perf_counter() - begin))


def _ours(model: Model) -> Translate:
    def translate(sources: Sequence[Sequence[int]], beams: int, n_target: int) -> int:
        results = model.generate_ids(
            sources,
            num_beams=beams,
            num_return_sequences=1,
            do_sample=False,
            max_new_tokens=n_target,
            min_new_tokens=n_target,
            return_scores=False,
        )
        return sum(len(result.token_ids) for result in results)

    return translate


def _ctranslate2(arguments: argparse.Namespace, dtype: str, threads: int) -> Translate:
    import json

    try:
        import ctranslate2
    except ImportError:
        raise OptionError("--ctranslate2 needs the package ctranslate2, not installed.") from None
    path = Path(arguments.ctranslate2)
    names = ("shared_vocabulary.json", "source_vocabulary.json")
    vocabulary = next((path / name for name in names if (path / name).exists()), None)
    if vocabulary is None:
        raise OptionError(f"--ctranslate2 {path} has neither {names[0]} nor {names[1]}.")
    tokens = json.loads(vocabulary.read_text(encoding="utf-8"))
    translator = ctranslate2.Translator(
        str(path), compute_type=dtype, intra_threads=threads, inter_threads=1
    )

    def translate(sources: Sequence[Sequence[int]], beams: int, n_target: int) -> int:
        results = translator.translate_batch(
            [[tokens[i] for i in source] for source in sources],
            beam_size=beams,
            max_decoding_length=n_target,
            min_decoding_length=n_target,
        )
        return sum(len(result.hypotheses[0]) for result in results)

    return translate


def _read_texts(path: str | None) -> list[str] | None:
    if path is None:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise OptionError(f"--text {path} is not valid UTF-8: {error}.") from None
    texts = [line.partition("\t")[0] for line in lines if line.strip()]
    if not texts:
        raise OptionError(f"--text {path} has no text.")
    return texts


def _sources(
    model: Model, texts: Sequence[str] | None, to: str | None, batch: int
) -> list[list[int]]:
    """Token ids of as many sources as a round needs: spread over the texts, or at random."""
    n = max(batch, N_ALONE)
    rng = random.Random(1)
    if texts is None:
        special = {id for id in model.special_tokens.to_dict().values() if isinstance(id, int)}
        ordinary = [id for id in range(model.config.source_vocab_size) if id not in special]
        return [rng.choices(ordinary, k=N_SOURCE) for _ in range(n)]
    return [model.tokenizer.encode_source(text, to=to) for text in rng.choices(texts, k=n)]


def _file(model: Model, texts: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """All of --text as `translate` does it, greedy: text to text, outputs ending by themselves."""
    start = time.perf_counter()
    results = model.iterate(texts, to=arguments.to, num_beams=1, return_scores=False)
    n_tokens = sum(len(result.token_ids) for result in results)
    seconds = time.perf_counter() - start
    return {
        "lines": len(texts),
        "lines_per_second": len(texts) / seconds,
        "tokens_per_second": n_tokens / seconds,
    }


# ---- The machine ---------------------------------------------------------------------------------


def _resident() -> int | None:
    """Bytes of this process that are resident; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _reading(model: Model, threads: int) -> tuple[int, float]:
    """Bytes of weights that one decoder step reads, and bytes a second of reading that many.

    The rate is that of numpy's dot product of a vector of that size with itself, over and over,
    each thread with its part: nothing of this engine's, and much the same as plain loads in C.
    """
    from threading import Thread

    import numpy as np

    from ..cost import costs

    n_bytes = costs(model._checkpoint).step.n_bytes
    part = np.ones(max(1, n_bytes // threads // 4), np.float32)
    rates: list[float] = []

    def read() -> None:
        x, best = part.copy(), 0.0
        n_times = 1 + (4 << 20) // x.nbytes
        end = time.perf_counter() + PROBE_SECONDS
        while time.perf_counter() < end:
            start = time.thread_time()
            for _ in range(n_times):
                np.dot(x, x)
            best = max(best, n_times * x.nbytes / max(time.thread_time() - start, 1e-9))
        rates.append(best)

    workers = [Thread(target=read) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return n_bytes, sum(rates)


# ---- Printing ------------------------------------------------------------------------------------


def _lines(report: dict[str, Any]) -> Iterator[str]:
    model = report["model"]
    yield f"model       {model['path']}"
    yield (
        f"            {model['family']}, {model['weights']:,} weights in {model['dtype']}, "
        f"{model['bytes'] / 1e6:.1f} MB; {report['isa']}, threads: {report['threads']}"
    )
    yield (
        f"load        {report['seconds_to_open'] * 1e3:.1f} ms, to the first token "
        f"{report['seconds_to_first_token'] * 1e3:.1f} ms"
    )
    if report["resident_bytes"] is not None:
        own = report["resident_bytes_added"]
        yield (
            f"memory      {report['resident_bytes'] / 1e6:.1f} MB resident, of it "
            f"{own / 1e6:.1f} MB since the model was opened"
        )
    yield (
        f"limit       a step reads {report['bytes_read_per_step'] / 1e6:.1f} MB of weights, at "
        f"{report['read_bytes_per_second'] / 1e9:.0f} GB/s here"
    )
    yield f"sources     {report['sources']}; {report['tokens']} tokens in each output"
    yield ""
    peer = any("ratio" in workload for workload in report["workloads"])
    yield f"{'':<24}{'tokens/s (least..most)':>30}{'of limit':>10}" + (
        f"{'CTranslate2':>30}{'ratio':>8}" if peer else ""
    )
    for workload in report["workloads"]:
        share = workload.get("share_of_limit")
        line = f"{workload['name']:<24}{_speed(workload['engines']['s2s-infer']):>30}"
        line += f"{share:>10.0%}" if share is not None else " " * 10
        if peer:
            line += f"{_speed(workload['engines']['CTranslate2']):>30}{workload['ratio']:>8.2f}"
        yield line.rstrip()
    if report["file"]:
        found = report["file"]
        yield (
            f"{'file, greedy':<24}{found['tokens_per_second']:>15,.0f}   {found['lines']:,} lines, "
            f"{found['lines_per_second']:,.0f} a second"
        )


def _speed(figures: dict[str, float]) -> str:
    return f"{figures['tokens_per_second']:,.0f} ({figures['least']:,.0f}..{figures['most']:,.0f})"
