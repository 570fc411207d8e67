"""Languages of multilingual models: what a text's and an output's language add to the tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from enum import Enum
from typing import Any

from .errors import ModelError, OptionError
from .formats.files import shown
from .records import record

LANGUAGE_CODE = re.compile(r">>(.*?)<<", re.DOTALL)
"""A language code at the beginning of a text, as Marian writes it."""

_WRITTEN_IN_HAN = frozenset({"zh", "cmn", "yue", "lzh", "ja", "zho", "jpn", "zh-cn", "zh-tw"})
_HAN = re.compile(
    "["
    "\u3400-\u4dbf"  # extension A
    "\u4e00-\u9fff"  # unified ideographs
    "\uf900-\ufaff"  # compatibility ideographs
    "\U00020000-\U000323af"  # extensions B to H
    "]"
)
_FEW = 12


class SourcePlace(str, Enum):
    """Where the token of the source language stands."""

    PREFIX = "prefix"
    """`lang X </s>` (mBART-50, M2M100, NLLB)"""
    SUFFIX = "suffix"
    """`X </s> lang` (mBART, NLLB with legacy_behaviour)"""


class TargetPlace(str, Enum):
    """Where the token of the target language stands."""

    FORCED = "forced"
    """Every output begins with it, as with forced_bos_token_id (mBART-50, M2M100, NLLB)."""
    START = "start"
    """It is the decoder's start token (mBART)."""


@record
class LanguageRule:
    """What a model whose languages are tokens wants round a source and before an output."""

    codes: Mapping[str, int]
    """Code -> token id."""
    end: int
    """The end token's id."""
    source_place: SourcePlace
    target_place: TargetPlace
    source_lang: str | None
    """Where the caller names none; None: the caller must."""
    to: str | None
    """Likewise for the target."""
    reason: str
    """The file and key that decided for this rule."""

    def source(self, ids: Sequence[int], source_lang: str | None) -> list[int]:
        """The ids of a text with the end token and the language's.  Raises OptionError."""
        if source_lang is None:
            source_lang = self.source_lang
        if source_lang is None:
            raise OptionError(
                "this model must know the language of the text: give the option source_lang, "
                f"{_some(self.codes)}."
            )
        code = self.id(source_lang, "source")
        if self.source_place is SourcePlace.PREFIX:
            return [code, *ids, self.end]
        return [*ids, self.end, code]

    def id(self, code: str, side: str) -> int:
        """The token of a code.  side: "source" or "target", for the OptionError."""
        if code not in self.codes:
            raise unknown_language(code, side, self.codes)
        return self.codes[code]

    def missing_target(self) -> OptionError:
        """The error for a caller who names no target language."""
        starts = self.target_place is TargetPlace.START
        also = "; for token ids, decoder_start_token_id" if starts else ""
        return OptionError(
            "this model must know the language to translate to: give the option to, "
            f"{_some(self.codes)}{also}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back."""
        values = asdict(self)
        return {
            key: value.value if isinstance(value, Enum) else value for key, value in values.items()
        }

    @classmethod
    def from_dict(cls, values: object, what: str) -> LanguageRule:
        """Read what `to_dict` wrote.  Raises ModelError."""
        names = {f.name for f in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != names:
            raise ModelError(f"{what} sets language_rule to {shown(values)}, which is not one.")
        codes, end = values["codes"], values["end"]
        texts = [values["source_lang"], values["to"], values["reason"]]
        if (
            not isinstance(codes, Mapping)
            or not codes
            or not all(type(id) is int and 0 <= id < 1 << 31 for id in (*codes.values(), end))
            or not all(text is None or isinstance(text, str) for text in texts)
            or any(code is not None and code not in codes for code in texts[:2])
        ):
            raise ModelError(f"{what} has a language_rule that cannot be.")
        try:
            source, target = (
                SourcePlace(values["source_place"]),
                TargetPlace(values["target_place"]),
            )
        except ValueError as error:
            raise ModelError(f"{what} has a language_rule that cannot be: {error}.") from None
        return cls(dict(codes), end, source, target, texts[0], texts[1], str(texts[2]))


def _some(codes: Mapping[str, int]) -> str:
    """ "one of ..." or "such as ..." for an error."""
    names = sorted(codes)
    if len(names) <= _FEW:
        return "one of " + ", ".join(names)
    return f"such as {', '.join(names[:: len(names) // 4][:4])} (s2s-infer info lists all)"


def unknown_language(code: str, side: str, languages: Mapping[str, int]) -> OptionError:
    """The error for a code that a model does not know: its few languages, or those like it."""
    names = sorted(languages)
    if len(names) <= _FEW:
        return OptionError(
            f"unknown {side} language {shown(code)}; the model knows {', '.join(names)}."
        )
    plain = code.lower().replace("-", "_")
    near = [name for name in names if name.lower().startswith(plain.split("_")[0][:3])]
    near = near or [name for name in names if name.lower().startswith(plain[:2])]
    import difflib

    near = near[:6] or difflib.get_close_matches(code, names, n=3, cutoff=0.3)
    hint = f"near it are {', '.join(near)} of its" if near else "s2s-infer info lists its"
    return OptionError(f"unknown {side} language {shown(code)}; {hint} {len(names)} languages.")


def check_no_source_language(source_lang: str | None) -> None:
    """Raise OptionError if one is given to a model without a LanguageRule."""
    if source_lang is not None:
        raise OptionError(
            f"the model has no source languages, but source_lang={shown(source_lang)} was given."
        )


def check_language(to: str, text: str, languages: Mapping[str, int]) -> str:
    """`text` without the code `>>to<<` that it may begin with.

    Raises OptionError if `to` is unknown or the text begins with the code of another language.
    """
    if not languages:
        raise OptionError(f"the model has no language codes, but to={shown(to)} was given.")
    if to not in languages:
        raise unknown_language(to, "target", languages)
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


def guess_target(text: str, languages: Sequence[str]) -> str | None:
    """The target language of `text` in a model of two languages, one of which is written in Chinese
    characters: the other one than the text's.  None where this says nothing."""
    code = LANGUAGE_CODE.match(text)
    if len(languages) != 2 or (code is not None and code[1] in languages):
        return None
    han = [language for language in languages if language.lower() in _WRITTEN_IN_HAN]
    if len(han) != 1:
        return None
    is_han = _HAN.search(text) is not None
    return next(language for language in languages if (language != han[0]) == is_han)
