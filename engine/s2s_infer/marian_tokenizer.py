"""Marian's tokenizer: sentencepiece pieces, looked up in a vocabulary of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ModelError, UnsupportedError
from .formats.files import MAX_JSON_BYTES, read_file, reason, shown
from .languages import (
    LANGUAGE_CODE,
    LanguageRule,
    check_language,
    check_no_source_language,
    language_codes,
)
from .records import record
from .tokenizer import Blobs, boolean_setting, checked_text, clean_up
from .tokenizer_config import ROLES, read_tokenizer_config
from .tokenizer_parts import (
    MAX_SPM_BYTES,
    checked_vocabulary,
    dump_vocabulary,
    load_spm,
    parse_vocabulary,
)

if TYPE_CHECKING:
    import sentencepiece

_UNDERLINE = "\u2581"

_DEFAULT_ROLES = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


@record
class MarianSettings:
    """What a Marian directory's tokenizer_config.json and its companions say."""

    eos_token: str = "</s>"
    unk_token: str = "<unk>"
    special_tokens: tuple[str, ...] = ("</s>", "<unk>", "<pad>")
    """All that decoding leaves out."""
    added_tokens: Mapping[str, int] | None = None
    """Tokens that are found in a text before it is cut into pieces; None: special_tokens."""
    split_special_tokens: bool = False
    """Treat special tokens inside a text as plain text."""
    clean_up_tokenization_spaces: bool = False

    def to_dict(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "special_tokens": list(self.special_tokens)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], what: str) -> MarianSettings:
        """Read what `to_dict` wrote.  Raises ModelError."""
        names = {f.name for f in fields(cls)}
        if set(values) != names:
            wrong = sorted(names.symmetric_difference(values))[0]
            raise ModelError(f"{what} lacks or does not know {shown(wrong)}.")
        for name in ("eos_token", "unk_token"):
            if not isinstance(values[name], str):
                raise ModelError(
                    f"{what} sets {name} to {shown(values[name])}, which is not a token."
                )
        special, added = values["special_tokens"], values["added_tokens"]
        if not isinstance(special, list) or not all(isinstance(t, str) for t in special):
            raise ModelError(
                f"{what} sets special_tokens to {shown(special)}, not a list of tokens."
            )
        if added is not None:
            added = checked_vocabulary(added, f"added_tokens of {what}")
        return cls(
            values["eos_token"],
            values["unk_token"],
            tuple(special),
            added,
            boolean_setting(values, "split_special_tokens", what),
            boolean_setting(values, "clean_up_tokenization_spaces", what),
        )


