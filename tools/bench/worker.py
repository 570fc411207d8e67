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

LIMIT = 256
"""Tokens of an output that is to end by itself, at most."""
BATCH = 64
"""Sentences of a file at once, for an engine that does not divide them itself."""


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

    @staticmethod
    def finish(spec: dict[str, Any], outputs: Sequence[Any]) -> Sequence[Sequence[int]]:
        """Ids of outputs as the engine gives them; not timed."""
        return outputs

    def translate(self, sources: Sequence[Any], beams: int, n_target: int | None) -> Sequence[Any]:
        """Translate them all at once; the outputs.

        n_target: tokens of each; None: outputs end by themselves, and a beam search once as many
        have ended as there are beams (CTranslate2's rule, early_stopping=True here).
        """
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

    def translate(self, sources: Sequence[Any], beams: int, n_target: int | None) -> Sequence[Any]:
        options: dict[str, Any] = {"num_beams": beams, "return_scores": False}
        if n_target is None:  # lines of a file; to end what repeats itself would be less work
            options.update(early_stopping=beams > 1, max_new_tokens=LIMIT, repetition_stop=0)
            return [result.token_ids for result in self.model.iterate(sources, **options)]
        options.update(max_new_tokens=n_target, min_new_tokens=n_target)
        return [result.token_ids for result in self.model.generate_ids(sources, **options)]


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

    @staticmethod
    def finish(spec: dict[str, Any], outputs: Sequence[Any]) -> Sequence[Sequence[int]]:
        ids = {token: id for id, token in enumerate(_vocabulary(spec["path"]))}
        return [[ids[token] for token in output] for output in outputs]

    def translate(self, sources: Sequence[Any], beams: int, n_target: int | None) -> Sequence[Any]:
        limits = {"max_decoding_length": LIMIT}
        if n_target is not None:
            limits = {"max_decoding_length": n_target, "min_decoding_length": n_target}
        results = self.translator.translate_batch(
            sources, beam_size=beams, **limits, **self.batching
        )
        return [result.hypotheses[0] for result in results]


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

    def translate(self, sources: Sequence[Any], beams: int, n_target: int | None) -> Sequence[Any]:
        return _in_batches(sources, n_target, lambda some: self._batch(some, beams, n_target))

    def _batch(self, sources: Sequence[Any], beams: int, n_target: int | None) -> list[list[int]]:
        longest = max(map(len, sources))
        padding = self.model.config.pad_token_id
        padded = [[*source, *[padding] * (longest - len(source))] for source in sources]
        ids = self.torch.tensor(padded)
        n = n_target or LIMIT
        with self.torch.inference_mode():
            found = self.model.generate(
                ids,
                attention_mask=(ids != padding).long(),
                num_beams=beams,
                do_sample=False,
                max_new_tokens=n,
                min_new_tokens=n if n_target else None,
                early_stopping=beams > 1,
            )
        rows: list[list[int]] = found[:, 1:].tolist()
        if n_target is not None:
            return rows
        ends = {padding, self.model.generation_config.eos_token_id}
        outputs = []
        for row in rows:
            n_kept = next((i for i, token in enumerate(row) if token in ends), len(row))
            outputs.append(row[:n_kept])
        return outputs


class OnnxRuntime(Engine):
    """onnxruntime over the trainer's ONNX graphs, greedy."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import onnxruntime

        from .onnx_model import Decoder

        self.decoder = Decoder(Path(spec["path"]), spec["threads"])
        self.version = onnxruntime.__version__

    def translate(self, sources: Sequence[Any], beams: int, n_target: int | None) -> Sequence[Any]:
        if beams != 1:
            raise SystemExit("the loop over onnxruntime is greedy only")
        n_most, fixed = n_target or LIMIT, n_target is not None
        return _in_batches(sources, n_target, lambda some: self.decoder.run(some, n_most, fixed))


def _in_batches(
    sources: Sequence[Any], n_target: int | None, run: Callable[[Sequence[Any]], Sequence[Any]]
) -> list[Any]:
    """All at once, or, where outputs end by themselves, in batches of like length."""
    size = BATCH if n_target is None else len(sources)
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    outputs: list[Any] = [None] * len(sources)
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        for i, output in zip(chosen, run([sources[i] for i in chosen]), strict=True):
            outputs[i] = output
    return outputs


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
    "onnxruntime": OnnxRuntime,
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
        outputs = [engine.translate(*call) for call in calls]
        answer["wall"] = time.perf_counter() - wall
        answer["cpu"] = time.process_time() - cpu
        answer["n_tokens"] = sum(len(output) for some in outputs for output in some)
        for call, some in zip(calls, outputs, strict=True):
            if call[2] is not None:
                _check([len(output) for output in some], call[2])
        if job.get("outputs"):
            answer["outputs"] = [engine.finish(spec, some) for some in outputs]
        if job.get("profile"):
            answer["profile"] = {
                name: [seconds - before[name][0], n - before[name][1]]
                for name, (seconds, n) in _core.profile().items()
            }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
