"""What tokenizers are made of: vocabularies and sentencepiece models, out of untrusted files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .errors import ModelError, OptionError
from .formats.files import parse_json, reason, shown, what_is

if TYPE_CHECKING:
    import sentencepiece

MAX_SPM_BYTES = 64 << 20


def shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How many of two texts' tokens stay in `room`: cut from the longer one while they differ.

    Raises OptionError where there is no room for both.
    """
    if room < 2:
        raise OptionError("the model has no positions for two texts and their special tokens.")
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)


def dump_vocabulary(vocab: Mapping[str, int]) -> bytes:
    """What `parse_vocabulary` reads."""
    return json.dumps(dict(vocab), ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def parse_vocabulary(data: bytes, what: str) -> dict[str, int]:
    """A vocab.json: token -> id, each id once.  `what` names it in errors.  Raises ModelError."""
    return checked_vocabulary(parse_json(data, what), what)


def checked_vocabulary(value: object, what: str) -> dict[str, int]:
    """Token -> id, each id once.  Raises ModelError."""
    if not isinstance(value, dict) or not value:
        raise ModelError(f"{what} must map tokens to ids.")
    for token, id in value.items():
        if type(id) is not int or not 0 <= id < 1 << 31:
            raise ModelError(f"{what} gives token {shown(token)} the id {shown(id)}.")
    if len(set(value.values())) != len(value):
        seen: dict[int, str] = {}
        for token, id in value.items():
            if id in seen:
                raise ModelError(
                    f"{what} gives the tokens {shown(seen[id])} and {shown(token)} the one id {id}."
                )
            seen[id] = token
    try:
        "".join(value).encode("utf-8")
    except UnicodeEncodeError:
        raise ModelError(f"{what} has a token with a lone surrogate.") from None
    return value


def load_spm(data: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
    """A sentencepiece model of a file's contents.  Raises ModelError."""
    import sentencepiece

    found = what_is(data[:512])
    if found is not None:
        raise ModelError(f"{name} is {found}, not a sentencepiece model.")
    if len(data) > MAX_SPM_BYTES:
        raise ModelError(f"{name} has {len(data)} bytes, more than {MAX_SPM_BYTES}.")
    spm = sentencepiece.SentencePieceProcessor()
    try:
        spm.LoadFromSerializedProto(data)
        n = spm.get_piece_size()
        spm.id_to_piece(list(range(n)))  # each must be UTF-8
    except Exception as error:
        raise ModelError(f"{name} is not a sentencepiece model: {reason(error)}.") from None
    if n < 1:
        raise ModelError(f"{name} is a sentencepiece model without pieces.")
    return spm
