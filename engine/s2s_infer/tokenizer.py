"""Text to token ids and back, exactly as the checkpoint's own tokenizer in transformers.

Two implementations: `MarianTokenizer` (sentencepiece, vocab.json and `>>xx<<` language codes) and
`JsonTokenizer` (any tokenizer.json).  Both are immutable and may be used by any number of threads;
the library that one needs is imported when it is made, of a native file when it is first used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any, Protocol

from .errors import ModelError, OptionError
from .formats.files import shown
from .languages import LanguageRule

Blobs = Mapping[str, bytes]
"""The files of a tokenizer by name, as they travel in the native model file."""


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    @property
    def kind(self) -> str:
        """The name under which `tokenizer_from_blobs` reads it back."""

    @property
    def languages(self) -> Mapping[str, int]:
        """Codes that `to` accepts -> token id; empty if the model has none."""

    @property
    def language_rule(self) -> LanguageRule | None:
        """Where languages are tokens of source and target; None: `to` is `>>xx<<` in the source."""

    @property
    def unknown_id(self) -> int | None: ...

    def encode_source(
        self, text: str | bytes, *, to: str | None = None, source_lang: str | None = None
    ) -> list[int]:
        """Ids of a source text, language token and end token included.

        to: code of the target language, whose token goes first, where there is no language_rule.
        source_lang: code of the text's language, where there is one.  bytes must be UTF-8.  Raises
        OptionError for text that is not valid UTF-8 and for an unknown, missing or contradicting
        language code.
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

    def token_id(self, token: str) -> int | None:
        """The target id of a token by its name; None if there is none."""

    def check_vocabulary(self, source_vocab_size: int, vocab_size: int) -> None:
        """Raise ModelError if a token's id is not below the model's vocabulary size."""

    def to_blobs(self) -> tuple[dict[str, Any], Blobs]:
        """JSON-able settings and files from which `tokenizer_from_blobs` makes an equal one."""


class DeferredTokenizer:
    """A tokenizer that is opened when it is first used: work on ids does not wait for it.

    What is wrong with its files is an error then.
    """

    def __init__(self, open: Callable[[], Tokenizer], **known: Any) -> None:
        """known: attributes that are read without opening it."""
        self._open = open
        self._lock = Lock()
        self._tokenizer: Tokenizer | None = None
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of a copy that is being made
            raise AttributeError(name)
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._open()
        value = self.__dict__[name] = getattr(self._tokenizer, name)
        return value


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
