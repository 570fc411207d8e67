"""ByT5's tokenizer: the bytes of a text.

Xue et al., "ByT5: Towards a token-free future with pre-trained byte-to-byte models" (2021).  Ids 0
to 2 are padding, end and unknown, a byte b is b + 3, then come the sentinels <extra_id_n>.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import ModelError
from .formats.files import shown
from .languages import LanguageRule, check_language, check_no_source_language
from .tokenizer import Blobs, checked_text
from .tokenizer_parts import shares

_NAMED = ("<pad>", "</s>", "<unk>")
_FIRST = len(_NAMED)
_N_BYTES = 256
MAX_SENTINELS = 10_000


class ByteTokenizer:
    """Equal to transformers' ByT5Tokenizer: spaces beside <pad>, </s>, <unk> in a text vanish."""

    kind = "bytes"
    unknown_id: int | None = 2
    languages: Mapping[str, int] = {}
    language_rule: LanguageRule | None = None

    def __init__(self, n_sentinels: int = 125) -> None:
        """n_sentinels: how many <extra_id_n> there are."""
        self._n_sentinels = n_sentinels
        first = _FIRST + _N_BYTES
        self._added = {token: id for id, token in enumerate(_NAMED)}
        self._added.update({f"<extra_id_{i}>": first + i for i in range(n_sentinels)})
        self._names = {id: token for token, id in self._added.items()}
        named = "|".join(re.escape(token) for token in _NAMED)
        self._split = re.compile(rf"\s*({named})\s*|(<extra_id_\d+>)")

    def encode_source(
        self, text: str | bytes, *, to: str | None = None, source_lang: str | None = None
    ) -> list[int]:
        check_no_source_language(source_lang)
        if to is not None:
            check_language(to, "", {})
        ids = self.encode_target(text)
        return ids if ids and ids[-1] == 1 else [*ids, 1]

    def encode_target(self, text: str | bytes) -> list[int]:
        text = checked_text(text)
        ids: list[int] = []
        end = 0
        for match in self._split.finditer(text):
            token = match[1] or match[2]
            if token not in self._added:
                continue
            ids += [byte + _FIRST for byte in text[end : match.start()].encode("utf-8")]
            ids.append(self._added[token])
            end = match.end()
        ids += [byte + _FIRST for byte in text[end:].encode("utf-8")]
        return ids

    def encode_pair(
        self, first: str, second: str, limit: int | None
    ) -> tuple[list[int], list[int]]:
        parts = [self.encode_target(text) for text in (first, second)]
        if limit is not None:
            n = shares(len(parts[0]), len(parts[1]), limit - len(parts))
            parts = [part[:end] for part, end in zip(parts, n, strict=True)]
        ids = [id for part in parts for id in (part if part[-1:] == [1] else [*part, 1])]
        return ids, [0] * len(ids)

    def decode(self, ids: Iterable[int]) -> str:
        data = bytes(id - _FIRST for id in map(int, ids) if _FIRST <= id < _FIRST + _N_BYTES)
        return data.decode("utf-8", errors="ignore")

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [
            self._names.get(id, f"<0x{id - _FIRST:02X}>" if id < _FIRST + _N_BYTES else f"<{id}>")
            for id in map(int, ids)
        ]

    def token_id(self, token: str) -> int | None:
        return self._added.get(token)

    def check_vocabulary(self, source_vocab_size: int, vocab_size: int) -> None:
        size, last = min(source_vocab_size, vocab_size), _FIRST + _N_BYTES + self._n_sentinels - 1
        if last >= size:
            raise ModelError(
                f"a byte tokenizer gives {shown(self.tokens([last])[0])} the id {last}, but the "
                f"model's vocabulary has {size} tokens."
            )

    def to_blobs(self) -> tuple[dict[str, Any], Blobs]:
        return {"n_sentinels": self._n_sentinels}, {}

    @classmethod
    def from_blobs(cls, settings: Mapping[str, Any], blobs: Blobs) -> ByteTokenizer:
        """Read what `to_blobs` wrote.  Raises ModelError."""
        n = settings.get("n_sentinels")
        if blobs or type(n) is not int or not 0 <= n <= MAX_SENTINELS:
            raise ModelError("the tokenizer's settings do not describe a byte tokenizer.")
        return cls(n)
