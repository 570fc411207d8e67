"""Which of a model's languages a text is to become, when the caller does not say."""

from __future__ import annotations

from collections.abc import Sequence

from .tokenizer import LANGUAGE_CODE

_WRITTEN_IN_HAN = frozenset({"zh", "cmn", "yue", "lzh", "ja", "zho", "jpn", "zh-cn", "zh-tw"})
_HAN_BLOCKS = (
    (0x3400, 0x4DBF),  # extension A
    (0x4E00, 0x9FFF),  # unified ideographs
    (0xF900, 0xFAFF),  # compatibility ideographs
    (0x20000, 0x323AF),  # extensions B to H
)


def guess_target(text: str, languages: Sequence[str]) -> str | None:
    """The target language of `text` in a model of two languages, one of which is written in Chinese
    characters: the other one than the text's.  None where this says nothing."""
    code = LANGUAGE_CODE.match(text)
    if len(languages) != 2 or (code is not None and code[1] in languages):
        return None
    han = [language for language in languages if language.lower() in _WRITTEN_IN_HAN]
    if len(han) != 1:
        return None
    is_han = any(low <= ord(char) <= high for char in text for low, high in _HAN_BLOCKS)
    return next(language for language in languages if (language != han[0]) == is_han)
