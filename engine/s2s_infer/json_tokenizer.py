"""Any tokenizer.json, by the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import ModelError, OptionError
from .formats.files import parse_json, reason, shown
from .languages import (
    LanguageRule,
    check_language,
    check_no_source_language,
    language_codes,
)
from .tokenizer import Blobs, boolean_setting, checked_text, clean_up
from .tokenizer_parts import shares

if TYPE_CHECKING:
    import tokenizers

_CLEAN_UP = "clean_up_tokenization_spaces"


class JsonTokenizer:
    """One vocabulary for both sides; the file's own template puts special tokens around a source,
    or where the model has languages, their rule does.

    Equal to transformers' PreTrainedTokenizerFast on the same file.  Languages are tokens `>>xx<<`,
    or what a LanguageRule says.
    """

    kind = "json"

    def __init__(
        self,
        data: bytes,
        clean_up_tokenization_spaces: bool = False,
        language_rule: LanguageRule | None = None,
    ) -> None:
        """data: the contents of tokenizer.json.  Raises ModelError."""
        self._data = data
        self._settings = {_CLEAN_UP: clean_up_tokenization_spaces}
        self._tokenizer = load_tokenizer_json(data)
        # As in transformers: BPE puts spaces where they belong.
        self._clean_up = (
            clean_up_tokenization_spaces and type(self._tokenizer.model).__name__ != "BPE"
        )
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        self._last = max(((id, token) for token, id in vocab.items()), default=(-1, ""))
        self.language_rule = language_rule
        self.languages: Mapping[str, int] = (
            language_codes(vocab) if language_rule is None else language_rule.codes
        )
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        self.unknown_id = vocab.get(unknown) if unknown is not None else None

    def encode_source(
        self, text: str | bytes, *, to: str | None = None, source_lang: str | None = None
    ) -> list[int]:
        text = checked_text(text)
        if self.language_rule is not None:
            return self.language_rule.source(self.encode_target(text), source_lang)
        check_no_source_language(source_lang)
        if to is not None:
            text = f">>{to}<<" + check_language(to, text, self.languages)
        ids: list[int] = self._tokenizer.encode(text).ids
        if to is not None and self.languages[to] not in ids:
            raise OptionError(
                f"the tokenizer cuts the language code '>>{to}<<' into pieces: it is in the "
                "vocabulary, but not an added token."
            )
        return ids

    def encode_target(self, text: str | bytes) -> list[int]:
        ids: list[int] = self._tokenizer.encode(checked_text(text), add_special_tokens=False).ids
        return ids

    def encode_pair(
        self, first: str, second: str, limit: int | None
    ) -> tuple[list[int], list[int]]:
        tokenizer = self._tokenizer
        parts = [
            tokenizer.encode(checked_text(text), add_special_tokens=False)
            for text in (first, second)
        ]
        if limit is not None:
            room = limit - tokenizer.num_special_tokens_to_add(is_pair=True)
            for part, n in zip(parts, shares(len(parts[0]), len(parts[1]), room), strict=True):
                part.truncate(n)
        joined = tokenizer.post_process(parts[0], parts[1])
        return joined.ids, joined.type_ids

    def decode(self, ids: Iterable[int]) -> str:
        text: str = self._tokenizer.decode([int(id) for id in ids], skip_special_tokens=True)
        return clean_up(text) if self._clean_up else text

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [self._tokenizer.id_to_token(int(id)) or f"<{int(id)}>" for id in ids]

    def token_id(self, token: str) -> int | None:
        id: int | None = self._tokenizer.token_to_id(token)
        return id

    def check_vocabulary(self, source_vocab_size: int, vocab_size: int) -> None:
        id, token = self._last
        size = min(source_vocab_size, vocab_size)
        if id >= size:
            raise ModelError(
                f"tokenizer.json gives token {shown(token)} the id {id}, but the model's "
                f"vocabulary has {size} tokens."
            )

    def to_blobs(self) -> tuple[dict[str, Any], Blobs]:
        settings: dict[str, Any] = dict(self._settings)
        if self.language_rule is not None:
            settings["language_rule"] = self.language_rule.to_dict()
        return settings, {"tokenizer.json": self._data}

    @classmethod
    def from_blobs(cls, settings: Mapping[str, Any], blobs: Blobs) -> JsonTokenizer:
        """Read what `to_blobs` wrote.  Raises ModelError."""
        what = "the tokenizer's settings"
        if set(blobs) != {"tokenizer.json"}:
            raise ModelError(
                f"this tokenizer needs tokenizer.json, but the file holds {sorted(blobs)}."
            )
        rule = settings.get("language_rule")
        return cls(
            blobs["tokenizer.json"],
            boolean_setting(settings, _CLEAN_UP, what),
            None if rule is None else LanguageRule.from_dict(rule, what),
        )


def load_tokenizer_json(data: bytes) -> tokenizers.Tokenizer:
    """The library's tokenizer of a tokenizer.json's contents.  Raises ModelError."""
    from tokenizers import Tokenizer, models

    values = parse_json(data, "tokenizer.json")  # strict, and a clearer error than the library's
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
        if isinstance(tokenizer.model, models.Unigram):
            # The library reads numbers with an error in the last bit, which decides between
            # segmentations of the same pieces; transformers has them exact, and so have we.
            model = values["model"]
            tokenizer.model = models.Unigram(
                [(piece, float(score)) for piece, score in model["vocab"]],
                unk_id=model.get("unk_id"),
                byte_fallback=model.get("byte_fallback", False),
            )
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise ModelError(f"tokenizer.json is not a tokenizer: {reason(error)}.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