class MarianTokenizer:
    """sentencepiece models for both sides, vocabularies apart from them, `>>xx<<` language codes.

    Equal to transformers' MarianTokenizer, with two exceptions that no good checkpoint can show: an
    id that the vocabulary does not name is the unknown token, and a code given by `to` is put
    before the text rather than into it.
    """

    kind = "marian"

    def __init__(
        self,
        source_spm: bytes,
        target_spm: bytes,
        vocab: Mapping[str, int],
        target_vocab: Mapping[str, int] | None = None,
        settings: MarianSettings | None = None,
    ) -> None:
        """target_vocab: None when both sides share `vocab`.  Raises ModelError."""
        settings = settings or MarianSettings()
        self._files = (source_spm, target_spm)
        self._settings = settings
        self._source_vocab = vocab
        self._target_vocab = vocab if target_vocab is None else target_vocab
        self._separate = target_vocab is not None
        self._source_spm = load_spm(source_spm, "source.spm")
        self._target_spm = (
            self._source_spm if target_spm == source_spm else load_spm(target_spm, "target.spm")
        )
        for token in (settings.unk_token, settings.eos_token):
            if token not in vocab:
                raise ModelError(f"vocab.json has no token {shown(token)}.")
        if settings.unk_token not in self._target_vocab:
            raise ModelError(f"target_vocab.json has no token {shown(settings.unk_token)}.")

        self._names = {id: token for token, id in self._target_vocab.items()}
        added = dict(settings.added_tokens or {})
        for token in settings.special_tokens:
            if token and token not in added:
                added[token] = vocab.get(token, len({**vocab, **added}))
        self._added = added
        self._names.update({id: token for token, id in added.items()})
        self._special_ids = {added[t] for t in settings.special_tokens if t}
        # Leftmost, then longest: an alternation takes the first that matches.
        patterns = sorted(map(re.escape, filter(None, added)), key=len, reverse=True)
        self._split = re.compile("(" + "|".join(patterns) + ")") if patterns else None
        self.unknown_id = added.get(settings.unk_token, vocab[settings.unk_token])
        self._eos_id = added.get(settings.eos_token, vocab[settings.eos_token])
        self.languages: Mapping[str, int] = language_codes(vocab)
        self.language_rule: LanguageRule | None = None

    def encode_source(
        self, text: str | bytes, *, to: str | None = None, source_lang: str | None = None
    ) -> list[int]:
        check_no_source_language(source_lang)
        text = checked_text(text)
        ids: list[int] = []
        if to is not None:
            text = check_language(to, text, self.languages)
            ids.append(self.languages[to])
        ids += self._encode(text, self._source_spm, self._source_vocab)
        ids.append(self._eos_id)
        return ids

    def encode_target(self, text: str | bytes) -> list[int]:
        return self._encode(checked_text(text), self._target_spm, self._target_vocab)

    def encode_pair(
        self, first: str, second: str, limit: int | None
    ) -> tuple[list[int], list[int]]:
        raise UnsupportedError("this model reads one text at a time, not pairs of texts.")

    def _encode(
        self, text: str, spm: sentencepiece.SentencePieceProcessor, vocab: Mapping[str, int]
    ) -> list[int]:
        added, unknown = self._added, vocab[self._settings.unk_token]
        parts = [text]
        if self._split is not None and not self._settings.split_special_tokens:
            parts = self._split.split(text)
        ids: list[int] = []
        for i, part in enumerate(parts):
            if i % 2:  # the separators that the pattern captured
                ids.append(added[part])
                continue
            if not part:
                continue
            code = LANGUAGE_CODE.match(part)
            pieces: list[str] = []
            if code is not None:
                pieces.append(code[0])
                part = part[code.end() :]
            try:
                pieces += spm.encode(part, out_type=str)
            except Exception as error:  # a damaged model may load, and fail on some text
                raise ModelError(f"the sentencepiece model is damaged: {reason(error)}.") from error
            ids += [added[p] if p in added else vocab.get(p, unknown) for p in pieces]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        # transformers decodes with the source model, unless the vocabularies are separate.
        spm = self._target_spm if self._separate else self._source_spm
        special = self._special_ids
        pieces = self.tokens([id for id in ids if id not in special])
        try:
            text: str = spm.decode_pieces(pieces) if pieces else ""
        except Exception as error:
            raise ModelError(f"the sentencepiece model is damaged: {reason(error)}.") from error
        text = text.replace(_UNDERLINE, " ").strip()
        return clean_up(text) if self._settings.clean_up_tokenization_spaces else text

    def tokens(self, ids: Iterable[int]) -> list[str]:
        names, unknown = self._names, self._settings.unk_token
        return [names.get(id, unknown) for id in ids]

    def token_id(self, token: str) -> int | None:
        return self._added.get(token, self._target_vocab.get(token))

    def check_vocabulary(self, source_vocab_size: int, vocab_size: int) -> None:
        for name, vocab, size in (
            ("vocab.json", self._source_vocab, source_vocab_size),
            (
                "target_vocab.json" if self._separate else "vocab.json",
                self._target_vocab,
                vocab_size,
            ),
            ("the tokenizer's added tokens", self._added, source_vocab_size),
        ):
            id = max(vocab.values(), default=-1)
            if id >= size:
                token = next(token for token in vocab if vocab[token] == id)
                raise ModelError(
                    f"{name} gives token {shown(token)} the id {id}, but the model's vocabulary "
                    f"has {size} tokens."
                )

    def check_pieces(self) -> None:
        """Raise ModelError if the vocabularies are not those of the sentencepiece models."""
        for name, spm, vocab in (
            ("source.spm", self._source_spm, self._source_vocab),
            ("target.spm", self._target_spm, self._target_vocab),
        ):
            n = spm.get_piece_size()
            known = sum(piece in vocab for piece in spm.id_to_piece(list(range(n))))
            if 2 * known < n:
                raise ModelError(
                    f"vocab.json does not belong to {name}: it has only {known} of its {n} pieces."
                )

    def to_blobs(self) -> tuple[dict[str, Any], Blobs]:
        blobs = {"source.spm": self._files[0], "vocab.json": dump_vocabulary(self._source_vocab)}
        if self._files[1] != self._files[0]:
            blobs["target.spm"] = self._files[1]
        if self._separate:
            blobs["target_vocab.json"] = dump_vocabulary(self._target_vocab)
        return self._settings.to_dict(), blobs

    @classmethod
    def from_blobs(cls, settings: Mapping[str, Any], blobs: Mapping[str, bytes]) -> MarianTokenizer:
        """Read what `to_blobs` wrote.  Raises ModelError."""
        known = {"source.spm", "target.spm", "vocab.json", "target_vocab.json"}
        if not {"source.spm", "vocab.json"} <= set(blobs) <= known:
            raise ModelError(
                "a Marian tokenizer needs source.spm and vocab.json, but the file holds "
                f"{sorted(blobs)}."
            )
        target = blobs.get("target_vocab.json")
        return cls(
            blobs["source.spm"],
            blobs.get("target.spm", blobs["source.spm"]),
            parse_vocabulary(blobs["vocab.json"], "vocab.json"),
            None if target is None else parse_vocabulary(target, "target_vocab.json"),
            MarianSettings.from_dict(settings, "the tokenizer's settings"),
        )

    @classmethod
    def from_directory(cls, path: Path) -> MarianTokenizer:
        """Read source.spm, target.spm, vocab.json, ... of a Hugging Face directory.

        Raises ModelError for files that are wrong or do not belong together.
        """
        settings, separate = _read_marian_settings(path)
        target = path / "target_vocab.json"
        tokenizer = cls(
            read_file(path / "source.spm", MAX_SPM_BYTES),
            read_file(path / "target.spm", MAX_SPM_BYTES),
            parse_vocabulary(
                read_file(path / "vocab.json", MAX_JSON_BYTES), str(path / "vocab.json")
            ),
            parse_vocabulary(read_file(target, MAX_JSON_BYTES), str(target)) if separate else None,
            settings,
        )
        tokenizer.check_pieces()
        return tokenizer


