"""What an encoder gives by itself: hidden states, pooled vectors, filled masks, labels.

Encoder-only models (Devlin et al., "BERT", 2018; Liu et al., "RoBERTa", 2019; Sanh et al.,
"DistilBERT", 2019) read a text, or two with a separation token between them, in one pass; small
heads make of the hidden states what is asked for.  All products are the core's, so that a text's
numbers do not depend on what is encoded beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core, batching
from .config_enums import LabelScores
from .engine import Engine, TextOptions
from .errors import OptionError, UnsupportedError
from .inputs import as_list, checked_text
from .results import Classification, MaskCandidate

if TYPE_CHECKING:
    import numpy.typing as npt

    States = npt.NDArray[np.float32]

CHUNK = 64
"""Texts encoded at once: what is held in memory does not grow with their number."""
POOLINGS = ("cls", "mean", "pooler", "auto")
_CLASSES = {
    "masked_lm": "BertForMaskedLM, RobertaForMaskedLM or DistilBertForMaskedLM",
    "classifier": "BertForSequenceClassification, RobertaForSequenceClassification or "
    "DistilBertForSequenceClassification",
    "pooler": "BertModel or RobertaModel with its pooler",
}


class Input(NamedTuple):
    """One sequence for the encoder."""

    ids: list[int]
    token_types: list[int] | None
    """One for each id; None: all 0."""


def read_input(
    engine: Engine, text: Any, texts: TextOptions, truncate: bool, where: str, limit: int = 0
) -> Input:
    """The ids of a text or of a pair of texts.  Raises OptionError.

    limit: tokens that it may have; 0: as many as the model has positions.
    """
    if isinstance(text, tuple):
        if len(text) != 2:
            raise OptionError(f"{where} must be a text or a pair of texts, not {len(text)} texts.")
        if texts.given():
            raise OptionError(f"{where} is a pair of texts, so {texts.given()[0]} cannot apply.")
        first, second = (checked_text(where, part) for part in text)
        n_positions = engine.config.encoder.max_positions
        limit = min(limit or n_positions, n_positions)
        ids, types = engine.tokenizer.encode_pair(first, second, limit if truncate else None)
        if len(ids) > limit:
            raise engine.too_long(ids, limit, where)
        # DistilBERT's tokenizer gives types that its model has no table for
        has_types = engine.config.encoder.n_token_types > 0 and any(types)
        engine.check_padding(ids, where)
        return Input(ids, types if has_types else None)
    ids = engine.source_ids(checked_text(where, text), where, texts)
    fitting, _ = engine.fit_source(ids, truncate, where, limit)
    return Input(fitting, None)


def read_inputs(
    engine: Engine, texts: Any, how: TextOptions, truncate: bool, limit: int = 0
) -> tuple[list[Input], bool]:
    """What the encoder reads of one text or pair or of several, and whether it is one."""
    is_one = isinstance(texts, (str, tuple))
    items = [texts] if is_one else as_list("texts", texts)
    names = ["the text"] if is_one else [f"texts[{i}]" for i in range(len(items))]
    inputs = [
        read_input(engine, item, how, truncate, name, limit)
        for item, name in zip(items, names, strict=True)
    ]
    return inputs, is_one


def hidden_states(
    engine: Engine, inputs: Sequence[Input]
) -> Iterator[tuple[_core.Encoder, list[States]]]:
    """For chunks of the inputs, in order: the encoder, and hidden states [n_tokens, d_model]."""
    longest = max((len(item.ids) for item in inputs), default=0)
    if longest == 0:
        return
    max_tokens = max(longest, batching.MIN_ENCODER_TOKENS)
    encoder = _core.Encoder(engine.core, engine.pool, max_positions=longest, max_tokens=max_tokens)
    for begin in range(0, len(inputs), CHUNK):
        states: list[States] = []
        for group in _groups(inputs[begin : begin + CHUNK], max_tokens):
            types = None
            if any(item.token_types for item in group):
                types = [item.token_types or [0] * len(item.ids) for item in group]
            states += encoder.encode([item.ids for item in group], types)
        yield encoder, states


def _groups(inputs: Sequence[Input], max_tokens: int) -> Iterator[list[Input]]:
    """The inputs, as many as the encoder reads at once: between two groups Ctrl-C ends a call."""
    group: list[Input] = []
    n_tokens = 0
    for item in inputs:
        if group and n_tokens + len(item.ids) > max_tokens:
            yield group
            group, n_tokens = [], 0
        group.append(item)
        n_tokens += len(item.ids)
    yield group


def checked_pooling(engine: Engine, pooling: Any, normalize: bool) -> tuple[str, bool]:
    """The kind and whether to normalize, "auto" made what the checkpoint says, else mean.

    Raises an error if the model cannot pool so.
    """
    rule = engine.checkpoint.vectors
    if pooling == "auto":
        if rule is not None and rule.unsupported:
            raise UnsupportedError(rule.unsupported)
        return ("mean", normalize) if rule is None else (rule.pooling, normalize or rule.normalize)
    if pooling not in POOLINGS:
        raise OptionError(f"pooling must be one of {', '.join(POOLINGS)} or None, not {pooling!r}.")
    if pooling == "cls" and engine.checkpoint.special_tokens.classification is None:
        raise UnsupportedError(
            "this model puts no classification token before a text, so there is no pooling='cls': "
            "use pooling='mean'."
        )
    if pooling == "pooler":
        check_head(engine, "pooler")
    return pooling, normalize


def check_head(engine: Engine, name: str) -> None:
    """Raise UnsupportedError if the model lacks a head."""
    if name not in engine.config.heads:
        what = {"masked_lm": "masked-language-model head", "classifier": "classification head"}
        raise UnsupportedError(
            f"this model ({engine.checkpoint.family}) has no {what.get(name, name)}: open a "
            f"checkpoint of {_CLASSES[name]}."
        )


def pooled(engine: Engine, inputs: Sequence[Input], pooling: str, normalize: bool) -> States:
    """One vector for each input, [n, d_model]."""
    vectors = np.empty((len(inputs), engine.config.d_model), np.float32)
    n = 0
    for encoder, states in hidden_states(engine, inputs):
        if pooling == "mean":
            # over tokens, one after another, in float64: the same bits on every CPU
            rows = np.array([array.mean(0, np.float64) for array in states])
        else:
            rows = np.array([array[0] for array in states])
            if pooling == "pooler":
                rows = encoder.head("pooler", rows)[0]
        vectors[n : n + len(states)] = rows
        n += len(states)
    if normalize:
        for vector in vectors:
            # fsum is exact: the same bits on every CPU
            length = math.sqrt(math.fsum((vector.astype(np.float64) ** 2).tolist()))
            vector /= length or 1.0
    return vectors


def check_masks(engine: Engine, inputs: Sequence[Input]) -> None:
    """Raise OptionError for a text without mask token."""
    mask = engine.checkpoint.special_tokens.mask
    if mask is None:
        raise UnsupportedError("this model's tokenizer names no mask token.")
    for i, item in enumerate(inputs):
        if mask not in item.ids:
            (name,) = engine.tokenizer.tokens([mask])
            raise OptionError(f"texts[{i}] has no {name}: that is where candidates are asked for.")


def fill_masks(
    engine: Engine, inputs: Sequence[Input], top_k: int
) -> Iterator[list[list[MaskCandidate]]]:
    """For each input, for each of its mask tokens, the most probable tokens, best first."""
    mask = engine.checkpoint.special_tokens.mask
    n_done = 0
    for encoder, states in hidden_states(engine, inputs):
        places = [
            [i for i, token in enumerate(item.ids) if token == mask]
            for item in inputs[n_done : n_done + len(states)]
        ]
        n_done += len(states)
        rows = np.concatenate([array[at] for array, at in zip(states, places, strict=True)])
        logits, sums = encoder.head("masked_lm", rows)
        candidates = (
            _candidates(engine, row, total, top_k)
            for row, total in zip(logits, sums.tolist(), strict=True)
        )
        for at in places:
            yield [next(candidates) for _ in at]


def _candidates(engine: Engine, logits: States, total: float, top_k: int) -> list[MaskCandidate]:
    tokenizer = engine.tokenizer
    n = min(top_k, len(logits))
    threshold = np.partition(logits, len(logits) - n)[len(logits) - n]
    best = np.flatnonzero(logits >= threshold)
    best = best[np.argsort(-logits[best], kind="stable")][:n]  # ties: the smaller id first
    ids: list[int] = best.tolist()
    return [
        MaskCandidate(id, token, tokenizer.decode([id]), math.exp(logit - total))
        for id, token, logit in zip(ids, tokenizer.tokens(ids), logits[best].tolist(), strict=True)
    ]


def classify(engine: Engine, inputs: Sequence[Input]) -> Iterator[Classification]:
    """The labels of each input with their scores."""
    config = engine.config
    for encoder, states in hidden_states(engine, inputs):
        logits, sums = encoder.head("classifier", np.array([array[0] for array in states]))
        for row, total in zip(logits.tolist(), sums.tolist(), strict=True):
            if config.label_scores == LabelScores.SOFTMAX:
                scores = [math.exp(x - total) for x in row]
            elif config.label_scores == LabelScores.SIGMOID:
                scores = [_sigmoid(x) for x in row]
            else:
                scores = row
            best = max(range(len(scores)), key=scores.__getitem__)
            yield Classification(
                label=config.labels[best],
                score=scores[best],
                scores=list(zip(config.labels, scores, strict=True)),
            )


def _sigmoid(x: float) -> float:
    small = math.exp(-abs(x))
    return (1.0 if x >= 0 else small) / (1.0 + small)
