"""The glass box: run one input and keep every named tensor that the core computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core, batching
from .calls import Call
from .engine import Engine, TextOptions
from .errors import OptionError
from .lanes import open_session


def trace(
    engine: Engine,
    source: str | Sequence[int],
    target: str | Sequence[int] | None,
    texts: TextOptions,
    options: Mapping[str, Any],
) -> dict[str, npt.NDArray[Any]]:
    """See `Model.trace`."""
    if not engine.config.has_decoder:
        if target is not None or options:
            raise OptionError("the model is an encoder alone: a trace of it takes a text only.")
        return _trace_encoder(engine, source, texts)
    for name, only in (("num_beams", 1), ("do_sample", False), ("num_return_sequences", 1)):
        if options.get(name, only) != only:
            raise OptionError(f"a trace is of a greedy search: {name} must be {only}.")
    greedy = {"num_beams": 1, "do_sample": False, "num_return_sequences": 1, "return_scores": True}
    call = Call(engine, {**options, **greedy}, texts)
    source_ids = call.source(source, "the text")
    if not source_ids:
        raise OptionError("there is nothing to trace: the source has no tokens.")
    if target is None:
        job = call.job(source_ids, [], "the text")
    else:
        job = call.score_job(source_ids, call.target(target, "target"), "the text")

    recorded: dict[str, list[npt.NDArray[np.float32]]] = {}

    def record(name: str, array: npt.NDArray[np.float32]) -> None:
        recorded.setdefault(name, []).append(array)

    sizes = batching.session_sizes(engine.config, [job], 1)
    session = open_session(engine.core, engine.pool, sizes)
    session.set_record(record)
    session.submit(job.source, job.prefix, {**job.options.values, "n_prompt": 0})
    while (result := session.next_result()) is None:
        session.step()
    session.set_record(None)

    hypothesis = result.hypotheses[0]
    assert hypothesis.logprobs is not None
    outputs = list(hypothesis.tokens)
    if hypothesis.end_token is not None:
        outputs.append(hypothesis.end_token)
    inputs = [job.prefix[0], *outputs][: len(hypothesis.logprobs)]
    arrays: dict[str, npt.NDArray[Any]] = {
        "source.ids": np.array(job.source or job.prefix[: job.n_prompt], np.int32),
        "target.ids": np.array(inputs, np.int32),
        "output.ids": np.array(outputs, np.int32),
        "output.logprobs": np.array(hypothesis.logprobs, np.float32),
    }
    tokenizer = engine.checkpoint.tokenizer
    if tokenizer is not None:
        arrays["target.tokens"] = np.array(tokenizer.tokens(inputs), np.str_)
        arrays["output.tokens"] = np.array(tokenizer.tokens(outputs), np.str_)
    for name, parts in recorded.items():
        arrays[name] = parts[0] if name.startswith("encoder.") else _stack(parts)
    return arrays


def _trace_encoder(
    engine: Engine, source: str | Sequence[int], texts: TextOptions
) -> dict[str, npt.NDArray[Any]]:
    ids = engine.source_ids(source, "the text", texts)
    ids, _ = engine.fit_source(ids, False, "the text")
    if not ids:
        raise OptionError("there is nothing to trace: the source has no tokens.")
    arrays: dict[str, npt.NDArray[Any]] = {"source.ids": np.array(ids, np.int32)}
    if engine.checkpoint.tokenizer is not None:
        arrays["source.tokens"] = np.array(engine.checkpoint.tokenizer.tokens(ids), np.str_)
    encoder = _core.Encoder(engine.core, engine.pool, max_positions=len(ids), max_tokens=len(ids))
    encoder.set_record(arrays.__setitem__)
    encoder.encode([ids])
    encoder.set_record(None)
    return arrays


def _stack(steps: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """One array of all steps: rows [1, d] become [n_steps, d], attention weights [heads, 1, n] of
    growing n become [n_steps, heads, n], zero where a step could not see."""
    if steps[0].ndim == 2:
        return np.concatenate(steps)
    n_heads = steps[0].shape[0]
    width = max(step.shape[2] for step in steps)
    stacked = np.zeros((len(steps), n_heads, width), np.float32)
    for i, step in enumerate(steps):
        stacked[i, :, : step.shape[2]] = step[:, 0]
    return stacked
