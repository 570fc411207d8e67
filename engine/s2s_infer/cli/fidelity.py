"""How near a converted model stays to the float32 weights it came from, on a user's own text."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..opening import load
from ..results import GenerationResult

MISSING = (
    "--check compares translations by BLEU and chrF, which the package sacrebleu computes; it is "
    "not installed: pip install 's2s-infer[check]'."
)


def sacrebleu() -> Any:
    """The package, or an OptionError that says how to get it."""
    try:
        return importlib.import_module("sacrebleu")
    except ImportError:
        raise OptionError(MISSING) from None


def report(
    source: Path,
    target: Path,
    pairs: tuple[list[str], list[str] | None],
    how: Mapping[str, Any],
    num_beams: int | None,
) -> Iterator[str]:
    """Lines that compare `target` with `source` in float32 on what `read_pairs` gave.

    how: what `text_options` gives.
    """
    metrics = sacrebleu()
    sources, references = pairs
    options = {**how} if num_beams is None else {**how, "num_beams": num_beams}
    with load(source, dtype="float32") as full:
        expected = full.generate(sources, **options)
    with load(target) as converted:
        dtype = converted.info()["dtype"]
        found = converted.generate(sources, **options)

    n_same = sum(a.token_ids == b.token_ids for a, b in zip(expected, found, strict=True))
    yield f"{len(sources)} lines, {dtype} beside float32"
    yield f"same output       {n_same / len(sources):.2%} of the lines"
    yield f"token agreement   {_agreement(expected, found):.2%}"
    before, after = [r.text or "" for r in expected], [r.text or "" for r in found]
    if references is None:
        bleu, chrf = _scores(metrics, after, before)
        yield f"against float32   BLEU {bleu:.2f}, chrF {chrf:.2f} (100: the same texts)"
        return
    bleu_before, chrf_before = _scores(metrics, before, references)
    bleu, chrf = _scores(metrics, after, references)
    yield f"float32           BLEU {bleu_before:.2f}, chrF {chrf_before:.2f}"
    yield f"{dtype:<18}BLEU {bleu:.2f}, chrF {chrf:.2f}"
    yield f"difference        BLEU {bleu - bleu_before:+.2f}, chrF {chrf - chrf_before:+.2f}"


def _agreement(expected: Sequence[GenerationResult], found: Sequence[GenerationResult]) -> float:
    """Tokens that both have in the same order, as a share of all."""
    n_common = n_all = 0
    for a, b in zip(expected, found, strict=True):
        matcher = SequenceMatcher(None, a.token_ids, b.token_ids, autojunk=False)
        n_common += 2 * sum(block.size for block in matcher.get_matching_blocks())
        n_all += len(a.token_ids) + len(b.token_ids)
    return n_common / n_all if n_all else 1.0


def _scores(metrics: Any, outputs: Sequence[str], references: Sequence[str]) -> tuple[float, float]:
    """BLEU, with the tokens of Chinese where most references are written in it, and chrF."""
    n_chinese = sum(any("\u4e00" <= c <= "\u9fff" for c in text) for text in references)
    tokenize = "zh" if 2 * n_chinese > len(references) else "13a"
    bleu = metrics.corpus_bleu(list(outputs), [list(references)], tokenize=tokenize).score
    return bleu, metrics.corpus_chrf(list(outputs), [list(references)]).score
