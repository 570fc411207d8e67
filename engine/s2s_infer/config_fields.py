"""How the fields of a model's description are checked when a record is made or read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any

from .errors import ModelError
from .kinds import INT32_MAX


def set_field(instance: Any, name: str, value: object) -> None:
    """Assign a field of a record from its own __post_init__."""
    object.__setattr__(instance, name, value)


def set_enum(instance: Any, name: str, enum: type[Enum]) -> None:
    """Make the field a member of `enum`, or raise ModelError."""
    value = getattr(instance, name)
    try:
        set_field(instance, name, enum(value))
    except ValueError:
        known = ", ".join(str(member.value) for member in enum)
        raise ModelError(
            f"{type(instance).__name__}.{name} must be one of {known}, not {value!r}."
        ) from None


def check_integer(owner: str, name: str, value: object, minimum: int) -> None:
    """Raise ModelError for what is no integer from `minimum` to the largest of 32 bits."""
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= INT32_MAX:
        raise ModelError(f"{owner}.{name} must be an integer of at least {minimum}, not {value!r}.")


def checked_number(owner: str, name: str, value: object, least: float = 1e-30) -> float:
    """A number from `least` to a million as a float.  Raises ModelError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < 1e6:
        expected = "a positive number" if least else "a number of at least 0"
        raise ModelError(f"{owner}.{name} must be {expected}, not {value!r}.")
    return float(value)


def checked_fields(
    cls: type[Any], values: object, what: str, may_lack_defaults: bool = False
) -> dict[str, Any]:
    """The mapping `values` if its keys are exactly the fields of `cls`, else a ModelError.

    may_lack_defaults: fields that have a default may be absent, since files were written before
    there was a choice.
    """
    if not isinstance(values, Mapping):
        raise ModelError(f"{what} must be a mapping, not {type(values).__name__}.")
    names = {f.name for f in fields(cls)}
    needed = {
        f.name
        for f in fields(cls)
        if (f.default is MISSING and f.default_factory is MISSING) or not may_lack_defaults
    }
    absent, unknown = needed - set(values), set(values) - names
    for problem, keys in (("lacks", absent), ("has the unknown", unknown)):
        if keys:
            raise ModelError(f"{what} {problem} field {sorted(map(str, keys))[0]!r}.")
    return dict(values)
