"""An output piece by piece, as it grows."""

from __future__ import annotations

from collections.abc import Generator

from . import batching
from .batching import Job
from .calls import Call
from .lanes import open_session
from .results import GenerationResult


def _common_prefix(a: str, b: str) -> str:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return a[:length]


def _stable_prefix(previous: str, current: str) -> str:
    """What two successive decodings agree on; no space or incomplete character at its end."""
    return _common_prefix(previous, current).rstrip("\N{REPLACEMENT CHARACTER} ")


def stream(call: Call, job: Job) -> Generator[str, None, GenerationResult]:
    """See `Model.stream`.

    Only what two successive decodings agree on is given out, since a token can change the text of
    the one before it: an incomplete character, a space before a full stop.
    """
    engine, given, previous, n_seen = call.engine, "", "", 0
    if job.prefix:
        n_input = max(0, job.n_prompt - 1)
        sizes = batching.session_sizes(engine.config, [job], 1)
        session = open_session(engine.core, engine.pool, sizes, call.core_prompt)
        request = session.submit(job.source, job.prefix, job.options)
        while True:
            session.step()
            job.result = session.next_result()
            if job.result is not None:
                break
            ids = session.progress(request)[n_input:]
            if len(ids) == n_seen:
                continue
            n_seen = len(ids)
            current = engine.tokenizer.decode(ids)
            stable = _stable_prefix(previous, current)
            previous = current
            if len(stable) > len(given) and stable.startswith(given):
                yield stable[len(given) :]
                given = stable
    result = call.result(job)
    text = result.text or ""
    rest = text[len(_common_prefix(text, given)) :]
    if rest:
        yield rest
    return result
