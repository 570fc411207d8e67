"""T5's span filling: what a model puts in the place of the sentinels <extra_id_n>.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"
(2020), section 3.1.4: an output is each sentinel of the input, followed by what it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import OptionError, UnsupportedError
from .records import record
from .results import GenerationResult
from .tokenizer import Tokenizer

SENTINEL = re.compile(r"<extra_id_(\d+)>")


@record
class FilledSpans:
    """A text with its sentinels filled."""

    text: str
    spans: tuple[str, ...]
    """What stands for each sentinel, in their order in the text; "" where the output lacks it."""
    result: GenerationResult


def sentinels(text: str, tokenizer: Tokenizer) -> list[str]:
    """The sentinels of a text, in order.  Raises OptionError, UnsupportedError."""
    if tokenizer.token_id("<extra_id_0>") is None:
        raise UnsupportedError("this model has no sentinels <extra_id_n>: it fills no spans.")
    found = [match[0] for match in SENTINEL.finditer(text)]
    if not found:
        raise OptionError("the text has no sentinel: write <extra_id_0> where a span is to be.")
    for token in found:
        if tokenizer.token_id(token) is None:
            raise OptionError(f"the model has no sentinel {token}.")
    if len(set(found)) != len(found):
        raise OptionError("the text has the same sentinel twice: number them from <extra_id_0> on.")
    return found


def fill(text: str, result: GenerationResult, tokenizer: Tokenizer) -> FilledSpans:
    """The text with the spans of an output."""
    wanted = sentinels(text, tokenizer)
    filled = read_spans(result.token_ids, tokenizer)
    spans = {token: filled.get(tokenizer.token_id(token) or 0, "") for token in wanted}
    return FilledSpans(
        SENTINEL.sub(lambda match: spans[match[0]], text), tuple(spans.values()), result
    )


def read_spans(ids: Sequence[int], tokenizer: Tokenizer) -> dict[int, str]:
    """Sentinel id -> the text after it, up to the next sentinel."""
    runs: dict[int, list[int]] = {}
    current: list[int] | None = None
    for id, token in zip(ids, tokenizer.tokens(ids), strict=True):
        if SENTINEL.fullmatch(token):
            current = runs.setdefault(id, [])
        elif current is not None:
            current.append(id)
    return {id: tokenizer.decode(run).strip() for id, run in runs.items()}
