"""One engine with one model in a process of its own, which does jobs as they come.

    python -m tools.bench.worker '{"engine": "ours", "path": ..., "dtype": ..., "threads": ...}'

Jobs are lines of JSON on stdin, answers lines of JSON on stdout.  A job is a list of calls; a call
has sources (token ids), beams, and the exact number of output tokens (None: outputs end by
themselves).  An engine of its own process sees nothing of another's threads, allocator or
environment; the parent lets them take turns.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

Translate = Callable[[Sequence[Any], int, "int | None"], int]
"""(sources, beams, output tokens) -> tokens in all outputs."""


class Engine:
    """What jobs need of an engine.  Made from a spec: engine, path, dtype, threads, options."""

    def __init__(self, spec: dict[str, Any]) -> None: ...

    version = ""

    @property
    def detail(self) -> str:
        """How it runs here: SIMD level and the like."""
        return ""

    @staticmethod
    def prepare(spec: dict[str, Any], ids: list[list[int]]) -> Sequence[Any]:
        """Sources as the engine takes them; not timed."""
        return ids

    def translate(self, sources: Sequence[Any], beams: int, n_target: int | None) -> int:
        """Translate them all at once, and return how many tokens the outputs have."""
        raise NotImplementedError


class Ours(Engine):
    def __init__(self, spec: dict[str, Any]) -> None:
        import s2s_infer

        self.model = s2s_infer.load(spec["path"], threads=spec["threads"])
        self.version = s2s_infer.__version__

    @property
    def detail(self) -> str:
        isa: str = self.model.info()["isa"]
        return isa

    def translate(self, sources: Sequence[Any], beams: int, n_target: int | None) -> int:
        options: dict[str, Any] = {"num_beams": beams, "return_scores": False}
        if n_target is None:  # lines of a file
            return sum(len(r.token_ids) for r in self.model.iterate(sources, **options))
        results = self.model.generate_ids(
            sources, max_new_tokens=n_target, min_new_tokens=n_target, **options
        )
        _check([len(result.token_ids) for result in results], n_target)
        return n_target * len(results)


class CTranslate2(Engine):
    def __init__(self, spec: dict[str, Any]) -> None:
        import ctranslate2

        inter = spec.get("inter_threads", 1)
        self.translator = ctranslate2.Translator(
            spec["path"],
            compute_type=spec["dtype"],
            inter_threads=inter,
            intra_threads=max(1, spec["threads"] // inter),
        )
        self.batching = {
            name: spec[name] for name in ("max_batch_size", "batch_type") if name in spec
        }
        self.version = ctranslate2.__version__

    @staticmethod
    def prepare(spec: dict[str, Any], ids: list[list[int]]) -> Sequence[Any]:
        tokens = _vocabulary(spec["path"])
        return [[tokens[i] for i in source] for source in ids]

    def translate(self, sources: Sequence[Any], beams: int, n_target: int | None) -> int:
        limits = {"max_decoding_length": 256}
        if n_target is not None:
            limits = {"max_decoding_length": n_target, "min_decoding_length": n_target}
        results = self.translator.translate_batch(
            sources, beam_size=beams, **limits, **self.batching
        )
        lengths = [len(result.hypotheses[0]) for result in results]
        if n_target is not None:
            _check(lengths, n_target)
        return sum(lengths)


class Transformers(Engine):
    """Hugging Face transformers over torch, float32."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        torch.set_num_threads(spec["threads"])
        self.torch = torch
        self.model = transformers.MarianMTModel.from_pretrained(spec["path"]).eval()
        self.model.generation_config.eos_token_id = 0
        self.version = f"{transformers.__version__} (torch {torch.__version__})"

    def translate(self, sources: Sequence[Any], beams: int, n_target: int | None) -> int:
        longest = max(map(len, sources))
        padding = self.model.config.pad_token_id
        rows = [[*source, *[padding] * (longest - len(source))] for source in sources]
        ids = self.torch.tensor(rows)
        n = n_target or 256
        with self.torch.inference_mode():
            found = self.model.generate(
                ids,
                attention_mask=(ids != padding).long(),
                num_beams=beams,
                do_sample=False,
                max_new_tokens=n,
                min_new_tokens=n if n_target else None,
            )
        if n_target is not None:
            _check([found.shape[1] - 1], n_target)
        return int(found.shape[0] * (found.shape[1] - 1))


@cache
def _vocabulary(path: str) -> list[str]:
    tokens: list[str] = json.loads((Path(path) / "shared_vocabulary.json").read_text("utf-8"))
    return tokens


def _check(lengths: list[int], n_target: int) -> None:
    wrong = [n for n in lengths if n != n_target]
    if wrong:
        raise SystemExit(f"an output has {wrong[0]} tokens, where {n_target} were asked for")


ENGINES: dict[str, type[Engine]] = {
    "s2s-infer": Ours,
    "CTranslate2": CTranslate2,
    "transformers": Transformers,
}


def main() -> None:
    """Answer jobs until stdin ends."""
    engine = ENGINES[(spec := json.loads(sys.argv[1]))["engine"]](spec)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    print(
        json.dumps({"version": engine.version, "detail": engine.detail}), file=answers, flush=True
    )
    for line in sys.stdin:
        job = json.loads(line)
        calls = [
            (engine.prepare(spec, c["sources"]), c["beams"], c["n_target"]) for c in job["calls"]
        ]
        answer: dict[str, Any] = {}
        if job.get("profile"):
            from s2s_infer import _core

            before = _core.profile()
        wall, cpu = time.perf_counter(), time.process_time()
        n_tokens = sum(engine.translate(*call) for call in calls)
        answer["wall"] = time.perf_counter() - wall
        answer["cpu"] = time.process_time() - cpu
        answer["n_tokens"] = n_tokens
        if job.get("profile"):
            answer["profile"] = {
                name: [seconds - before[name][0], n - before[name][1]]
                for name, (seconds, n) in _core.profile().items()
            }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
