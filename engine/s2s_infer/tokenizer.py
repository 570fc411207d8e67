"""Text to token ids and back, exactly as the checkpoint's own tokenizer in transformers.

Two implementations: `MarianTokenizer` (sentencepiece, vocab.json and `>>xx<<` language codes) and
`JsonTokenizer` (any tokenizer.json).  Both are immutable and may be used by any number of threads;
the library that one needs is imported when it is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from .errors import ModelError, OptionError
from .formats.files import shown

LANGUAGE_CODE = re.compile(r">>(.*?)<<", re.DOTALL)
"""A language code at the beginning of a text, as Marian writes it."""

Blobs = Mapping[str, bytes]
"""The files of a tokenizer by name, as they travel in the native model file."""


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    @property
    def kind(self) -> str:
        """The name under which `tokenizer_from_blobs` reads it back."""

    @property
    def languages(self) -> Mapping[str, int]:
        """Language code -> token id of the source; empty if the model has none."""

    @property
    def unknown_id(self) -> int | None: ...

    def encode_source(self, text: str | bytes, *, to: str | None = None) -> list[int]:
        """Ids of a source text, language token and end token included.

        to: code of the target language, whose token goes first.  bytes must be UTF-8.  Raises
        OptionError for text that is not valid UTF-8 and for an unknown or contradicting language
        code.
        """

    def encode_target(self, text: str | bytes) -> list[int]:
        """Ids of a target text, without special tokens around it.  Raises OptionError."""

    def encode_pair(
        self, first: str, second: str, limit: int | None
    ) -> tuple[list[int], list[int]]:
        """Ids and token types of two texts as one input, special tokens included.

        limit: tokens in all, to which the longer text is cut; None: nothing is cut.  Raises
        OptionError, UnsupportedError where the tokenizer joins no texts.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """The text of target ids; special tokens are left out.  Any id is accepted."""

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The target vocabulary's name of each id."""

    def check_vocabulary(self, source_vocab_size: int, vocab_size: int) -> None:
        """Raise ModelError if a token's id is not below the model's vocabulary size."""

    def to_blobs(self) -> tuple[dict[str, Any], Blobs]:
        """JSON-able settings and files from which `tokenizer_from_blobs` makes an equal one."""


def checked_text(text: str | bytes) -> str:
    """`text` as a str that is valid Unicode.  Raises OptionError."""
    if isinstance(text, (bytes, bytearray, memoryview)):
        try:
            return bytes(text).decode("utf-8")
        except UnicodeDecodeError as error:
            raise OptionError(
                f"the text is not valid UTF-8: byte {error.object[error.start]:#04x} at offset "
                f"{error.start}."
            ) from None
    if not isinstance(text, str):
        raise OptionError(f"a text must be a str, not {type(text).__name__}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise OptionError(
            f"the text is not valid Unicode: lone surrogate U+{ord(text[error.start]):04X} at "
            f"position {error.start}."
        ) from None
    return text


def check_language(to: str, text: str, languages: Mapping[str, int]) -> str:
    """`text` without the code `>>to<<` that it may begin with.

    Raises OptionError if `to` is unknown or the text begins with the code of another language.
    """
    if to not in languages:
        if not languages:
            raise OptionError(f"the model has no language codes, but to={shown(to)} was given.")
        known = ", ".join(sorted(languages)[:50]) + (", ..." if len(languages) > 50 else "")
        raise OptionError(f"unknown target language {shown(to)}; the model knows {known}.")
    found = LANGUAGE_CODE.match(text)
    if found is None or found[1] not in languages:
        return text
    if found[1] != to:
        raise OptionError(
            f"the text begins with the language code {shown(found[0])}, but to={shown(to)} was "
            "given."
        )
    return text[found.end() :]


def language_codes(vocab: Mapping[str, int]) -> dict[str, int]:
    """Code -> id of the tokens of the form `>>code<<`."""
    return {
        token[2:-2]: id
        for token, id in vocab.items()
        if len(token) > 4 and token.startswith(">>") and token.endswith("<<")
    }


def clean_up(text: str) -> str:
    """transformers' clean_up_tokenization_spaces: no space before English punctuation."""
    for mark in (".", "?", "!", ","):
        text = text.replace(" " + mark, mark)
    text = text.replace(" ' ", "'")
    for ending in ("n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(" " + ending, ending)
    return text


def boolean_setting(settings: Mapping[str, Any], key: str, what: str) -> bool:
    value = settings.get(key)
    if value is not None and not isinstance(value, bool):
        raise ModelError(f"{what} sets {key} to {shown(value)}, which is not true or false.")
    return bool(value)


def open_tokenizer(path: Path) -> tuple[Tokenizer | None, str | None]:
    """The tokenizer of a Hugging Face directory, or None and a sentence naming the missing file.

    source.spm decides for MarianTokenizer, else tokenizer.json for JsonTokenizer.  Raises
    ModelError for files that are there but wrong.
    """
    if (path / "source.spm").exists():
        for name in ("target.spm", "vocab.json"):
            if not (path / name).exists():
                return None, f"{path} has source.spm but no {name}, so it takes and gives ids only."
        from .marian_tokenizer import MarianTokenizer

        return MarianTokenizer.from_directory(path), None
    if (path / "tokenizer.json").exists():
        from .json_tokenizer import JsonTokenizer

        return JsonTokenizer.from_directory(path), None
    return None, f"{path} has no source.spm and no tokenizer.json, so it takes and gives ids only."


def tokenizer_from_blobs(kind: str, settings: Mapping[str, Any], blobs: Blobs) -> Tokenizer:
    """The tokenizer that `to_blobs` described.  Raises ModelError."""
    if kind == "marian":
        from .marian_tokenizer import MarianTokenizer

        return MarianTokenizer.from_blobs(settings, blobs)
    if kind == "json":
        from .json_tokenizer import JsonTokenizer

        return JsonTokenizer.from_blobs(settings, blobs)
    raise ModelError(f"unknown tokenizer kind {shown(kind)}; this build knows marian and json.")