def _read_marian_settings(path: Path) -> tuple[MarianSettings, bool]:
    """The settings of a directory and whether its vocabularies are separate."""
    config = read_tokenizer_config(path)
    what = str(config.path)
    if config.values.get("sp_model_kwargs"):
        raise ModelError(f"{what} sets sp_model_kwargs, which is not supported.")
    for token in (*config.roles.values(), *config.added.values(), *config.extra):
        for flag in ("lstrip", "rstrip", "single_word"):
            if getattr(token, flag):
                raise ModelError(
                    f"{what} sets {flag} for the token {shown(token.content)}, which is not "
                    "supported."
                )
    roles = {**_DEFAULT_ROLES, **{role: token.content for role, token in config.roles.items()}}
    in_order = [roles[role] for role in ROLES if role in roles]
    in_order += [token.content for token in config.extra]
    added = {token.content: id for id, token in config.added.items()}
    settings = MarianSettings(
        eos_token=roles["eos_token"],
        unk_token=roles["unk_token"],
        special_tokens=tuple(dict.fromkeys(in_order)),
        added_tokens=added or None,
        split_special_tokens=bool(config.flag("split_special_tokens")),
        clean_up_tokenization_spaces=bool(config.flag("clean_up_tokenization_spaces")),
    )
    return settings, bool(config.flag("separate_vocabs"))
