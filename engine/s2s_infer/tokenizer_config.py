"""What tokenizer_config.json and its companions say of special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ModelError
from .formats.files import read_json_object, shown
from .records import record

ROLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
"""The keys of tokenizer_config.json that name a special token, in transformers' order."""


@record
class Token:
    """A token that is found in a text as a whole, with the flags of `tokenizers.AddedToken`."""

    content: str
    lstrip: bool = False
    """Spaces before it belong to it."""
    rstrip: bool = False
    """Spaces after it belong to it."""
    single_word: bool = False
    normalized: bool = False
    """It is looked for in the normalized text."""
    special: bool = True
    """Decoding leaves it out."""


@record
class TokenizerConfig:
    """tokenizer_config.json with its companions special_tokens_map.json and added_tokens.json.

    The companions count only where tokenizer_config.json has no added_tokens_decoder, as in
    transformers.
    """

    path: Path
    """Of tokenizer_config.json, which need not exist."""
    values: Mapping[str, Any]
    """Its keys, those of special_tokens_map.json added."""
    roles: Mapping[str, Token]
    """What it says of ROLES."""
    added: Mapping[int, Token]
    """Id -> token of added_tokens_decoder and added_tokens.json."""
    extra: tuple[Token, ...]
    """extra_special_tokens and additional_special_tokens, in their order."""

    def text(self, key: str) -> str | None:
        """A text, or None where the key is absent.  Raises ModelError."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise ModelError(f"{self.path} sets {key} to {shown(value)}, which is not a text.")
        return value

    def flag(self, key: str) -> bool | None:
        """True, false, or None where the key is absent.  Raises ModelError."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise ModelError(
                f"{self.path} sets {key} to {shown(value)}, which is not true or false."
            )
        return value

    def integer(self, key: str, default: int, maximum: int) -> int:
        """An integer from 0 to maximum.  Raises ModelError."""
        value = self.values.get(key, default)
        if type(value) is not int or not 0 <= value <= maximum:
            raise ModelError(
                f"{self.path} sets {key} to {shown(value)}, not an integer from 0 to {maximum}."
            )
        return value

    @property
    def tokenizer_class(self) -> str:
        """Without "Fast", which says only how transformers runs it; "" where there is none."""
        return (self.text("tokenizer_class") or "").removesuffix("Fast")


def read_tokenizer_config(path: Path) -> TokenizerConfig:
    """Read a directory's tokenizer_config.json and its companions.  Raises ModelError."""
    file = path / "tokenizer_config.json"
    values = read_json_object(file) if file.exists() else {}
    listed, added = values.get("added_tokens_decoder"), {}
    if listed is not None:
        if not isinstance(listed, dict):
            raise ModelError(f"{file} sets added_tokens_decoder to {shown(listed)}, not a mapping.")
        for id, token in listed.items():
            if not id.isascii() or not id.isdigit() or len(id) > 10:
                raise ModelError(f"{file} has the id {shown(id)} in added_tokens_decoder.")
            added[int(id)] = _token(token, "added_tokens_decoder", file)
    else:
        companion = path / "special_tokens_map.json"
        if companion.exists():
            values = {**values, **read_json_object(companion)}
        companion = path / "added_tokens.json"
        if companion.exists():
            for token, number in read_json_object(companion).items():
                if type(number) is not int or not 0 <= number < 1 << 31:
                    raise ModelError(
                        f"{companion} gives token {shown(token)} the id {shown(number)}."
                    )
                added[number] = Token(token, normalized=True, special=False)
    extra: list[Token] = []
    for key in ("extra_special_tokens", "additional_special_tokens"):
        some = values.get(key) or []
        if isinstance(some, dict):
            some = list(some.values())
        if not isinstance(some, list):
            raise ModelError(f"{file} sets {key} to {shown(some)}, not a list of tokens.")
        extra += [_token(token, key, file) for token in some]
    roles = {role: _token(values[role], role, file) for role in ROLES if values.get(role)}
    return TokenizerConfig(file, values, roles, added, tuple(extra))


def _token(value: object, key: str, file: Path) -> Token:
    """A token that is given as text or as {"content": ..., flags}."""
    if isinstance(value, str):
        return Token(value)
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise ModelError(f"{file} sets {key} to {shown(value)}, which is not a token.")
    flags: dict[str, bool] = {}
    for flag in ("lstrip", "rstrip", "single_word", "normalized", "special"):
        found = value.get(flag)
        if found is not None and not isinstance(found, bool):
            raise ModelError(f"{file} sets {flag} of a token of {key} to {shown(found)}.")
        if found is not None:
            flags[flag] = found
    return Token(value["content"], **flags)
