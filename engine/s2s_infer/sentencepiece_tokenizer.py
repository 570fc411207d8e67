"""A sentencepiece model whose pieces have ids of the checkpoint's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from .errors import ModelError, UnsupportedError
from .formats.files import reason, shown
from .languages import LanguageRule, check_language, check_no_source_language
from .records import record
from .tokenizer import Blobs, boolean_setting, checked_text, clean_up
from .tokenizer_parts import checked_vocabulary, dump_vocabulary, load_spm, parse_vocabulary

_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
"""Appended to a serialized model, it sets normalizer_spec.add_dummy_prefix to false: protobuf
merges a message that comes twice."""
MAX_OFFSET = 1 << 16
_FLAGS = ("lstrip", "rstrip", "single_word")
_BLANK = "[\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]"
"""Unicode's White_Space, which is what the `tokenizers` library strips."""


@record
class SentencepieceSettings:
    """How ids come of pieces."""

    unknown_id: int
    added: Mapping[str, int]
    """Tokens that are found in a text before it is cut into pieces."""
    special: tuple[str, ...]
    """Those of them that decoding leaves out."""
    offset: int = 0
    """Added to a piece's number; without a vocab.json."""
    before: tuple[int, ...] = ()
    """Ids before those of a source, where there is no language_rule."""
    after: tuple[int, ...] = ()
    """Ids after them."""
    prefix_space: bool = True
    """A text after an added token begins with a space of its own, as a whole text does."""
    clean_up_tokenization_spaces: bool = False
    lstrip: tuple[str, ...] = ()
    """Added tokens to which blanks before them belong."""
    rstrip: tuple[str, ...] = ()
    """And blanks after them."""
    single_word: tuple[str, ...] = ()
    """Added tokens that count only where no letter, digit or _ is next to them."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], what: str) -> SentencepieceSettings:
        """Read what `to_dict` wrote.  Raises ModelError."""
        values = {**{flag: [] for flag in _FLAGS}, **values}  # which first files did not have
        names = {f.name for f in fields(cls)}
        if set(values) != names:
            wrong = sorted(names.symmetric_difference(values))[0]
            raise ModelError(f"{what} lacks or does not know {shown(wrong)}.")
        added, special = values["added"], values["special"]
        ids = {name: values[name] for name in ("before", "after")}
        numbers = [values["unknown_id"], values["offset"]]
        for some in ids.values():
            numbers += some if isinstance(some, list) else [None]
        if not all(type(id) is int and 0 <= id < 1 << 31 for id in numbers):
            raise ModelError(f"{what} has an id that is none.")
        for some in (special, *(values[flag] for flag in _FLAGS)):
            if (
                not isinstance(some, list)
                or not isinstance(added, dict)
                or not all(isinstance(token, str) and token in added for token in some)
            ):
                raise ModelError(f"{what} has special tokens that are not among the added ones.")
        return cls(
            values["unknown_id"],
            checked_vocabulary(added or {"": 0}, f"added of {what}") if added else {},
            tuple(special),
            values["offset"],
            tuple(ids["before"]),
            tuple(ids["after"]),
            boolean_setting(values, "prefix_space", what),
            boolean_setting(values, "clean_up_tokenization_spaces", what),
            **{flag: tuple(values[flag]) for flag in _FLAGS},
        )


class SentencepieceTokenizer:
    """Pieces by sentencepiece itself; their ids by an offset (mBART, NLLB, Pegasus, T5, Llama) or
    by a vocab.json (M2M100); added tokens apart from them."""

    kind = "sentencepiece"

    def __init__(
        self,
        spm: bytes,
        settings: SentencepieceSettings,
        vocab: Mapping[str, int] | None = None,
        language_rule: LanguageRule | None = None,
    ) -> None:
        """spm: contents of the sentencepiece model.  vocab: piece -> id.  Raises ModelError."""
        self._file, self._settings, self._vocab = spm, settings, vocab
        self._spm = load_spm(spm, "the sentencepiece model")
        self._bare = (
            self._spm
            if settings.prefix_space
            else load_spm(spm + _NO_DUMMY_PREFIX, "the sentencepiece model")
        )
        n = self._spm.get_piece_size()
        self._pieces: list[str] = self._spm.id_to_piece(list(range(n)))
        unknown = settings.unknown_id
        if vocab is None:
            self._ids = [i + settings.offset for i in range(n)]
        else:
            self._ids = [vocab.get(piece, unknown) for piece in self._pieces]
        self._ids[self._spm.unk_id()] = unknown
        self._piece_of = {id: i for i, id in reversed(list(enumerate(self._ids)))}
        self._added_names = {id: token for token, id in settings.added.items()}
        self._special_ids = {settings.added[token] for token in settings.special} | {unknown}
        self._split = _splitter(settings)
        self.unknown_id: int | None = unknown
        self.language_rule = language_rule
        self.languages: Mapping[str, int] = {} if language_rule is None else language_rule.codes

    def encode_source(
        self, text: str | bytes, *, to: str | None = None, source_lang: str | None = None
    ) -> list[int]:
        ids = self.encode_target(text)
        if self.language_rule is not None:
            return self.language_rule.source(ids, source_lang)
        check_no_source_language(source_lang)
        if to is not None:
            check_language(to, "", self.languages)
        return [*self._settings.before, *ids, *self._settings.after]

    def encode_target(self, text: str | bytes) -> list[int]:
        text = checked_text(text)
        parts = [text] if self._split is None else self._split.split(text)
        ids: list[int] = []
        for i, part in enumerate(parts):
            if i % 2:  # the tokens that the pattern captured
                ids.append(self._settings.added[part])
            elif part:
                spm = self._bare if i else self._spm
                try:
                    ids += [self._ids[piece] for piece in spm.encode(part, out_type=int)]
                except Exception as error:  # a damaged model may load, and fail on some text
                    raise ModelError(
                        f"the sentencepiece model is damaged: {reason(error)}."
                    ) from error
        return ids

    def encode_pair(
        self, first: str, second: str, limit: int | None
    ) -> tuple[list[int], list[int]]:
        raise UnsupportedError("this model reads one text at a time, not pairs of texts.")

    def decode(self, ids: Iterable[int]) -> str:
        text, run = "", list[int]()
        for id in [*(int(id) for id in ids), None]:
            if id in self._special_ids:
                continue
            piece = None if id is None else self._piece_of.get(id)
            if piece is not None and id not in self._added_names:
                run.append(piece)
                continue
            if run and text and self._pieces[run[0]].startswith("\u2581"):
                text += " "  # sentencepiece drops a run's first
            text += self._decode_pieces(run)
            run = []
            if id is not None:
                text += self._added_names.get(id, "")
        if self._vocab is not None:
            text = text.strip()
        return clean_up(text) if self._settings.clean_up_tokenization_spaces else text

    def _decode_pieces(self, pieces: Sequence[int]) -> str:
        try:
            text: str = self._spm.decode(list(pieces)) if pieces else ""
        except Exception as error:
            raise ModelError(f"the sentencepiece model is damaged: {reason(error)}.") from error
        return text

    def tokens(self, ids: Iterable[int]) -> list[str]:
        names = []
        for id in map(int, ids):
            piece = self._piece_of.get(id)
            named = self._added_names.get(id)
            names.append(
                named if named is not None else f"<{id}>" if piece is None else self._pieces[piece]
            )
        return names

    def token_id(self, token: str) -> int | None:
        if token in self._settings.added:
            return self._settings.added[token]
        piece = self._spm.piece_to_id(token)
        return self._ids[piece] if self._pieces[piece] == token else None

    def check_vocabulary(self, source_vocab_size: int, vocab_size: int) -> None:
        size = min(source_vocab_size, vocab_size)
        tokens = {**dict(zip(self._pieces, self._ids, strict=True)), **self._settings.added}
        token, id = max(tokens.items(), key=lambda item: item[1])
        if id >= size:
            raise ModelError(
                f"the sentencepiece model gives token {shown(token)} the id {id}, but the model's "
                f"vocabulary has {size} tokens."
            )

    def to_blobs(self) -> tuple[dict[str, Any], Blobs]:
        blobs = {"model.spm": self._file}
        if self._vocab is not None:
            blobs["vocab.json"] = dump_vocabulary(self._vocab)
        rule = self.language_rule
        return {
            "sentencepiece": self._settings.to_dict(),
            "language_rule": None if rule is None else rule.to_dict(),
        }, blobs

    @classmethod
    def from_blobs(cls, settings: Mapping[str, Any], blobs: Blobs) -> SentencepieceTokenizer:
        """Read what `to_blobs` wrote.  Raises ModelError."""
        what = "the tokenizer's settings"
        if not {"model.spm"} <= set(blobs) <= {"model.spm", "vocab.json"}:
            raise ModelError(f"this tokenizer needs model.spm, but the file holds {sorted(blobs)}.")
        own, rule = settings.get("sentencepiece"), settings.get("language_rule")
        if not isinstance(own, Mapping):
            raise ModelError(f"{what} lacks or does not know 'sentencepiece'.")
        vocab = blobs.get("vocab.json")
        return cls(
            blobs["model.spm"],
            SentencepieceSettings.from_dict(own, what),
            None if vocab is None else parse_vocabulary(vocab, "vocab.json"),
            None if rule is None else LanguageRule.from_dict(rule, what),
        )


def _splitter(settings: SentencepieceSettings) -> re.Pattern[str] | None:
    """Splits a text at its added tokens, which it captures; None: there are none.

    Leftmost, then longest: an alternation takes the first that matches.
    """
    tokens = sorted(filter(None, settings.added), key=len, reverse=True)
    if not tokens:
        return None
    single, left, right = (set(getattr(settings, f)) for f in ("single_word", "lstrip", "rstrip"))
    names = [
        rf"(?<!\w){re.escape(token)}(?!\w)" if token in single else re.escape(token)
        for token in tokens
    ]
    # Blanks are outside of what is captured, so behind the name of the token they belong to.
    if not left | right:
        return re.compile(f"({'|'.join(names)})")
    before = [name for name, token in zip(names, tokens, strict=True) if token in left]
    after = [f"(?<={re.escape(token)})" for token in tokens if token in right]
    pattern = f"({'|'.join(names)})"
    if before:
        pattern = f"(?:{_BLANK}*(?={'|'.join(before)}))?" + pattern
    if after:
        pattern += f"(?:(?:{'|'.join(after)}){_BLANK}*)?"
    return re.compile(pattern)
