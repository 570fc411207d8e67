"""Token ids by role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, field, fields
from typing import Any

from .config_fields import check_integer, checked_fields, set_field
from .errors import ModelError
from .kinds import jsonable
from .records import record


@record
class SpecialTokens:
    """Token ids by role; None where a model has no such token."""

    start: int | None = None
    """The decoder's first input (decoder_start_token_id)."""
    bos: int | None = None
    """Beginning of a sentence."""
    end: tuple[int, ...] = ()
    """Any of these ends a sentence (eos_token_id)."""
    padding: int | None = None
    unknown: int | None = None
    mask: int | None = None
    classification: int | None = None
    separation: int | None = None
    languages: Mapping[str, int] = field(default_factory=dict)
    """Language code -> token id."""

    def __post_init__(self) -> None:
        def check(name: str, value: object) -> None:
            check_integer("SpecialTokens", name, value, 0)

        end: Any = self.end
        if end is None or isinstance(end, int):
            end = () if end is None else (end,)
        if isinstance(end, str) or not isinstance(end, Iterable):
            raise ModelError(f"SpecialTokens.end must be token ids, not {end!r}.")
        set_field(self, "end", tuple(end))
        if not isinstance(self.languages, Mapping):
            raise ModelError(
                f"SpecialTokens.languages must map codes to ids, not {self.languages!r}."
            )
        set_field(self, "languages", dict(self.languages))
        for token in self.end:
            check("end", token)
        for code, token in self.languages.items():
            check(f"languages[{code!r}]", token)
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in ("end", "languages") and value is not None:
                check(f.name, value)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back."""
        result: dict[str, Any] = jsonable(asdict(self))
        return result

    @classmethod
    def from_dict(cls, values: object) -> SpecialTokens:
        """Read what `to_dict` wrote.  Raises ModelError naming a missing, unknown or bad field."""
        return cls(**checked_fields(cls, values, "the special tokens"))
