"""What a model's files add to a text and to its output, in words: `s2s-infer info` shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .languages import LanguageRule, SourcePlace, TargetPlace

if TYPE_CHECKING:
    from .loaders import Checkpoint
    from .tokenizer import Tokenizer


def describe(checkpoint: Checkpoint) -> list[str]:
    """One sentence for each thing that is added, with the file and key that say so."""
    tokenizer = checkpoint.tokenizer
    sentences = [] if tokenizer is None else list(_sentences(checkpoint, tokenizer))
    rule = checkpoint.vectors
    if rule is not None and not rule.unsupported:
        how = {"cls": "the first hidden state", "mean": "the mean of the hidden states"}
        length = ", divided by its length" if rule.normalize else ""
        most = f", of at most {rule.max_tokens} tokens" if rule.max_tokens else ""
        sentences.append(f"a vector is {how[rule.pooling]}{length}{most} (modules.json)")
    return sentences


def _sentences(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Iterator[str]:
    rule = tokenizer.language_rule
    if rule is not None:
        yield from _language_sentences(rule, tokenizer)
    else:
        before, after = _around(tokenizer)
        parts = " ".join([*before, "TEXT", *after])
        where = {"marian": "Marian's rule", "json": "tokenizer.json"}.get(
            tokenizer.kind, "tokenizer_config.json"
        )
        yield f"a text becomes {parts} ({where})"
        if tokenizer.languages:
            yield (
                "the option to puts its language's token >>xx<< before a text (the vocabulary has "
                f"{len(tokenizer.languages)})"
            )
    forced = checkpoint.generation.forced_bos_token_id
    if forced is not None:
        name = tokenizer.tokens([forced])[0]
        also = ", unless the option to names another language" if rule is not None else ""
        yield f"an output begins with {name} (forced_bos_token_id of the decoding defaults){also}"
    for name, task in checkpoint.tasks.items():
        adds = f"{task.prefix!r} before a text" if task.prefix else "nothing to a text"
        more = f", and the defaults {dict(task.options)}" if task.options else ""
        yield f"the option task={name} adds {adds}{more} (task_specific_params of config.json)"


def _language_sentences(rule: LanguageRule, tokenizer: Tokenizer) -> Iterator[str]:
    end = tokenizer.tokens([rule.end])[0]
    places = {
        SourcePlace.PREFIX: f"SOURCE_LANG TEXT {end}",
        SourcePlace.SUFFIX: f"TEXT {end} SOURCE_LANG",
    }
    default = "" if rule.source_lang is None else f", by default {rule.source_lang}"
    yield (
        f"a text becomes {places[rule.source_place]}, the token of the option source_lang"
        f"{default} ({rule.reason})"
    )
    how = {
        TargetPlace.FORCED: "an output begins with the token of the option to",
        TargetPlace.START: "the decoder starts with the token of the option to",
    }
    default = "" if rule.to is None else f", by default {rule.to}"
    yield f"{how[rule.target_place]}{default} ({rule.reason})"


def _around(tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    """The tokens before and after those of a text."""
    inner, whole = tokenizer.encode_target("a"), tokenizer.encode_source("a")
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            end = start + len(inner)
            return tokenizer.tokens(whole[:start]), tokenizer.tokens(whole[end:])
    return [], []
